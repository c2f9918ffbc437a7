"""Files and folders that a command line names for its output: tried before the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def check_output_file(flag: str, path: Path, suffixes: Sequence[str] = ()) -> None:
    """Raise a ValueError where `flag` names a file that cannot be written, or, given `suffixes`, of none of these kinds."""
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{flag} {path}: give a file that ends in {', '.join(suffixes)}")
    if path.is_dir():
        raise ValueError(f"{flag} {path} is a folder: give a file in it")
    if not path.parent.is_dir():
        raise ValueError(f"{flag} {path} cannot be written: the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{flag} {path} cannot be written: the folder {path.parent} is read-only; choose another")


def make_output_folder(flag: str, folder: Path) -> None:
    """Create the folder that `flag` names, and its parents; a ValueError where that is not possible."""
    with writing_to(flag, folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(None, "it is read-only")


@contextmanager
def writing_to(flag: str, folder: Path) -> Iterator[None]:
    """Raise a ValueError where the folder that `flag` names cannot be written to."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{flag} {folder} cannot be written ({error.strerror}): choose another folder") from None
