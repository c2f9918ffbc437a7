"""Checkpoint files of a run: atomic saving, and finding the one to resume from."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from .atomic import atomic_write, replacing
from .errors import RunFailed, first_line, message_of
from .random_state import RandomState
from .ranks import SINGLE_PROCESS, Ranks
from .snapshot import snapshot
from .stopping import SIGNALS, Stopped, StopRequest
from .writer_thread import WriterThread

LAST = "checkpoint.pth"
BEST = "checkpoint_best.pth"

Read = Callable[[Path], dict[str, Any]]  # returns the content of a checkpoint file; ValueError for a damaged one


class Stateful(Protocol):
    """Part of a training whose state is part of a checkpoint."""

    def state_dict(self) -> dict[str, Any]: ...


class Stepping(Stateful, Protocol):
    """Part that counts optimizer steps: the trainer; its state has `step`."""

    steps: int


@dataclass
class Checkpointer:
    """Saving of a run's checkpoints: the merged `state_dict()`s of `parts` and `trainer`, with `constants`.

    A thread of rank 0 writes a copy of the state while the training goes on. It is a context manager, which leaves no file
    half-written: it waits for the thread, and raises its error unless another one ends the run.
    """

    folder: Path | None  # of the run; None saves nothing
    trainer: Stepping
    parts: Sequence[Stateful]
    constants: Mapping[str, Any]  # entries that do not change during the run
    request: StopRequest
    keep_last: int = 1  # number of latest checkpoints that are kept
    every_steps: int = 0  # optimizer steps after which to save within epochs; 0: never
    ranks: Ranks = SINGLE_PROCESS
    thread: WriterThread = field(default_factory=WriterThread, init=False)

    def save(self, extra_names: Iterable[str] = ()) -> None:
        """Begin to save a checkpoint as `save_checkpoint` does; every process calls it, at the same step, and rank 0 writes.

        It waits for the checkpoint before; where there is no memory for a copy of the state also for this one.

        Raises:
            FloatingPointError: a weight or the loss is not finite; nothing is written.
            RunFailed: this checkpoint or the one before could not be written.
        """
        if self.folder is None:
            return
        state = dict(self.constants)
        for part in (*self.parts, self.trainer):
            state |= part.state_dict()
        if self.ranks.main:
            self.thread.wait()  # before there is a second copy
            copied = snapshot(state)
            write = partial(save_checkpoint, folder=self.folder, extra_names=tuple(extra_names), keep_last=self.keep_last)
            if copied is None:
                write(state)
            else:
                self.thread.start(partial(write, copied))

    def finish(self) -> None:
        """Wait until what was saved is on the disk; every process calls it. RunFailed if it could not be written."""
        self.thread.wait()
        self.ranks.barrier()  # no process ends before the file is renamed

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.thread.wait()
        except Exception as error:
            if kind is None:
                raise
            print(f"warning: {first_line(message_of(error))}", file=sys.stderr)

    def after_step(self) -> None:
        """Stop after a signal; save every `every_steps`. Every process calls it after an optimizer step.

        Raises:
            RunFailed: an earlier checkpoint could not be written.
        """
        self.stop_if_requested()
        if self.every_steps and self.trainer.steps % self.every_steps == 0:
            self.save()

    def stop_if_requested(self) -> None:
        """Save, then raise Stopped in every process if one of them received a signal; called at a step boundary.

        Raises:
            RunFailed: an earlier checkpoint could not be written.
        """
        self.thread.check()
        if number := SIGNALS[self.ranks.max(SIGNALS.index(self.request.number or 0))]:
            self.save()
            self.finish()
            raise Stopped(number, f"stopped after step {self.trainer.steps}; {self.describe_last()}")

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Stop at a signal at once while the context is entered at a step boundary; several processes must agree, and do not.

        What is saved then has the random state of the boundary, whatever is drawn meanwhile (augmentation, crops of an epoch).
        """
        with contextlib.ExitStack() as stack:
            for part in self.parts:
                if isinstance(part, RandomState):
                    stack.enter_context(part.held())
            stack.enter_context(self.request.reacting(self.stop_if_requested if self.ranks.size == 1 else None))
            yield

    def describe_last(self) -> str:
        """Return a phrase that names the last checkpoint, once it is written, and how to resume from it."""
        self.thread.join()
        if self.folder is None or not (self.folder / LAST).exists():
            return "no checkpoint was saved"
        return f"the last checkpoint is {self.folder / LAST} (resume with --resume auto)"


def milestone_name(epoch: int) -> str:
    """Return the file name of the checkpoint that is kept of an epoch (counted from 0), as in DETR."""
    return f"checkpoint{epoch:04d}.pth"


def save_checkpoint(state: dict[str, Any], folder: Path, extra_names: Iterable[str] = (), keep_last: int = 1) -> Path:
    """Write `state` (which has `step`) atomically as the last checkpoint of `folder`; hard-link it under further names.

    With `keep_last` above 1 so many of the latest checkpoints are kept, as `checkpoint_step<step>.pth`. RunFailed if the folder
    cannot be written to, or the disk is full; earlier checkpoints are intact, then.
    """
    path = folder / LAST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "wb", durable=True) as file:
            torch.save(state, file)
        for name in [*extra_names, *([f"checkpoint_step{state['step']:08d}.pth"] if keep_last > 1 else [])]:
            with replacing(folder / name) as temporary:
                temporary.unlink()
                try:
                    os.link(path, temporary)
                except OSError:  # a file system without hard links
                    shutil.copyfile(path, temporary)
        if keep_last > 1:
            for old in sorted(folder.glob(f"checkpoint_step{'[0-9]' * 8}.pth"))[:-keep_last]:
                old.unlink()
        _sync(folder)
    except OSError as error:
        reason = error.strerror or error
        raise RunFailed(f"the checkpoint cannot be written to {folder} ({reason}); earlier ones are intact") from error
    return path


def find_checkpoint(resume: str, folder: Path | None, read: Read) -> tuple[str, dict[str, Any] | None]:
    """Return the path and the content of the checkpoint that `--resume` names, '' and None if there is none.

    Args:
        resume: a path, a URL, `auto` for the newest undamaged checkpoint of `folder`, or ''.
        folder: of the run; None if it writes nothing.
        read: reads a file.

    Raises:
        ValueError: there is no such file, it is damaged, or this run would overwrite an earlier one.
    """
    if resume == "auto":
        assert folder is not None
        path, content = newest_valid(folder, read) or ("", None)
        return str(path), content
    content = read(resume) if resume else None  # type: ignore[arg-type]
    if folder is not None and (folder / LAST).exists():
        _refuse_to_overwrite(resume, content, folder, read)
    return resume, content


def newest_valid(folder: Path, read: Read) -> tuple[Path, dict[str, Any]] | None:
    """Return the undamaged checkpoint of the latest step and its content, or None without any; ValueError if all are damaged.

    Files without a step, as INTR's, are the earliest. Not by time alone: a copy or a clock that was set back may give an earlier
    step a later time. Damaged files are named on stderr.
    """
    files = [file for file in folder.glob("checkpoint*.pth") if file.is_file()]
    keys = {}
    for file in files:
        try:
            step = _read_step(file, read)
            keys[file] = (step if isinstance(step, int) else -1, file.stat().st_mtime_ns, file.name == LAST)
        except ValueError as error:
            print(f"warning: {error}; skipped", file=sys.stderr)
    for file in sorted(keys, key=keys.__getitem__, reverse=True):
        try:
            return file, read(file)
        except ValueError as error:
            print(f"warning: {error}; skipped", file=sys.stderr)
    if files:
        raise ValueError(
            f"--resume auto: none of the {len(files)} checkpoints in {folder} can be read: remove them to start anew"
        )
    return None


def _read_step(file: Path, read: Read) -> Any:
    """Return the entry `step` of a checkpoint, without reading its tensors where the format allows that."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True).get("step")
    except Exception:  # another format than ours, or whatever a damaged file raises
        return read(file).get("step")


def is_same_run(resume: str, folder: Path | None) -> bool:
    """Return whether the resumed checkpoint is in the folder that is written to."""
    return bool(resume) and folder is not None and Path(resume).resolve().parent == folder.resolve()


def _refuse_to_overwrite(resume: str, content: dict[str, Any] | None, folder: Path, read: Read) -> None:
    """Raise a ValueError where this run would overwrite an earlier one, or later steps of its own."""
    if content is None or not is_same_run(resume, folder):
        raise ValueError(
            f"{folder / LAST} exists already: resume it with --resume auto, or choose another --output_sub_dir; "
            "nothing was overwritten"
        )
    if not os.path.samefile(resume, folder / LAST):
        last = read(folder / LAST)
        if (last.get("step") or 0) > (content.get("step") or 0):
            raise ValueError(
                f"--resume {resume} would overwrite the later epochs of {folder / LAST} (up to {(last.get('epoch') or 0) + 1}): "
                "choose another --output_sub_dir; nothing was overwritten"
            )


def _sync(folder: Path) -> None:
    """Flush the names of a folder's files to the disk (fsync)."""
    with contextlib.suppress(OSError):  # not every file system can open a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
