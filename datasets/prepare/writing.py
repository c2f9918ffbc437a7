"""Writing an image folder, whole or not at all, by one or several processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from util.progress import Progress

if TYPE_CHECKING:
    from util.distributed import Ranks

CHUNK = 64  # pictures per task

Picture = tuple[str, np.ndarray]  # path below the data set's folder, uint8 [H, W] or BGR [H, W, 3]


def write_dataset(target: Path, pictures: Sequence[Picture], ranks: Ranks) -> None:
    """Write all pictures as PNG, or nothing: they go to a hidden folder beside `target` that is renamed at the end."""
    partial = target.with_name(f".{target.name}.partial-{ranks.broadcast(os.getpid())}")
    chunks = [pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK)]
    pool = ThreadPoolExecutor(2)

    def write_chunks() -> Iterator[int]:
        yield from pool.map(lambda chunk: write_pngs(partial, chunk), chunks[ranks.rank :: ranks.size])

    try:
        for folder in {os.path.dirname(name) for name, _ in pictures}:
            (partial / folder).mkdir(parents=True, exist_ok=True)
        with Progress(len(pictures), f"writing {target.name}") as line:
            for count in ranks.gather_in_order(write_chunks()):
                line.step(count)
        if ranks.main:
            partial.rename(target)
        ranks.barrier()
    finally:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(partial, ignore_errors=True)
    print(f"written: {target}, {len(pictures)} images")


def write_pngs(folder: Path, pictures: Sequence[Picture]) -> int:
    for name, image in pictures:
        encoded, png = cv2.imencode(".png", image)
        assert encoded, name
        (folder / name).write_bytes(png.tobytes())
    return len(pictures)
