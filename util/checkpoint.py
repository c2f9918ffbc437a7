"""Writing checkpoints so that a kill at any moment leaves a whole file behind, and finding that file again."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from .atomic import atomic_write, replacing
from .errors import RunFailed

LAST = "checkpoint.pth"
BEST = "checkpoint_best.pth"
STEP = re.compile(r"checkpoint_step(\d+)\.pth")


def milestone(epoch: int) -> str:
    """File name of the checkpoint that is kept for an epoch (counted from 0), as DETR names it."""
    return f"checkpoint{epoch:04d}.pth"


def save_checkpoint(state: dict[str, Any], folder: Path, also: Iterable[str] = (), keep_last: int = 1) -> Path:
    """Write `state` as the last checkpoint of `folder`, and under the further names without a second write.

    The bytes go to a temporary file in the same folder, reach the disk, and then take the name in one step.

    Args:
        state: has `step`.
        folder: made if it does not exist.
        also: further names.
        keep_last: how many of the latest checkpoints stay; those before the last are `checkpoint_step<step>.pth`.

    Raises:
        RunFailed: the folder cannot be written to, or the disk is full; the previous checkpoint is intact.
    """
    path = folder / LAST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb", durable=True) as file:
            torch.save(state, file)
        for name in [*also, *([f"checkpoint_step{state['step']:08d}.pth"] if keep_last > 1 else [])]:
            with replacing(folder / name) as temporary:
                temporary.unlink()
                try:
                    os.link(path, temporary)
                except OSError:  # a file system without hard links
                    shutil.copyfile(path, temporary)
        if keep_last > 1:
            for old in sorted(file for file in folder.iterdir() if STEP.fullmatch(file.name))[:-keep_last]:
                old.unlink()
        _sync(folder)
    except (OSError, RuntimeError) as error:
        raise RunFailed(
            f"the checkpoint cannot be written to {folder} ({_reason(error)}); what was there before is intact"
        ) from error
    return path


def newest_valid(folder: Path, read: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint of `folder` that is the furthest and whole, with its content; None where there is none at all.

    Args:
        folder: of a run; need not exist.
        read: reads a file, with a ValueError for one that is not whole. Such a file is named on stderr and skipped.

    Raises:
        ValueError: there are checkpoints, and not one of them is whole.
    """
    names = [file for file in folder.glob("checkpoint*.pth") if file.is_file()] if folder.is_dir() else []
    files = sorted(names, key=lambda file: (file.stat().st_mtime_ns, file.name == LAST), reverse=True)
    for file in files:
        try:
            return file, read(file)
        except ValueError as error:
            print(f"warning: {error}; skipped", file=sys.stderr)
    if files:
        raise ValueError(
            f"--resume auto: none of the {len(files)} checkpoints in {folder} can be read: remove them to start anew"
        )
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a run that was killed while it saved."""
    for file in folder.glob(".checkpoint*.tmp"):
        with contextlib.suppress(OSError):
            file.unlink()


def _sync(folder: Path) -> None:
    """Let the new names reach the disk, too."""
    with contextlib.suppress(OSError):  # not every file system opens a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: Exception) -> str:
    # torch's writer hides the disk's own words behind those of its archive.
    cause = error if isinstance(error, OSError) else error.__context__
    return cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).splitlines()[0]


def rng_state() -> dict[str, Any]:
    """State of torch's generators, on the CPU and on the CUDA device of this process."""
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def seed_from(*numbers: int) -> None:
    """Give torch's generators a state of their own, a function of `numbers`."""
    torch.manual_seed(int.from_bytes(blake2b(repr(numbers).encode(), digest_size=8).digest(), "little") >> 1)


def set_rng_state(state: dict[str, Any]) -> None:
    """Put `rng_state()` back, as far as there is a CUDA device now and was one then."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and state["cuda"]:  # earlier versions saved those of all devices
        index = torch.cuda.current_device()
        torch.cuda.set_rng_state(state["cuda"][index if index < len(state["cuda"]) else 0])
