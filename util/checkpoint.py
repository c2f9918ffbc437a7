"""Writing checkpoints so that a kill at any moment leaves a whole file behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

LAST = "checkpoint.pth"
BEST = "checkpoint_best.pth"


def milestone(epoch: int) -> str:
    """File name of the checkpoint that is kept for an epoch (counted from 0), as DETR names it."""
    return f"checkpoint{epoch:04d}.pth"


def save_checkpoint(state: dict[str, Any], folder: Path, also: Iterable[str] = ()) -> Path:
    """Write `state` as the last checkpoint of `folder`, and under the further names without a second write.

    The bytes go to a temporary file in the same folder, reach the disk, and then take the name in one step.

    Raises:
        ValueError: the folder cannot be written to, or the disk is full; the previous checkpoint is intact.
    """
    path = folder / LAST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        for name in also:
            with _replacing(folder / name) as temporary:
                os.unlink(temporary)
                try:
                    os.link(path, temporary)
                except OSError:  # a file system without hard links
                    shutil.copyfile(path, temporary)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the checkpoint cannot be written to {folder} ({error}); what was there before is intact") from error
    return path


@contextlib.contextmanager
def _replacing(path: Path) -> Any:
    """A temporary file beside `path` that takes its place if all goes well and disappears otherwise."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)  # mkstemp's files are private; a checkpoint is as readable as any file
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def rng_state() -> dict[str, Any]:
    """State of torch's generators, on the CPU and on every CUDA device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Put `rng_state()` back; another number of CUDA devices keeps theirs."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
