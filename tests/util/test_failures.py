"""Errors during a training, in one line that names the last checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import pytest
import torch

from util.checkpoint import Checkpointer
from util.errors import ImageError, RunFailed
from util.failures import describe_failures, known_cause
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
    return TrainState(5, 1, partial(Sums, torch.device("cpu"), 2), {"grouping": None}, SINGLE_PROCESS)


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
        (torch.OutOfMemoryError("CUDA out of memory\nmore"), "epoch 2: out of memory; no checkpoint.*; try a .*--grad_check"),
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


def test_after_a_second_ctrl_c_any_error_is_an_interrupt(checkpointer: Checkpointer, state: TrainState) -> None:
    checkpointer.request.interrupted = True
    with pytest.raises(Stopped, match="interrupted in the middle of a step"), describe_failures(checkpointer, state):
        raise RuntimeError("unexpected pos 64 vs 0")


BUS = "DataLoader worker (pid 1) is killed by signal: Bus error. It is possible that workers are out of shared memory."


@pytest.mark.parametrize(
    "error, cause, advice",
    [
        (RuntimeError(BUS), "shared memory (/dev/shm) is full", "--ipc=host"),
        (RuntimeError("unable to mmap 9 bytes from file </torch_1_2_0>: Cannot allocate memory"), "shared memory", "--shm-size"),
        (RuntimeError("DataLoader worker (pid(s) 1) exited unexpectedly"), "a process that loads images died (Data", "memory"),
        (RuntimeError("Pin memory thread exited unexpectedly"), "a process that loads images died (Pin", "memory"),
        (OSError(24, "Too many open files", "a.png"), "too many open files", "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "too many open files", "ulimit -n"),
        (MemoryError(), "out of memory", "--batch_size"),
        (MemoryError("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback"), "out of memory", "--batch_size"),
        (OSError(12, "Cannot allocate memory"), "out of memory", "--batch_size"),
        (
            cv2.error("OpenCV(4) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate"),
            "out of memory",
            "--batch_size",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory", "--batch_size"),
        (RuntimeError("can't start new thread"), "too many processes or threads (can't", "ulimit -u"),
        (BlockingIOError(11, "Resource temporarily unavailable"), "too many processes or threads", "ulimit -u"),
    ],
)
def test_causes_outside_the_command_line(error: Exception, cause: str, advice: str) -> None:
    found = known_cause(error)
    assert found[0].startswith(cause) and advice in found[1] and "\n" not in found[0]


def test_other_errors_have_no_such_cause() -> None:
    for error in (
        RunFailed("epoch 2: out of memory"),
        ValueError("out of memory.png"),
        RuntimeError("shapes differ"),
        OSError(2, "No such file"),
        KeyError("a"),
    ):
        assert known_cause(error) == ("", "")


def test_the_cause_names_the_signal_that_ended_a_worker() -> None:
    error = RuntimeError("DataLoader worker (pid(s) 1) exited unexpectedly")
    error.__cause__ = RuntimeError(BUS)
    assert known_cause(error)[0] == "shared memory (/dev/shm) is full"
