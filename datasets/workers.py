"""Processes that load images: they neither outlive nor hang the program, whatever happens to them or to it."""

from __future__ import annotations

import multiprocessing.util
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from types import FrameType, TracebackType
from typing import Any

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader, Dataset

from util.failures import SHARED_MEMORY, known_cause
from util.printable import OutputLost
from util.processes import die_with_parent, kill_children
from util.stopping import SIGNALS


class Loader(DataLoader):
    """DataLoader whose workers neither outlive nor hang the program.

    They leave signals to the main process, end with it, and go on when they are stopped. A lost one is an error of the next
    batch and nowhere else. Batches that do not fit into shared memory go through a pipe.

    Args:
        dataset, options: as of DataLoader.
        waiting: entered while the main process waits for a batch.
    """

    def __init__(
        self, dataset: Dataset[Any], *, waiting: Callable[[], AbstractContextManager[None]] = nullcontext, **options: Any
    ) -> None:
        super().__init__(dataset, worker_init_fn=worker_init, **options)
        self.waiting, self.workers = waiting, tuple[Any, ...]()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        with self._watched(), self.waiting():
            batches = self._start()
        while True:
            with self._watched(), self.waiting():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except (ConnectionError, EOFError) as error:  # a worker died while it handed over a batch
                    ended = wait([worker.sentinel for worker in self.workers], timeout=5)
                    for worker in self.workers:
                        if worker.sentinel in ended:
                            worker.join()
                    self._look_after(signal.SIGCHLD, None)
                    raise RuntimeError(f"DataLoader worker is lost: {error}") from None
            yield batch

    def _start(self) -> Iterator[Any]:
        """Start the workers, unless they run already and persist; where the system refuses, the main process loads the images."""
        if not self.num_workers or (self.persistent_workers and self.workers):
            return super().__iter__()
        multiprocessing.util.Finalize(None, kill_children, exitpriority=100)  # it would send SIGTERM, which is blocked, and wait
        handler = signal.getsignal(signal.SIGCHLD)
        # Workers inherit which signals are blocked. A cluster sends them to every process of a job, a terminal Ctrl-C.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS[1:])
        try:
            multiprocessing.Queue()  # torch would print a traceback where it cannot make its first one
            batches = super().__iter__()
            self.workers = tuple(batches._workers)  # type: ignore[attr-defined]
            return batches
        except OutputLost:  # it is flushed before a process is started
            raise
        except OSError as error:
            advice = known_cause(error)[1] or SHARED_MEMORY  # of locks, too
            print(f"warning: no processes can be started to load images ({error.strerror}): {advice}", file=sys.stderr)
            self.num_workers = 0
            return super().__iter__()
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, handler)  # without torch's, which would raise wherever the program is
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Look after the workers while the main process waits, now and at every SIGCHLD."""
        if not self.workers or threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGCHLD, self._look_after)
        try:
            self._look_after(signal.SIGCHLD, None)
            yield
        finally:
            signal.signal(signal.SIGCHLD, previous)

    def _look_after(self, number: int, frame: FrameType | None) -> None:
        """Raise a RuntimeError if a worker died; continue those that were stopped."""
        for worker in self.workers:
            if code := worker.exitcode:
                how = f"ended with exit code {code}" if code > 0 else f"was killed by signal: {signal.strsignal(-code)}"
                raise RuntimeError(f"DataLoader worker (pid {worker.pid}) {how}")
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGCONT)


def worker_init(worker_id: int) -> None:
    """Set up a worker (`DataLoader(worker_init_fn=)`): one thread; it ends with its parent, and sends whatever it can."""
    torch.set_num_threads(1)
    die_with_parent()
    # torch's handlers print, and submitit's of SIGCONT does; the main process says what it was.
    for number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGFPE, signal.SIGCONT):
        signal.signal(number, signal.SIG_DFL)
    sys.excepthook = _ignore_lost_connection
    Queue._on_queue_feeder_error = _send_otherwise  # type: ignore[attr-defined]


def _send_otherwise(queue: Queue[Any], error: Exception, message: tuple[int, Any]) -> None:
    """Send a batch again that could not be sent, without shared memory and its file handles; if that fails, the error.

    Multiprocessing would print the error, and the main process would wait for the batch for ever.
    """
    index, data = message
    try:
        if isinstance(data, Pickled):
            raise error
        data = Pickled(data)
    except Exception:
        data = ExceptionWrapper(where="in the thread of a worker that sends batches")
    queue.put((index, data))


class Pickled:
    """A value that is sent through a pipe, with its tensors, and arrives as itself."""

    def __init__(self, value: Any) -> None:
        self.content = pickle.dumps(value)

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return _unpickle, (self.content,)


def _unpickle(content: bytes) -> Any:
    _warn_of_pipes()
    return pickle.loads(content)


@cache
def _warn_of_pipes() -> None:
    print(
        f"warning: shared memory or file handles are short, images come through a slower pipe: {SHARED_MEMORY}", file=sys.stderr
    )


def _ignore_lost_connection(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print uncaught errors (`sys.excepthook`) but those of a main process that ended; errors of the data do not come here."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
