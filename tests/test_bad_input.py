"""Errors that docs/errors.md does not list (tests/errors/ tries those), and odd inputs that are none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_flags, tiny_model
from PIL import Image

import main
from flags import get_args_parser
from util.cli import Parser, launch

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    "--backbone test_resnet --hidden_dim 32 --dim_feedforward 64 --nheads 4 --enc_layers 1 --dec_layers 2 --feature_stride 16 "
    "--square --image_size 48 --batch_size 6 --epochs 1 --device cpu --num_workers 1"
)


@pytest.fixture
def data(colours: Path, tmp_path: Path) -> Path:
    """A copy of the small data set that a test may damage; returns the folder of data sets."""
    shutil.copytree(colours / "colours", tmp_path / "datasets" / "colours")
    return tmp_path / "datasets"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    args = {key: value for key, value in vars(tiny_flags("--feature_stride", 16)).items() if key != "explicit"}
    args |= {"num_queries": 3, "backbone_norm": "frozen", "image_size": 48, "square": True}
    file = {"model": tiny_model(feature_stride=16).state_dict(), "args": args, "classes": ["blue", "green", "red"], "version": 1}
    torch.save(file, tmp_path / "icn.pth")
    return tmp_path / "icn.pth"


def error_of(capsys: pytest.CaptureFixture, *words: object) -> str:
    """Run main.py; its one line of error."""
    with pytest.raises(SystemExit) as stop:
        launch(main.main, Parser("main.py", parents=[get_args_parser()]), [str(word) for word in words])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and lines[-1].startswith("main.py: error: "), lines
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


def test_a_program_that_nobody_reads_any_more_ends_in_one_line() -> None:
    """As in `main.py ... | head -1`."""
    told = "import argparse, util.cli as c; c.launch(lambda args: print('x' * 10**7), c.Parser('main.py'), [])"
    done = subprocess.Popen([sys.executable, "-c", told], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert done.stdout is not None and done.stderr is not None
    done.stdout.close()
    assert done.stderr.read() == "main.py: error: the reader of the output closed it\n" and done.wait() == 1


def test_errors_of_one_of_several_processes_name_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert error_of(capsys, "--bogus").startswith("main.py: error: rank 0: unrecognized arguments: --bogus")

    def fail(args: object) -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        launch(fail, Parser("main.py"), [], shared=True)
    assert capsys.readouterr().err == "main.py: error: rank 0: unexpected error:\n"


def score(capsys: pytest.CaptureFixture, data: Path, checkpoint: object, *more: object) -> str:
    words = ["--device", "cpu", "--output_dir", "", "--eval", "--resume", checkpoint]
    return error_of(capsys, *words, "--dataset_path", data, "--dataset_name", "colours", *more)


def test_a_bad_picture_that_a_worker_finds(capsys: pytest.CaptureFixture, data: Path, checkpoint: Path) -> None:
    """Its error arrives behind a traceback of the worker's."""
    path = data / "colours/val/red/bad.jpg"
    Image.effect_noise((200, 200), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-800])
    assert f"error: {path}: is damaged" in score(capsys, data, checkpoint, "--num_workers", 1)


def test_unusual_images_are_read(data: Path) -> None:
    """16-bit, CMYK, palette, animated and one-pixel pictures are pictures."""
    folder = data / "colours/train/red"
    red = Image.open(folder / "0.png").convert("RGB")
    Image.new("I;16", (40, 40), 40000).save(folder / "deep.png")
    red.convert("CMYK").save(folder / "cmyk.jpg")
    red.convert("P").save(folder / "palette.png")
    red.save(folder / "animated.gif", save_all=True, append_images=[red.rotate(90), red.rotate(180)])
    red.resize((1, 1)).save(folder / "pixel.png")
    words = [*FLAGS.split(), "--dataset_path", data, "--dataset_name", "colours", "--output_dir", ""]
    assert main.main(tiny_flags(*words, "--batch_size", 29))["step"] == 1


def test_a_class_that_the_scored_split_lacks(data: Path, checkpoint: Path) -> None:
    """It is no error, and shifts no label."""
    shutil.rmtree(data / "colours/val/green")
    words = ["--device", "cpu", "--eval", "--resume", checkpoint, "--dataset_path", data, "--dataset_name", "colours"]
    assert main.main(tiny_flags(*words, "--output_dir", ""))["images"] == 8
