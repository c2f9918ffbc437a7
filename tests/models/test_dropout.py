"""Dropout: how many values go, that the rest is scaled for it, and whose draws it uses."""

import pytest
import torch

from models.attention import DROPOUT_LEVELS, Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_share_of_p_is_dropped_and_the_rest_scaled(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(501, 1999, dtype=dtype)  # no multiple of four
    found = dropout(x, p)
    assert found.dtype == dtype
    sd = (p * (1 - p) / x.numel()) ** 0.5
    assert float((found == 0).double().mean()) == pytest.approx(p, abs=5 * sd + 1 / DROPOUT_LEVELS)
    torch.testing.assert_close(found[found != 0].double().mean(), torch.tensor(1 / (1 - p)).double(), rtol=5e-3, atol=0)


def test_no_place_is_preferred() -> None:
    """Four values share a draw of 64 bits; each of its parts, the one with the sign too, must drop as often."""
    torch.manual_seed(0)
    dropped = torch.stack([dropout(torch.ones(8), 0.3) == 0 for _ in range(20000)]).double()
    assert dropped.mean(0) == pytest.approx([0.3] * 8, abs=5 * (0.21 / 20000) ** 0.5)
    assert (torch.corrcoef(dropped.T) - torch.eye(8)).abs().max() < 0.05


def test_draws_are_those_of_the_seed_whatever_the_threads() -> None:
    x = torch.randn(64, 1000)
    found = []
    threads = torch.get_num_threads()
    for number in (1, 2):
        torch.set_num_threads(number)
        torch.manual_seed(3)
        found.append(torch.stack([dropout(x, 0.1), dropout(x, 0.1)]))
    torch.set_num_threads(threads)
    assert torch.equal(*found) and not torch.equal(*found[0])


def test_the_gradient_passes_where_the_value_did() -> None:
    x = torch.rand(100, 10).add(1).requires_grad_()
    found = dropout(x, 0.4)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient * x, found)


def test_nothing_is_dropped_in_evaluation_or_at_zero() -> None:
    x = torch.randn(10)
    assert Dropout(0.9).eval()(x) is x and Dropout(0.0)(x) is x
    assert dropout(x, 1e-9) is x and dropout(x, 1 - 1e-9).isfinite().all()
    assert (Dropout(0.9)(torch.ones(1000)) == 0).float().mean() > 0.8
