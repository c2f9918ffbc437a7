"""A batch of images: how samples are collated, moved to a device and normalised."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass
class ImageBatch:
    """A batch of images with its labels.

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

    def to(self, device: torch.device | str) -> ImageBatch:
        """Return the batch on a device; the host does not wait for the copy to CUDA."""
        non_blocking = torch.device(device).type == "cuda"
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ImageBatch:
        """Return the batch in page-locked memory; the loader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def padded(self, height: int, width: int) -> ImageBatch:
        """Return the batch padded to a height and width that are not smaller than its own."""
        batch, _, rows, columns = self.images.shape
        if (rows, columns) == (height, width):
            return self
        images = self.images.new_zeros(batch, height, width, 3).permute(0, 3, 1, 2)  # [B, 3, H, W]
        images[:, :, :rows, :columns] = self.images
        mask = torch.ones(batch, height, width, dtype=torch.bool, device=images.device)
        mask[:, :rows, :columns] = False if self.padding_mask is None else self.padding_mask
        return type(self)(images, mask, self.labels, self.indices)

    def normalise(self, mean: Sequence[float], std: Sequence[float]) -> Tensor:
        """Compute the model's input `(images / 255 - mean) / std`: float32 `[B, 3, H, W]` in channels_last memory (not on mps).

        It is exactly 0 on padding, as INTR pads after it normalised. `mean` and `std` are those of pixels from 0 to 1.
        """
        batch, _, height, width = self.images.shape
        shift, scale = (row.repeat(width) for row in _constants(tuple(mean), tuple(std), self.images.device))  # [W * 3]
        # In rows of W * 3 numbers: SIMD over an innermost dimension of three channels would be slow.
        rows = self.images.permute(0, 2, 3, 1).reshape(batch, height, width * 3).float().sub_(shift).mul_(scale)
        if self.padding_mask is not None:
            _clear_padding(rows, self.padding_mask)
        images = rows.view(batch, height, width, 3).permute(0, 3, 1, 2)  # [B, 3, H, W]
        return images.contiguous() if images.device.type == "mps" else images

    def _map(self, change: Callable[[Tensor], Tensor]) -> ImageBatch:
        mask = None if self.padding_mask is None else change(self.padding_mask)
        return type(self)(change(self.images), mask, change(self.labels), change(self.indices))


@lru_cache(maxsize=8)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    # Shift and scale of a byte, two [3]. Cached: a fresh copy to the GPU would make the host wait for it at every step.
    shift = torch.tensor([255 * value for value in mean], device=device)
    return shift, torch.tensor([1 / (255 * value) for value in std], device=device)


def _clear_padding(rows: Tensor, mask: Tensor) -> None:
    """Write 0 into rows `[B, H, W * 3]` where the mask `[B, H, W]` is True: at the bottom and right of each image."""
    if rows.device.type != "cpu":
        rows.unflatten(2, (-1, 3)).masked_fill_(mask[..., None], 0.0)  # one kernel, no synchronisation
        return
    for row, padding in zip(rows, mask, strict=True):
        height, width = (int(side.logical_not().sum()) for side in (padding[:, 0], padding[0]))
        row[height:] = 0.0
        row[:, width * 3 :] = 0.0


def collate(
    samples: Sequence[tuple[Tensor, int, int]], round_up: Callable[[int, int], tuple[int, int]] | None = None
) -> ImageBatch:
    """Collate (image uint8 `[3, h, w]`, label, index) triples into one batch of the largest height and width.

    `round_up` maps height and width of an image to those that its batch must have at least.
    """
    images, labels, indices = zip(*samples, strict=True)
    heights, widths = zip(*(image.shape[-2:] for image in images), strict=True)
    least = zip(heights, widths, strict=True) if round_up is None else map(round_up, heights, widths)
    height, width = (max(sides) for sides in zip(*least, strict=True))
    padded = min(heights) < height or min(widths) < width
    make = torch.zeros if padded else torch.empty
    batch = make(len(images), height, width, 3, dtype=torch.uint8).permute(0, 3, 1, 2)  # [B, 3, H, W]
    mask = torch.ones(len(images), height, width, dtype=torch.bool) if padded else None
    for i, image in enumerate(images):
        batch[i, :, : heights[i], : widths[i]] = image
        if mask is not None:
            mask[i, : heights[i], : widths[i]] = False
    return ImageBatch(batch, mask, torch.tensor(labels), torch.tensor(indices))
