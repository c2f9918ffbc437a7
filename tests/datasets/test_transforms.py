from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.size_schedule import training_scales
from datasets.transforms import eval_transform, short_side_size, train_transform


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def photo(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


# (height, width) -> (height, width) at short side 800, long side at most 1333, worked out by hand:
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((375, 500), (800, 1066)),  # 800 * 500 / 375 = 1066.67, cut
        ((500, 375), (1066, 800)),
        ((480, 640), (800, 1066)),
        ((333, 500), (800, 1201)),  # 1201.2
        ((500, 500), (800, 800)),
        ((800, 1000), (800, 1000)),  # nothing to do
        ((800, 1333), (800, 1333)),
        ((800, 1334), (799, 1332)),  # 1333 * 800 / 1334 = 799.4 -> 799; 799 * 1334 / 800 = 1332.3
        ((300, 600), (666, 1332)),  # 1333 / 2 = 666.5, half to even -> 666
        ((100, 1000), (133, 1330)),  # 133.3
        ((600, 1600), (500, 1333)),  # 1333 * 600 / 1600 = 499.9 -> 500; 500 * 1600 / 600 = 1333.3
        ((1000, 100), (1330, 133)),
        ((3000, 4000), (800, 1066)),
        ((1, 1), (800, 800)),
    ],
)
def test_size_arithmetic_is_that_of_intr(before, after):
    assert short_side_size(*before, 800, 1333) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1, 2000), (32, 1333)),  # 0.67 pixels high by the rule
        ((2000, 1), (1333, 32)),
        ((40, 2000), (32, 1333)),
        ((1, 100000), (32, 1333)),
    ],
)
def test_a_strip_is_never_thinner_than_a_feature_cell(before, after):
    assert short_side_size(*before, 800, 1333) == after


def test_sizes_scale_with_image_size():
    assert eval_transform(400)(noise(30, 60)).shape == (3, 333, 666)  # long side at most 1333 / 2 = 666.5 -> 666
    assert eval_transform(448)(noise(60, 40)).shape == (3, 672, 448)
    assert training_scales(800) == [480, 544, 608, 672, 736, 800]
    assert training_scales(400) == [240, 272, 304, 336, 368, 400]
    assert training_scales(32) == [32]


@pytest.mark.parametrize(("height", "width"), [(96, 128), (640, 480), (400, 1000)])
def test_eval_resize_is_pils_within_two_grey_levels(height, width):
    picture = photo(height, width)
    ours = eval_transform(400)(torch.from_numpy(picture).permute(2, 0, 1))
    size = (ours.shape[2], ours.shape[1])
    pil = np.array(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - pil).max() <= 2


def test_square_eval_shows_the_whole_picture():
    image = torch.zeros(3, 50, 200, dtype=torch.uint8)
    image[:, :, :20] = 255  # the leftmost tenth
    square = eval_transform(100, square=True)(image)
    assert square.shape == (3, 100, 100)
    assert (square[0, :, :9] > 250).all()
    assert (square[0, :, 11:] < 5).all()


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (1, 1), (3, 400), (1000, 20)])
def test_train_gives_the_scale_of_the_batch(shape):
    for seed in range(10):
        torch.manual_seed(seed)
        image = train_transform(128)(noise(*shape), 96)
        assert image.dtype == torch.uint8
        assert min(image.shape[1:]) <= 96
        assert min(image.shape[1:]) >= 32
        assert max(image.shape[1:]) <= 214  # 128 * 1333 / 800 = 213.3, and INTR's rounding may add one
        assert train_transform(128, square=True)(noise(*shape), 96).shape == (3, 96, 96)
        assert train_transform(128, square=True)(noise(*shape), None).shape == (3, 128, 128)


def test_train_zooms_in_half_of_the_time():
    """Each pixel holds its column: the range of values that is left tells the width of the crop."""
    image = torch.arange(200, dtype=torch.uint8).expand(3, 150, 200).contiguous()
    transform = train_transform(128, hflip=0.0)
    cropped = 0
    for seed in range(200):
        torch.manual_seed(seed)
        out = transform(image, 96)[0].int()
        assert (out.diff(dim=1) >= 0).all(), "flipped although hflip is 0"
        cropped += int(out.max() - out.min() < 195)
    assert 70 <= cropped <= 115  # half, less the crops as wide as the picture


@pytest.mark.parametrize("square", [False, True])
def test_pictures_stay_in_the_layout_of_the_batch(square):
    """One plane after the other would be resized in twice the time, and copied into the batch in ten times."""
    image = noise(60, 90).permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for seed in range(20):
        torch.manual_seed(seed)
        for transform in (train_transform(64, square), eval_transform(64, square)):
            assert transform(image, None).permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("square", [False, True])
def test_flip_probability(square):
    image = torch.arange(200, dtype=torch.uint8).expand(3, 150, 200).contiguous()
    for hflip, expected in ((0.0, range(1)), (1.0, range(50, 51)), (0.5, range(13, 38))):
        transform = train_transform(64, square, hflip=hflip)
        flips = 0
        for seed in range(50):
            torch.manual_seed(seed)
            out = transform(image, 64)[0].int()
            flips += int(out[0, 0] > out[0, -1])
        assert flips in expected


def test_crop_min_bounds_the_crop():
    image = torch.arange(200, dtype=torch.uint8).expand(3, 200, 200).contiguous()
    for seed in range(30):
        torch.manual_seed(seed)
        out = train_transform(64, square=True, crop_min=0.9, hflip=0.0)(image, None)[0].int()
        assert out.max() - out.min() > 200 * (0.9 * 3 / 4) ** 0.5 - 5


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ({"image_size": 31}, "--image_size"),
        ({"crop_min": 0.0}, "--crop_min"),
        ({"crop_min": 1.1}, "--crop_min"),
        ({"hflip": -0.1}, "--hflip"),
    ],
)
def test_values_out_of_range_name_the_flag(arguments, flag):
    with pytest.raises(ValueError, match=flag):
        train_transform(**arguments)


def test_eval_size_out_of_range():
    with pytest.raises(ValueError, match="--image_size 0 .* from 32 to 8192"):
        eval_transform(0)
