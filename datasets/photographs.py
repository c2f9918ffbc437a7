"""Photographs that a command line names, without labels; one that cannot be read does not stop the others."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from datasets.batch import ImageBatch, collate
from datasets.decode import Decoding, current_decoding, decode_image, image_size
from datasets.folders import LeftOut, images_below
from datasets.samplers import EvalSampler
from datasets.transforms import EvalTransform
from datasets.workers import Loader
from util.errors import ImageError


class Photograph(NamedTuple):
    """One photograph of a batch; `original` uint8 `[3, H, W]` if it was asked for."""

    place: int  # in the list
    input: Tensor  # uint8 [3, h, w], after the transform
    original: Tensor | None


class Batch(NamedTuple):
    """Photographs of one shape, and the messages of those of the same batch that cannot be read, by their place."""

    images: ImageBatch | None  # None where no photograph of the batch can be read
    photographs: list[Photograph]
    errors: dict[int, str]


def find_photographs(words: Iterable[str], names: Iterable[str] = ()) -> list[Path]:
    """Return the files that words name: files, folders (all images below), globs, and `-` for the lines of `names`.

    A file is taken whatever its name; one that is named twice counts once. What is left out of a folder is printed.

    Raises:
        ValueError: a word names nothing, or there is no image in a folder.
    """
    found: dict[Path, None] = {}
    for word in words:
        left_out = LeftOut(Path(word))
        if word == "-":
            files = [Path(line) for name in names if (line := name.rstrip("\r\n"))]
        elif os.path.isdir(word):
            files = [Path(path) for path in sorted(images_below(word, left_out))]
        elif os.path.lexists(word):
            files = [Path(word)]
        else:
            files = [Path(path) for path in sorted(glob.glob(word, recursive=True)) if os.path.isfile(path)]
        if not files:
            empty = f"no image in it{f' (left out are {left_out})' if left_out.names else ''}"
            what = "no name on standard input" if word == "-" else empty if os.path.isdir(word) else "no such file"
            raise ValueError(f"{word}: {what}: name photographs, folders of them, or a pattern such as 'photos/*.jpg'")
        if left_out.names:
            print(f"{word}: left out are {left_out}")
        found |= dict.fromkeys(files)
    return list(found)


def photograph_batches(
    paths: Sequence[Path],
    transform: EvalTransform,
    batch_size: int,
    workers: int,
    originals: bool = False,
    decoding: Decoding | None = None,
) -> Iterator[Batch]:
    """Yield the photographs in batches of one shape, so that no photograph changes the score of another."""
    decoding = decoding or current_decoding()
    shapes: list[tuple[int, int]] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        shapes = list(pool.map(lambda path: _shape(path, transform, decoding), paths))
    yield from Loader(
        _Photographs(paths, transform, originals, decoding),
        batch_sampler=EvalSampler(len(paths), batch_size, shapes=shapes),
        collate_fn=_collate,
        num_workers=min(workers, -(-len(paths) // batch_size)),
    )


class _Photographs(Dataset[tuple[int, "Photograph | str"]]):
    def __init__(self, paths: Sequence[Path], transform: Callable[[Tensor], Tensor], originals: bool, decoding: Decoding) -> None:
        self.paths, self.transform, self.originals, self.decoding = paths, transform, originals, decoding

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[int, Photograph | str]:
        try:
            original = decode_image(self.paths[place], self.decoding)
        except ImageError as error:
            return place, str(error)
        return place, Photograph(place, self.transform(original), original if self.originals else None)


def _shape(path: Path, transform: EvalTransform, decoding: Decoding) -> tuple[int, int]:
    """Return the shape of a photograph as it is scored; any, where it cannot be read: that is found out when it is decoded."""
    try:
        return transform.output_size(1, 1) if transform.square else transform.output_size(*image_size(path, decoding))
    except ImageError:
        return (1, 1)


def _collate(samples: list[tuple[int, Photograph | str]]) -> Batch:
    photographs = [photograph for _, photograph in samples if not isinstance(photograph, str)]
    errors = {place: message for place, message in samples if isinstance(message, str)}
    images = collate([(photograph.input, 0, photograph.place) for photograph in photographs]) if photographs else None
    return Batch(images, photographs, errors)
