from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from util.ema import make_ema, restore_ema


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def walk(model: nn.Module, step: int) -> None:
    """Move every parameter and, by a forward in training mode, the running statistics."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    model.train()(torch.randn(2, 3, 8, 8, generator=generator))


def decay_at(step: int, decay: float) -> float:
    return 0.0 if step == 1 else min(decay, 1 - step ** (-2 / 3))


def test_a_constant_weight_is_approached_as_the_closed_form_says() -> None:
    """With decays d_n, what is left of the first weight after step n is the product of d_2 .. d_n."""
    model = nn.Linear(1, 1, bias=False)
    ema = make_ema(model, 0.6)
    left = 1.0
    for step in range(1, 20):
        nn.init.constant_(model.weight, 3.0 if step == 1 else 5.0)
        ema.update(model, step=step)
        left *= decay_at(step, 0.6) if step > 1 else 1.0
        assert ema.module.weight.item() == pytest.approx(5 + (3 - 5) * left, rel=1e-6)
    warm = (1 - 2 ** (-2 / 3)) * (1 - 3 ** (-2 / 3))  # 0.37 and 0.52: from the 4th step on it is 0.6
    assert left == pytest.approx(warm * 0.6**16)


def test_parameters_and_statistics_are_averaged_and_counts_copied() -> None:
    model = small()
    ema = make_ema(model, 0.9)
    expected = {key: value.double() for key, value in model.state_dict().items()}
    for step in range(1, 50):
        walk(model, step)
        ema.update(model, step=step)
        for key, value in model.state_dict().items():
            expected[key] += (1 - decay_at(step, 0.9)) * (value.double() - expected[key])
    for key, value in ema.module.state_dict().items():
        if key == "1.num_batches_tracked":
            assert value == 49 and value.dtype == torch.int64
        else:
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-6)
            assert not torch.equal(value, model.state_dict()[key])


def test_the_average_is_a_model_of_its_own_with_plain_names() -> None:
    model = small().to(memory_format=torch.channels_last)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ema = make_ema(model, 0.9)
    assert list(ema.module.state_dict()) == list(before) and not ema.module.training and model.training
    assert ema.module[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    ema.update(model, step=5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    walk(model, 1)
    assert all(torch.equal(value, before[key]) for key, value in ema.module.state_dict().items())


def test_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    model = small()
    ema = make_ema(model, 0.8)
    for step in range(1, 11):
        if step == 4:  # in the middle of the decay's warm-up
            torch.save({"model": model.state_dict(), "ema": ema.module.state_dict()}, tmp_path / "checkpoint.pth")
        walk(model, step)
        ema.update(model, step=step)

    saved = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    resumed = small(seed=1)
    resumed.load_state_dict(saved["model"])
    other = make_ema(resumed, 0.8)
    restore_ema(other, resumed, saved["ema"])
    for step in range(4, 11):
        walk(resumed, step)
        other.update(resumed, step=step)
    whole = ema.module.state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in other.module.state_dict().items())


@pytest.mark.parametrize("state", [None, {}])
def test_a_run_without_an_average_starts_one_from_its_weights(state: dict | None) -> None:
    ema, model = make_ema(small(), 0.9), small(seed=1)
    restore_ema(ema, model, state)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in ema.module.state_dict().items())


def test_an_average_of_another_model_is_refused_in_one_line() -> None:
    model = small()
    ema = make_ema(model, 0.9)
    for state in (
        {"0.weight": torch.zeros(1)},
        {**model.state_dict(), "0.weight": torch.zeros(5, 3, 3, 3)},
        {"0.weight": 3},
        [1],
    ):
        with pytest.raises(ValueError, match="the averaged weights of the checkpoint do not fit") as raised:
            restore_ema(ema, model, state)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("decay", [1, -0.1, 2.0, float("nan")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"--ema {decay} must be above 0 and below 1"):
        make_ema(small(), decay)


def test_an_average_that_is_not_finite_is_refused() -> None:
    model = nn.Linear(2, 1)
    state = {name: value.clone().fill_(float("nan")) for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="weight holds values that are not finite"):
        restore_ema(make_ema(model, 0.5), model, state)
