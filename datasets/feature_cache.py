"""Feature maps of a frozen backbone that are kept, so that it runs once for each view of a picture, and not in every epoch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from datasets.batch import ImageBatch
from datasets.image_folder import ImageFolder
from util.errors import CacheError
from util.precision import Precision
from util.progress import Progress

BYTES = 2  # of a number in float16


class FeatureBatch(ImageBatch):
    """A batch of feature maps in the place of images.

    images: float16 `[B, C, h, w]` in channels_last memory, padded at the bottom and right.
    padding_mask: bool `[B, h, w]`, True on padding; None when nothing is padded.
    """

    def normalise(self, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        """Return the maps as float32: the input of what is behind the backbone."""
        return self.images.float()


class FrozenBackbone(NamedTuple):
    """A backbone that no step changes, in evaluation mode; `stride` and `num_channels` as of `models.backbone.Backbone`."""

    network: nn.Module
    precision: Precision
    normalisation: Mapping[str, list[float]]

    def fingerprint(self) -> str:
        """Return a hash of the weights."""
        digest = blake2b(digest_size=16)
        for name, tensor in self.network.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def size(self, shapes: Iterable[tuple[int, int]]) -> int:
        """Return the bytes of the maps of pictures of these heights and widths."""
        stride, channels = int(self.network.stride), int(self.network.num_channels)  # type: ignore[arg-type]
        return BYTES * channels * sum(-(-height // stride) * -(-width // stride) for height, width in shapes)

    @torch.inference_mode()
    def maps(self, batch: ImageBatch) -> list[np.ndarray]:
        """Compute the map of each image, float16 `[h, w, C]`, without the padding of the batch.

        Raises:
            ValueError: a value is too large for float16, or no number.
        """
        with self.precision.autocast():
            maps = self.network(batch.normalise(**self.normalisation))  # [B, C, h, w]
        kept = maps.half().permute(0, 2, 3, 1).cpu()  # [B, h, w, C]
        if not kept.isfinite().all():
            raise ValueError("--cache_features: the backbone's features have values beyond float16: leave the flag out")
        sizes = [tuple(maps.shape[-2:])] * len(batch)
        if batch.padding_mask is not None:  # as nearest neighbours resize the mask
            valid = [(~batch.padding_mask).any(dim).sum(1).tolist() for dim in (2, 1)]  # rows, columns
            cells = [[-(-n * maps.shape[-2 + i] // batch.images.shape[-2 + i]) for n in valid[i]] for i in (0, 1)]
            sizes = list(zip(*cells, strict=True))
        return [row[:h, :w].contiguous().numpy() for row, (h, w) in zip(kept, sizes, strict=True)]


def compute_maps(
    backbone: FrozenBackbone, loader: Any, device: torch.device, label: str, after_batch: Callable[[], None]
) -> Iterator[np.ndarray]:
    """Yield the map of each image of `loader` in its order, with a progress line; `after_batch` is the moment to stop."""
    with Progress(len(loader), label) as progress:
        for batch in loader:
            yield from backbone.maps(batch.to(device))
            progress.step()
            after_batch()


def write_maps(file: IO[bytes], maps: Iterable[np.ndarray]) -> None:
    """Write float16 maps `[h, w, C]` one behind the other, and behind them all heights and widths, int32 `[N, 2]`."""
    sizes = []
    for array in maps:
        file.write(array.data.cast("B"))
        sizes.append(array.shape[:2])
    file.write(np.array(sizes, np.int32).tobytes())
    file.flush()


class FeatureMaps:
    """The maps that `write_maps` wrote.

    Args:
        file: open for reading; stays open.
        place: its name in messages.
        order: index in the data set of each map.
        channels: C.

    Raises:
        ValueError: the file is not what was written.
    """

    def __init__(self, file: IO[bytes], place: str, order: Sequence[int], channels: int) -> None:
        self.file, self.place, self.channels = file, place, channels
        self.positions = np.argsort(np.array(order))
        end = os.fstat(file.fileno()).st_size - 8 * len(order)
        sizes = np.frombuffer(os.pread(file.fileno(), 8 * len(order), max(end, 0)), np.int32)
        if end < 0 or len(sizes) != 2 * len(order) or sizes.min() < 1:
            raise self._damaged()
        self.sizes = sizes.reshape(-1, 2)
        lengths = self.sizes.astype(np.int64).prod(1) * channels * BYTES
        if lengths.sum() != end:
            raise self._damaged()
        self.offsets = np.cumsum(lengths) - lengths

    def batch(self, indices: Sequence[int], labels: Sequence[int]) -> FeatureBatch:
        """Return the maps of these images, padded to the largest; CacheError where the file was cut short."""
        positions = self.positions[indices]
        sizes = self.sizes[positions]
        height, width = sizes.max(0).tolist()
        padded = bool((sizes != (height, width)).any())
        maps = (np.zeros if padded else np.empty)((len(indices), height, width, self.channels), np.float16)
        mask = torch.ones(len(indices), height, width, dtype=torch.bool) if padded else None
        for i, (position, (h, w)) in enumerate(zip(positions.tolist(), sizes.tolist(), strict=True)):
            row = maps[i] if mask is None else np.empty((h, w, self.channels), np.float16)
            if os.preadv(self.file.fileno(), [row.data.cast("B")], int(self.offsets[position])) != row.nbytes:
                raise CacheError(f"--cache: {self.place} was cut short during the run: remove it; features are computed again")
            if mask is not None:
                maps[i, :h, :w], mask[i, :h, :w] = row, False
        return FeatureBatch(torch.from_numpy(maps).permute(0, 3, 1, 2), mask, torch.tensor(labels), torch.tensor(indices))

    def _damaged(self) -> ValueError:
        return ValueError(f"--cache: {self.place} is damaged (it was cut short): remove it; features are computed again")


class FeatureLoader:
    """The batches that `sampler` chooses, of kept feature maps; epoch e has view e modulo `views` of each picture.

    Args:
        dataset: what the maps are of.
        sampler: yields indices, or samples, and may have an `epoch`.
        views: number of views.
        compute: returns the maps of a view when they are first needed.
    """

    def __init__(self, dataset: ImageFolder, sampler: Any, views: int, compute: Callable[[int], FeatureMaps]) -> None:
        self.dataset, self.sampler, self.views, self.compute = dataset, sampler, views, compute
        self.kept: dict[int, FeatureMaps] = {}

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[FeatureBatch]:
        view = getattr(self.sampler, "epoch", 0) % self.views
        if view not in self.kept:
            self.kept[view] = self.compute(view)
        for requests in self.sampler:
            indices = [request[0] if isinstance(request, tuple) else request for request in requests]
            yield self.kept[view].batch(indices, [self.dataset.labels[index] for index in indices])
