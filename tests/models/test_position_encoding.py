import math

import pytest
import torch

from models.position_encoding import build_position_encoding


def test_sine_by_hand() -> None:
    """Cell (row 1, column 2) of a 3 x 4 grid, 8 channels: y first, sine on even channels, cosine on odd ones."""
    encoding = build_position_encoding("sine", 8)(torch.zeros(1, 5, 3, 4))
    y, x = 2 / (3 + 1e-6) * 2 * math.pi, 3 / (4 + 1e-6) * 2 * math.pi
    expected = [f(a / w) for a in (y, x) for w in (1, 100) for f in (math.sin, math.cos)]
    torch.testing.assert_close(encoding[0, :, 1, 2], torch.tensor(expected), atol=1e-5, rtol=0)


def test_sine_counts_valid_cells_only() -> None:
    encode = build_position_encoding("sine", 16)
    mask = torch.ones(2, 5, 6, dtype=torch.bool)
    mask[0, :3, :4] = False
    mask[1] = False
    both = encode(torch.zeros(2, 7, 5, 6), mask)
    torch.testing.assert_close(both[:1, :, :3, :4], encode(torch.zeros(1, 7, 3, 4)))
    torch.testing.assert_close(both[1:], encode(torch.zeros(1, 7, 5, 6)))


def test_learned_is_column_then_row() -> None:
    encode = build_position_encoding("learned", 8)
    encoding = encode(torch.zeros(2, 5, 3, 4))
    assert torch.equal(encoding[0, :4, 1, 2], encode.col_embed.weight[2])
    assert torch.equal(encoding[0, 4:, 1, 2], encode.row_embed.weight[1])


def test_errors() -> None:
    with pytest.raises(ValueError, match="50 x 50 cells, the feature map 51 x 3"):
        build_position_encoding("learned", 8)(torch.zeros(1, 5, 51, 3))
    with pytest.raises(ValueError, match="6 must be a multiple of 4"):
        build_position_encoding("sine", 6)
    with pytest.raises(ValueError, match="choose sine or learned"):
        build_position_encoding("v2", 8)
