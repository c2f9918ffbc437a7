"""The headline table of docs/results.md, and the script that makes what it is made of."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from documentation_commands import ROOT

import main as training
from tools import headline
from util.cli import parse

FAKE = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> calls
while [ $# -gt 0 ]; do
    case $1 in --dataset_name) set=$2 ;; --output_sub_dir) mkdir -p "output/$set/$2" ;; esac
    shift
done
"""


def write_runs(folder: Path, seed: int, value: float) -> None:
    numbers = {"metrics": {name: {"mean": value} for name in ("contrast_pointing", "contrast_pointing_native", "own_hit",
               "other_hit", "own_hit_native", "other_hit_native")}}  # fmt: skip
    maps = {"methods": {"additive": numbers, "contrast": numbers}, "pairs": {"additive": numbers, "additive_pixels": numbers}}
    methods = {name: {"mean": value} for name in ("attention", "contribution", "additive", "additive_softmax")}
    other = {"setting": "gridpg", "n": 2, "methods": {}}
    grid = {"results": [other, {"setting": "gridpg", "n": 3, "methods": methods}]}
    unknown = {
        "scores": {"max_probability": {"auroc": {"value": value / 2}}, "relative_mahalanobis": {"auroc": {"value": value}}}
    }
    for run in ("detr", "additive", "bce", "mosaic", "parts"):
        write(folder / "planes-f16" / f"{run}_seed{seed}", {"attribution_val/attribution.json": maps, "grid_val/grid.json": grid})
    write(folder / "planes-f16-known" / f"known_seed{seed}", {"unknown_val_planes-f16/unknown.json": unknown})
    for log in folder.glob(f"planes-f16/*_seed{seed}"):
        (log / "log.txt").write_text('{"test_acc1": 1}\n' + json.dumps({"test_acc1": 100 * value, "test_ece": value}) + "\n")


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))


def test_the_table_has_means_over_seeds_and_says_how_many(tmp_path: Path) -> None:
    write_runs(tmp_path, 42, 0.5)
    write_runs(tmp_path, 1, 0.75)
    (tmp_path / "planes-f16/detr_seed1/log.txt").unlink()
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- headline:begin -->\nold\n<!-- headline:end -->\nafter\n")
    table = headline.main(parse(headline.get_args_parser(), [str(tmp_path), "--write", str(page)]))
    rows = {line.split(" | ")[0].lstrip("| "): line for line in table.splitlines()[2:]}
    assert len(rows) == len(headline.ROWS) and not any("–" in line for line in rows.values())
    assert (
        rows["top-1 (%), `detr` (`recipes/demo.args`), 2 epochs"]
        == "| top-1 (%), `detr` (`recipes/demo.args`), 2 epochs | 50.0 | 1 |  |"
    )
    assert "| 0.62 (0.50 - 0.75) | 2 | ≥ .90 |" in rows["GridPG 3 x 3, `additive`: evidence"]
    assert "| 0.312 (0.250 - 0.375) | 2 |" in rows["unknown classes, AUROC: largest probability"]
    assert page.read_text() == f"before\n<!-- headline:begin -->\n{table}\n<!-- headline:end -->\nafter\n"


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no run of recipes/reproduce_results.sh with the seeds"):
        headline.headline(tmp_path, [42])
    write_runs(tmp_path, 42, 0.5)
    (tmp_path / "page.md").write_text("no markers")
    with pytest.raises(ValueError, match=r"page.md has no lines <!-- headline:begin -->"):
        headline.main(parse(headline.get_args_parser(), [str(tmp_path), "--write", str(tmp_path / "page.md")]))
    (tmp_path / "planes-f16/bce_seed42/grid_val/grid.json").write_text('{"results": []}')
    with pytest.raises(ValueError, match=r"bce_seed42/grid_val/grid.json lacks what the table needs .* measure again"):
        headline.headline(tmp_path, [42])


def test_the_script_calls_tools_with_flags_that_they_have(tmp_path: Path) -> None:
    """Every figure of the table is made by one of the script's commands; a second call trains nothing."""
    (tmp_path / "recipes").mkdir()
    shutil.copy(ROOT / "recipes/reproduce_results.sh", tmp_path / "recipes")
    for split in ("train", "val"):
        for number in range(8):
            (tmp_path / "data/planes-f16" / split / f"class{number}").mkdir(parents=True)
    for name in ("make", "python"):
        (tmp_path / name).write_text(FAKE)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PY": "./python", "SEEDS": "7"}
    for _ in range(2):
        subprocess.run([tmp_path / "recipes/reproduce_results.sh"], env=environment, check=True)
    assert sorted(path.name for path in (tmp_path / "data/planes-f16-known/val").iterdir()) == [
        f"class{n}" for n in (0, 1, 2, 4, 5, 6)
    ]
    calls = (tmp_path / "calls").read_text().splitlines()
    trainings = [call.split()[1:] for call in calls if call.startswith("main.py")]
    assert len(trainings) == 7
    runs = set()
    for words in trainings:
        flags = parse(training.PARSER, [word.replace("@", f"@{ROOT}/") for word in words])
        runs.add(f"{flags.dataset_name}/{flags.output_sub_dir}")
    measured = set()
    for call in calls:
        if call.startswith("-m tools.") and "--resume" in call:
            module, *words = call.split()[1:]
            flags = parse(importlib.import_module(module).get_args_parser(), words)
            measured.add((module, str(Path(flags.resume).parent.relative_to("output"))))
    tool = {headline.MAPS: "tools.evaluate_attribution", headline.GRID: "tools.grid", headline.UNKNOWN: "tools.evaluate_unknown"}
    for row in headline.ROWS:
        assert f"{row.run}_seed7" in runs
        assert row.file == headline.LOG or (tool[row.file], f"{row.run}_seed7") in measured
    assert calls[-1] == "-m tools.headline output --seeds 7"
