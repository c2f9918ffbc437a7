"""The three commands as INTR's users type them, and the same through submitit."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import COLOURS, as_detr, make_images, tiny_flags

import run_with_submitit
from models import build_model
from util.cli import launch, parse

ROOT = Path(__file__).resolve().parents[1]


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command in the environment of a notebook, on a console that prints ASCII alone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "0", "ICN_DEBUG": ""}
    environment |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONIOENCODING": "ascii"}
    return subprocess.run([sys.executable, *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True)


def save_detr_r50(path: Path) -> None:
    """A file of DETR-R50's format and sizes with random weights."""
    defaults = dict(backbone="resnet50", hidden_dim=256, dim_feedforward=2048, nheads=8, enc_layers=6, dec_layers=6)
    args = tiny_flags().replace(**defaults, num_queries=100, backbone_norm="frozen")
    state = build_model(args).state_dict()
    for key in state:
        if key.endswith(("bn1.weight", "bn2.weight", "bn3.weight")):  # without statistics, 50 layers would overflow
            state[key].fill_(0.3)
    torch.save({"model": as_detr(state)}, path)


def test_the_three_commands(tmp_path: Path) -> None:
    """Word for word on DETR-R50's sizes, but for one epoch instead of 140 and small scales instead of 800 pixels."""
    classes = dict(list(COLOURS.items())[:2])
    make_images(tmp_path / "datasets" / "birds", {"train": 2, "val": 2}, classes, (64, 96))
    for split in ("train", "val"):  # names as old archives and hostile ones have them
        image = tmp_path / "datasets" / "birds" / split / "green" / "0.png"
        image.rename(image.with_name(os.fsdecode(b"caf\xe9\n\x1b[1m.png")))
    save_detr_r50(tmp_path / "detr-r50-e632da11.pth")
    data = ["--dataset_path", "datasets", "--dataset_name", "birds"]
    quick = ["--image_size", "96", "--num_workers", "1"]

    trained = run(
        ROOT / "main.py", "--finetune", "detr-r50-e632da11.pth", *data, "--num_queries", 2, "--epochs", 1, *quick, cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    assert "2 of the file's 100 queries; dropped bbox_embed, class_embed; initialised presence_vector" in trained.stdout
    checkpoint = Path("output/birds/output_sub/checkpoint.pth")

    scored = run(ROOT / "main.py", "--eval", "--resume", checkpoint, *data, cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    folder = tmp_path / "output/birds/output_sub/eval_val"
    results = json.loads((folder / "results.json").read_text())
    assert results["images"] == 4 and results["acc5"] is None and f"acc@1 {results['acc1']:.2f} %" in scored.stdout
    rows = list(csv.DictReader((folder / "per_class.csv").open()))
    assert [row["class"] for row in rows] == ["blue", "green"] and [row["images"] for row in rows] == ["2", "2"]
    matrix = [list(map(int, row[1:])) for row in list(csv.reader((folder / "confusion_matrix.csv").open()))[1:]]
    assert [sum(row) for row in matrix] == [2, 2] and matrix[0][0] + matrix[1][1] == results["acc1"] * 4 / 100
    assert (folder / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")

    seen = run("-m", "tools.visualization", "--eval", "--resume", checkpoint, *data, "--class_index", 1, cwd=tmp_path)
    assert seen.returncode == 0, seen.stderr
    assert "2 images of class 1 (green)" in seen.stdout
    drawn = tmp_path / "output/birds/output_sub/visualization_val/1_green"
    assert (drawn / "index.html").exists() and len(list(drawn.glob("*/heads__true-green__*.png"))) == 2

    again = run(ROOT / "main.py", "--eval", "--resume", checkpoint, *data, "--enc_layers", 5, "--output_dir", "", cwd=tmp_path)
    assert again.returncode == 2 and "--enc_layers: 5 contradicts" in again.stderr and again.stderr.count("\n") <= 2


TINY_RUN = (
    "--backbone test_resnet --hidden_dim 32 --dim_feedforward 64 --nheads 4 --enc_layers 1 --dec_layers 2 --feature_stride 16 "
    "--square --image_size 48 --batch_size 6 --epochs 1 --device cpu --num_workers 0 --dataset_name colours"
)


def test_submitit_runs_the_same_main_and_returns_its_result(colours: Path, tmp_path: Path) -> None:
    """In this process: tests/test_submitit.py has jobs in processes of their own, and prints what they return."""
    words = [*TINY_RUN.split(), "--dataset_path", str(colours), "--output_dir", str(tmp_path), "--cluster", "debug"]
    result = run_with_submitit.main(parse(run_with_submitit.get_args_parser(), words))
    log = (tmp_path / "colours" / "output_sub" / "log.txt").read_text()
    assert json.loads(log) == result and result["epoch"] == 0


def test_submitit_hands_errors_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [*TINY_RUN.split(), "--dataset_path", str(tmp_path), "--job_dir", str(tmp_path / "jobs"), "--output_dir", ""]
    with pytest.raises(SystemExit) as stop:
        launch(run_with_submitit.main, run_with_submitit.get_args_parser(), words)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "run_with_submitit.py: error: --dataset_name: no folder" in lines[-1]
