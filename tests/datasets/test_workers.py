"""Processes that load images: killed, stopped, signalled, without shared memory, and at the end of their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets import Loader
from datasets.workers import _warn_of_pipes
from util.failures import known_cause
from util.launcher import ProcessInfo
from util.processes import ending_children, kill_children
from util.stopping import Stopped, StopRequest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


class Calls(Dataset):
    """What a function returns, in a worker."""

    def __init__(self, call: Callable[[int], Any], count: int = 1000) -> None:
        self.call, self.count = call, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.call(index)


def load(call: Callable[[int], Any], count: int = 1000, workers: int = 1, **options: Any) -> Iterator[Any]:
    return iter(Loader(Calls(call, count), batch_size=None, num_workers=workers, **options))


def pid_of_worker(index: int) -> tuple[int, int]:
    return os.getpid(), torch.get_num_threads()


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until_dead(pid: int) -> None:
    deadline = time.monotonic() + 60
    while is_alive(pid):
        assert time.monotonic() < deadline, "it outlives its parent"
        time.sleep(0.01)


def test_a_worker_has_one_thread_and_leaves_signals_to_the_main_process() -> None:
    batches = load(pid_of_worker)
    pid, threads = next(batches)
    for number in SIGNALS:
        os.kill(pid, number)
    assert threads == 1 and [next(batches)[0] for _ in range(10)] == [pid] * 10
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())  # it receives them


def test_a_lost_worker_is_an_error_of_the_next_batch_and_nowhere_else() -> None:
    batches = load(pid_of_worker)
    pid = next(batches)[0]
    os.kill(pid, signal.SIGKILL)
    until_dead(pid)
    sum(range(10**5))  # torch's handler would raise here
    with pytest.raises(RuntimeError) as lost:
        for _ in batches:
            pass
    cause, advice = known_cause(lost.value)
    assert cause.startswith("a process that loads images died (DataLoader worker") and "Killed)" in cause and advice


@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "images died"), (signal.SIGBUS, "/dev/shm")])
def test_a_worker_lost_while_its_first_batch_is_awaited(number: int, words: str) -> None:
    with pytest.raises(RuntimeError) as lost:
        next(load(lambda index: os.kill(os.getpid(), number)))
    assert words in known_cause(lost.value)[0]


class Dying:
    """A batch whose worker dies while it is handed over."""

    def __reduce__(self) -> Any:
        return lose_worker, (os.getpid(),)


def lose_worker(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    raise ConnectionResetError(104, "Connection reset by peer")


def test_a_worker_lost_while_it_hands_over_a_batch() -> None:
    with pytest.raises(RuntimeError, match="DataLoader worker .* (was killed by signal: Killed|exited unexpectedly)"):
        next(load(lambda index: Dying()))


def test_a_stopped_worker_goes_on() -> None:
    batches = load(pid_of_worker, persistent_workers=True)
    pid = next(batches)[0]
    for _ in range(3):
        os.kill(pid, signal.SIGSTOP)
        assert [next(batches)[0] for _ in range(3)] == [pid] * 3
    batches = load(lambda index: os.kill(os.getpid(), signal.SIGSTOP))
    assert next(batches) is None  # it was awaited
    kill_children()


def share_nothing() -> None:
    def refuse(self: Any) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)")

    torch.UntypedStorage._share_fd_cpu_ = refuse  # type: ignore[assignment,method-assign]


def image_without_shared_memory(index: int) -> tuple[Tensor, int]:
    share_nothing()
    return torch.arange(24).view(2, 4, 3).permute(2, 0, 1) + index, index


def test_without_shared_memory_batches_come_through_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    _warn_of_pipes.cache_clear()
    batches = list(load(image_without_shared_memory, 4, workers=2))
    for index, (image, number) in enumerate(batches):
        expected = torch.arange(24).view(2, 4, 3).permute(2, 0, 1) + index
        assert number == index and torch.equal(image, expected) and image.stride() == expected.stride()
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "shared memory" in err and "--ipc=host" in err and "--num_workers 0" in err


def test_what_no_worker_can_send_is_an_error() -> None:
    with pytest.raises(Exception, match="pickle"):
        next(load(lambda index: lambda: index))


def test_where_no_worker_can_be_started_the_main_process_loads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.Queue", refuse)
    assert list(load(lambda index: os.getpid(), 2, persistent_workers=True)) == [os.getpid()] * 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "(No space left on device)" in err and "--num_workers 0" in err


def test_a_signal_interrupts_waiting() -> None:
    with StopRequest(ProcessInfo()) as request:

        def waiting() -> AbstractContextManager[None]:
            return request.reacting(request.stop)

        def sleep(index: int) -> None:
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(600)

        with pytest.raises(Stopped, match="stopped by SIGTERM"), ending_children():
            next(load(sleep, waiting=waiting))


class Raising(Dataset):
    """Raises where nobody catches, as the thread of a worker that hands tensors over does."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = errors

    def __len__(self) -> int:
        return len(self.errors)

    def __getitem__(self, index: int) -> int:
        error = self.errors[index]
        sys.excepthook(type(error), error, None)
        return index


def test_a_worker_is_silent_only_about_a_main_process_that_is_gone(capfd: pytest.CaptureFixture[str]) -> None:
    data = Raising(ConnectionResetError("gone"), EOFError("gone"), BrokenPipeError("gone"), ValueError("of its own"))
    assert list(Loader(data, batch_size=None, num_workers=1)) == [0, 1, 2, 3]
    assert capfd.readouterr().err == "ValueError: of its own\n"


def hold_a_worker(pid: Any, end: str) -> None:
    batches = load(pid_of_worker, persistent_workers=True)
    pid.value = next(batches)[0]
    if end == "exit":
        raise SystemExit(7)
    os.kill(pid.value, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("end", "code"), [("exit", 7), ("kill", -9)])
def test_a_worker_ends_with_its_parent(end: str, code: int) -> None:
    context = multiprocessing.get_context("fork")
    pid = context.Value("i", 0)
    child = context.Process(target=hold_a_worker, args=(pid, end))
    child.start()
    child.join(60)
    assert child.exitcode == code and pid.value
    until_dead(pid.value)
