from __future__ import annotations

import math

import pytest
import torch

from util.schedule import SCHEDULERS, learning_rate

BASE, EPOCHS, STEPS, LOW = 0.5, 10, 4, 1e-3  # 40 steps


def rates(
    scheduler: str, base: float = BASE, warmup_steps: int = 0, min_lr: float = LOW, steps_per_epoch: int = STEPS
) -> list[float]:
    options = {"steps_per_epoch": steps_per_epoch, "epochs": EPOCHS, "lr_drop": 3, "min_lr": min_lr}
    return [
        learning_rate(base, step, scheduler, warmup_steps=warmup_steps, **options) for step in range(EPOCHS * steps_per_epoch)
    ]


@pytest.mark.parametrize("scheduler", ["StepLR", "CosineAnnealingLR"])
def test_learning_rates_are_those_of_torch(scheduler: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    make = {
        "StepLR": lambda: torch.optim.lr_scheduler.StepLR(optimizer, 3),
        "CosineAnnealingLR": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS, eta_min=LOW),
    }
    schedule, ours = make[scheduler](), rates(scheduler)
    for epoch in range(EPOCHS):
        of_epoch = ours[epoch * STEPS : (epoch + 1) * STEPS]
        assert of_epoch == [of_epoch[0]] * STEPS and of_epoch[0] == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_cosine_is_torchs_with_steps_for_epochs() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=BASE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS * STEPS, eta_min=LOW)
    for ours in rates("cosine"):
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_cosine_falls_with_every_step_over_what_the_warmup_leaves() -> None:
    ours = rates("cosine", warmup_steps=8)
    assert ours[8] == BASE and ours[24] == pytest.approx((BASE + LOW) / 2)  # 32 steps are left: half of them is 16
    assert all(later < earlier for earlier, later in zip(ours[8:], ours[9:], strict=False))
    assert ours[-1] == pytest.approx(LOW + (BASE - LOW) * (1 + math.cos(math.pi * 31 / 32)) / 2)
    assert LOW < ours[-1] < LOW + 0.01 * BASE


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_warmup_is_linear_and_its_first_step_moves(scheduler: str) -> None:
    plain, warm = rates(scheduler), rates(scheduler, warmup_steps=4)
    assert warm[:4] == pytest.approx([BASE / 4, BASE / 2, BASE * 3 / 4, BASE])
    if scheduler != "cosine":  # the cosine is stretched over the rest
        assert warm[4:] == plain[4:]
    assert rates(scheduler, warmup_steps=1)[0] == BASE


def test_a_warmup_over_several_epochs_multiplies_the_rate_of_the_epoch() -> None:
    plain, warm = rates("StepLR"), rates("StepLR", warmup_steps=20)
    assert warm == pytest.approx([rate * min(1, (step + 1) / 20) for step, rate in enumerate(plain)])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("warmup_steps", [0, 7, 40, 100])
def test_no_rate_is_above_its_base_whatever_the_minimum(scheduler: str, warmup_steps: int) -> None:
    for base in (BASE, LOW, LOW / 100):
        ours = rates(scheduler, base, warmup_steps)
        assert min(ours) > 0 and max(ours) <= base
    assert set(rates(scheduler, 0.0, warmup_steps)) == {0.0}  # a frozen backbone


def test_a_rate_below_the_minimum_stays() -> None:
    assert set(rates("cosine", LOW / 2)) == set(rates("CosineAnnealingLR", LOW / 2)) == {LOW / 2}


@pytest.mark.parametrize("scheduler", ["CosineAnnealingLR", "cosine"])
def test_steps_behind_the_last_epoch_stay_at_the_minimum(scheduler: str) -> None:
    behind = learning_rate(BASE, 55, scheduler, steps_per_epoch=STEPS, epochs=EPOCHS, lr_drop=3, min_lr=LOW, warmup_steps=0)
    assert behind == pytest.approx(LOW)


def test_an_unknown_scheduler_is_named() -> None:
    with pytest.raises(ValueError, match="--lr_scheduler 'exp' is not known: choose StepLR, CosineAnnealingLR, cosine"):
        learning_rate(1, 0, "exp", steps_per_epoch=1, epochs=1, lr_drop=1, min_lr=0, warmup_steps=0)
