"""The feature extractor as a module: one feature map, in windows or of the whole image, with gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.architecture import ParameterError
from models.input_size import explain_failure


class Backbone(nn.Module):
    """A convolutional (or other) network up to one feature map.

    Attributes:
        body: the network; its parameters keep torchvision's or timm's names.
        num_channels: channels of the feature map.
        normalisation: `{"mean": [r, g, b], "std": [r, g, b]}` of the input, in units of the full range 0..1.
        stem: prefixes of the parameters that stay frozen in fine-tuning, as in DETR (empty: none).
        stride: pixels per cell of the feature map.
        native_size: side in pixels of the images that the network was designed for.
        window: side in pixels of windows that are processed independently; None: the whole image at once.
    """

    native_size = 224

    def __init__(
        self, body: nn.Module, num_channels: int, normalisation: dict[str, list[float]], stem: tuple[str, ...], stride: int
    ) -> None:
        super().__init__()
        self.stride = stride
        self.body = body
        self.num_channels = num_channels
        self.normalisation = normalisation
        self.stem = stem
        self.window: int | None = None
        self.checkpointing = False

    def forward(self, images: Tensor) -> Tensor:
        """Map images `[B, 3, H, W]` to features `[B, num_channels, h, w]`; ParameterError for a size that the network refuses."""
        try:
            if self.window is None:
                return self._features(images)
            steps = self.window // self.stride
            # The windows are moved in training, so that no cell is always at a window's border.
            down, right = torch.randint(steps, (2,)).tolist() if self.training else (0, 0)
            return in_windows(self._features, images, self.window, (down * self.stride, right * self.stride))
        except Exception as error:
            height, width = (self.window, self.window) if self.window else images.shape[-2:]
            sides = {self.native_size, 2 * self.native_size, *(height // self.stride * self.stride + n for n in (0, self.stride))}
            parameter = "window" if self.window else "image_size"
            raise explain_failure(self.body, height, width, len(images), sides, error, parameter) from None

    def _features(self, images: Tensor) -> Tensor:
        """Run the network; several feature maps are enlarged to the first one's grid and concatenated."""
        maps = self._run_checkpointed(images) if self.checkpointing and self.training else self.body(images)
        if not isinstance(maps, (list, tuple)):
            return maps
        grid = maps[0].shape[-2:]
        deeper = (F.interpolate(x, size=grid, mode="bilinear", align_corners=False) for x in maps[1:])
        return torch.cat([maps[0], *deeper], 1) if len(maps) > 1 else maps[0]

    def set_grad_checkpointing(self) -> None:
        """Turn on gradient checkpointing of each block; ParameterError if the backbone does not support it."""
        if isinstance(self.body, nn.Sequential):
            self.checkpointing = True
            return
        if _running_norms(self.body):  # they would count a batch twice
            message = "a timm model with learned batch norms cannot: use frozen ones (backbone_norm)"
            raise ParameterError("grad_checkpointing", message)
        try:
            self.body.model.set_grad_checkpointing()  # type: ignore[operator, union-attr]
        except (AttributeError, AssertionError) as error:
            raise ParameterError("grad_checkpointing", f"this backbone cannot: {error}") from None

    def _run_checkpointed(self, x: Tensor) -> list[Tensor]:
        # The stem as one piece: its ReLU works in place on what a piece of its own would have to keep.
        stages = list(self.body.children())
        first = next(i for i, stage in enumerate(stages) if isinstance(stage, nn.Sequential))
        x = self._checkpoint(nn.Sequential(*stages[:first]), x)
        outputs = []
        for stage in stages[first:]:
            for block in stage.children():
                x = self._checkpoint(block, x)
            outputs.append(x)
        return outputs[-getattr(self.body, "num_outputs", 1) :]

    def _checkpoint(self, module: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(module, x, use_reentrant=False, context_fn=lambda: (nullcontext(), frozen_statistics(self.body)))

    def freeze(self, entirely: bool) -> None:
        """Exclude the stem, or everything, from training."""
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_(not (entirely or name.startswith(self.stem)))


def in_windows(network: Callable[[Tensor], Tensor], images: Tensor, window: int, offset: tuple[int, int] = (0, 0)) -> Tensor:
    """Apply a network to each window of an image independently, and join the features.

    The receptive field of a deep network spans the image. Here it ends at the borders of the window (BagNet bounds it by small
    kernels instead, Brendel and Bethge, ICLR 2019).

    Args:
        network: `[B, 3, window, window]` to `[B, C, n, n]`: its stride is `window / n` pixels.
        images: `[B, 3, H, W]`; windows are padded with 0 beyond its border.
        window: side of a window in pixels.
        offset: rows and columns of the first windows that lie before the image; multiples of the stride below `window`.

    Returns:
        `[B, C, ceil(H / stride), ceil(W / stride)]`.
    """
    batch, channels, height, width = images.shape
    top, left = offset
    rows, columns = -(-(top + height) // window), -(-(left + width) // window)
    images = F.pad(images, (left, columns * window - width - left, top, rows * window - height - top))
    tiles = images.view(batch, channels, rows, window, columns, window).permute(0, 2, 4, 1, 3, 5)
    tiles = tiles.reshape(-1, channels, window, window)  # [B * rows * columns, 3, window, window]
    features = network(tiles)  # [B * rows * columns, C, n, n]
    n = features.shape[-1]
    stride = window // n
    features = features.unflatten(0, (batch, rows, columns)).permute(0, 3, 1, 4, 2, 5)  # [B, C, rows, n, columns, n]
    features = features.reshape(batch, -1, rows * n, columns * n)
    row, column = top // stride, left // stride
    return features[..., row : row - (-height // stride), column : column - (-width // stride)]


class Stages(nn.Sequential):
    """The stages of a network in sequence, under their own names; returns the outputs of the last `num_outputs` of them."""

    num_outputs = 1

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for index, stage in enumerate(self):
            x = stage(x)
            if index >= len(self) - self.num_outputs:
                outputs.append(x)
        return outputs


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norms as they are while batches are normalised by their own."""
    norms = _running_norms(network)
    kept: list[tuple[Any, float | None, int]] = [(norm, norm.momentum, int(norm.num_batches_tracked or 0)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # the running statistics are multiplied by 1, to which 0 is added
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum = momentum
            norm.num_batches_tracked.fill_(count)


def _running_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]
