"""Lifetime of DataLoader workers: which signals and errors are theirs, and how they end with the main process."""

from __future__ import annotations

import multiprocessing.util
import signal
import sys
from types import TracebackType

import torch


def worker_init(worker_id: int) -> None:
    """Set up a worker (`DataLoader(worker_init_fn=)`): one thread, and Ctrl-C is left to the main process.

    Ctrl-C reaches every process of a terminal: each worker would print a traceback of its own. So would its thread that
    passes tensors on when the main process dies in the middle of that.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _ignore_lost_connection


def preemption_worker_init(worker_id: int) -> None:
    """Set up a worker as `worker_init` does, and leave SIGTERM and SIGUSR2 to the main process, too.

    A cluster sends the signals of preemption to every process of a job, while its main processes still need the batches of
    their step. A main process whose workers ignore SIGTERM calls `kill_workers_at_exit`.
    """
    worker_init(worker_id)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def kill_workers_at_exit() -> None:
    """Kill the remaining workers when this process exits: multiprocessing would send SIGTERM, and wait."""

    def kill() -> None:
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()

    multiprocessing.util.Finalize(None, kill, exitpriority=100)


def _ignore_lost_connection(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print uncaught errors (`sys.excepthook`) but those of a main process that ended; errors of the data do not come here."""
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)
