"""What users get wrong: one clear line, exit code 2, nothing executed, nothing overwritten."""

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
    "--backbone resnet18 --hidden_dim 32 --dim_feedforward 64 --nheads 4 --enc_layers 1 --dec_layers 2 --feature_stride 16 "
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


def train(capsys: pytest.CaptureFixture, data: Path, *more: object) -> str:
    """The error of a training, which must not have begun: no output folder."""
    out = data.parent / "out"
    line = error_of(capsys, *FLAGS.split(), "--dataset_path", data, "--dataset_name", "colours", "--output_dir", out, *more)
    assert not out.exists()
    return line


def score(capsys: pytest.CaptureFixture, data: Path, checkpoint: object, *more: object) -> str:
    words = ["--device", "cpu", "--num_workers", 0, "--output_dir", ""]
    return error_of(capsys, *words, "--eval", "--resume", checkpoint, "--dataset_path", data, "--dataset_name", "colours", *more)


def test_missing_data(capsys: pytest.CaptureFixture, data: Path) -> None:
    assert "no folder" in train(capsys, data, "--dataset_path", data / "nowhere")
    assert "folders in" in train(capsys, data, "--dataset_name", "colors")
    assert "split: no folder" in train(capsys, data, "--test", "test")


def test_an_empty_class_folder(capsys: pytest.CaptureFixture, data: Path) -> None:
    (data / "colours/train/violet").mkdir()
    assert "violet" in train(capsys, data)


def damaged(data: Path, kind: str) -> Path:
    whole = data / "colours/train/red/0.png"
    path = whole.with_name(f"{kind}.jpg")
    if kind == "text":
        path.write_text("not an image")
    elif kind == "truncated":
        Image.effect_noise((200, 200), 90).convert("RGB").save(path)
        path.write_bytes(path.read_bytes()[:-800])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "float":
        path = path.with_suffix(".tiff")
        Image.new("F", (30, 30), 0.5).save(path)
    return path


@pytest.mark.parametrize("kind", ["text", "truncated", "empty", "float"])
def test_images_that_cannot_be_read_are_named_before_the_first_epoch(
    capsys: pytest.CaptureFixture, data: Path, checkpoint: Path, kind: str
) -> None:
    path = damaged(data, kind)
    assert str(path) in train(capsys, data)
    shutil.move(path, data / "colours/val/red" / path.name)
    assert str(data / "colours/val/red" / path.name) in train(capsys, data)
    # With workers, whose errors arrive behind a traceback of their own.
    workers = int(kind == "truncated")
    assert str(data / "colours/val/red" / path.name) in score(capsys, data, checkpoint, "--num_workers", workers)


def test_a_decompression_bomb(capsys: pytest.CaptureFixture, data: Path) -> None:
    path = data / "colours/train/red/bomb.png"
    Image.new("1", (16000, 16000)).save(path)
    line = train(capsys, data)
    assert str(path) in line and "pixels" in line


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


def test_classes_of_the_scored_split(capsys: pytest.CaptureFixture, data: Path, checkpoint: Path) -> None:
    shutil.rmtree(data / "colours/val/green")  # a missing class is no error, and shifts no label
    words = ["--device", "cpu", "--eval", "--resume", checkpoint, "--dataset_path", data, "--dataset_name", "colours"]
    assert main.main(tiny_flags(*words, "--output_dir", ""))["images"] == 8
    (data / "colours/val/mauve").mkdir()
    assert "mauve" in score(capsys, data, checkpoint) and "mauve" in train(capsys, data)


def test_the_number_of_classes(capsys: pytest.CaptureFixture, data: Path, checkpoint: Path) -> None:
    assert "--num_queries 7" in (line := train(capsys, data, "--num_queries", 7)) and "3 classes" in line
    assert "--num_queries: 7 contradicts" in (line := score(capsys, data, checkpoint, "--num_queries", 7)) and "has 3" in line


def test_checkpoints(capsys: pytest.CaptureFixture, data: Path, checkpoint: Path) -> None:
    assert "nowhere.pth does not exist" in score(capsys, data, "nowhere.pth")
    assert "--nheads: 8 contradicts" in score(capsys, data, checkpoint, "--nheads", 8)
    cut = checkpoint.with_name("cut.pth")
    cut.write_bytes(checkpoint.read_bytes()[:-5000])
    for words in (["--resume", cut], ["--finetune", cut]):
        assert "cut.pth is truncated" in train(capsys, data, *words)
    shutil.move(data / "colours/train/red", data / "colours/train/rouge")
    shutil.move(data / "colours/val/red", data / "colours/val/rouge")
    assert "blue, green, rouge" in train(capsys, data, "--resume", checkpoint)
    assert "rouge" in score(capsys, data, checkpoint)


def test_output_that_cannot_be_written(capsys: pytest.CaptureFixture, data: Path) -> None:
    (data.parent / "file").write_text("in the way")
    words = [*FLAGS.split(), "--dataset_path", data, "--dataset_name", "colours", "--output_dir", data.parent / "file"]
    assert "--output_dir" in error_of(capsys, *words) and (data.parent / "file").read_text() == "in the way"


def test_a_single_class(capsys: pytest.CaptureFixture, data: Path) -> None:
    for split in ("train", "val"):
        for name in ("blue", "green"):
            shutil.rmtree(data / "colours" / split / name)
    assert "a single class, red" in train(capsys, data)


def test_random_weights_are_not_frozen(capsys: pytest.CaptureFixture, data: Path) -> None:
    assert "--lr_backbone 0 would freeze random weights" in train(capsys, data, "--lr_backbone", 0)
    assert "--backbone_norm frozen would freeze random weights" in train(capsys, data, "--backbone_norm", "frozen")


def test_a_model_of_nan(capsys: pytest.CaptureFixture, data: Path, checkpoint: Path) -> None:
    file = torch.load(checkpoint, weights_only=True)
    for value, message in ((3e38, "icn.pth: the loss is nan on val"), (float("nan"), "icn.pth has values that are not finite")):
        file["model"]["presence_vector.weight"].fill_(value)
        torch.save(file, checkpoint)
        assert message in score(capsys, data, checkpoint)


def test_values_out_of_range(capsys: pytest.CaptureFixture, data: Path) -> None:
    for flag, value in (("--image_size", 8), ("--crop_min", 1.5), ("--hflip", 2), ("--nheads", 5)):
        assert flag in train(capsys, data, flag, value)
    assert "--nheads: num_heads 4 must divide hidden_dim 30" in train(capsys, data, "--hidden_dim", 30)
    assert "--hidden_dim: 30" in train(capsys, data, "--hidden_dim", 30, "--nheads", 5)
    assert "--dropout: '1' must be" in train(capsys, data, "--dropout", 1)
    backbone = ["--backbone", "vit_tiny_patch16_224", "--feature_stride", 16, "--output_dir", ""]
    message = "--image_size: the backbone takes no images of 64 x 64 pixels: squares that it takes (square): 224"
    assert message in train(capsys, data, *backbone, "--image_size", 64)
    assert "single cell" in error_of(
        capsys, *FLAGS.split(), "--dataset_path", data, "--dataset_name", "colours", "--output_dir", "", "--image_size", 32,
        "--feature_stride", 32,
    )  # fmt: skip
