"""The opponent of `tools.benchmark.data`: the same recipes the way INTR loads pictures, on PIL images and float tensors.

Every picture is decoded and transformed by PIL, becomes a float tensor, is normalised by itself, and the batch is a padded
float tensor with a mask. Nothing of the product is used here, and the product uses nothing of this.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T
from torchvision.transforms import functional as F

SCALES = range(480, 801, 32)
ZOOMS = (400, 500, 600)
CROPS = (384, 600)
LONGEST = 1333

Picture = Image.Image


def load(path: str, transform: Callable[[Picture], Picture], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """A file as a normalised float32 `[3, h, w]`."""
    with open(path, "rb") as file:
        picture = Image.open(file).convert("RGB")
    return F.normalize(F.to_tensor(transform(picture)), mean, std)


def collate(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Images `[3, h, w]` -> float32 `[B, 3, H, W]`, 0 on padding, and bool `[B, H, W]`, True on padding."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    batch = torch.zeros(len(images), 3, height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for image, place, flags in zip(images, batch, mask, strict=True):
        h, w = image.shape[1:]
        place[:, :h, :w].copy_(image)
        flags[:h, :w] = False
    return batch, mask


def aspect_train(picture: Picture) -> Picture:
    """INTR's augmentation at 800: flip, half of the time zoom and crop, one of eleven scales."""
    if random.random() < 0.5:
        picture = F.hflip(picture)
    if random.random() >= 0.5:
        picture = short_side(picture, random.choice(ZOOMS), None)
        low, high = CROPS
        width, height = random.randint(low, min(picture.width, high)), random.randint(low, min(picture.height, high))
        picture = F.crop(picture, *T.RandomCrop.get_params(picture, (height, width)))
    return short_side(picture, random.choice(SCALES), LONGEST)


def aspect_eval(picture: Picture) -> Picture:
    """Short side to 800, long side at most 1333."""
    return short_side(picture, 800, LONGEST)


def square_train(size: int) -> Callable[[Picture], Picture]:
    """The usual recipe of classifiers: random resized crop and flip."""
    return T.Compose([T.RandomResizedCrop(size), T.RandomHorizontalFlip()])


def square_eval(size: int) -> Callable[[Picture], Picture]:
    """The whole picture as a square."""
    return T.Resize((size, size))


def short_side(picture: Picture, short: int, longest: int | None) -> Picture:
    """Resized so that the short side has `short` pixels, less where the long one would get more than `longest`."""
    small, large = sorted(picture.size)
    if longest is not None and large / small * short > longest:
        short = round(longest * small / large)
    if small == short:
        return picture
    long = int(short * large / small)
    size = (short, long) if picture.width < picture.height else (long, short)
    return picture.resize(size, Image.Resampling.BILINEAR)
