"""Failures of a run that no flag caused (memory, file handles, lost processes), in one line."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import CacheError, ImageError, RunFailed, first_line, message_of
from .stopping import Stopped

if TYPE_CHECKING:  # this module is imported before torch
    from .checkpoint import Checkpointer
    from .train_state import TrainState

SHARED_MEMORY = "give the container more shared memory (docker run --ipc=host or --shm-size=1g), or set --num_workers 0"
# What an error says, the cause in words (with what was said), and what to do; the first row that fits counts.
KNOWN = (
    (r"DataLoader worker.*Bus error|/torch_\d+", "shared memory (/dev/shm) is full", SHARED_MEMORY),
    (r"Too many open files|ancdata", "too many open files", "raise the limit (ulimit -n), or set fewer --num_workers"),
    (
        r"DataLoader worker|Pin memory thread exited",
        "a process that loads images died ({})",
        "if memory is short, set fewer --num_workers",
    ),
    (r"process pool was terminated", "a process that renders images died", "if memory is short, set fewer --num_workers"),
    (
        r"out of memory|[Cc]an't allocate memory|Cannot allocate memory|Insufficient memory|ALLOC_FAILED|MemoryError",
        "out of memory",
        "try a smaller --batch_size (in training also --grad_checkpointing, --precision bf16, --accumulate)",
    ),
    (
        r"can't start new thread|Resource temporarily unavailable",
        "too many processes or threads ({})",
        "raise the limit (ulimit -u), or set fewer --num_workers",
    ),
)


def known_cause(error: BaseException) -> tuple[str, str]:
    """Return the cause of a failure that lies outside the command line and the data, and what to do; '' where it is another."""
    if isinstance(error, RunFailed):
        return "", ""
    if isinstance(error, (MemoryError, OSError, RuntimeError)) or type(error).__module__ == "cv2":
        for source in filter(None, (error.__cause__, error)):  # the cause names the signal that ended a worker
            reason = "MemoryError" if isinstance(source, MemoryError) else first_line(message_of(source)).partition(". ")[0]
            for words, cause, advice in KNOWN:
                if re.search(words, reason):
                    return cause.format(reason.rstrip(".")), advice
    return "", ""


@contextmanager
def describe_failures(checkpointer: Checkpointer, state: TrainState) -> Iterator[None]:
    """Turn an error of the enclosed training into a RunFailed or Stopped that names the epoch and the last checkpoint."""
    from .distributed import lost_process

    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, RunFailed) and not isinstance(error, CacheError):
            raise
        last = checkpointer.describe_last()
        if checkpointer.request.interrupted or isinstance(error, KeyboardInterrupt):  # it may become another error on its way
            raise Stopped(signal.SIGINT, f"interrupted in the middle of a step; {last}") from None
        cause, advice = known_cause(error)
        if isinstance(error, FloatingPointError):
            cause, advice = str(error), "try a smaller --lr"
        elif not cause and isinstance(error, CacheError | ImageError | OSError):
            cause = message_of(error)
        if not (cause := cause or lost_process(error)):
            raise
        raise RunFailed(f"epoch {state.epoch.index + 1}: {cause}; {last}{f'; {advice}' * bool(advice)}") from None
