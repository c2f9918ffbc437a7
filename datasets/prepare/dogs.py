"""Stanford Dogs (Khosla et al. 2011): 120 breeds from ImageNet, with boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial as bind
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from datasets.prepare.archives import Source, inside
from datasets.prepare.cutting import Box, around, box_mask
from datasets.prepare.downloads import Download
from datasets.prepare.photos import About, Photo, prepare_photos
from datasets.prepare.selection import FLAGS as SELECTION
from datasets.prepare.tables import number, read_mat

if TYPE_CHECKING:
    from util.distributed import Ranks

ABOUT = About(
    title="Stanford Dogs",
    url="http://vision.stanford.edu/aditya86/ImageNetDogs/",
    licence="not quoted here: see the site; photographers retain the copyright",
    split="official: val is the test",
    official={"train": (12000, 120), "val": (8580, 120)},
)
SPLITS = {"train": "train_list.mat", "val": "test_list.mat"}

DOWNLOADS = [
    Download(f"{ABOUT.url}{name}", size)
    for name, size in (("images.tar", 793579520), ("annotation.tar", 21852160), ("lists.tar", 481280))
]

HELP = "20,580 photographs of 120 breeds of dogs (Khosla et al. 2011)"
DESCRIPTION = (
    "Stanford Dogs from images.tar, lists.tar and, for masks, annotation.tar, unpacked or not. `val` is the official test. "
    "The boxes of all dogs of a picture become its mask in <name>/masks."
)
SOURCE_HELP = "folder that holds these archives or their files"
FLAGS: dict[str, dict[str, Any]] = {"source": {"type": Path, "required": True, "help": SOURCE_HELP}, **SELECTION}


def prepare(target: Path, ranks: Ranks, *, source: Path, **settings: Any) -> None:
    """Write Stanford Dogs as the image folder `target`; raises as `prepare_photos`."""
    prepare_photos(target, ranks, ABOUT, source, lambda files: list(_read(files)), settings)


def _read(files: Source) -> Iterator[Photo]:
    folder = files.find("Images/", "images.t*")
    annotations = files.find_optional("Annotation/", "annotation.t* Annotation.t*")
    for split, list_name in SPLITS.items():
        path = files.find(list_name, "lists.t*")
        for name in map(str, read_mat(path, "file_list")[0]):
            label = name.partition("/")[0].partition("-")[2]
            if not label:
                raise ValueError(f"{path}: {name!r} is not of the form n02085620-Chihuahua/n02085620_5927.jpg: get it again")
            picture = inside(folder, name)
            path_of_boxes = annotations and inside(annotations, name).with_suffix("")
            if path_of_boxes and path_of_boxes.is_file():
                boxes = read_boxes(path_of_boxes)
                yield Photo(name, picture, label, split, around(boxes), bind(draw_boxes, boxes, picture))
            else:
                yield Photo(name, picture, label, split)


def read_boxes(path: Path) -> list[Box]:
    """Read the boxes of an annotation in Pascal VOC's form.

    Raises:
        ValueError: it is not of this form.
    """
    try:
        found = ElementTree.fromstring(path.read_bytes()).findall("object/bndbox")
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: is no annotation ({error}); get it again") from None
    left, top, right, bottom = ([number(path, box.findtext(edge)) for box in found] for edge in ("xmin", "ymin", "xmax", "ymax"))
    return list(zip(left, top, right, bottom, strict=True))


def draw_boxes(boxes: Sequence[Box], picture: Path) -> np.ndarray:
    """Return the mask of all pixels of a picture that a box covers, bool `[H, W]`."""
    from datasets.decode import open_image  # with torch, which the command line does not wait for

    with open_image(picture) as image:
        mask = np.zeros((image.height, image.width), dtype=bool)
    for box in boxes:
        mask |= box_mask(mask.shape, box)
    return mask
