"""Features of windows that know nothing of each other, so that a cell of the map means its place.

The receptive field of a deep network spans the picture: what a cell holds may come from anywhere, and a map over cells does
not say where. Here the network sees one window at a time, and nothing else can reach the window's cells (as BagNet bounds
the receptive field by its kernels, Brendel and Bethge, ICLR 2019; this takes any network as it is).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def in_windows(network: Callable[[Tensor], Tensor], images: Tensor, window: int, offset: tuple[int, int] = (0, 0)) -> Tensor:
    """Apply `network` to each window on its own, and put the features together.

    Args:
        network: `[B, 3, window, window]` to `[B, C, n, n]`: its stride is `window / n` pixels.
        images: `[B, 3, H, W]`; what a window has beyond the picture's border is 0.
        window: side of a window in pixels.
        offset: how many pixels of the first windows, downwards and to the right, lie before the picture; each less than
            `window`, a multiple of the stride.

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
