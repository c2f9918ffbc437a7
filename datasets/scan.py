"""Reading all files of a data set in threads: sizes after the eval transform, and verification before the first epoch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from datasets.decode import check_image, image_size
from datasets.image_folder import ImageFolder
from datasets.transforms import EvalTransform
from util.progress import Progress

SHOWN = 20  # bad files listed in the error

T = TypeVar("T")


def eval_shapes(dataset: ImageFolder, workers: int = 4) -> list[tuple[int, int]]:
    """Return (height, width) of each image after the data set's eval transform, read from the headers by `workers` threads.

    No file is opened where the transform gives all one size.

    Raises:
        ImageError: (a ValueError) as `image_size`, for the first file that cannot be used.
    """
    transform = dataset.transform
    assert isinstance(transform, EvalTransform), "only the output size of eval transforms follows from the header"
    if transform.square:
        return [transform.output_size(1, 1)] * len(dataset)
    sizes = _map_files(image_size, dataset.paths, workers, 64, "reading image sizes")
    return [transform.output_size(*size) for size in sizes]


def verify_images(paths: Sequence[str | os.PathLike[str]], *, workers: int = 2) -> None:
    """Check by `workers` threads that every file is a whole image, so that a broken one does not end a run after hours.

    Success is cached in `${XDG_CACHE_HOME:-~/.cache}/icn/verified`, by path, size and modification time of every file, so
    that a second run reads only those.

    Raises:
        ValueError: some files cannot be used; the first line stands alone, the next ones list up to 20 files.
    """
    marker = _marker(paths)
    if marker is not None and marker.exists():
        return
    bad = [error for error in _map_files(_error, paths, workers, 16, "checking images") if error]
    if bad:
        first = bad[0] if len(bad) == 1 else f"the first: {bad[0]}"
        lines = [f"{len(bad)} of {len(paths)} images cannot be used; {first}"]
        if len(bad) > 1:
            lines += [f"  {line}" for line in bad[:SHOWN]]
        if len(bad) > SHOWN:
            lines.append(f"  and {len(bad) - SHOWN} more")
        raise ValueError("\n".join(lines))
    if marker is not None:
        with suppress(OSError):  # read-only home: the next run checks again
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()


def _map_files(
    read: Callable[[str | os.PathLike[str]], T], paths: Sequence[str | os.PathLike[str]], workers: int, chunk: int, label: str
) -> Iterator[T]:
    """Yield what `read` returns for each file, in order; threads take `chunk` files at a time."""
    chunks = [paths[start : start + chunk] for start in range(0, len(paths), chunk)]
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        with Progress(len(paths), label) as line:
            for results in pool.map(lambda files: [read(path) for path in files], chunks):
                line.step(len(results))
                yield from results
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C and a broken file do not wait for the queue


def _error(path: str | os.PathLike[str]) -> str | None:
    try:
        check_image(path)
    except ValueError as error:
        return str(error)
    return None


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
