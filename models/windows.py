"""Features of independent windows: a bounded receptive field for any network.

The receptive field of a deep network spans the image, so that the features of a cell may come from anywhere. Here the network
is applied to one window at a time, and the features of its cells depend on the pixels of the window alone (BagNet bounds the
receptive field by small kernels instead, Brendel and Bethge, ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def in_windows(network: Callable[[Tensor], Tensor], images: Tensor, window: int, offset: tuple[int, int] = (0, 0)) -> Tensor:
    """Apply a network to each window independently, and join the features.

    Args:
        network: `[B, 3, window, window]` to `[B, C, n, n]`: its stride is `window / n` pixels.
        images: `[B, 3, H, W]`; windows are padded with 0 beyond its border.
        window: side of a window in pixels.
        offset: pixels of the first windows, downwards and to the right, that lie before the image; each a multiple of the
            stride below `window`.

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
