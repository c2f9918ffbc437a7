"""NABirds (Van Horn et al. 2015): North American birds in 555 categories, with boxes and parts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.prepare.archives import Source
from datasets.prepare.cub import read_birds
from datasets.prepare.photos import About, Photo, prepare_photos
from datasets.prepare.selection import FLAGS as SELECTION
from datasets.prepare.tables import read_rows

if TYPE_CHECKING:
    from util.distributed import Ranks

ABOUT = About(
    title="NABirds",
    url="https://dl.allaboutbirds.org/nabirds",
    licence="not quoted here: see the site; photographers retain the copyright",
    split="official: train_test_split.txt; its test is val",
    official={"train": (23929, 555), "val": (24633, 555)},
)
HELP = "48,562 photographs of birds, 555 categories (Van Horn et al. 2015)"
DESCRIPTION = (
    "NABirds from nabirds.tar.gz, unpacked or not. `val` is the official test. Boxes become masks in <name>/masks; boxes and "
    "parts are in <name>/annotations.json."
)
SOURCE_HELP = "nabirds.tar.gz, or the folder that holds it or its files"
FLAGS: dict[str, dict[str, Any]] = {"source": {"type": Path, "required": True, "help": SOURCE_HELP}, **SELECTION}


def prepare(target: Path, ranks: Ranks, *, source: Path, **settings: Any) -> None:
    """Write NABirds as the image folder `target`; raises as `prepare_photos`."""
    prepare_photos(target, ranks, ABOUT, source, _read, settings)


def _read(files: Source) -> list[Photo]:
    lists = files.find("train_test_split.txt", "nabirds*.t* nabirds*.zip").parent
    names = dict(read_rows(lists / "classes.txt", 2))
    used = {label for _, label in read_rows(lists / "image_class_labels.txt", 2)}  # the others are orders and families
    counts = Counter(names.get(label) for label in used)
    return list(read_birds(lists, names, lambda key, name: name if counts[name] == 1 else f"{name} {key}"))
