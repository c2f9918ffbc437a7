"""Factorial planes on disk: whole or not there, the same whatever the workers, and enough to draw every picture again."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.planes import PARTS, counterfactual, get_preset
from datasets.planes import dataset as planes_dataset
from datasets.rendering import plan_split
from tools import make_planes
from util.cli import launch
from util.failures import known_cause

SMALL = ["--preset", "f8", "--size", "64", "--train", "27", "--val", "9", "--test", "8", "--num_workers", "1"]


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("planes")
    main([*SMALL, "--out", str(out)])
    return out / "planes-f8"


def records(root: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (root / "annotations" / f"{split}.jsonl").read_text().splitlines()]


def test_layout_and_balance(made):
    description = json.loads((made / "planes.json").read_text())
    assert description["preset"] == "f8" and description["counts"] == {"train": 27, "val": 9, "test": 8}
    stems = []
    for split, count in description["counts"].items():
        files = sorted(p.relative_to(made / split) for p in (made / split).glob("*/*.png"))
        assert len(files) == count
        per_class = Counter(f.parent.name for f in files)
        assert set(per_class) == set(description["classes"]) and max(per_class.values()) - min(per_class.values()) <= 1
        for kind in ("parts", "amodal", "masks"):
            assert sorted(p.relative_to(made / kind / split) for p in (made / kind / split).glob("*/*.png")) == files
        assert sorted(r["file"] for r in records(made, split)) == [f"{split}/{f.as_posix()}" for f in files]
        stems += [f.stem for f in files]
    assert len(set(stems)) == len(stems) and all(re.fullmatch("[0-9a-f]{12}", stem) for stem in stems)


def test_records_redraw_what_is_on_disk(made):
    for record in records(made, "val"):
        drawn = counterfactual(record)
        inner = Path(record["file"]).relative_to("val")
        assert Path(record["file"]).parts[1] == record["class"] == drawn.record["class"]
        stored = cv2.imread(str(made / record["file"]))[..., ::-1]
        assert (stored == drawn.image).all()
        assert (cv2.imread(str(made / "parts" / "val" / inner), cv2.IMREAD_UNCHANGED) == drawn.parts).all()
        assert ((cv2.imread(str(made / "masks" / "val" / inner), cv2.IMREAD_UNCHANGED) > 0) == drawn.mask).all()
        bits = cv2.imread(str(made / "amodal" / "val" / inner), cv2.IMREAD_UNCHANGED)
        for index, part in enumerate(PARTS):
            expected = drawn.amodal.get(part, np.zeros_like(drawn.mask))
            assert ((bits >> index & 1).astype(bool) == expected).all()
        assert record["boxes"] == drawn.record["boxes"]


def test_workers_do_not_change_the_files(made, tmp_path):
    arguments = [*SMALL[:-1], "2", "--out", str(tmp_path), "--name", "planes-f8"]
    main(arguments)
    assert tree(tmp_path / "planes-f8") == tree(made)


def test_seed_changes_the_pictures_and_the_order_tells_no_class():
    preset = get_preset("f16")
    plans = [plan_split(list(preset.classes), "train", 160, seed) for seed in (0, 1)]
    assert not {z for z, _ in plans[0]} & {z for z, _ in plans[1]}
    names = [name for _, name in plans[0]]
    assert Counter(names) == dict.fromkeys(preset.classes, 10)
    assert any(names[i] != names[i + 16] for i in range(144)) and names != sorted(names)
    by_stem = [name for _, name in sorted(plans[0])]
    assert sum(a == b for a, b in zip(by_stem, by_stem[1:], strict=False)) < 30  # 9 expected


def test_made_once(made, capsys):
    before = tree(made)
    main([*SMALL, "--out", str(made.parent)])
    assert "already there" in capsys.readouterr().out
    assert tree(made) == before


def main(arguments: list[str]) -> None:
    launch(make_planes.main, make_planes.get_args_parser(), arguments)


def fails(arguments: list[str], capsys) -> str:
    """The one line that a wrong command prints."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("make_planes: error: ") and error.count("\n") == 1
    return error


def test_other_settings_do_not_overwrite(made, capsys):
    before = tree(made)
    assert "seed is 0, not 1" in fails([*SMALL, "--out", str(made.parent), "--seed", "1"], capsys)
    assert tree(made) == before


def test_foreign_or_incomplete_folder_is_refused(made, tmp_path, capsys):
    (tmp_path / "planes-f8").mkdir()
    (tmp_path / "planes-f8" / "notes.txt").write_text("mine")
    assert "not a finished planes data set" in fails([*SMALL, "--out", str(tmp_path)], capsys)
    assert tree(tmp_path) == {"planes-f8/notes.txt": b"mine"}
    for name, content in tree(made).items():
        target = tmp_path / "other" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    lost = next((tmp_path / "other" / "train").glob("*/*.png"))
    lost.unlink()
    description = json.loads((tmp_path / "other" / "planes.json").read_text())
    (tmp_path / "other" / "planes.json").write_text(json.dumps(description | {"name": "other"}))
    assert "train has 26 of 27 pictures" in fails([*SMALL, "--out", str(tmp_path), "--name", "other"], capsys)


def test_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    original, calls = planes_dataset.write_picture, []

    def stop_at_ten(*args, **options):
        calls.append(args)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(planes_dataset, "write_picture", stop_at_ten)
    with pytest.raises(SystemExit) as stop:
        main([*SMALL, "--out", str(tmp_path)])
    assert stop.value.code == 130 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "f9", "--out", "x"], "unknown preset 'f9'"),
        ([], "give --out"),
        (["--out", "x", "--size", "20"], "at least 48"),
        (["--out", "x", "--train", "3"], "train is 3: it must be at least 16"),
        (["--out", "x", "--val", "-1"], "--val: '-1' must be"),
        (["--out", "x", "--name", "a/b"], "plain folder name"),
        (["--out", "x", "--format", "bmp"], "invalid choice"),
        (["--out", "x", "--seed", "-1"], "--seed: '-1' must be"),
        (["--out", "x", "--num_workers", "-1"], "--num_workers: '-1' must be"),
        (["--sheet", "x.gif"], "must end in .png"),
    ],
)
def test_wrong_command_lines(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(arguments, capsys)
    assert list(tmp_path.iterdir()) == []


def test_file_in_the_way_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in fails([*SMALL, "--out", str(tmp_path / "file")], capsys)


def test_sheet_shows_every_class(tmp_path):
    main(["--preset", "f8", "--size", "64", "--sheet", str(tmp_path / "sheet.png")])
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[0] * sheet.shape[1] == 8 * (64 + 18) * 128


def test_shortcut_is_written_down_and_jpg_is_possible(tmp_path):
    arguments = ["--preset", "shortcut-0.5", "--size", "64", "--train", "48", "--val", "0", "--test", "0", "--format", "jpg"]
    main([*arguments, "--num_workers", "0", "--out", str(tmp_path)])
    root = tmp_path / "planes-shortcut-0.5"
    classes = list(json.loads((root / "planes.json").read_text())["classes"])
    found = records(root, "train")
    assert {r["roundel"] == classes.index(r["class"]) for r in found} == {True, False}
    for record in found:
        assert record["roundel_is_of_class"] == (record["roundel"] == classes.index(record["class"]))
        assert record["visible"]["roundel"] >= 0.6 and (root / record["file"]).suffix == ".jpg"
    assert not (root / "val").exists()


def test_a_process_that_is_killed_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="process pool") as lost:
        list(planes_dataset._run(signal.raise_signal, [signal.SIGKILL] * 2, 2))
    assert known_cause(lost.value)[0] == "a process that renders images died"
