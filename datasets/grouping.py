"""Batches of pictures with nearly one aspect ratio, in few shapes: little padding, few plans of cuDNN.

Without `--square` the pictures of a batch have one short side, and long sides of any length. Those that the augmentation of an
epoch gives nearly one aspect ratio share a batch (as in Detectron2 and torchvision, which go by the original picture; here half
of the pictures are cropped to another ratio), and sides are rounded up to those of a few shapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch

from datasets.image_folder import Sample
from datasets.size_schedule import LONGEST, SizeSchedule, scaled, training_scales
from datasets.transforms import TrainTransform

# Long side over short side: the largest of each bucket. Those of cameras and screens, with 1 % for the rounding of sides, are
# among them, so that most uncropped pictures fill their batch.
RATIOS = (1.0, *(1.01 * ratio for ratio in (7 / 6, 4 / 3, 3 / 2, 16 / 9, 2, 5 / 2, 3, 4, 6, 9, 14, 21, 42)))
VERSION = 1  # to be raised with each change of what is in which bucket: a checkpoint within an epoch then fits no longer


class Buckets:
    """Find the bucket of each sample's aspect ratio after the augmentation: negative (tall), 0 (a square) or positive (wide).

    Args:
        sizes: height and width of every picture of the data set.
        transform: the augmentation.
        schedule: of the image size.

    Attributes:
        fingerprint: a hash of all that the buckets depend on besides the samples.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], transform: TrainTransform, schedule: SizeSchedule) -> None:
        self.sizes, self.transform = sizes, transform
        self.fingerprint = blake2b(f"{VERSION} {schedule} {sizes}".encode(), digest_size=16).hexdigest()

    def __call__(self, samples: Iterable[Sample]) -> list[int]:
        """Return the buckets of samples; the crop of each is drawn as it will be from its seed."""
        buckets = []
        with torch.random.fork_rng(devices=[]):
            for index, seed, size in samples:
                assert isinstance(size, tuple), "a scale, and the image size that it is a scale of"
                torch.default_generator.manual_seed(seed)
                *_, box = self.transform.draw_crop(*self.sizes[index], size[1])
                height, width = self.sizes[index] if box is None else box[2:]
                bucket = bisect_left(RATIOS, max(height, width) / min(height, width))
                buckets.append(bucket if width >= height else -bucket)
        return buckets


@dataclass(frozen=True)
class FewShapes:
    """Call it with height and width of a picture for those of its batch: not smaller, and of a few values.

    The short side becomes a scale of the training; the long one the longest of its bucket, but for pictures that exceed it at
    most `longest`.

    Args:
        scales: short sides of the training's batches in pixels, ascending.
        longest: long side in pixels beyond which no picture goes, but for rounding.
    """

    scales: tuple[int, ...]
    longest: int

    @classmethod
    def of(cls, schedule: SizeSchedule) -> FewShapes:
        """Return the shapes of a training with this schedule."""
        sizes = [stage.size for stage in schedule.stages]
        return cls(tuple(sorted({scale for size in sizes for scale in training_scales(size)})), scaled(LONGEST, sizes[-1]))

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        short, long = min(height, width), max(height, width)
        short = next((scale for scale in self.scales if scale >= short), short)
        ratio = next((ratio for ratio in RATIOS if ratio * short >= long), long / short)
        long = max(long, min(int(ratio * short), self.longest))
        return (short, long) if height <= width else (long, short)
