"""CUB-200-2011 (Wah et al. 2011): birds, with boxes, parts and segmentations; NABirds has lists of the same form."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial as bind
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.prepare.archives import Source, inside
from datasets.prepare.downloads import Download
from datasets.prepare.photos import About, Photo, prepare_photos
from datasets.prepare.selection import FLAGS as SELECTION
from datasets.prepare.tables import number, read_rows

if TYPE_CHECKING:
    from util.distributed import Ranks

ABOUT = About(
    title="CUB-200-2011",
    url="https://www.vision.caltech.edu/datasets/cub_200_2011/",
    licence="not quoted here: see the site; photographers retain the copyright",
    split="official: train_test_split.txt; its test is val",
    official={"train": (5994, 200), "val": (5794, 200)},
)
CALTECH = "https://data.caltech.edu/records"
DOWNLOADS = [
    Download(f"{CALTECH}/65de6-vp158/files/CUB_200_2011.tgz", 1150585339, "97eceeb196236b17998738112f37df78"),
    Download(f"{CALTECH}/w9d68-gec53/files/segmentations.tgz", 39272883, "4d47ba1228eae64f2fa547c47bc65255"),
]

HELP = "11,788 photographs of 200 species of birds (Wah et al. 2011)"
DESCRIPTION = (
    "CUB-200-2011 from CUB_200_2011.tgz and, for exact masks, segmentations.tgz, unpacked or not. `val` is the official test. "
    "The segmentations (without them the boxes) become <name>/masks; boxes and parts are in <name>/annotations.json."
)
SOURCE_HELP = "folder that holds CUB_200_2011.tgz (and segmentations.tgz) or their files"
FLAGS: dict[str, dict[str, Any]] = {"source": {"type": Path, "required": True, "help": SOURCE_HELP}, **SELECTION}


def prepare(target: Path, ranks: Ranks, *, source: Path, **settings: Any) -> None:
    """Write CUB-200-2011 as the image folder `target`; raises as `prepare_photos`."""
    prepare_photos(target, ranks, ABOUT, source, lambda files: list(_read(files)), settings)


def _read(files: Source) -> Iterator[Photo]:
    lists = files.find("train_test_split.txt", "CUB_200_2011.t*").parent
    segmentations = files.find_optional("segmentations", "segmentations.t*")
    names = dict(read_rows(lists / "classes.txt", 2))
    for photo in read_birds(lists, names, lambda _, name: name):
        if segmentations is None:
            yield photo
        else:
            path = inside(segmentations, photo.name).with_suffix(".png")
            yield photo._replace(mask=bind(read_votes, path) if path.is_file() else None)


def read_birds(lists: Path, classes: dict[str, str], name_class: Callable[[str, str], str]) -> Iterator[Photo]:
    """Yield the photographs of a folder with the lists of CUB or NABirds.

    Args:
        lists: folder of images.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt and parts/.
        classes: name by number.
        name_class: returns the label from number and name.

    Raises:
        ValueError: a list has another form, names a class or picture that another one lacks, or a path out of the folder.
    """
    labels, train, boxes = (
        dict((key, values) for key, *values in read_rows(lists / name, columns))
        for name, columns in (("image_class_labels.txt", 2), ("train_test_split.txt", 2), ("bounding_boxes.txt", 5))
    )
    parts = _read_parts(lists / "parts")
    for key, name in read_rows(lists / "images.txt", 2):
        try:
            label, split = labels[key][0], {"1": "train", "0": "val"}[train[key][0]]
            label = name_class(label, classes[label])
        except KeyError as error:
            raise ValueError(f"{lists}: the lists disagree about picture {key} ({error} is missing): get them again") from None
        box = None
        if key in boxes:
            left, top, width, height = (number(lists / "bounding_boxes.txt", edge) for edge in boxes[key])
            box = (left, top, left + width, top + height)
        yield Photo(name, inside(lists / "images", name), label, split, box, parts=parts.get(key))


def _read_parts(folder: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Return (x, y) of the visible parts of each picture; empty without the lists."""
    found: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    locations = folder / "part_locs.txt"
    if locations.is_file():
        names = dict(read_rows(folder / "parts.txt", 2))
        for key, part, x, y, visible in read_rows(locations, 5):
            if visible.strip() == "1":
                found[key][names.get(part, part)] = number(locations, x), number(locations, y)
    return found


def read_votes(path: Path) -> np.ndarray:
    """Read a segmentation, grey by the share of annotators that marked a pixel, as bool `[H, W]`: half of them or more."""
    from datasets.decode import open_image  # with torch, which the command line does not wait for

    with open_image(path) as image:
        return np.asarray(image.convert("L")) >= 128
