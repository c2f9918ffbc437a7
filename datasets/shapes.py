"""Image sizes after the eval transform, from the headers of the files: for batches without padding."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datasets.decode import image_size
from datasets.image_folder import ImageFolder
from datasets.transforms import AspectEval, SquareEval
from util.progress import Progress

CHUNK = 64  # files per task


def eval_shapes(dataset: ImageFolder, workers: int = 4) -> list[tuple[int, int]]:
    """Return (height, width) of each image of `dataset` after its transform, in the order of the data set.

    No picture is decoded, and no file opened where the transform gives all one size. A line on stderr shows the progress if
    it takes a while.

    Args:
        dataset: its transform is one of `eval_transform`.
        workers: threads that read.

    Raises:
        ImageError: (a ValueError) as `image_size`, for the first file of the data set that cannot be used.
    """
    transform = dataset.transform
    if isinstance(transform, SquareEval):
        return [transform.output_size(1, 1)] * len(dataset)
    assert isinstance(transform, AspectEval), "only the output size of eval transforms follows from the header"
    chunks = [dataset.paths[start : start + CHUNK] for start in range(0, len(dataset), CHUNK)]
    shapes = []
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        with Progress(len(dataset), "reading image sizes") as line:
            for sizes in pool.map(_sizes, chunks):
                shapes += [transform.output_size(*size) for size in sizes]
                line.step(len(sizes))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C and a broken file do not wait for the queue
    return shapes


def _sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    return [image_size(path) for path in paths]
