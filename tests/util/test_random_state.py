"""States of the random number generators in a checkpoint."""

from __future__ import annotations

import pytest
import torch

from util.launcher import ProcessInfo
from util.random_state import RandomState, seed_from
from util.ranks import SINGLE_PROCESS, Ranks


def test_a_restored_state_draws_the_same_numbers() -> None:
    generators = RandomState(SINGLE_PROCESS, seed=3)
    checkpoint = {**generators.state_dict(), "step": 7}
    assert list(checkpoint["rng"][0]) == ["cpu", "cuda"] and len(checkpoint["rng"]) == 1
    first = torch.rand(3)
    generators.load_state_dict(checkpoint)
    assert torch.equal(torch.rand(3), first)


def test_a_held_state_is_saved_whatever_is_drawn_meanwhile() -> None:
    generators = RandomState(SINGLE_PROCESS, seed=3)
    before = torch.get_rng_state()
    with generators.held():
        torch.manual_seed(5)
        assert torch.equal(generators.state_dict()["rng"][0]["cpu"], before)
    assert torch.equal(generators.state_dict()["rng"][0]["cpu"], torch.get_rng_state())


def test_without_a_state_the_seed_depends_on_run_rank_and_step() -> None:
    drawn = []
    for seed, rank, step in ((3, 0, 7), (3, 0, 7), (4, 0, 7), (3, 1, 7), (3, 0, 8)):
        RandomState(Ranks(ProcessInfo(rank, 2, rank)), seed).load_state_dict({"rng": [], "step": step})
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1] and len({str(numbers) for numbers in drawn}) == 4
    seed_from(3, 0, 7)
    assert torch.rand(3).tolist() == drawn[0]


def test_a_damaged_state_is_refused() -> None:
    for state in (torch.zeros(7, dtype=torch.uint8), torch.zeros(len(torch.get_rng_state()), dtype=torch.uint8)):
        with pytest.raises(ValueError, match="the state of the random numbers in the checkpoint is damaged"):
            RandomState(SINGLE_PROCESS, 0).load_state_dict({"rng": [{"cpu": state, "cuda": []}]})
