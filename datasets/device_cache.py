"""`--cache gpu`: pictures lie on the device that trains, and are cropped, flipped and coloured there, without a DataLoader."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from datasets.batch import ImageBatch, collate
from datasets.batched_augment import change
from datasets.cache_folder import MEMORY_SHARE, Split, kept_smaller
from datasets.decode import decode_image, image_size
from datasets.image_folder import ImageFolder, Sample
from datasets.picture_cache import Preparation
from datasets.resampling import padding_mask, region, resample, send
from datasets.scan import map_files
from datasets.transforms import TrainTransform
from util.memory import available
from util.ranks import Ranks


class DevicePictures:
    """The N pictures of a data set on a device, one behind the other.

    Attributes:
        pixels: uint8 `[P, 3]`, of all pictures, row by row.
        sizes: height and width of each.
        offsets: position of the first pixel of each.
        labels: int64 `[N]`, on the device.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], labels: Sequence[int], device: torch.device) -> None:
        self.sizes = list(sizes)
        ends = torch.tensor([height * width for height, width in sizes]).cumsum(0).tolist()
        self.offsets = [0, *ends[:-1]]
        self.pixels = torch.empty((ends[-1], 3), dtype=torch.uint8, device=device)
        self.labels = torch.tensor(labels, device=device)

    def __getitem__(self, index: int) -> Tensor:
        """Return a picture, uint8 `[3, H, W]`, in the memory of all."""
        height, width = self.sizes[index]
        start = self.offsets[index]
        return self.pixels[start : start + height * width].view(height, width, 3).permute(2, 0, 1)

    def load(self, dataset: ImageFolder, prepare: Preparation, workers: int) -> None:
        """Decode and keep all pictures by `workers` threads, with a progress line; a ValueError if a file was changed."""

        def keep(index: int) -> None:
            picture = prepare(decode_image(dataset.paths[index], dataset.decoding))
            if tuple(picture.shape[1:]) != self.sizes[index]:
                raise ValueError(f"{dataset.paths[index]}: was changed while the data set was loaded: start again")
            self[index].copy_(picture)

        for _ in map_files(keep, range(len(dataset)), workers, 4, f"loading {dataset.root.name} pictures"):
            pass


class DeviceLoader:
    """The batches that `sampler` chooses, of pictures that lie on a device, and the views of its samples.

    On a CPU each picture goes through the data set's transform, and batches are those of a DataLoader bit for bit. On other
    devices the same views are computed for whole batches: pixels differ by about a grey level at most, from rounding.

    Args:
        dataset: whose `resident` pictures are taken.
        sampler: yields indices of pictures of one shape, which are taken as they are kept, or samples.
        batched: compute whole batches; None: except on a CPU.
        round_up: of views, as of `collate`.
    """

    def __init__(
        self,
        dataset: ImageFolder,
        sampler: Any,
        batched: bool | None = None,
        round_up: Callable[[int, int], tuple[int, int]] | None = None,
    ) -> None:
        assert dataset.resident is not None
        self.round_up = round_up
        self.dataset, self.sampler, self.pictures = dataset, sampler, dataset.resident
        self.batched = self.pictures.pixels.device.type != "cpu" if batched is None else batched

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[ImageBatch]:
        for requests in self.sampler:
            if not isinstance(requests[0], tuple):
                yield self._kept(requests)
            elif self.batched:
                yield self._views(requests)
            else:
                yield self._transformed(requests)

    def _kept(self, indices: Sequence[int]) -> ImageBatch:
        """Return pictures as they are kept."""
        pictures, chosen = self.pictures, self._send(indices)
        height, width = pictures.sizes[indices[0]]
        assert all(pictures.sizes[index] == (height, width) for index in indices), "a batch has pictures of several shapes"
        starts = self._send([pictures.offsets[index] for index in indices])
        positions = starts[:, None] + torch.arange(height * width, device=starts.device)
        images = pictures.pixels.index_select(0, positions.flatten()).view(len(indices), height, width, 3)
        return ImageBatch(images.permute(0, 3, 1, 2), None, pictures.labels[chosen], chosen)

    def _views(self, samples: Sequence[Sample]) -> ImageBatch:
        """Return the views of the samples, computed for the batch as a whole."""
        pictures, transform = self.pictures, self.dataset.transform
        assert isinstance(transform, TrainTransform)
        sizes, views = [pictures.sizes[index] for index, _, _ in samples], []
        with torch.random.fork_rng(devices=[]):  # as ImageFolder: only the CPU's generator
            for (height, width), (_, seed, scale) in zip(sizes, samples, strict=True):
                torch.default_generator.manual_seed(seed)
                views.append(transform.draw(height, width, scale))
        regions = [
            region(pictures.offsets[sample.index], *size, view) for sample, size, view in zip(samples, sizes, views, strict=True)
        ]
        images = resample(pictures.pixels, regions)
        change(images, [view.size for view in views], [view.changes for view in views])
        chosen = self._send([sample.index for sample in samples])
        batch = ImageBatch(images, padding_mask(regions, images.device), pictures.labels[chosen], chosen)
        if self.round_up is None:
            return batch
        height, width = (max(sides) for sides in zip(*(self.round_up(*view.size) for view in views), strict=True))
        return batch.padded(height, width)

    def _transformed(self, samples: Sequence[Sample]) -> ImageBatch:
        """Return the views of the samples as a DataLoader computes them, one by one."""
        batch, transform = [], self.dataset.transform
        assert isinstance(transform, TrainTransform)
        with torch.random.fork_rng(devices=[]):
            for index, seed, scale in samples:
                torch.default_generator.manual_seed(seed)
                batch.append((transform(self.pictures[index], scale), self.dataset.labels[index], index))
        return collate(batch, self.round_up)

    def _send(self, numbers: Sequence[int]) -> Tensor:
        return send(torch.tensor(numbers), self.pictures.pixels.device)


def use_device(splits: Sequence[Split], workers: int, ranks: Ranks, device: torch.device) -> None:
    """Load data sets onto the device of each process: the first, and each further one that fits beside those before.

    Args:
        splits: data sets, and what their pictures go through before they are kept; they get `resident` pictures.
        workers: threads that read and decode.
        ranks: the processes; each has all pictures.
        device: of this process.

    Raises:
        ValueError: the first data set does not fit on the device of a process.
    """
    free, taken = _free_memory(device, ranks), 0
    for dataset, prepare in splits:
        read = partial(image_size, decoding=dataset.decoding)
        before = list(map_files(read, dataset.paths, workers, 64, "reading image sizes"))
        sizes = [prepare.output_size(*size) for size in before]
        needed = 3 * sum(height * width for height, width in sizes)
        name = f"{len(dataset)} {dataset.root.name} pictures"
        if free is not None and taken + needed > MEMORY_SHARE * free:
            problem = f"the {name} take {needed / 1e9:.1f} GB{f' of each of {ranks.size} processes' * (ranks.size > 1)}"
            room = f"of {free / 1e9:.1f} GB that are free on {device} they may take {MEMORY_SHARE:.0%}"
            if not taken:
                raise ValueError(
                    f"--cache gpu: {problem}, {room}: give --cache ram or a folder (--cache DIR), a smaller --image_size, or "
                    "leave --cache out"
                )
            print(f"cache: {problem} more, {room}: they are decoded whenever they are scored")
            continue
        taken += needed
        smaller = 0 if prepare == dataset.transform else sum(x != y for x, y in zip(before, sizes, strict=True))
        print(f"cache: {name} take {needed / 1e6:.1f} MB on {device}{kept_smaller(smaller)}", flush=True)
        dataset.resident = DevicePictures(sizes, dataset.labels, device)
        dataset.resident.load(dataset, prepare, workers)
    ranks.barrier()


def _free_memory(device: torch.device, ranks: Ranks) -> int | None:
    """Return the bytes that each process may take: the least that is free, in memory that they share its part; None: unknown."""
    if device.type == "cuda":
        free: int | None = torch.cuda.mem_get_info(device)[0]
    else:
        hosts, free = ranks.gather(socket.gethostname()), available()
        free = None if free is None else free // hosts.count(socket.gethostname())
    known = [number for number in ranks.gather(free) if number is not None]
    return min(known, default=None)
