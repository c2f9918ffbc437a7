"""Windows: nothing passes from one to the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.backbone import in_windows
from models.build_backbone import build_backbone


def test_a_cell_depends_on_its_window_alone() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet10t", feature_stride=16, norm="batch", window=32).eval()
    images = torch.randn(2, 3, 96, 128, requires_grad=True)
    features = backbone(images)
    assert features.shape == (2, backbone.num_channels, 6, 8)
    gradient = torch.autograd.grad(features[1, :, 3, 4].sum(), images)[0]  # the cell of window (1, 2)
    inside = gradient[1, :, 32:64, 64:96]
    assert inside.abs().sum() > 0 and gradient.abs().sum() == inside.abs().sum()


def test_a_window_as_large_as_the_picture_changes_nothing() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    whole, windowed = (build_backbone("resnet10t", feature_stride=16, norm="batch", window=w).eval() for w in (None, 64))
    windowed.load_state_dict(whole.state_dict())
    torch.testing.assert_close(windowed(images), whole(images))
    assert not torch.allclose(in_windows(whole, images, 32), whole(images), atol=1e-2)


def test_cells_keep_their_places_at_any_size() -> None:
    network = nn.AvgPool2d(4)  # a cell knows 4 x 4 pixels: windows make no difference
    images = torch.randn(3, 5, 30, 41)
    expected = network(torch.nn.functional.pad(images, (0, 3, 0, 2)))
    for window, offset in ((4, (0, 0)), (8, (0, 0)), (16, (0, 0)), (16, (4, 12)), (8, (4, 0)), (48, (44, 4))):
        torch.testing.assert_close(in_windows(network, images, window, offset), expected)


def test_windows_move_in_training_only() -> None:
    backbone = build_backbone("resnet10t", feature_stride=16, norm="frozen", window=32)
    images = torch.randn(1, 3, 64, 64)
    torch.manual_seed(0)
    with torch.no_grad():
        moving = torch.stack([backbone.train()(images) for _ in range(12)])
        still = torch.stack([backbone.eval()(images) for _ in range(3)])
    assert len({round(float(features.sum()), 3) for features in moving}) == 4  # two places down, two to the right
    assert torch.equal(still[0], still[1])


@pytest.mark.parametrize("window", [0, 24, -16])
def test_no_window_that_cells_do_not_fill(window: int) -> None:
    with pytest.raises(ValueError, match=f"{window} must be a multiple of the 16 pixels"):
        build_backbone("resnet10t", feature_stride=16, norm="batch", window=window)
