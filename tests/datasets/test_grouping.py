"""Training batches of nearly one aspect ratio: which pictures share one, and how many shapes the backbone gets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_flags
from PIL import Image

from datasets import ImageFolder, TrainSampler, collate, train_transform
from datasets.grouping import RATIOS, Buckets, FewShapes
from datasets.image_folder import Sample
from datasets.loaders import build_train_loader, build_train_sampler
from datasets.size_schedule import LONGEST, SizeSchedule, scaled, training_scales
from datasets.transforms import Reduction, short_side_size
from util.ranks import SINGLE_PROCESS

BATCH, EPOCHS, AUGMENTED = 12, 3, train_transform(800)
STRANGE = [(1, 1), (1, 900), (900, 1), (37, 2000), (64, 64), (333, 500), (500, 333), (501, 499), (3000, 4000)]


def photograph_sizes(count: int, seed: int = 0) -> list[tuple[int, int]]:
    """(height, width) of photographs whose long side is 500, as CUB's: 4:3, 3:2 and others, mostly landscape."""
    random = np.random.default_rng(seed)
    common = [(375, 500), (333, 500), (500, 375), (500, 333)]
    chosen = random.choice(5, count, p=[0.25, 0.25, 0.08, 0.06, 0.36])
    others = [(int(short), 500)[:: random.choice([1, 1, 1, -1])] for short in random.integers(250, 501, count)]
    return [others[i] if kind == 4 else common[kind] for i, kind in enumerate(chosen)]


def schedule_of(text: str = "", image_size: int = 800, epochs: int = EPOCHS) -> SizeSchedule:
    return SizeSchedule(text, image_size, epochs)


def sampler_of(sizes: list[tuple[int, int]], schedule: SizeSchedule, grouped: bool = True, **more: Any) -> TrainSampler:
    choices = partial(schedule.choices, square=False)
    settings = {"batch_size": BATCH, "seed": 3, **more}
    return TrainSampler(len(sizes), sizes=choices, buckets=Buckets(sizes, AUGMENTED, schedule) if grouped else None, **settings)


def crop_of(height: int, width: int, seed: int, image_size: int) -> tuple[int, int]:
    """Height and width of what the augmentation crops."""
    torch.manual_seed(seed)
    *_, box = AUGMENTED.draw_crop(height, width, image_size)
    return (height, width) if box is None else box[2:]


def shape_of(sizes: list[tuple[int, int]], sample: Sample) -> tuple[int, int]:
    """Height and width after the whole augmentation."""
    scale, size = sample.size  # type: ignore[misc]
    return short_side_size(*crop_of(*sizes[sample.index], sample.seed, size), scale, scaled(LONGEST, size))


def epochs_of(sampler: TrainSampler) -> Iterator[list[Sample]]:
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        yield from sampler


def count_plans(sizes: list[tuple[int, int]], sampler: TrainSampler, schedule: SizeSchedule | None) -> tuple[int, float, int]:
    """Batch shapes of a training, the share of its pixels that is padding, and the most pixels of an image of a batch."""
    round_up = (lambda *size: size) if schedule is None else FewShapes.of(schedule)
    shapes, pixels, filled = set(), 0, 0
    for batch in epochs_of(sampler):
        images = [shape_of(sizes, sample) for sample in batch]
        height, width = (max(sides) for sides in zip(*(round_up(*image) for image in images), strict=True))
        assert all(image[0] <= height and image[1] <= width for image in images)
        shapes.add((height, width))
        pixels += len(images) * height * width
        filled += sum(image[0] * image[1] for image in images)
    return len(shapes), 1 - filled / pixels, max(height * width for height, width in shapes)


@pytest.mark.parametrize("image_size", [800, 448])
def test_few_shapes_and_little_padding(image_size: int) -> None:
    """The number of inputs that cuDNN plans for, in a training of 3 epochs of 100 batches."""
    sizes, schedule = photograph_sizes(1200), schedule_of(image_size=image_size)
    before, padding_before, largest_before = count_plans(sizes, sampler_of(sizes, schedule, grouped=False), None)
    after, padding, largest = count_plans(sizes, sampler_of(sizes, schedule), schedule)
    assert before > 200 and padding_before > 0.35
    assert after <= 70 and padding < 0.08  # six scales in tall and wide buckets
    assert largest < 0.7 * largest_before  # which is what decides over memory


def test_the_number_of_shapes_is_bounded_in_a_long_training() -> None:
    """Whatever is drawn: a scale, and one of few ratios, but for pictures at the limit of the long side."""
    scales, longest = training_scales(800), scaled(LONGEST, 800)
    round_up = FewShapes.of(schedule_of())
    sides = [short_side_size(100, width, scale, longest) for scale in scales for width in range(100, 160)]
    shapes = {round_up(*size) for size in sides}
    assert shapes == {round_up(*size[::-1])[::-1] for size in sides}
    assert len(shapes) <= len(scales) * 5
    assert all(shape[0] in scales and shape[1] <= longest for shape in shapes)


@pytest.mark.parametrize("text", ["", "320:0.5,448"])
def test_no_picture_is_larger_than_its_batch(text: str) -> None:
    schedule = schedule_of(text, 448)
    round_up = FewShapes.of(schedule)
    for size in [*STRANGE, *photograph_sizes(50)]:
        for scale, image_size in (*schedule.choices(0, False), *schedule.choices(2.9, False)):
            height, width = short_side_size(*size, scale, scaled(LONGEST, image_size))
            padded = round_up(height, width)
            assert padded[0] >= height and padded[1] >= width and max(padded) <= max(round_up.longest, height, width)


@pytest.mark.parametrize("size", [(300, 300), (300, 400), (400, 300), (332, 500), (1080, 1920)])
def test_common_formats_fill_their_batch(size: tuple[int, int]) -> None:
    round_up = FewShapes.of(schedule_of())
    for scale in training_scales(800):
        height, width = short_side_size(*size, scale, LONGEST)
        padded = round_up(height, width)
        if height == width:
            assert padded == (height, width)
        elif max(height, width) < 1332:
            assert padded[0] * padded[1] < 1.02 * height * width


@pytest.mark.parametrize("scale", [64, 96])
def test_the_sampler_knows_what_the_augmentation_will_crop(scale: int) -> None:
    sizes = [(40, 60), (61, 35), (50, 50), (20, 90)]
    buckets, transform, found = Buckets(sizes, AUGMENTED, schedule_of(image_size=96)), train_transform(96, randaugment=3), set()
    for seed in range(60):
        sample = Sample(seed % 4, seed, (scale, 96))
        torch.manual_seed(seed)
        image = transform(torch.zeros(3, *sizes[sample.index], dtype=torch.uint8), sample.size)
        assert tuple(image.shape[1:]) == shape_of(sizes, sample)
        height, width = crop_of(*sizes[sample.index], seed, 96)
        (bucket,) = buckets([sample])
        assert (bucket > 0) == (width > height) and (bucket == 0) == (width == height)
        assert not bucket or RATIOS[abs(bucket) - 1] * min(height, width) < max(height, width)
        assert RATIOS[abs(bucket)] * min(height, width) >= max(height, width)
        found.add(bucket)
    assert len(found) > 6


def test_a_reduced_picture_of_the_cache_is_cropped_alike() -> None:
    """Its sides are rounded, so that its crop may differ by a pixel or two: it stays in its batch."""
    for seed, (height, width) in enumerate(photograph_sizes(200)):
        size = (8 * height, 8 * width)
        smaller = Reduction(448, False, 0.08).output_size(*size)
        assert smaller != size
        whole, reduced = (crop_of(*sides, seed, 448) for sides in (size, smaller))
        ratios = [max(sides) / min(sides) for sides in (whole, reduced)]
        assert ratios[0] == pytest.approx(ratios[1], abs=0.015)


@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_have_one_bucket_and_each_picture_once(world_size: int) -> None:
    sizes, schedule = photograph_sizes(1000), schedule_of()
    ranks = [
        sampler_of(sizes, schedule, batch_size=12 // world_size, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    plain = sampler_of(sizes, schedule, grouped=False)
    buckets = ranks[0].buckets
    assert buckets is not None
    seen = []
    for epoch in range(2):
        for sampler in (*ranks, plain):
            sampler.set_epoch(epoch)
        batches = [sum(parts, []) for parts in zip(*ranks, strict=True)]
        assert len(batches) == len(plain) == 1000 // 12 and {len(batch) for batch in batches} == {12}
        pictures = [sample.index for batch in batches for sample in batch]
        assert len(set(pictures)) == len(pictures)
        # The same pictures are left out, each has the same augmentation, and a batch the same scale as without groups.
        assert {sample[:2] for batch in batches for sample in batch} == {sample[:2] for batch in plain for sample in batch}
        assert [{sample.size for sample in batch} for batch in batches] == [{batch[0].size} for batch in plain]
        found = [sorted(set(buckets(batch))) for batch in batches]
        assert sum(len(names) > 1 for names in found) < len({name for names in found for name in names})
        order = [names[0] for names in found]
        assert sum(a > b for a, b in zip(order, order[1:], strict=False)) > 20  # not from tall to wide
        seen.append({frozenset(sample.index for sample in batch) for batch in batches})
    assert not seen[0] & seen[1]  # other neighbours in every epoch


def test_a_pure_function_of_seed_and_epoch_also_in_mid_epoch() -> None:
    sizes, schedule = photograph_sizes(200), schedule_of("448:0.5,800")
    whole = list(epochs_of(sampler_of(sizes, schedule)))
    assert whole == list(epochs_of(sampler_of(sizes, schedule))) != list(epochs_of(sampler_of(sizes, schedule, seed=4)))
    resumed = sampler_of(sizes, schedule)
    resumed.set_epoch(1, start_batch=5)
    assert list(resumed) == whole[16 + 5 : 32] and len(resumed) == 11
    resumed.set_epoch(1, start_batch=5, grouped=False)  # as an earlier version began it
    plain = sampler_of(sizes, schedule, grouped=False)
    plain.set_epoch(1, start_batch=5)
    assert list(resumed) == list(plain)


def test_pictures_that_grow_within_an_epoch_are_grouped_by_their_crops_at_each_size() -> None:
    sizes, schedule = photograph_sizes(480), schedule_of("448:0.5,800", epochs=1)
    sampler = sampler_of(sizes, schedule)
    assert sampler.buckets is not None
    mixed = [len(set(sampler.buckets(batch))) > 1 for batch in sampler]
    assert len(mixed) == 40 and sum(mixed) < 25  # 13 borders or fewer in each half
    image_sizes = [batch[0].size[1] for batch in sampler]
    assert image_sizes == [448] * 20 + [800] * 20


def test_numbers_do_not_change_between_versions() -> None:
    """A run resumed within an epoch would get other batches: raise grouping.VERSION with each change of these numbers."""
    sizes, schedule = photograph_sizes(60), schedule_of()
    first = next(iter(sampler_of(sizes, schedule)))
    assert [sample.index for sample in first] == [21, 53, 38, 1, 18, 16, 54, 41, 25, 56, 50, 28]
    assert Buckets([(3, 4)], AUGMENTED, schedule).fingerprint == "9295afc6f8a57205ad4f600cce6ebbf2"


def test_what_groups_a_batch_is_in_the_fingerprint() -> None:
    sizes = photograph_sizes(20)
    schedules = [schedule_of(), schedule_of(image_size=448), schedule_of("448:0.5,800"), schedule_of("448:0.5,800", epochs=9)]
    found = {Buckets(sizes, AUGMENTED, schedule).fingerprint for schedule in schedules}
    found |= {Buckets([*sizes[:-1], (500, 499)], AUGMENTED, schedules[0]).fingerprint}
    assert (
        len(found) == 5
        and Buckets(sizes, AUGMENTED, schedules[0]).fingerprint == Buckets(sizes, AUGMENTED, schedule_of(epochs=9)).fingerprint
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    """48 pictures of two classes, in the sizes of photographs at a tenth."""
    root = tmp_path_factory.mktemp("mixed")
    for index, (height, width) in enumerate(photograph_sizes(48)):
        path = root / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((height // 10, width // 10, 3), index, np.uint8)).save(path)
    return ImageFolder(root, transform=train_transform(64))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_of_a_training(mixed: ImageFolder, workers: int) -> None:
    schedule, device = schedule_of(image_size=64), torch.device("cpu")
    args = tiny_flags("--image_size", 64, "--batch_size", 6, "--num_workers", workers)

    sizes = [Image.open(path).size[::-1] for path in mixed.paths]
    parts, seen = [sizes[0::2], sizes[1::2]], []
    for rank in range(2):
        ranks: Any = SimpleNamespace(rank=rank, size=2, gather=lambda own, slow, r=rank: parts if own == parts[r] else [])
        sampler = build_train_sampler(args, mixed, schedule, ranks)
        assert sampler.buckets is not None and sampler.buckets.sizes == sizes
        batches = list(build_train_loader(args, mixed, sampler, schedule, device))
        for batch, samples in zip(batches, sampler, strict=True):
            expected = collate([mixed[sample] for sample in samples], FewShapes.of(schedule))
            assert torch.equal(batch.images, expected.images) and torch.equal(batch.indices, expected.indices)
            seen += batch.indices.tolist()
    assert sorted(seen) == list(range(48))


def test_squares_and_kept_features_are_not_grouped(mixed: ImageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.loaders.image_sizes", pytest.fail)
    for more in (["--square"], ["--cache_features", 2]):
        sampler = build_train_sampler(tiny_flags("--image_size", 64, *more), mixed, schedule_of(image_size=64), SINGLE_PROCESS)
        assert sampler.buckets is None and sampler.grouping is None


def test_a_rounded_batch_holds_the_same_pictures() -> None:
    images = [torch.full((3, *size), 7, dtype=torch.uint8) for size in ((5, 9), (8, 4))]
    samples = [(image, 0, 0) for image in images]
    batch = collate(samples, lambda height, width: (height + 3, width + 1))
    assert batch.images.shape == (2, 3, 11, 10) and batch.padding_mask is not None
    for image, padded, mask in zip(images, batch.images, batch.padding_mask, strict=True):
        assert torch.equal(padded[:, : image.shape[1], : image.shape[2]], image) and padded.sum() == image.sum()
        assert int((~mask).sum()) == image[0].numel()
    enlarged = collate(samples).padded(11, 10)
    assert torch.equal(enlarged.images, batch.images) and torch.equal(enlarged.padding_mask, batch.padding_mask)
    alone = collate(samples[:1], lambda height, width: (height + 1, width))
    assert alone.images.shape[2:] == (6, 9) and alone.padding_mask is not None and alone.padding_mask[0, 5].all()
    again = collate(samples[:1]).padded(6, 9)
    assert torch.equal(again.padding_mask, alone.padding_mask) and torch.equal(again.images, alone.images)
