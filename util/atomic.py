"""Atomic writes of files and folders: after a crash at any moment there is the old content, or the whole new one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside `path`; rename it to `path` on success, delete it after an error (OSError)."""
    # Not tempfile: its files are private, and not every file system can change the mode of a file. Names have a limit (eCryptfs:
    # 143 bytes).
    temporary = path.with_name(f".{path.name[:30]}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # a failed write names no file
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w", *, durable: bool = False) -> Iterator[IO[Any]]:
    """Open a file, in an existing folder, so that its new content appears in one step, or not at all after an error (OSError).

    Args:
        path: the file.
        mode: `w` (UTF-8, line ends as they are written, escapes in place of what is no UTF-8) or `wb`.
        durable: flush the bytes to the disk (fsync) before the rename, where the file system can.
    """
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with replacing(path) as temporary:
        try:
            with open(temporary, mode, **text) as file:
                yield file
                if durable:
                    file.flush()
                    _fsync(file.fileno())
        except RuntimeError as error:  # torch's writer, on an error of the file
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote; the folder must be locked."""
    for file in folder.glob(f".*.{'[0-9a-f]' * 8}.tmp"):
        with contextlib.suppress(OSError):
            file.unlink()


def _fsync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `path`, whose parents are created; rename it to `path` on success, delete it otherwise.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; FileExistsError: `path` exists and is not an empty folder.
    """
    draft = path.parent / f".{path.name}.{os.getpid()}.unfinished"
    draft.mkdir(parents=True)
    try:
        yield draft
        try:
            draft.rename(path)
        except OSError:
            raise FileExistsError(errno.EEXIST, "was created in the meantime: it was not overwritten", str(path)) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def replace_folder(path: Path, own: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `path` that takes its place on success, and is deleted otherwise.

    Args:
        path: may exist, as an empty folder, or as one that an earlier run wrote.
        own: a file, relative to the folder, by which one of an earlier run is recognised.

    Raises:
        ValueError: `path` exists and is something else, which is not overwritten, or it cannot be written to.
        OSError: the disk is full.
    """
    if path.exists() and not (path / own).exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and holds something else, which is not overwritten: choose another folder")
    with contextlib.ExitStack() as stack:
        draft = path.parent / f".{path.name}.{os.getpid()}.unfinished"
        stack.callback(shutil.rmtree, draft, ignore_errors=True)
        try:
            draft.mkdir(parents=True)
        except OSError as error:
            raise ValueError(f"{path} cannot be written ({error.strerror}): choose another folder") from None
        yield draft
        old = path.parent / f".{path.name}.{os.getpid()}.old"
        if path.exists():
            path.rename(old)
            stack.callback(shutil.rmtree, old, ignore_errors=True)
        draft.rename(path)
