"""Oxford-IIIT Pets (Parkhi et al. 2012): 37 breeds of cats and dogs, with trimaps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial as bind
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.prepare.archives import Source, inside
from datasets.prepare.photos import PARTIAL, About, Photo, prepare_photos
from datasets.prepare.tables import read_rows

if TYPE_CHECKING:
    from util.distributed import Ranks

ABOUT = About(
    title="Oxford-IIIT Pets",
    url="https://www.robots.ox.ac.uk/~vgg/data/pets/",
    licence="CC BY-SA 4.0; the photographers retain the copyright of their pictures.",
    split="official: train is trainval.txt, val is test.txt",
    official={"train": (3680, 37), "val": (3669, 37)},
)
SPLITS = {"train": "trainval.txt", "val": "test.txt"}
ANIMAL = 1  # in a trimap: 2 is the background, 3 the boundary, which is not the animal's here

HELP = "7,349 photographs of 37 breeds of cats and dogs (Parkhi et al. 2012)"
DESCRIPTION = (
    "Oxford-IIIT Pets from images.tar.gz and annotations.tar.gz, unpacked or not. `train` is the official trainval, `val` the "
    "test. The trimaps become masks in <name>/masks: the animal without its boundary."
)
SOURCE_HELP = "folder that holds these archives or their files"
FLAGS: dict[str, dict[str, Any]] = {"source": {"type": Path, "required": True, "help": SOURCE_HELP}, "partial": PARTIAL}


def prepare(target: Path, ranks: Ranks, *, source: Path, partial: bool) -> None:
    """Write Oxford-IIIT Pets as the image folder `target`; raises as `prepare_photos`."""
    prepare_photos(target, ranks, ABOUT, source, lambda files: list(_read(files)), {"partial": partial})


def _read(files: Source) -> Iterator[Photo]:
    folder = files.find("images/", "images.t*")
    trimaps = files.find("trimaps/", "annotations.t*")
    for split, list_name in SPLITS.items():
        for name, *_ in read_rows(files.find(list_name, "annotations.t*"), 4):
            trimap = inside(trimaps, f"{name}.png")
            mask = bind(read_trimap, trimap) if trimap.is_file() else None
            yield Photo(f"{name}.jpg", inside(folder, f"{name}.jpg"), name.rpartition("_")[0], split, mask=mask)


def read_trimap(path: Path) -> np.ndarray:
    """Read a trimap as the mask of the animal, bool `[H, W]`."""
    from datasets.decode import open_image  # with torch, which the command line does not wait for

    with open_image(path) as image:
        return np.asarray(image) == ANIMAL
