"""Birds 525 (Piosenka 2023): species of birds, as Kaggle serves them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.prepare.archives import Source
from datasets.prepare.photos import About, Photo, prepare_photos
from datasets.prepare.selection import FLAGS as SELECTION
from datasets.prepare.split_folders import read_split_folders
from util.classes import class_key

if TYPE_CHECKING:
    from util.distributed import Ranks

ABOUT = About(
    title="Birds 525",
    url="https://www.kaggle.com/datasets/gpiosenka/100-bird-species",
    licence="not quoted here: see the site; photographers retain the copyright",
    split="official: train, valid (as val) and test",
    official={"train": (84635, 525), "val": (2625, 525), "test": (2625, 525)},
)
MISSPELT = {"PARAKETT AKULET": "PARAKETT AUKLET"}  # in birds.csv; the folders of the splits have one or two spaces in it, too

HELP = "89,885 photographs of 525 species of birds (Piosenka 2023)"
DESCRIPTION = (
    "Birds 525 from the archive of Kaggle, unpacked or not: the folders train, valid and test. birds.csv, whose paths are wrong "
    "for one class, is not needed. A class whose name has other spaces or letters in another split is one class here."
)
SOURCE_HELP = "archive.zip, or the folder that holds it or train, valid and test"
FLAGS: dict[str, dict[str, Any]] = {"source": {"type": Path, "required": True, "help": SOURCE_HELP}, **SELECTION}


def prepare(target: Path, ranks: Ranks, *, source: Path, **settings: Any) -> None:
    """Write Birds 525 as the image folder `target`; raises as `prepare_photos`."""
    prepare_photos(target, ranks, ABOUT, source, _read, settings)


def _read(files: Source) -> list[Photo]:
    return list(read_split_folders(files.find("train/", "*.zip").parent, files.notes, name_species))


def name_species(folder: str) -> str:
    """Return the species of a class folder."""
    name = " ".join(class_key(folder).split())
    return MISSPELT.get(name, name)
