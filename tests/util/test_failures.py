"""Errors during a training, in one line that names the last checkpoint."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from util.checkpoint import Checkpointer
from util.errors import ImageError, RunFailed
from util.failures import describe_failures
from util.launcher import ProcessInfo
from util.metrics import Sums
from util.ranks import SINGLE_PROCESS
from util.stopping import Stopped, StopRequest
from util.train_state import TrainState


class Counter:
    """A trainer that only counts."""

    steps = 3

    def state_dict(self) -> dict[str, int]:
        return {"step": self.steps}


@pytest.fixture
def state() -> TrainState:
    return TrainState(5, 1, partial(Sums, torch.device("cpu"), 2), {}, SINGLE_PROCESS)


@pytest.fixture
def checkpointer(tmp_path: Path) -> Checkpointer:
    return Checkpointer(tmp_path, Counter(), (), {}, StopRequest(ProcessInfo()))


@pytest.mark.parametrize(
    "error, message",
    [
        (FloatingPointError("the loss is nan"), "epoch 2: the loss is nan; no checkpoint was saved; try a smaller --lr"),
        (ImageError("a.png: is not an image"), "epoch 2: a.png: is not an image; no checkpoint was saved"),
        (OSError(28, "No space left"), r"epoch 2: \[Errno 28\] No space left; no checkpoint was saved"),
        (RuntimeError("DataLoader worker (pid 1) is killed.\nmore"), "epoch 2: a process that loads images died .*killed.;"),
        (torch.OutOfMemoryError("CUDA out of memory\nmore"), "epoch 2: out of memory; no checkpoint.*; try --grad_check"),
        (RuntimeError("[enforce fail] can't allocate memory: 9 bytes"), "epoch 2: out of memory"),
        (
            RuntimeError("[/a/b.cc:3] Connection closed by peer [::1]. More"),
            r"another process of this run ended .*\(Connection cl",
        ),
    ],
)
def test_one_line_with_the_epoch_and_the_last_checkpoint(
    checkpointer: Checkpointer, state: TrainState, error: Exception, message: str
) -> None:
    with pytest.raises(RunFailed, match=message) as failed, describe_failures(checkpointer, state):
        raise error
    assert "\n" not in str(failed.value)
    checkpointer.save()
    last = r"the last checkpoint is \S*checkpoint.pth \(resume with --resume auto\)"
    with pytest.raises(RunFailed, match=last), describe_failures(checkpointer, state):
        raise error


def test_an_error_of_the_program_keeps_its_traceback(checkpointer: Checkpointer, state: TrainState) -> None:
    for error in (RuntimeError("shapes differ"), KeyError("a"), RunFailed("in one line"), ValueError("a flag")):
        with pytest.raises(type(error)) as raised, describe_failures(checkpointer, state):
            raise error
        assert raised.value is error


def test_an_interrupted_step_is_a_stop_without_a_save(checkpointer: Checkpointer, state: TrainState) -> None:
    message = "interrupted in the middle of a step; no checkpoint was saved"
    with pytest.raises(Stopped, match=message) as stopped, describe_failures(checkpointer, state):
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130


def test_workers_that_a_signal_ended_are_a_stop_with_a_save(checkpointer: Checkpointer, state: TrainState) -> None:
    checkpointer.request.number = signal.SIGTERM
    message = "stopped after step 3; the last checkpoint is"
    with pytest.raises(Stopped, match=message) as stopped, describe_failures(checkpointer, state):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")
    assert stopped.value.exit_code == 143
