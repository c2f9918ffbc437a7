from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import ImageFolder, Loader, TrainSampler, collate, train_transform, training_scales
from datasets.augment import Augment

ON = [{"color_jitter": 0.4}, {"randaugment": 9}, {"random_erasing": 1.0}]
ALL = {"color_jitter": 0.4, "randaugment": 9, "random_erasing": 0.5}


def photo(height: int = 60, width: int = 80) -> torch.Tensor:
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return torch.from_numpy(np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))).permute(2, 0, 1)


def seeded(transform, seed: int, *args) -> torch.Tensor:
    torch.manual_seed(seed)
    return transform(*args)


@pytest.mark.parametrize("square", [False, True])
def test_off_is_identical_and_draws_nothing(square):
    with_flags = train_transform(64, square, color_jitter=0.0, randaugment=0, random_erasing=0.0)
    for seed in range(5):
        assert torch.equal(seeded(with_flags, seed, photo(), 48), seeded(train_transform(64, square), seed, photo(), 48))
    image = photo()
    state = torch.get_rng_state()
    assert Augment()(image) is image
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("flags", [*ON, ALL], ids=[*("jitter", "randaugment", "erasing", "all")])
def test_on_is_seeded_changes_the_picture_and_keeps_its_form(square, flags):
    plain, transform = train_transform(64, square), train_transform(64, square, **flags)
    changed = 0
    for seed in range(10):
        image = photo()
        first = seeded(transform, seed, image, 48)
        assert torch.equal(first, seeded(transform, seed, photo(), 48))
        assert torch.equal(image, photo()), "the picture given was written to"
        without = seeded(plain, seed, photo(), 48)
        assert (first.dtype, first.shape) == (torch.uint8, without.shape)
        changed += not torch.equal(first, without)
        assert not torch.equal(first, seeded(transform, seed + 100, photo(), 48))
    assert changed >= 8  # two operations of RandAugment may leave a picture as it was


def test_the_crop_and_flip_are_those_without_augmentation():
    """Erasing leaves the rest of the picture untouched: the flags do not shift the draws that come before."""
    for seed in range(10):
        plain = seeded(train_transform(64, True), seed, photo())
        erased = seeded(train_transform(64, True, random_erasing=1.0), seed, photo())
        same = (plain == erased).all(0)  # [H, W]
        assert 0.5 <= same.float().mean() < 1


@pytest.mark.parametrize(("probability", "expected"), [(1.0, range(200, 201)), (0.25, range(30, 71))])
def test_probability_and_area_of_erasing(probability, expected):
    image = torch.zeros(3, 100, 120, dtype=torch.uint8)
    erase = Augment(random_erasing=probability)
    shares = []
    for seed in range(200):
        rows, columns = seeded(erase, seed, image).any(0).nonzero().T
        if len(rows):
            shares.append(int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)) / 12_000)
    assert len(shares) in expected
    assert 0.01 < min(shares) < 0.1
    assert 0.25 < max(shares) < 0.35


def test_erased_pixels_are_noise():
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    noise = seeded(Augment(random_erasing=1.0), 0, image)
    noise = noise[noise > 0].float()
    assert 120 < noise.mean() < 136
    assert noise.std() > 65


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (2, 2)])
def test_tiny_pictures(size):
    augment = Augment(**ALL | {"random_erasing": 1.0})
    for seed in range(30):
        assert seeded(augment, seed, torch.full((3, *size), 9, dtype=torch.uint8)).shape == (3, *size)


def test_strength_of_the_jitter():
    """A grey picture has no hue and no saturation, and a flat one no contrast: what is left is the brightness."""
    image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    levels = torch.stack([seeded(Augment(color_jitter=0.4), seed, image)[0, 0, 0] for seed in range(200)])
    assert 58 <= levels.min() <= 70
    assert 130 <= levels.max() <= 141


def test_a_larger_magnitude_changes_more():
    def change(magnitude: int) -> float:
        pairs = (seeded(Augment(randaugment=magnitude), seed, photo()).float() - photo() for seed in range(60))
        return float(torch.stack([pair.abs().mean() for pair in pairs]).mean())

    assert change(1) < change(5) < change(10)


@pytest.mark.parametrize("square", [False, True])
def test_does_not_depend_on_workers_and_can_be_sent_to_them(tmp_path, square):
    for i in range(6):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(photo(40 + 8 * i, 64).permute(1, 2, 0).numpy()).save(tmp_path / f"a/{i}.png")
    data = pickle.loads(pickle.dumps(ImageFolder(tmp_path, transform=train_transform(64, square, **ALL))))
    sampler = TrainSampler(len(data), 2, seed=3, sizes=None if square else training_scales(64))
    options = {"batch_sampler": sampler, "collate_fn": collate}
    alone, apart = (list(Loader(data, num_workers=workers, **options)) for workers in (0, 2))
    assert [batch.images.shape for batch in alone] == [batch.images.shape for batch in apart]
    assert all(torch.equal(one.images, other.images) for one, other in zip(alone, apart, strict=True))


@pytest.mark.parametrize(
    ("flag", "value"),
    [("color_jitter", -0.1), ("color_jitter", 1.1), ("randaugment", -1), ("randaugment", 11), ("randaugment", 2.5)]
    + [("random_erasing", -0.1), ("random_erasing", 1.5), ("color_jitter", float("nan"))],
)
@pytest.mark.parametrize("square", [False, True])
def test_values_out_of_range_name_the_flag(flag, value, square):
    with pytest.raises(ValueError, match=f"^--{flag} {value} must be .*from 0 to") as caught:
        train_transform(64, square, **{flag: value})
    assert "\n" not in str(caught.value)
