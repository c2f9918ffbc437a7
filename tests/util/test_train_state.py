"""Position of a training in its checkpoints."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch

from util.metrics import Sums
from util.ranks import SINGLE_PROCESS
from util.train_state import TrainState, next_epoch

SETTINGS = {"batch_size": 4, "accumulate": 2, "train_images": 24, "train_files": "a1", "seed": 1, "grouping": "c3"}
TERMS = ("class", "mosaic")


def state(start_epoch: int = 0, **settings: Any) -> TrainState:
    sums = partial(Sums, torch.device("cpu"), 2, TERMS)
    return TrainState(5, start_epoch, sums, SETTINGS | settings, SINGLE_PROCESS)


def within_an_epoch() -> dict[str, Any]:
    """A checkpoint after 3 batches of epoch 2."""
    saved = state()
    saved.begin_epoch(1)
    saved.finish_epoch(50.0, 1.0)
    saved.begin_epoch(2)
    saved.epoch.batches = 3
    logits, labels = torch.eye(2), torch.tensor([0, 1])
    saved.epoch.sums.add(logits, labels, {"class": torch.tensor(3.0), "mosaic": torch.tensor(1.0)})
    return {**saved.state_dict(), "args": dict(SETTINGS)}


def test_a_restored_state_is_the_saved_one() -> None:
    checkpoint = within_an_epoch()
    restored = state(start_epoch=2)
    restored.load_state_dict(checkpoint, "a.pth")
    again = restored.state_dict()
    assert torch.equal(again["in_epoch"].pop("sums"), checkpoint["in_epoch"].pop("sums"))
    assert again["elapsed"] >= checkpoint["elapsed"]
    assert all(again[name] == checkpoint[name] for name in ("epoch", "in_epoch", "best"))
    assert restored.steps(steps_per_epoch=3) == 2 * 3 + 2  # the third batch began a second step


def test_sums_of_an_earlier_version_count_as_the_class_term() -> None:
    checkpoint = within_an_epoch()
    del checkpoint["in_epoch"]["terms"]
    checkpoint["in_epoch"]["sums"] = checkpoint["in_epoch"]["sums"][:3]
    restored = state(start_epoch=2)
    restored.load_state_dict(checkpoint, "a.pth")
    means = restored.epoch.sums.means()
    assert (means["loss"], means["loss_class"], means["loss_mosaic"], means["acc1"]) == (2.0, 2.0, 0.0, 100.0)
    assert restored.epoch.batches == 3 and restored.epoch.sums.images == 2


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": 8}, "--batch_size 4, now it is 8"),
        ({"accumulate": 1}, "--accumulate 2, now it is 1"),
        ({"seed": 2}, "--seed 1, now it is 2"),
        ({"train_images": 25, "train_files": "b2"}, "number of training images 24, now it is 25"),
        ({"train_files": "b2"}, "hash of the names and classes of the training images a1, now it is b2"),
        ({"grouping": "d4"}, "hash of what groups its batches (image sizes, their schedule, the version) c3, now it is d4"),
        ({"grouping": None}, "hash of what groups its batches (image sizes, their schedule, the version) c3, now it is None"),
    ],
)
def test_an_epoch_is_finished_with_the_batches_it_was_begun_with(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"a.pth was saved in the middle of an epoch with {message}")):
        state(2, **settings).load_state_dict(within_an_epoch(), "a.pth")


def test_earlier_versions_do_not_save_which_files_they_train_on() -> None:
    checkpoint = within_an_epoch()
    del checkpoint["in_epoch"]["train_files"]
    state(2, train_files="b2").load_state_dict(checkpoint, "a.pth")


@pytest.mark.parametrize("current", ["c3", None])
def test_an_epoch_that_was_begun_without_groups_is_finished_so(current: str | None) -> None:
    """Squares, and earlier versions, which have no such entry."""
    checkpoint = within_an_epoch()
    del checkpoint["in_epoch"]["grouping"]
    for _ in range(2):  # and saved again
        restored = state(2, grouping=current)
        restored.load_state_dict(checkpoint, "a.pth")
        assert restored.epoch.batches == 3 and restored.epoch.grouping is None
        checkpoint = {**restored.state_dict(), "args": dict(SETTINGS)}
    restored.begin_epoch(3)
    assert restored.epoch.grouping == current


def test_two_processes_with_half_the_batch_are_the_same_batches() -> None:
    checkpoint = within_an_epoch()
    checkpoint["in_epoch"] |= {"world_size": 2, "batch_size": 2}
    state(2).load_state_dict(checkpoint, "a.pth")
    checkpoint["in_epoch"]["batch_size"] = 4
    with pytest.raises(ValueError, match="number of processes 2, now it is 1"):
        state(2).load_state_dict(checkpoint, "a.pth")


def test_a_loss_that_is_not_finite_is_not_saved() -> None:
    broken = state()
    broken.epoch.batches = 1
    broken.epoch.sums.add(torch.eye(2), torch.tensor([0, 1]), {"class": torch.tensor(1.0), "mosaic": torch.tensor(torch.nan)})
    with pytest.raises(FloatingPointError, match="the loss is nan .term mosaic."):
        broken.state_dict()


def test_the_best_epoch_has_the_highest_accuracy_of_equal_ones_the_lowest_loss() -> None:
    run = state()
    epochs = [(50.0, 1.0), (60.0, 2.0), (60.0, 2.0), (60.0, 2.5), (60.0, 1.5), (40.0, 0.1)]
    assert [run.finish_epoch(*epoch) for epoch in epochs] == [True, True, False, False, True, False]
    assert run.best == {"acc1": 60.0, "epoch": 0, "loss": 1.5}
    resumed = state()
    resumed.load_state_dict({**run.state_dict(), "args": {}}, "a.pth")
    assert not resumed.finish_epoch(60.0, 1.6) and resumed.finish_epoch(60.0, 1.4)


def test_an_epoch_that_is_not_scored_is_finished_and_changes_no_best_one() -> None:
    run = state()
    run.begin_epoch(1)
    run.thresholds = {"of": "earlier weights"}
    assert run.finish_epoch(50.0, 1.0) and run.state_dict()["thresholds"]
    run.begin_epoch(2)
    assert not run.finish_epoch()
    saved = run.state_dict()
    assert (saved["epoch"], saved["in_epoch"], saved["thresholds"]) == (2, None, None)
    assert saved["best"] == {"acc1": 50.0, "epoch": 1, "loss": 1.0} and next_epoch(saved) == 3


def test_a_best_epoch_of_earlier_versions_has_no_loss() -> None:
    old = state()
    old.best = {"acc1": 60.0, "epoch": 3}
    assert not old.finish_epoch(60.0, 0.1) and old.finish_epoch(61.0, 9.0)


def test_the_best_epoch_counts_only_in_its_run() -> None:
    other = state()
    other.load_state_dict(within_an_epoch(), "a.pth", same_best=False)
    assert other.best == {"acc1": None, "epoch": None, "loss": None}


def test_the_epoch_after_a_checkpoint() -> None:
    assert next_epoch({"epoch": 3}) == 4 and next_epoch({"epoch": 1, "in_epoch": {"epoch": 2}}) == 2
    assert next_epoch({"model": {}}, default=7) == 7 and next_epoch({"epoch": None}) == 0
