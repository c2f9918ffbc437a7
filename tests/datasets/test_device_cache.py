"""Pictures on the training's device give the views of a DataLoader; whole batches are computed alike, but for rounding."""

from __future__ import annotations

import argparse
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COLOURS, tiny_flags
from PIL import Image
from test_resume import assert_same_run, life
from torchvision.transforms.v2 import RandAugment

from datasets import EvalSampler, TrainSampler, eval_shapes, resampling, train_transform
from datasets.augment import JITTER, Augment, Changes
from datasets.batch import ImageBatch
from datasets.batched_augment import OPERATIONS, change
from datasets.cache_place import cache_place
from datasets.device_cache import DeviceLoader
from datasets.loaders import build_datasets, build_eval_loader, build_loader, cache_pictures
from datasets.resampling import padding_mask, region, resample
from util.ranks import SINGLE_PROCESS

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SHAPES = [(40, 48), (200, 150), (33, 250), (97, 97), (3, 5), (1, 1), (300, 40), (96, 96)]


def photo(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """A picture with edges, in the layout of decoded ones: uint8 `[3, H, W]`."""
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 5), -(-width // 5), 3), np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))).permute(2, 0, 1)


@pytest.mark.parametrize("square, half", [(True, ()), (False, ()), (True, ("cpu",)), (False, ("cpu",))])
def test_crops_are_those_of_the_transform(square: bool, half: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Enlarged and reduced, flipped, zoomed and padded: to a grey level, to two where two resizes are rounded."""
    monkeypatch.setattr(resampling, "HALF", half)
    transform, pictures = train_transform(96, square), [photo(*shape) for shape in SHAPES]
    pixels = torch.cat([picture.permute(1, 2, 0).reshape(-1, 3) for picture in pictures])
    starts = np.cumsum([0, *(height * width for height, width in SHAPES)]).tolist()
    for seed in range(4):
        regions, expected = [], []
        for start, picture in zip(starts, pictures, strict=False):
            torch.manual_seed(100 * seed + start)
            view = transform.draw(*picture.shape[1:], 64 if square else (64, 96))
            regions.append(region(start, *picture.shape[1:], view))
            expected.append(transform.cut_out(picture, view))
        images, mask = resample(pixels, regions), padding_mask(regions, CPU)
        assert images.is_contiguous(memory_format=torch.channels_last) and (mask is None) == square
        for index, image in enumerate(expected):
            height, width = image.shape[1:]
            difference = (images[index, :, :height, :width].int() - image.int()).abs()
            assert difference.max() <= (1 if square else 2) and difference.float().mean() < 0.4
            if mask is not None:
                assert not mask[index, :height, :width].any() and mask[index].sum() == mask[index].numel() - height * width
                assert not images[index][:, mask[index]].any()
        with monkeypatch.context() as patch:
            patch.setattr(resampling, "PIXELS", 2**16)  # a few at a time
            assert (resample(pixels, regions).int() - images.int()).abs().max() <= 1


def test_a_crop_from_a_zoom_to_the_same_size_has_its_place() -> None:
    """Pictures whose short side is that of the zoom already, and none in the batch that is zoomed to another size."""
    transform, picture = train_transform(96, False), photo(48, 60)
    pixels, zoomed = picture.permute(1, 2, 0).reshape(-1, 3), 0
    for seed in range(200):
        torch.manual_seed(seed)
        view = transform.draw(48, 60, (96, 96))
        if view.zoom == (48, 60) and view.box is not None and view.box[2:] != (48, 60):
            zoomed += 1
            (image,) = resample(pixels, [region(0, 48, 60, view)])
            assert (image.int() - transform.cut_out(picture, view).int()).abs().max() <= 2
    assert zoomed > 3


@pytest.mark.parametrize("name", [*JITTER, *RandAugment._AUGMENTATION_SPACE])
def test_an_operation_on_a_batch_is_that_on_each_image(name: str) -> None:
    """To a grey level; of images of two sizes, each with a value of its own, next to images that have another operation."""
    augment, sizes = Augment(0.5, 9), [(40, 60)] * 4 + [(44, 44)] * 3 + [(2, 44)]
    if name == "hue":
        values = np.linspace(-0.5, 0.5, 8)
    elif name in JITTER:
        values = np.linspace(0.4, 1.6, 8)
    else:
        magnitudes, signed = RandAugment._AUGMENTATION_SPACE[name]
        values = np.array([0.0] * 8 if magnitudes(8, 40, 60) is None else magnitudes(8, 40, 60).tolist())
        values[::2] *= -1 if signed else 1
    images = torch.zeros(9, 3, 44, 60, dtype=torch.uint8)
    for index, size in enumerate([*sizes, (44, 60)]):
        images[index, :, : size[0], : size[1]] = photo(*size, seed=index) if index != 3 else 9
    before = images.clone()
    changes = [Changes(((name, float(value)),)) for value in values]
    change(images, [*sizes, (44, 60)], [*changes, Changes((("Identity", 0.0),))])
    for index, (height, width) in enumerate(sizes):
        expected = augment.apply(before[index, :, :height, :width], changes[index])
        assert (images[index, :, :height, :width].int() - expected.int()).abs().max() <= 1
        images[index, :, :height, :width] = 0
    assert torch.equal(images[8], before[8]) and not images[:8].any()  # padding stays 0
    assert name in OPERATIONS or name == "Identity"


def opened(root: Path, cache: object, *more: object) -> tuple[argparse.Namespace, Any, Any]:
    args = tiny_flags("--dataset_path", root, "--dataset_name", "colours", "--image_size", 48, "--cache", cache, *more)
    sets = build_datasets(args, [*COLOURS])
    cache_pictures(args, SINGLE_PROCESS, *sets, CPU)
    return args, *sets


def equal(one: ImageBatch, other: ImageBatch) -> bool:
    pairs = [(one.images, other.images), (one.labels, other.labels), (one.indices, other.indices)]
    pairs += [(one.padding_mask, other.padding_mask)] if one.padding_mask is not None else []
    same_padding = (one.padding_mask is None) == (other.padding_mask is None)
    return same_padding and all(torch.equal(a, b) and a.stride() == b.stride() for a, b in pairs)


@pytest.mark.parametrize("flags", [
    "--square --crop_min 0.2", "--hflip 1",
    "--square --color_jitter 0.4 --random_erasing 1", "--color_jitter 0.2 --randaugment 4 --random_erasing 0.5",
])  # fmt: skip
def test_batches_are_those_of_a_data_loader(colours: Path, flags: str, capsys: pytest.CaptureFixture) -> None:
    """On a CPU bit for bit, of training and of scoring; computed as a whole, to the rounding of crops and operations."""
    args, *plain = opened(colours, "", *flags.split())
    args, *sets = opened(colours, "gpu", *flags.split())
    said = capsys.readouterr().out
    assert "cache: 24 train pictures take 0.1 MB on cpu" in said and "cache: 12 val pictures take" in said
    assert all(isinstance(build_loader(args, data, [], CPU), DeviceLoader) for data in sets)
    sampler = TrainSampler(24, 7, 1, [32, 48] if args.square else [(32, 48), (48, 48)])
    expected, given = (list(build_loader(args, data, sampler, CPU)) for data in (plain[0], sets[0]))
    assert len(given) == 3 and all(equal(*pair) for pair in zip(given, expected, strict=True))
    for whole, batch in zip(DeviceLoader(sets[0], sampler, batched=True), expected, strict=True):
        difference = (whole.images.int() - batch.images.int()).abs().float()
        assert difference.mean() < (1.0 if args.randaugment else 0.4)  # an operation may enlarge a difference of one level
        whole.images = batch.images
        assert equal(whole, batch)
    scored = [list(build_eval_loader(args, data, CPU)) for data in (plain[1], sets[1])]
    assert len(scored[0]) == len(scored[1]) and all(equal(*pair) for pair in zip(*scored, strict=True))
    assert sets[0].with_transform(None).resident is None


def test_scored_pictures_of_several_shapes(colours: Path, tmp_path: Path) -> None:
    for index, shape in enumerate([(60, 40), (40, 60), (60, 41), (48, 48)] * 2):
        for split in ("train", "val"):
            file = tmp_path / "colours" / split / [*COLOURS][index % 3] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo(*shape, seed=index).permute(1, 2, 0).numpy()).save(file)
    args, _, plain = opened(tmp_path, "")
    args, _, kept = opened(tmp_path, "gpu")
    batches = [list(build_eval_loader(args, data, CPU)) for data in (plain, kept)]
    assert len(batches[1]) == 4 and all(equal(*pair) for pair in zip(*batches, strict=True))
    assert kept.resident.sizes == eval_shapes(plain)
    with pytest.raises(AssertionError, match="several shapes"):
        list(DeviceLoader(kept, EvalSampler(len(kept), 8)))


TRAINING = "--color_jitter 0.3 --randaugment 5 --random_erasing 0.5 --accumulate 2 --size_schedule 32:0.3,48"


@pytest.mark.parametrize("batched", [False, True])
def test_a_training_in_two_lives(colours: Path, tmp_path: Path, batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU it is the training without a cache, bit for bit; with whole batches it is exact when it is resumed."""
    if batched:
        monkeypatch.setattr(DeviceLoader, "__init__", partialmethod(DeviceLoader.__init__, batched=True))
    flags = f"{TRAINING} {'--square' * batched}"
    life(colours, tmp_path / "whole", flags, "--cache", "gpu" if batched else "ram")
    life(colours, tmp_path / "parts", flags, "--cache", "gpu", "--resume", "auto", steps=3)
    life(colours, tmp_path / "parts", flags, "--cache", "gpu", "--resume", "auto")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_what_does_not_fit(colours: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("datasets.device_cache.available", lambda: 10**5)
    with pytest.raises(
        ValueError, match=r"^--cache gpu: the 24 train pictures take .* GB, of 0\.0 GB that are free on cpu"
    ) as no:
        opened(colours, "gpu")
    assert "\n" not in str(no.value) and "give --cache ram or a folder" in str(no.value)
    monkeypatch.setattr("datasets.device_cache.available", lambda: 3 * 24 * 40 * 48 * 10 // 8 + 100)
    args, train_set, val_set = opened(colours, "gpu")
    said = capsys.readouterr().out
    assert "cache: the 12 val pictures take" in said and "they are decoded whenever they are scored" in said
    assert train_set.resident is not None and val_set.resident is None
    assert not isinstance(build_eval_loader(args, val_set, CPU), DeviceLoader)


def test_a_picture_that_changes_while_it_is_loaded(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.device_cache.image_size", lambda path, decoding: (41, 48))
    with pytest.raises(ValueError, match=r"\.png: was changed while the data set was loaded: start again"):
        opened(colours, "gpu")


@pytest.mark.parametrize("word, near", [("rum", "ram"), ("RAM", "ram"), ("gpi", "gpu"), ("GPU", "gpu"), ("tram", "ram")])
def test_a_word_that_is_nearly_a_place(word: str, near: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{word}': did you mean {near}\\? A new folder is given as ./{word}"):
        cache_place(word)
    (tmp_path / word).mkdir()
    assert [cache_place(text) for text in (word, f"./{word}", "", "ram", "gpu", "kept", "/x/ram2")][0] == word
