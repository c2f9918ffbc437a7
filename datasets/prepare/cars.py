"""Stanford Cars (Krause et al. 2013): 196 models of cars, with boxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.prepare.archives import Source, inside
from datasets.prepare.photos import About, Photo, prepare_photos
from datasets.prepare.selection import FLAGS as SELECTION
from datasets.prepare.tables import number, pick, read_mat

if TYPE_CHECKING:
    from util.distributed import Ranks

ABOUT = About(
    title="Stanford Cars",
    url="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    licence="not quoted here: see the site; photographers retain the copyright",
    split="official: val is the test",
    official={"train": (8144, 196), "val": (8041, 196)},
)
SPLITS = {"train": ("cars_train", "cars_train_annos.mat"), "val": ("cars_test", "cars_test_annos_withlabels.mat")}
DEVKIT = "car_devkit.t* cars_devkit.t*"

HELP = "16,185 photographs of 196 models of cars (Krause et al. 2013)"
DESCRIPTION = (
    "Stanford Cars from cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat, unpacked or not. "
    "`val` is the official test. Boxes become masks in <name>/masks."
)
SOURCE_HELP = "folder that holds these four files or what is in them"
FLAGS: dict[str, dict[str, Any]] = {"source": {"type": Path, "required": True, "help": SOURCE_HELP}, **SELECTION}


def prepare(target: Path, ranks: Ranks, *, source: Path, **settings: Any) -> None:
    """Write Stanford Cars as the image folder `target`; raises as `prepare_photos`."""
    prepare_photos(target, ranks, ABOUT, source, lambda files: list(_read(files)), settings)


def _read(files: Source) -> Iterator[Photo]:
    path = files.find("cars_meta.mat", DEVKIT)
    names = [str(name) for name in read_mat(path, "class_names")[0]]
    for split, (folder_name, list_name) in SPLITS.items():
        path = files.find(list_name, DEVKIT)
        folder = files.find(f"{folder_name}/", f"{folder_name}.t*")
        folder = folder / folder_name if (folder / folder_name).is_dir() else folder  # some mirrors nest them
        for row in read_mat(path, "annotations")[0]:
            try:
                name, label, *edges = (row[key] for key in ("fname", "class", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"))
            except (KeyError, TypeError):
                raise ValueError(f"{path}: an annotation lacks its name, class or box: get the file with labels") from None
            left, top, right, bottom = (number(path, edge) for edge in edges)  # counted from 1, the last included
            box = (left - 1, top - 1, right, bottom)
            yield Photo(f"{folder_name}/{name}", inside(folder, str(name)), pick(path, names, label), split, box)
