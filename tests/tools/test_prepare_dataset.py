from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.decode import decode_image
from datasets.image_folder import open_split
from datasets.prepare import fashion_mnist, writing
from datasets.prepare.fashion_mnist import CLASSES, read_idx
from tools.prepare_dataset import get_args_parser, main
from util.cli import launch

ROOT = Path(__file__).parents[2]


def write_idx(path: Path, array: np.ndarray, kind: int = 0x08) -> None:
    data = bytes([0, 0, kind, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def source(tmp_path) -> Path:
    """Four IDX files, two of them gzipped: 40 train and 20 test images, label = position modulo 10."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "idx"
    folder.mkdir()
    for prefix, n, suffix in (("train", 40, ""), ("t10k", 20, ".gz")):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", (np.arange(n) % 10).astype(np.uint8))
    return folder


def run(source: Path, out: Path, *more: str) -> None:
    launch(main, get_args_parser(), ["fashion-mnist", "--source", str(source), "--out", str(out), *more])


def error_of(capsys, *args) -> str:
    with pytest.raises(SystemExit) as caught:
        run(*args)
    message = capsys.readouterr().err
    assert caught.value.code == 2
    assert message.startswith("prepare_dataset: error: ")
    assert message.count("\n") == 1
    return message


def test_pictures_and_classes_are_those_of_the_files(source, tmp_path):
    run(source, tmp_path)
    images = read_idx(source / "train-images-idx3-ubyte")
    train = open_split(tmp_path, "fashion-mnist", "train")
    val = open_split(tmp_path, "fashion-mnist", "val", classes=train.classes)
    assert (len(train), len(val)) == (40, 20)
    assert train.classes == sorted(CLASSES)
    for path in train.paths:
        number = int(path.stem)
        assert path.parent.name == CLASSES[number % 10]
        assert (decode_image(path).numpy() == images[number]).all()


def test_subset_is_the_first_of_each_class(source, tmp_path):
    run(source, tmp_path, "--train_images", "20", "--name", "small")
    train = open_split(tmp_path, "small", "train")
    assert sorted(int(path.stem) for path in train.paths) == list(range(20))
    assert len(open_split(tmp_path, "small", "val")) == 20


def test_second_call_does_nothing(source, tmp_path, capsys):
    run(source, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "fashion-mnist").rglob("*")}
    capsys.readouterr()
    run(source, tmp_path)
    assert "already there" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "fashion-mnist").rglob("*")} == before


def test_another_subset_under_the_same_name_is_an_error(source, tmp_path, capsys):
    run(source, tmp_path)
    capsys.readouterr()
    message = error_of(capsys, source, tmp_path, "--train_images", "20")
    assert "60 images (train 40, val 20), prepared with train_images None, not with train_images 20" in message


def test_interrupted_run_is_continued(source, tmp_path, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    write_files = writing.write_files
    monkeypatch.setattr(writing, "CHUNK", 16)
    with monkeypatch.context() as context:
        turns = iter([write_files, write_files, interrupt, interrupt])
        context.setattr(writing, "write_files", lambda *args: next(turns)(*args))
        with pytest.raises(SystemExit) as caught:
            run(source, tmp_path / "out")
    assert caught.value.code == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".fashion-mnist.unfinished"]
    temporary = tmp_path / "out" / ".fashion-mnist.unfinished" / "train" / "bag" / ".00008.png.0123abcd.tmp"
    temporary.touch()  # as after a SIGKILL
    run(source, tmp_path / "out")
    assert "60 images (train 40, val 20) (32 files of an interrupted run, 28 new files)" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fashion-mnist"]
    assert not list((tmp_path / "out").rglob(".*"))


def test_two_processes_do_not_write_one_data_set(source, tmp_path, capsys):
    with writing.locked(tmp_path / "fashion-mnist"):
        assert "another process prepares" in error_of(capsys, source, tmp_path)
        run(source, tmp_path, "--name", "other")
    run(source, tmp_path)


def test_a_folder_of_another_kind_is_not_touched(source, tmp_path, capsys):
    (tmp_path / "fashion-mnist").mkdir()
    assert "already there, without the dataset.json" in error_of(capsys, source, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("train-images-idx3-ubyte", None, "no file train-images-idx3-ubyte"),
        ("train-images-idx3-ubyte", b"", "not an IDX file"),
        ("train-images-idx3-ubyte", b"\x89PNG\r\n", "not an IDX file"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\1\0\0\0\0", "0x0d"),
        ("train-images-idx3-ubyte", b"\0\0\x08\3\0\0\0\1\0\0\0\x1c\0\0", "14 bytes long"),
        ("train-images-idx3-ubyte", b"\0\0\x08\3\0\0\0\1\0\0\0\2\0\0\0\2abcd", "(1, 2, 2)"),
        ("train-labels-idx1-ubyte", b"\0\0\x08\1\0\0\0\2\0\1", "(2,)"),
        ("train-labels-idx1-ubyte", b"\0\0\x08\1\0\0\0\x28" + b"\7" * 40, "[7]"),
        ("t10k-images-idx3-ubyte.gz", b"\x1f\x8b\x08\0", "cannot be read"),
        ("t10k-images-idx3-ubyte.gz", b"no gzip", "cannot be read"),
    ],
)
def test_damaged_file_is_named(source, tmp_path, capsys, name, content, expected):
    if content is None:
        (source / name).unlink()
    else:
        (source / name).write_bytes(content)
    message = error_of(capsys, source, tmp_path)
    assert expected in message
    assert name in message
    assert not (tmp_path / "fashion-mnist").exists()


def test_a_file_that_unpacks_to_far_more(source, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "LARGEST", 10_000)
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte.gz: is 10000 bytes long; its header .20, 28, 28. means 15696"):
        read_idx(source / "t10k-images-idx3-ubyte.gz")


def test_file_cut_short(source, tmp_path, capsys):
    path = source / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    assert "bytes long" in error_of(capsys, source, tmp_path)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--train_images", "15"], "multiple of 10"),
        (["--train_images", "5"], "multiple of 10"),
        (["--train_images", "50"], "at most 40"),
        (["--name", "../x"], "--name"),
        (["--frobnicate"], "--frobnicate"),
    ],
)
def test_flags(source, tmp_path, capsys, flags, expected):
    assert expected in error_of(capsys, source, tmp_path, *flags)


def test_missing_source(tmp_path, capsys):
    assert "no such folder" in error_of(capsys, tmp_path / "nowhere", tmp_path)


def test_runs_as_a_script_too():
    result = subprocess.run([sys.executable, "tools/prepare_dataset.py", "-h"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0
    assert "fashion-mnist" in result.stdout
