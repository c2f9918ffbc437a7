"""Images to batches: what a batch is, which images are in it, and how it is put together."""

from __future__ import annotations

import multiprocessing.util
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from types import TracebackType

import torch
from torch import Tensor
from torch.utils.data import Sampler

from datasets.image_folder import Sample


@dataclass
class ImageBatch:
    """A batch as it travels to the device.

    images: uint8 `[B, 3, H, W]` in channels_last memory, padded at the bottom and right.
    padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.
    labels: int64 `[B]`, class indices.
    indices: int64 `[B]`, positions in the data set.
    """

    images: Tensor
    padding_mask: Tensor | None
    labels: Tensor
    indices: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> ImageBatch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ImageBatch:
        return self._map(lambda tensor: tensor.pin_memory())

    def normalise(self, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        """The model's input: `(images / 255 - mean) / std`, exactly 0 on padding, as INTR pads after it normalised.

        Args:
            mean: three means, of pixels from 0 to 1.
            std: three standard deviations, likewise.

        Returns:
            float32 `[B, 3, H, W]` in channels_last memory.
        """
        batch, _, height, width = self.images.shape
        shift, scale = (row.repeat(width) for row in _constants(tuple(mean), tuple(std), self.images.device))  # [W * 3]
        # In rows of W * 3 numbers: with the channel as the innermost dimension a vector instruction would find three.
        rows = self.images.permute(0, 2, 3, 1).reshape(batch, height, width * 3).float().sub_(shift).mul_(scale)
        if self.padding_mask is not None:
            _clear_padding(rows, self.padding_mask)
        return rows.view(batch, height, width, 3).permute(0, 3, 1, 2)  # [B, 3, H, W]

    def _map(self, change: Callable[[Tensor], Tensor]) -> ImageBatch:
        mask = None if self.padding_mask is None else change(self.padding_mask)
        return ImageBatch(change(self.images), mask, change(self.labels), change(self.indices))


@lru_cache(maxsize=8)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Shift and scale of a byte: two `[3]`."""
    # Kept: a fresh copy to the GPU would make the host wait for it at every step.
    shift = torch.tensor([255 * value for value in mean], device=device)
    return shift, torch.tensor([1 / (255 * value) for value in std], device=device)


def _clear_padding(rows: Tensor, mask: Tensor) -> None:
    """0 in place, in `[B, H, W * 3]`, where the mask `[B, H, W]` is True: at the bottom and right of each image."""
    if rows.device.type != "cpu":
        rows.unflatten(2, (-1, 3)).masked_fill_(mask[..., None], 0.0)  # one kernel, and the host need not know the sizes
        return
    for row, padding in zip(rows, mask, strict=True):
        height, width = (int(side.logical_not().sum()) for side in (padding[:, 0], padding[0]))
        row[height:] = 0.0
        row[:, width * 3 :] = 0.0


def collate(samples: Sequence[tuple[Tensor, int, int]]) -> ImageBatch:
    """Puts (image uint8 `[3, h, w]`, label, index) triples into one batch of the largest height and width."""
    images, labels, indices = zip(*samples, strict=True)
    heights, widths = zip(*(image.shape[-2:] for image in images), strict=True)
    height, width = max(heights), max(widths)
    padded = min(heights) < height or min(widths) < width
    make = torch.zeros if padded else torch.empty
    batch = make(len(images), height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)  # [B, 3, H, W]
    mask = torch.ones(len(images), height, width, dtype=torch.bool) if padded else None
    for i, image in enumerate(images):
        batch[i, :, : heights[i], : widths[i]] = image
        if mask is not None:
            mask[i, : heights[i], : widths[i]] = False
    return ImageBatch(batch, mask, torch.tensor(labels), torch.tensor(indices))


class TrainSampler(Sampler[list[Sample]]):
    """Batches in random order: a pure function of (seed, epoch), the same for any number of ranks and workers.

    Rank r takes the r-th slice of a global batch of `batch_size * world_size` images. The last images that fill no
    batch are dropped; a data set smaller than one global batch gives one short batch.

    Args:
        n: images in the data set.
        batch_size: images per rank.
        seed: of the run; with the epoch it decides order, scales and augmentation.
        sizes: scales of which one is drawn per batch; None leaves the scale to the transform.
        rank, world_size: this process, and how many there are.

    Raises:
        ValueError: no images, fewer images than ranks, or a batch size below 1.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        sizes: Sequence[int] | None = None,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
    ) -> None:
        _check_batch_size(batch_size)
        if n < world_size:
            raise ValueError(f"{n} training images are too few for {world_size} processes; each needs at least one")
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self.sizes = list(sizes) if sizes else None
        self.rank, self.world_size = rank, world_size
        self.set_epoch(0, start_batch)

    @property
    def batches_per_epoch(self) -> int:
        return max(1, self.n // (self.batch_size * self.world_size))

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Chooses the epoch, and how many of its batches a resumed run has already seen."""
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        return max(0, self.batches_per_epoch - self.start_batch)

    def __iter__(self) -> Iterator[list[Sample]]:
        epoch, start_batch = self.epoch, self.start_batch
        generator = torch.Generator().manual_seed(_hash(self.seed, epoch, "order"))
        order = torch.randperm(self.n, generator=generator).tolist()
        total = min(self.n, self.batch_size * self.world_size)
        first, last = (r * total // self.world_size for r in (self.rank, self.rank + 1))
        for batch in range(start_batch, self.batches_per_epoch):
            size = self.sizes[_hash(self.seed, epoch, "size", batch) % len(self.sizes)] if self.sizes else None
            chosen = order[batch * total + first : batch * total + last]
            yield [Sample(index, _hash(self.seed, epoch, "image", index), size) for index in chosen]


class EvalSampler(Sampler[list[int]]):
    """Batches of which every image is in exactly one, over all ranks; deterministic.

    With `shapes` the images of a batch have one shape, so that none is padded: padding reaches the convolutions, and a
    score would depend on who else is in the batch. The largest shapes come first, and rank r takes batches r,
    r + world_size, ...; without `shapes` the batches are in order, of images r, r + world_size, ...

    No image is repeated to even the ranks out: ranks may differ by one batch, and a rank may have none.

    Args:
        n: images in the data set.
        batch_size: images per batch, at most.
        rank, world_size: this process, and how many there are.
        shapes: (height, width) of every image as it is scored; see `eval_shapes`.

    Raises:
        ValueError: a batch size below 1.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        shapes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        _check_batch_size(batch_size)
        if shapes is None:
            self.batches = list(_chunks(range(rank, n, world_size), batch_size))
            return
        assert len(shapes) == n, f"{len(shapes)} shapes of {n} images"
        alike: dict[tuple[int, int], list[int]] = {}
        for index, shape in enumerate(shapes):
            alike.setdefault(shape, []).append(index)
        largest_first = sorted(alike, key=lambda shape: (shape[0] * shape[1], shape), reverse=True)
        batches = [batch for shape in largest_first for batch in _chunks(alike[shape], batch_size)]
        self.batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def worker_init(worker_id: int) -> None:
    """For `DataLoader(worker_init_fn=)`: one thread per worker, and Ctrl-C is the main process's to handle.

    Ctrl-C reaches every process of a terminal; without this each worker would print a traceback of its own. So would
    its thread that hands tensors over, when the main process dies in the middle of that.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _unless_left_alone


def _unless_left_alone(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` of a worker, which sends the errors of its data elsewhere: to the main process."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def patient_worker_init(worker_id: int) -> None:
    """As `worker_init`, and SIGTERM and SIGUSR2 are the main process's, too; that calls `end_workers_at_exit`.

    A cluster sends them to every process of a job, whose main processes still want the batches of their step.
    """
    worker_init(worker_id)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def end_workers_at_exit() -> None:
    """Kill what is left of the workers when this process exits: multiprocessing would send SIGTERM, and wait."""

    def kill() -> None:
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()

    multiprocessing.util.Finalize(None, kill, exitpriority=100)


def _hash(*parts: int | str) -> int:
    """63 well-mixed bits, the same in every process and version of Python."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def _chunks(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(indices), size):
        yield list(indices[start : start + size])


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"--batch_size {batch_size} must be at least 1")
