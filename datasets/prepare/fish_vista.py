"""Fish-Vista (Mehrab et al. 2025): fishes of museums on white, 419 species."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.prepare.archives import Source, file_names, inside
from datasets.prepare.photos import About, Photo, prepare_photos
from datasets.prepare.selection import FLAGS as SELECTION
from util.errors import first_line

if TYPE_CHECKING:
    from util.distributed import Ranks

ABOUT = About(
    title="Fish-Vista, species classification",
    url="https://huggingface.co/datasets/imageomics/fish-vista",
    licence="of each picture its own: column license of the lists",
    split="official: classification_train.csv, classification_val.csv and classification_test.csv",
    official={split: (None, 419) for split in ("train", "val", "test")},
)
POINTER = b"version https://git-lfs"  # what Git writes in place of a large file

HELP = "about 48,000 pictures of 419 species of fishes (Mehrab et al. 2025)"
DESCRIPTION = (
    "Fish-Vista's species classification from a clone of its repository: classification_train.csv, _val.csv, _test.csv, and "
    "Images with or without its chunks. Pictures that may not be changed (CC BY-ND) are not in it: fetch them with the script "
    "beside, or give --partial."
)
SOURCE_HELP = "folder that holds the three lists and Images"
FLAGS: dict[str, dict[str, Any]] = {"source": {"type": Path, "required": True, "help": SOURCE_HELP}, **SELECTION}


def prepare(target: Path, ranks: Ranks, *, source: Path, **settings: Any) -> None:
    """Write Fish-Vista as the image folder `target`; raises as `prepare_photos`."""
    prepare_photos(target, ranks, ABOUT, source, lambda files: list(_read(files)), settings)


def _read(files: Source) -> Iterator[Photo]:
    folder = files.find("classification_train.csv").parent
    images = {Path(name).name: folder / "Images" / name for name in file_names(folder / "Images")}
    for split in ABOUT.official:
        path = folder / f"classification_{split}.csv"
        for name, label in _read_list(path):
            picture = images.get(name, inside(folder / "Images", name))
            for file in (path, picture):
                if file.is_file() and file.stat().st_size < 200 and file.read_bytes().startswith(POINTER):
                    raise ValueError(f"{file} is a pointer of Git LFS, not the file itself: git lfs pull fetches them")
            yield Photo(name, picture, label, split)


def _read_list(path: Path) -> Iterator[tuple[str, str]]:
    """Yield file name and species of each row.

    Raises:
        ValueError: it is no such list.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file, strict=True):
                yield row["filename"].strip(), row["standardized_species"].strip()
    except (KeyError, AttributeError, csv.Error, UnicodeDecodeError) as error:
        wanted = "expected the columns filename and standardized_species: get it again"
        raise ValueError(f"{path}: is not Fish-Vista's list ({first_line(error)}); {wanted}") from None
