"""Reading all files of a data set in threads: sizes after the eval transform, and verification before the first epoch."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from datasets import jpeg
from datasets.decode import Decoding, Finding, check_image, current_decoding, image_size
from datasets.image_folder import ImageFolder
from datasets.transforms import EvalTransform
from util.atomic import atomic_write
from util.printable import quoted
from util.progress import Progress

SHOWN = 20  # bad files listed in the error
CHECKS = 2  # to be raised with each new check: files are then read again
CAMERA_BITS = (10, 12, 14)

S = TypeVar("S")
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
    return [transform.output_size(*size) for size in image_sizes(dataset, dataset.paths, workers)]


def image_sizes(dataset: ImageFolder, paths: Sequence[Path], workers: int = 4) -> list[tuple[int, int]]:
    """Return (height, width) of the files `paths` of a data set, read from their headers; ImageError as `eval_shapes`."""
    return list(map_files(lambda path: image_size(path, dataset.decoding), paths, workers, 64, "reading image sizes"))


def verify_images(paths: Sequence[str | os.PathLike[str]], *, workers: int = 2) -> None:
    """Check by `workers` threads that every file is a whole image, so that a broken one does not end a run after hours.

    What is odd about files that can be used is said in a line for each kind, on stderr. Success is cached in
    `${XDG_CACHE_HOME:-~/.cache}/icn/verified`, by path, size and modification time of every file, together with these lines.

    Raises:
        ValueError: some files cannot be used; the first line stands alone, the next ones list up to 20 files.
    """
    decoding = current_decoding()
    marker = _marker(paths, decoding)
    if marker is not None and marker.exists():
        sys.stderr.write(marker.read_text(encoding="utf-8"))
        return
    results = check_images(paths, workers)
    bad = [result for result in results if isinstance(result, str)]
    if bad:
        raise ValueError(list_bad(bad, len(paths), "images cannot be used"))
    notes = "".join(f"warning: {line}\n" for line in describe_findings(paths, results, decoding.bit_depth))
    sys.stderr.write(notes)
    if marker is not None:
        with suppress(OSError):  # read-only home: the next run checks again
            marker.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(marker) as file:
                file.write(notes)


def check_images(paths: Sequence[str | os.PathLike[str]], workers: int) -> list[Finding | str]:
    """Return for each file what is odd about it, or why it cannot be used; `workers` threads read."""
    decoding = current_decoding()
    return list(map_files(lambda path: _check(path, decoding), paths, workers, 16, "checking images"))


def list_bad(bad: Sequence[str], total: int, what: str) -> str:
    """Return a message about files that are bad: a first line that stands alone, and up to 20 lines, one for each."""
    first = bad[0] if len(bad) == 1 else f"the first: {bad[0]}"
    lines = [f"{len(bad)} of {total} {what}; {first}"]
    if len(bad) > 1:
        lines += [f"  {line}" for line in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"  and {len(bad) - SHOWN} more")
    return "\n".join(lines)


def describe_findings(paths: Sequence[str | os.PathLike[str]], results: Sequence[Finding | str], bit_depth: int) -> Iterator[str]:
    """Yield a line for each kind of oddity, with the first files that have it; results that are no Finding do not count."""
    odd, peaks = defaultdict(list), {}
    for path, result in zip(paths, results, strict=True):
        if isinstance(result, Finding) and result.note:
            odd[result.note].append(os.fspath(path))
        if isinstance(result, Finding) and result.peak is not None:
            peaks[os.fspath(path)] = result.peak
    for note, files in odd.items():
        yield f"{len(files)} of {len(paths)} images: {note}: {quoted(files)}"
    if jpeg.simplejpeg is None:
        yield "simplejpeg is not installed: JPEGs are read slowly, and damaged ones are not recognised (pip install simplejpeg)"
    bits = max(peaks.values(), default=0).bit_length()
    if bit_depth == 16 and 0 < bits <= CAMERA_BITS[-1]:
        likely = next(depth for depth in CAMERA_BITS if depth >= bits)
        yield (
            f"{len(peaks)} of {len(paths)} images store 16 bits, but no value of more than {bits}: they are read as almost black "
            f"pictures; if these are values of {likely} bits, give --bit_depth {likely}: {quoted(list(peaks))}"
        )


def map_files(read: Callable[[S], T], paths: Sequence[S], workers: int, chunk: int, label: str) -> Iterator[T]:
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


def _check(path: str | os.PathLike[str], decoding: Decoding) -> Finding | str:
    """Return what is odd about a file, or why it cannot be used."""
    try:
        return check_image(path, decoding)
    except ValueError as error:
        return str(error)


def _marker(paths: Sequence[str | os.PathLike[str]], decoding: Decoding) -> Path | None:
    """Return the file whose existence says that these very files are whole; None if there can be none."""
    digest = hashlib.sha256(f"{CHECKS} {decoding} {jpeg.simplejpeg is None}".encode())
    try:
        for path in sorted(os.path.abspath(path) for path in paths):
            status = os.stat(path)
            digest.update(os.fsencode(path) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except (OSError, RuntimeError):  # a file without permissions; a user without a home
        return None
    return Path(home) / "icn" / "verified" / digest.hexdigest()
