"""Oxford-IIIT Pets (Parkhi et al. 2012): 37 breeds of cats and dogs, with trimaps."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial as bind
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.prepare.archives import Source, inside
from datasets.prepare.cutting import Box
from datasets.prepare.downloads import Download
from datasets.prepare.photos import About, Photo, prepare_photos
from datasets.prepare.selection import FLAGS as SELECTION
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
ANIMAL, BACKGROUND = 1, 2  # in a trimap; 3 is the boundary, which the mask leaves out

DOWNLOADS = [
    Download(f"{ABOUT.url}data/images.tar.gz", 791918971, "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
    Download(f"{ABOUT.url}data/annotations.tar.gz", 19173078, "95a8c909bbe2e81eed6a22bccdf3f68f"),
]

HELP = "7,349 photographs of 37 breeds of cats and dogs (Parkhi et al. 2012)"
DESCRIPTION = (
    "Oxford-IIIT Pets from images.tar.gz and annotations.tar.gz, unpacked or not. `train` is the official trainval, `val` the "
    "test. The trimaps become masks in <name>/masks: the animal without its boundary."
)
SOURCE_HELP = "folder that holds these archives or their files"
FLAGS: dict[str, dict[str, Any]] = {"source": {"type": Path, "required": True, "help": SOURCE_HELP}, **SELECTION}


def prepare(target: Path, ranks: Ranks, *, source: Path, **settings: Any) -> None:
    """Write Oxford-IIIT Pets as the image folder `target`; raises as `prepare_photos`."""
    prepare_photos(target, ranks, ABOUT, source, lambda files: list(_read(files, bool(settings["square_crop"]))), settings)


def _read(files: Source, with_boxes: bool) -> Iterator[Photo]:
    folder = files.find("images/", "images.t*")
    trimaps = files.find("trimaps/", "annotations.t*")
    for split, list_name in SPLITS.items():
        for name, *_ in read_rows(files.find(list_name, "annotations.t*"), 4):
            trimap = inside(trimaps, f"{name}.png")
            there = trimap.is_file()
            box = box_of(trimap) if there and with_boxes else None
            mask = bind(read_trimap, trimap) if there else None
            yield Photo(f"{name}.jpg", inside(folder, f"{name}.jpg"), name.rpartition("_")[0], split, box, mask)


def box_of(path: Path) -> Box | None:
    """Return the box around the animal and its boundary in a trimap; None if there is none."""
    marked = _read_pixels(path) != BACKGROUND
    rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None


def read_trimap(path: Path) -> np.ndarray:
    """Read a trimap as the mask of the animal, bool `[H, W]`."""
    return _read_pixels(path) == ANIMAL


def _read_pixels(path: Path) -> np.ndarray:
    from datasets.decode import open_image  # with torch, which the command line does not wait for

    with open_image(path) as image:
        return np.asarray(image)
