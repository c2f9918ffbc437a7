"""Samplers: which images are in which batch of an epoch, and with which augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from itertools import groupby

import torch
from torch.utils.data import Sampler

from datasets.grouping import Buckets
from datasets.image_folder import Sample, Size


class TrainSampler(Sampler[list[Sample]]):
    """Random batches of training images: a pure function of (seed, epoch), whatever the number of ranks and workers.

    Rank r takes the r-th slice of a global batch of `batch_size * world_size` images, of the data set's `n`. The last images
    that fill no batch are dropped; a data set smaller than one global batch gives one short batch. `sizes` are scales of which
    one is drawn per batch, or return those at a time, in epochs since the start of the training; None leaves the scale to the
    transform. With `buckets` the images of a batch are from one bucket, or from neighbouring ones where few are left in one; the
    batches are in random order.

    Raises:
        ValueError: fewer images than ranks, or a batch size below 1.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        sizes: Sequence[Size] | Callable[[float], Sequence[Size]] | None = None,
        rank: int = 0,
        world_size: int = 1,
        buckets: Buckets | None = None,
    ) -> None:
        _check_batch_size(batch_size)
        if n < world_size:
            raise ValueError(f"{n} training images are too few for {world_size} processes; each needs at least one")
        self.n, self.batch_size, self.seed, self.sizes = n, batch_size, seed, sizes
        self.rank, self.world_size, self.buckets = rank, world_size, buckets
        self.set_epoch(0)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch on each rank."""
        return max(1, self.n // (self.batch_size * self.world_size))

    @property
    def grouping(self) -> str | None:
        """Hash of what groups the images of a batch besides seed and epoch; None: nothing does."""
        return None if self.buckets is None else self.buckets.fingerprint

    def set_epoch(self, epoch: int, start_batch: int = 0, grouped: bool = True) -> None:
        """Choose the epoch, how many of its batches a resumed run has already trained on, and whether `buckets` count in it."""
        self.epoch, self.start_batch, self.grouped = epoch, start_batch, grouped

    def __len__(self) -> int:
        return max(0, self.batches_per_epoch - self.start_batch)

    def __iter__(self) -> Iterator[list[Sample]]:
        epoch, start_batch = self.epoch, self.start_batch
        generator = torch.Generator().manual_seed(_hash(self.seed, epoch, "order"))
        order = torch.randperm(self.n, generator=generator).tolist()
        total = min(self.n, self.batch_size * self.world_size)
        first, last = (r * total // self.world_size for r in (self.rank, self.rank + 1))
        if self.buckets is not None and self.grouped:
            order = self._group(order, epoch, total, generator)
        for batch in range(start_batch, self.batches_per_epoch):
            sizes = self._sizes(epoch, batch)
            size = sizes[_hash(self.seed, epoch, "size", batch) % len(sizes)]
            chosen = order[batch * total + first : batch * total + last]
            yield [Sample(index, _image_seed(self.seed, epoch, index), size) for index in chosen]

    def _sizes(self, epoch: int, batch: int) -> Sequence[Size]:
        """Return the scales of which one is drawn for a batch."""
        sizes = self.sizes(epoch + batch / self.batches_per_epoch) if callable(self.sizes) else self.sizes
        return sizes or [None]

    def _group(self, order: list[int], epoch: int, total: int, generator: torch.Generator) -> list[int]:
        """Return the images of an epoch in another order, in which the `total` images of a batch are from one bucket.

        Only batches with the same choice of scales exchange images: a bucket may depend on it.
        """
        assert self.buckets is not None
        grouped: list[int] = []
        for sizes, batches in groupby(range(self.batches_per_epoch), partial(self._sizes, epoch)):
            count = len(list(batches))
            images = order[len(grouped) : len(grouped) + count * total]
            buckets = self.buckets(Sample(index, _image_seed(self.seed, epoch, index), sizes[0]) for index in images)
            images = [images[place] for place in sorted(range(len(images)), key=buckets.__getitem__)]  # in a bucket: at random
            for batch in torch.randperm(count, generator=generator).tolist():
                grouped += images[batch * total : (batch + 1) * total]
        return grouped


class ViewSampler(Sampler[list[Sample]]):
    """All of `n` images in order, each with its augmentation of one epoch of `TrainSampler`, at one scale."""

    def __init__(self, n: int, batch_size: int, seed: int, epoch: int, size: Size) -> None:
        samples = [Sample(index, _image_seed(seed, epoch, index), size) for index in range(n)]
        self.batches = [samples[start : start + batch_size] for start in range(0, n, batch_size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Sample]]:
        return iter(self.batches)


class EvalSampler(Sampler[list[int]]):
    """Batches for evaluation: each of `n` images is in exactly one, over all ranks; deterministic.

    With `shapes`, (height, width) of every image as it is scored (see `eval_shapes`), the images of a batch have one shape, so
    that none is padded: padding reaches the convolutions, and a score would depend on the other images of its batch. The
    largest shapes come first, and rank r takes batches r, r + world_size, ...; without `shapes` the batches are in order, of
    images r, r + world_size, ...

    No image is repeated to give all ranks as many: ranks may differ by one batch, and a rank may have none.

    Raises:
        ValueError: a batch size below 1.
    """

    def __init__(
        self, n: int, batch_size: int, rank: int = 0, world_size: int = 1, shapes: Sequence[tuple[int, int]] | None = None
    ) -> None:
        _check_batch_size(batch_size)
        if shapes is None:
            self.batches = _chunks(range(rank, n, world_size), batch_size)
            return
        assert len(shapes) == n, f"{len(shapes)} shapes of {n} images"
        by_shape: dict[tuple[int, int], list[int]] = {}
        for index, shape in enumerate(shapes):
            by_shape.setdefault(shape, []).append(index)
        largest_first = sorted(by_shape, key=lambda shape: (shape[0] * shape[1], shape), reverse=True)
        batches = [batch for shape in largest_first for batch in _chunks(by_shape[shape], batch_size)]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def _image_seed(seed: int, epoch: int, index: int) -> int:
    """Return the seed of an image's augmentation in an epoch."""
    return _hash(seed, epoch, "image", index)


def _hash(*parts: int | str) -> int:
    """Hash to 63 bits, the same in every process and version of Python."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def _chunks(indices: Sequence[int], size: int) -> list[list[int]]:
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"--batch_size {batch_size} must be at least 1")
