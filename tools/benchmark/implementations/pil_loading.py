"""INTR's data loading: decoding and transforms by PIL, then float tensors, each normalised by itself, padded, with a mask.

`tools.benchmark.loading` compares ICN's with it.
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
    """Return a file as a normalised float32 `[3, h, w]`."""
    with open(path, "rb") as file:
        image = Image.open(file).convert("RGB")
    return F.normalize(F.to_tensor(transform(image)), mean, std)


def collate(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad images `[3, h, w]`: return float32 `[B, 3, H, W]`, 0 on padding, and bool `[B, H, W]`, True on padding."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    batch = torch.zeros(len(images), 3, height, width)
    mask = torch.ones(len(images), height, width, dtype=torch.bool)
    for image, place, flags in zip(images, batch, mask, strict=True):
        h, w = image.shape[1:]
        place[:, :h, :w].copy_(image)
        flags[:h, :w] = False
    return batch, mask


def aspect_train(image: Picture) -> Picture:
    """Augment as INTR does at 800: flip, half of the time zoom and crop, one of eleven scales."""
    if random.random() < 0.5:
        image = F.hflip(image)
    if random.random() >= 0.5:
        image = short_side(image, random.choice(ZOOMS), None)
        low, high = CROPS
        width, height = random.randint(low, min(image.width, high)), random.randint(low, min(image.height, high))
        image = F.crop(image, *T.RandomCrop.get_params(image, (height, width)))
    return short_side(image, random.choice(SCALES), LONGEST)


def aspect_eval(image: Picture) -> Picture:
    """Resize the short side to 800, the long side to at most 1333."""
    return short_side(image, 800, LONGEST)


def square_train(size: int) -> Callable[[Picture], Picture]:
    """Return the usual augmentation of classifiers: random resized crop and flip."""
    return T.Compose([T.RandomResizedCrop(size), T.RandomHorizontalFlip()])


def square_eval(size: int) -> Callable[[Picture], Picture]:
    """Return a resize of the whole image to a square."""
    return T.Resize((size, size))


def short_side(image: Picture, short: int, longest: int | None) -> Picture:
    """Resize so that the short side has `short` pixels, or fewer where the long one would get more than `longest`."""
    small, large = sorted(image.size)
    if longest is not None and large / small * short > longest:
        short = round(longest * small / large)
    if small == short:
        return image
    long = int(short * large / small)
    size = (short, long) if image.width < image.height else (long, short)
    return image.resize(size, Image.Resampling.BILINEAR)
