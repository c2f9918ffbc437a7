"""Every file is checked before the first epoch, so that a broken one is not found after hours."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datasets.decode import check_image
from util.progress import Progress

SHOWN = 20  # bad files listed in the error
CHUNK = 16  # files per task


def verify_images(
    paths: Sequence[str | os.PathLike[str]],
    *,
    workers: int = 2,
    cache: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Checks that every file is a whole image.

    Args:
        paths: image files.
        workers: threads that check.
        cache: remember success in `${XDG_CACHE_HOME:-~/.cache}/icn/verified`, by path, size and time of change of
            every file, so that a second run only looks at those.
        progress: called with (files done, files in all), besides the line on stderr that appears if it takes a while.

    Raises:
        ValueError: some files cannot be used; the first line stands alone, the next ones list up to 20 files.
    """
    mark = _mark(paths) if cache else None
    if mark is not None and mark.exists():
        return
    bad = []
    with Progress(len(paths), "checking images") as line:
        for errors, count in _check_all(paths, max(1, workers)):
            bad += errors
            line.step(count)
            if progress is not None:
                progress(line.done, len(paths))
    if bad:
        first = bad[0] if len(bad) == 1 else f"the first: {bad[0]}"
        lines = [f"{len(bad)} of {len(paths)} images cannot be used; {first}"]
        if len(bad) > 1:
            lines += [f"  {line}" for line in bad[:SHOWN]]
        if len(bad) > SHOWN:
            lines.append(f"  and {len(bad) - SHOWN} more")
        raise ValueError("\n".join(lines))
    if mark is not None:
        _remember(mark)


def _check_all(paths: Sequence[str | os.PathLike[str]], workers: int) -> Iterator[tuple[list[str], int]]:
    """Errors and number of files of one chunk after the other, in order."""
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


def _mark(paths: Sequence[str | os.PathLike[str]]) -> Path | None:
    """The file whose existence says that exactly these files were found whole; None if there can be none."""
    digest = hashlib.sha256()
    try:
        for path in sorted(os.path.abspath(path) for path in paths):
            status = os.stat(path)
            digest.update(os.fsencode(path) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except (OSError, RuntimeError):  # a file that cannot be looked at; a user without a home
        return None
    return Path(home) / "icn" / "verified" / digest.hexdigest()


def _remember(mark: Path) -> None:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:  # read-only home: the next run checks again
        return
