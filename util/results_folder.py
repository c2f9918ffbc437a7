"""Folders of results: tried and locked before the work, so that nothing is computed in vain or lands on another's work."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from .atomic import atomic_write, remove_temporary_files
from .cli import Flags
from .errors import DISK_FULL, RunFailed

LOCK = ".lock"
PATIENCE = 5.0  # seconds in which a requeued job's predecessor may end
CHECKPOINT = re.compile(r"""checkpoint"?:? "?([^";\n]+)""")  # in results.json, attribution.json and index.html
CHOOSE = "choose another folder (--output_dir)"


@contextlib.contextmanager
def results_folder(folder: Path | None, replaced: str = "") -> Iterator[None]:
    """Create a folder of results, lock it, and try to write to it; an error of writing to it later is a RunFailed.

    Temporary files that a killed process left are removed; so is a new folder that stays empty.

    Args:
        folder: None does nothing.
        replaced: a file of the results; if it exists, one line says that they will be replaced.

    Raises:
        ValueError: the folder cannot be written to, or another process writes to it.
    """
    if folder is None:
        yield
        return
    created: list[Path] = []
    handle = None
    try:
        try:
            created = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            handle = _acquire(folder)
            remove_temporary_files(folder)
            _try_writing(folder)
            if replaced:
                _announce_replaced(folder / replaced)
        except OSError as error:
            raise ValueError(f"--output_dir: {folder} cannot be written to ({error.strerror}): {CHOOSE}") from None
        try:
            yield
        except OSError as error:
            if error.errno not in DISK_FULL and not Path(str(error.filename)).is_relative_to(folder):
                raise
            raise RunFailed(f"{error.filename or folder} cannot be written ({error.strerror})") from error
    finally:
        with contextlib.suppress(OSError):
            if handle is not None:
                (folder / LOCK).unlink()  # before the lock is released: a process that waits for it creates a new file
                os.close(handle)
            for path in created:
                path.rmdir()


def check_space(folder: Path | None, size: int) -> None:
    """Raise a ValueError where the file system of a folder has no room for a checkpoint of `size` bytes."""
    if folder is None:
        return
    usage = shutil.disk_usage(folder)
    if usage.total and usage.free < size:  # some file systems do not know
        left, needed = (f"{count / 1e6:.0f} MB" for count in (usage.free, size))
        raise ValueError(f"--output_dir: {folder} has {left} left, a checkpoint needs about {needed}: make room, or {CHOOSE}")


def expand_job_id(args: Flags) -> Flags:
    """Replace %j in the folders of the results by the id of the job of SLURM; ValueError where there is none."""
    names = [name for name in ("output_dir", "output_sub_dir") if "%j" in getattr(args, name, "")]
    array = [os.environ.get(f"SLURM_ARRAY_{name}_ID", "") for name in ("JOB", "TASK")]
    job = "_".join(array) if all(array) else os.environ.get("SLURM_JOB_ID") or os.environ.get("SUBMITIT_LOCAL_JOB_ID")
    if names and not job:
        value = getattr(args, names[0])
        raise ValueError(f"--{names[0]} {value}: %j is the id of a job of SLURM, and this is none: leave it out")
    return args.replace(**{name: getattr(args, name).replace("%j", job) for name in names})


def is_typed(args: Flags) -> bool:
    """Return whether the command line says where the results go; else they go beside their checkpoint."""
    return not args.explicit.isdisjoint({"output_dir", "output_sub_dir"})


def folder_of_checkpoint(args: Flags) -> Path:
    """Return the folder of --resume, or one below --output_dir with its name where that is a URL or cannot be written to."""
    url = "://" in args.resume
    path = Path(urlparse(args.resume).path if url else args.resume)
    if not url and os.access(path.parent, os.W_OK):
        return path.parent
    return Path(args.output_dir, "-".join(part for part in path.with_suffix("").parts[-3:] if part not in ("/", "..")))


def results_beside_checkpoint(args: Flags, kind: str, saved: Mapping[str, Any]) -> Path:
    """Return the folder `<kind>_<split>` beside the checkpoint.

    Its name also says the data set, if that is not the one of the training (`saved` flags), and the file, if that is not
    `checkpoint.pth`.
    """
    other_data = args.dataset_name != saved.get("dataset_name", args.dataset_name)
    data = [re.sub(r"[^\w.-]+", "-", args.dataset_name)] * other_data
    file = [Path(urlparse(args.resume).path).stem]
    return folder_of_checkpoint(args) / "_".join([kind, args.test, *data, *(file if file != ["checkpoint"] else [])])


def _try_writing(folder: Path) -> None:
    """Write a file as results are written, and remove it (OSError)."""
    trial = folder / ".trial"
    with atomic_write(trial, "wb", durable=True) as file:
        file.write(bytes(2**16))
    trial.unlink()


def _announce_replaced(file: Path) -> None:
    """Print that the results of which `file` is a part will be replaced, and the checkpoint that it names."""
    if file.exists():
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(file.stat().st_mtime))
        found = CHECKPOINT.search(file.read_text(encoding="utf-8", errors="replace"))
        print(f"the results of {when}{f' of {found[1]}' if found else ''} in {file.parent} will be replaced", flush=True)


def _acquire(folder: Path) -> int:
    """Lock the file `.lock` of a folder and return its handle; the lock ends with the process, however that ends.

    Raises:
        ValueError: another process holds the lock; the file says which.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            holder = _lock(handle)
            with contextlib.suppress(FileNotFoundError):  # the last holder removed the file after it was opened here
                if holder is None and os.path.samestat(os.fstat(handle), os.stat(folder / LOCK)):
                    return handle
            if holder is not None and time.monotonic() > deadline:
                raise ValueError(f"{folder} is in use by {holder}: wait for it, end it, or {CHOOSE}; nothing was overwritten")
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        time.sleep(0.2)


def _lock(handle: int) -> str | None:
    """Lock an open file, and write into it who holds it; return None, or what is known of the process that holds it already.

    Where the file system has no locks (Lustre without `flock`), the text alone decides.
    """
    own = {"host": socket.gethostname(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}
    own |= {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "command": shlex.join(sys.argv)[:200]}
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        has_locks = True
    except (BlockingIOError, PermissionError):
        return _describe(_read(handle))
    except OSError:
        has_locks = False
        if _may_run(holder := _read(handle), own):
            return f"{_describe(holder)} (remove {LOCK} there if it no longer runs)"
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(own).encode(), 0)
    except OSError:
        if not has_locks:
            raise
    if has_locks:
        return None
    time.sleep(0.5)  # of two that start at once, the one that wrote last has it
    return None if (holder := _read(handle)) == own else _describe(holder)


def _read(handle: int) -> dict[str, Any]:
    try:
        return dict(json.loads(os.pread(handle, 10_000, 0)))
    except (ValueError, TypeError):  # another process is about to write it
        return {}


def _describe(holder: dict[str, Any]) -> str:
    known = "process {pid} on {host}, since {since} ({command})"
    return known.format_map(holder) if holder.keys() >= {"pid", "host", "since", "command"} else "another process"


def _may_run(holder: dict[str, Any], own: dict[str, Any]) -> bool:
    """Return whether the process that wrote a lock's text may still run: not if its job was requeued, or its host has no such."""
    if not holder or (holder.get("pid"), holder.get("host")) == (own["pid"], own["host"]):
        return False
    if holder.get("host") != own["host"]:
        return own["job"] is None or holder.get("job") != own["job"]
    try:
        os.kill(int(holder["pid"]), 0)
    except PermissionError:
        return True
    except (OSError, LookupError, TypeError, ValueError):
        return False
    return True
