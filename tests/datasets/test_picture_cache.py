"""Kept pictures are those that would be decoded; what is changed, cut, full or of others is noticed."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COLOURS, make_images, tiny_flags
from PIL import Image
from torch._utils import ExceptionWrapper

import datasets.image_folder
import main
from datasets import ImageFolder, TrainSampler, collate
from datasets.decode import Decoding
from datasets.image_folder import Sample
from datasets.loaders import build_datasets, cache_pictures
from datasets.transforms import Reduction
from datasets.workers import Loader
from util import memory
from util.errors import CacheError, RunFailed, message_of
from util.ranks import SINGLE_PROCESS

PLACES = ["ram", "folder"]


@pytest.fixture
def data(colours: Path, tmp_path: Path) -> Path:
    """A copy of the colours, that a test may change."""
    shutil.copytree(colours / "colours", tmp_path / "colours")
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are decoded in this process."""
    files: list[Path] = []
    decode = datasets.image_folder.decode_image

    def counted(path: Path, decoding: Any) -> torch.Tensor:
        files.append(path)
        return decode(path, decoding)

    monkeypatch.setattr(datasets.image_folder, "decode_image", counted)
    return files


def flags(root: Path, place: str, *more: str) -> Any:
    cache = place if place in ("", "ram") else root / "cache"
    return tiny_flags("--dataset_path", root, "--dataset_name", "colours", "--image_size", "48", "--cache", cache, *more)


def opened(root: Path, place: str, *more: str) -> tuple[ImageFolder, ImageFolder]:
    args = flags(root, place, *more)
    sets = build_datasets(args, [*COLOURS])
    cache_pictures(args, SINGLE_PROCESS, *sets, torch.device("cpu"))
    return sets


def read(sets: tuple[ImageFolder, ImageFolder], workers: int = 0) -> list[torch.Tensor]:
    """All pictures of an epoch of training, and of an evaluation."""
    samplers: list[Any] = [TrainSampler(len(sets[0]), 1, 3), [[index] for index in range(len(sets[1]))]]
    loaders = [
        Loader(images, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
        for images, sampler in zip(sets, samplers, strict=True)
    ]
    return [batch.images for loader in loaders for batch in loader]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("square", [True, False])
def test_batches_are_those_without_a_cache(
    data: Path, place: str, square: bool, decoded: list[Path], capsys: pytest.CaptureFixture
) -> None:
    """The first time and the second, with and without workers; each file is decoded once."""
    more = ["--square", "--crop_min", "0.5"] if square else ["--image_size", "40"]  # no picture is larger than needed
    expected = read(opened(data, "", *more))
    decoded.clear()
    sets = opened(data, place, *more)
    said = capsys.readouterr().out
    assert "cache: 24 train pictures take 0.1 MB in" in said and "smaller" not in said
    assert same(read(sets, workers=2), expected) and not decoded  # the workers decode
    assert same(read(sets), expected) and not decoded
    assert same(read(pickle.loads(pickle.dumps(sets))), expected) and not decoded
    if place == "folder":
        assert same(read(opened(data, place, *more)), expected) and not decoded
        assert "12 val pictures" in capsys.readouterr().out


def test_larger_pictures_are_kept_at_what_is_needed(data: Path, decoded: list[Path], capsys: pytest.CaptureFixture) -> None:
    """Those of a training; what is scored is exact, as it is kept behind its transform."""
    large = data / "colours/train/red/0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)).save(large)
    shutil.copy(large, data / "colours/val/red/0.png")
    expected = read(opened(data, "", "--square"))
    sets = opened(data, "folder", "--square", "--crop_min", "0.5")
    assert "24 train pictures" in (said := capsys.readouterr().out) and said.count("1 are kept smaller than in their files") == 1
    index = sets[0].paths.index(large)
    height, width = sets[0].cache.slots.sizes[index].tolist()  # type: ignore[union-attr]
    assert height < 300 and 0.5 * height * width * 3 / 4 >= 48**2 > 0.5 * (height - 1) * (width - 1) * 3 / 4
    assert sets[0][Sample(index, 1)][0].shape == (3, 48, 48)
    scored = read(sets)[-len(sets[1]) :]
    assert same(scored, expected[-len(sets[1]) :])
    assert Reduction(100, False, 0.5).output_size(400, 300) == (134, 100)
    assert Reduction(100, False, 0.5).output_size(90, 300) == (90, 300)


def test_a_changed_picture_is_decoded_again(data: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read(opened(data, "folder"))
    again, larger = data / "colours/train/red/1.png", data / "colours/train/red/2.png"
    shutil.copy(data / "colours/train/blue/1.png", again)
    Image.fromarray(np.full((44, 60, 3), 7, np.uint8)).save(larger)
    (data / "colours/train/red/3.png").unlink()
    decoded.clear()
    sets = opened(data, "folder")
    expected = read(build_datasets(flags(data, ""), [*COLOURS]))
    decoded.clear()
    assert same(read(sets), expected) and {*decoded} == {again, larger}
    # Other flags make other pictures; a file of theirs lies beside.
    decoded.clear()
    monkeypatch.setattr("datasets.decode._decoding", Decoding(bit_depth=12))
    assert same(read(opened(data, "folder")), expected) and len({*decoded}) == 35


def test_a_damaged_picture_is_decoded_again(data: Path, decoded: list[Path]) -> None:
    sets = opened(data, "folder")
    expected = read(sets)
    cache = sets[0].cache
    assert cache is not None
    with open(cache.path, "r+b") as file:
        file.seek(int(cache.slots.offsets[5]) + 100)
        file.write(b"\1\2\3")
    decoded.clear()
    assert same(read(opened(data, "folder")), expected) and decoded == [sets[0].paths[5]]
    assert not decoded.clear() and same(read(opened(data, "folder")), expected) and not decoded


def test_a_file_that_is_cut_short(data: Path) -> None:
    sets = opened(data, "folder")
    read(sets)
    pixels = Path(sets[0].cache.path)  # type: ignore[union-attr]
    os.truncate(pixels, 1000)
    with pytest.raises(CacheError, match=r"--cache: .*\.pixels was cut short during the run: remove it"):
        read(sets)
    try:
        sets[0][Sample(20, 1)]
    except CacheError:
        in_worker = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(CacheError) as failed:
        in_worker.reraise()
    assert message_of(failed.value).startswith(f"--cache: {pixels} was cut short during the run")  # without a traceback
    with pytest.raises(ValueError, match=r"--cache: .*\.pixels is damaged \(it was cut short\): remove the folder .*cache, "):
        opened(data, "folder")
    assert pixels.stat().st_size == 1000


def test_a_disk_that_is_full(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = opened(data, "folder")
    written, pwrite = [], os.pwrite

    def full(handle: int, content: bytes, offset: int) -> int:
        written.append(offset)
        if len(written) > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(handle, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CacheError, match=r"--cache: .*\.pixels cannot be written \(No space left on device\): make room"):
        read(sets)
    shutil.rmtree(data / "cache")
    written.clear()
    args = flags(data, "folder", "--square", "--backbone", "test_resnet", "--epochs", "1", "--output_dir", str(data / "out"))
    message = (
        r"^epoch 1: --cache: .*/train-\w+\.pixels cannot be written \(No space left on device\): make room, .*; no checkpoint"
    )
    with pytest.raises(RunFailed, match=message):  # exit code 1
        main.main(args)
    monkeypatch.undo()
    assert same(read(opened(data, "folder")), read(opened(data, "")))
    usage = shutil.disk_usage(data)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ValueError, match=r"has 0\.0 GB left, the pictures need 0\.0 GB more: make room, give another folder"):
        opened(data, "folder", "--image_size", "64")


def test_a_memory_that_is_too_small(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.cache_folder.available", lambda: 10**5)
    with pytest.raises(ValueError, match=r"--cache ram: the pictures take .* GB, 0\.0 GB of memory are free: give a folder"):
        opened(data, "ram")
    assert memory.available() is None or memory.available() > 10**6  # type: ignore[operator]


def test_folders_that_are_refused(data: Path) -> None:
    other = data / "other"
    make_images(other / "colours", {"train": 1, "val": 1}, COLOURS, (20, 20))
    opened(data, "folder")
    before = sorted((data / "cache").iterdir())
    for place, message in (
        (data / "cache", "is of another data set, .*colours, and not of .*other/colours: give another folder"),
        (other / "colours", r"holds something else \(\w+\): give a new folder"),
        (other / "colours/train/red", "lies among the pictures of"),
        (other / "colours/train/red/0.png", "lies among the pictures of"),
        (data / "colours/train/red/0.png", "is no folder"),
        (data / "colours/train/red/0.png/cache", r"cannot be written to \(Not a directory\)"),
    ):
        args = tiny_flags("--dataset_path", other, "--dataset_name", "colours", "--image_size", "48", "--cache", place)
        sets = build_datasets(args, [*COLOURS])
        with pytest.raises(ValueError, match=message) as refused:
            cache_pictures(args, SINGLE_PROCESS, *sets, torch.device("cpu"))
        assert "\n" not in str(refused.value) and str(refused.value).startswith(f"--cache: {place} ")
    assert sorted((data / "cache").iterdir()) == before and len(list(other.rglob("*"))) == 15
    (index,) = (data / "cache").glob("train-*.json")
    index.write_text(index.read_text()[:50])
    with pytest.raises(ValueError, match=r"\.json is damaged \(its content is not what was written\): remove the folder"):
        opened(data, "folder")
