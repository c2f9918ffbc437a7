"""Near-duplicates: pictures of which one is the other, saved, resized or cropped a little differently, by perceptual hashes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from util.progress import Progress

SIDE = 32  # of the thumbnails whose low frequencies are hashed
BITS = 63  # of a hash
LEVELS = 12  # that the colours of near-duplicates differ by, on average of an 8 x 8 thumbnail


class Looks(NamedTuple):
    """What near-duplicates have in common: hash bits bool `[N, BITS]`, and colours uint8 `[N, 192]` of 8 x 8 thumbnails."""

    bits: np.ndarray
    colours: np.ndarray


def measure_looks(paths: Sequence[Path], workers: int = 4) -> Looks:
    """Decode all pictures as thumbnails, and hash them.

    Raises:
        ImageError: a picture cannot be read.
    """
    bits = np.zeros((len(paths), BITS), dtype=bool)
    colours = np.zeros((len(paths), 8 * 8 * 3), dtype=np.uint8)
    pool = ThreadPoolExecutor(workers)
    try:
        with Progress(len(paths), "comparing pictures") as line:
            for index, (hashed, thumbnail) in enumerate(pool.map(_look, paths)):
                bits[index], colours[index] = hashed, thumbnail
                line.step()
    finally:
        pool.shutdown(cancel_futures=True)
    return Looks(bits, colours)


def _look(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the perceptual hash (Zauner 2010: signs of the low frequencies about their median), and the colours."""
    from datasets.decode import decode_thumbnail  # with torch, which the command line does not wait for

    pixels = np.ascontiguousarray(decode_thumbnail(path, SIDE).permute(1, 2, 0).numpy())  # [SIDE, SIDE, 3]
    frequencies = cv2.dct(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32))[:8, :8].ravel()[1:]
    return frequencies > np.median(frequencies), cv2.resize(pixels, (8, 8), interpolation=cv2.INTER_AREA).ravel()


def near_duplicates(looks: Looks, distance: int) -> list[tuple[int, int]]:
    """Return the pairs (i < j) whose hashes differ in at most `distance` bits, and whose colours are alike."""
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    bands = np.array_split(np.arange(BITS), distance + 1)  # two hashes that differ in fewer bits than bands agree in a band
    for band, columns in enumerate(bands):
        for index, key in enumerate(np.packbits(looks.bits[:, columns], axis=1)):
            buckets[band, key.tobytes()].append(index)
    pairs: set[tuple[int, int]] = set()
    for members in buckets.values():
        for place, index in enumerate(members[:-1]):
            others = np.array(members[place + 1 :])
            others = others[(looks.bits[others] != looks.bits[index]).sum(1) <= distance]
            if len(others):
                differences = np.abs(looks.colours[others].astype(int) - looks.colours[index]).mean(1)
                pairs.update((index, int(other)) for other in others[differences <= LEVELS])
    return sorted(pairs)
