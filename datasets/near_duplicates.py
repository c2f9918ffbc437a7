"""Duplicates: equal files, and near-duplicates: one picture is the other, saved, resized or cropped a little differently.

Near-duplicates have perceptual hashes that differ in few bits, and colours that are alike.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from util.progress import Progress

SIDE = 32  # of the thumbnails whose low frequencies are hashed
BITS = 63  # of a hash
LEVELS = 12  # that the colours of near-duplicates differ by, on average of an 8 x 8 thumbnail
ROWS, COLUMNS = 1024, 8192  # pictures that are compared with each other at once
CHUNK = 2**15  # pairs whose colours are compared at once
MOST = 5_000_000  # pairs that are returned as a list


class Looks(NamedTuple):
    """What near-duplicates have in common: hash bits bool `[N, BITS]`, and colours uint8 `[N, 192]` of 8 x 8 thumbnails."""

    bits: np.ndarray
    colours: np.ndarray


class Alike(NamedTuple):
    """Pairs of near-duplicates: indices `first` < `second` `[P]`, bits that their hashes, levels that their colours differ by."""

    first: np.ndarray
    second: np.ndarray
    bits: np.ndarray
    levels: np.ndarray


def measure_looks(paths: Sequence[Path], workers: int = 4) -> Looks:
    """Decode all pictures as thumbnails, and hash them.

    Raises:
        ImageError: a picture cannot be read.
    """
    pool = ThreadPoolExecutor(workers)
    looks = []
    try:
        with Progress(len(paths), "reading pictures") as line:
            for look in pool.map(look_of, paths):
                looks.append(look)
                line.step()
    finally:
        pool.shutdown(cancel_futures=True)
    return stack_looks(looks)


def look_of(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the perceptual hash (Zauner 2010: signs of the low frequencies about their median), and the colours."""
    from datasets.decode import decode_thumbnail  # with torch, which the command line does not wait for

    pixels = np.ascontiguousarray(decode_thumbnail(path, SIDE).permute(1, 2, 0).numpy())  # [SIDE, SIDE, 3]
    frequencies = cv2.dct(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32))[:8, :8].ravel()[1:]
    return frequencies > np.median(frequencies), cv2.resize(pixels, (8, 8), interpolation=cv2.INTER_AREA).ravel()


def stack_looks(looks: Sequence[tuple[np.ndarray, np.ndarray]]) -> Looks:
    """Return the looks of several pictures as arrays."""
    bits, colours = np.zeros((len(looks), BITS), dtype=bool), np.zeros((len(looks), 8 * 8 * 3), dtype=np.uint8)
    for index, look in enumerate(looks):
        bits[index], colours[index] = look
    return Looks(bits, colours)


def find_alike(looks: Looks, distance: int) -> Iterator[Alike]:
    """Yield the pairs whose hashes differ in at most `distance` bits, and whose colours are alike, some at a time.

    Every picture is compared with every other: how many bits two hashes share follows from the product of their signs, a matrix
    product in blocks. The time is quadratic, on one core about 10 s for 50,000 pictures; memory does not grow with the pairs.
    """
    signs = np.where(looks.bits, np.float32(1), np.float32(-1))
    count = len(signs)
    with Progress(count, "comparing pictures", work=count * (count + ROWS) / 2) as line:
        for top in range(0, count, ROWS):
            rows = signs[top : top + ROWS]
            for left in range(top, count, COLUMNS):
                columns = signs[left : left + COLUMNS]
                first, second = np.nonzero(rows @ columns.T >= BITS - 2 * distance)
                later = second + left > first + top
                first, second = first[later] + top, second[later] + left
                for start in range(0, len(first), CHUNK):
                    yield _of_like_colours(looks, first[start : start + CHUNK], second[start : start + CHUNK])
                    line.step(0)
                line.step(0, work=len(rows) * len(columns))
            line.step(len(rows))


def _of_like_colours(looks: Looks, first: np.ndarray, second: np.ndarray) -> Alike:
    levels = np.abs(looks.colours[first].astype(np.int16) - looks.colours[second]).mean(1)
    alike = levels <= LEVELS
    first, second = first[alike], second[alike]
    return Alike(first, second, (looks.bits[first] != looks.bits[second]).sum(1), levels[alike])


def near_duplicates(looks: Looks, distance: int) -> list[tuple[int, int]]:
    """Return the pairs (i < j) whose hashes differ in at most `distance` bits, and whose colours are alike, sorted.

    Raises:
        ValueError: there are more than five million.
    """
    pairs: list[tuple[int, int]] = []
    for alike in find_alike(looks, distance):
        pairs += zip(alike.first.tolist(), alike.second.tolist(), strict=True)
        if len(pairs) > MOST:
            raise ValueError(
                f"more than {MOST:,} pairs of the {len(looks.bits):,} pictures look alike: remove duplicates, or compare them by "
                f"fewer bits than {distance}"
            )
    return sorted(pairs)


def identical_files(paths: Sequence[Path]) -> list[list[int]]:
    """Return the groups of files of the same bytes, by their indices; only files of the same size are read.

    Raises:
        OSError: a file cannot be read.
    """
    sizes: dict[int, list[int]] = defaultdict(list)
    for index, path in enumerate(paths):
        sizes[path.stat().st_size].append(index)
    candidates = [index for group in sizes.values() if len(group) > 1 for index in group]
    known: dict[bytes, list[int]] = defaultdict(list)
    with Progress(len(candidates), "comparing files") as line:
        for index in candidates:
            known[blake2b(paths[index].read_bytes()).digest()].append(index)
            line.step()
    return sorted(group for group in known.values() if len(group) > 1)
