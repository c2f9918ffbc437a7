"""Errors during a training, turned into one line that names the last checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .checkpoint import Checkpointer
from .distributed import lost_process
from .errors import ImageError, RunFailed, first_line
from .stopping import Stopped
from .train_state import TrainState


@contextmanager
def describe_failures(checkpointer: Checkpointer, state: TrainState) -> Iterator[None]:
    """Turn an error of the enclosed training into a RunFailed or Stopped that names the epoch and the last checkpoint."""
    try:
        yield
    except RunFailed:
        _ignore_dying_workers()
        raise
    except FloatingPointError as error:
        raise RunFailed(f"epoch {state.epoch.index + 1}: {error}; {checkpointer.describe_last()}; try a smaller --lr") from None
    except (ImageError, OSError) as error:
        raise RunFailed(f"epoch {state.epoch.index + 1}: {error}; {checkpointer.describe_last()}") from None
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, f"interrupted in the middle of a step; {checkpointer.describe_last()}") from None
    except RuntimeError as error:
        _ignore_dying_workers()
        reason, advice = first_line(error), ""
        if reason.startswith("DataLoader worker"):
            if checkpointer.ranks.size == 1:
                checkpointer.stop_if_requested()  # a signal to the process group ends the workers, too
            cause = f"a process that loads images died ({reason.rstrip('. ')})"
        elif isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in reason:
            cause = "out of memory"
            advice = "; try --grad_checkpointing, --precision bf16, or a smaller --batch_size with --accumulate"
        elif not (cause := lost_process(error)):
            raise
        raise RunFailed(f"epoch {state.epoch.index + 1}: {cause}; {checkpointer.describe_last()}{advice}") from None


def _ignore_dying_workers() -> None:
    """Reset the DataLoader's SIGCHLD handler, which would raise again for every other worker."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
