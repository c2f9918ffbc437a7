"""Verification of image files before the first epoch, so that a broken one does not end a run after hours."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datasets.decode import check_image
from util.progress import Progress

SHOWN = 20  # bad files listed in the error
CHUNK = 16  # files per task


def verify_images(paths: Sequence[str | os.PathLike[str]], *, workers: int = 2) -> None:
    """Check that every file is a whole image.

    Success is cached in `${XDG_CACHE_HOME:-~/.cache}/icn/verified`, by path, size and modification time of every file, so
    that a second run reads only those.

    Args:
        paths: image files.
        workers: threads that check.

    Raises:
        ValueError: some files cannot be used; the first line stands alone, the next ones list up to 20 files.
    """
    marker = _marker(paths)
    if marker is not None and marker.exists():
        return
    bad = []
    with Progress(len(paths), "checking images") as line:
        for errors, count in _check_all(paths, max(1, workers)):
            bad += errors
            line.step(count)
    if bad:
        first = bad[0] if len(bad) == 1 else f"the first: {bad[0]}"
        lines = [f"{len(bad)} of {len(paths)} images cannot be used; {first}"]
        if len(bad) > 1:
            lines += [f"  {line}" for line in bad[:SHOWN]]
        if len(bad) > SHOWN:
            lines.append(f"  and {len(bad) - SHOWN} more")
        raise ValueError("\n".join(lines))
    if marker is not None:
        _touch(marker)


def _check_all(paths: Sequence[str | os.PathLike[str]], workers: int) -> Iterator[tuple[list[str], int]]:
    """Yield errors and number of files of each chunk, in order."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(_check_chunk, chunks)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for the queue


def _check_chunk(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[str], int]:
    errors = []
    for path in paths:
        try:
            check_image(path)
        except ValueError as error:
            errors.append(str(error))
    return errors, len(paths)


def _marker(paths: Sequence[str | os.PathLike[str]]) -> Path | None:
    """Return the file whose existence says that these very files are whole; None if there can be none."""
    digest = hashlib.sha256()
    try:
        for path in sorted(os.path.abspath(path) for path in paths):
            status = os.stat(path)
            digest.update(os.fsencode(path) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except (OSError, RuntimeError):  # a file without permissions; a user without a home
        return None
    return Path(home) / "icn" / "verified" / digest.hexdigest()


def _touch(marker: Path) -> None:
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError:  # read-only home: the next run checks again
        return
