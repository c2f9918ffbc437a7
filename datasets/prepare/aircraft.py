"""FGVC-Aircraft (Maji et al. 2013): variants, families or manufacturers of aeroplanes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.prepare.archives import Source, inside
from datasets.prepare.cutting import Box
from datasets.prepare.downloads import Download
from datasets.prepare.photos import About, Photo, prepare_photos
from datasets.prepare.selection import FLAGS as SELECTION
from datasets.prepare.tables import number, read_rows

if TYPE_CHECKING:
    from util.distributed import Ranks

CLASSES = {"variant": 100, "family": 70, "manufacturer": 30}
SPLITS = {"train": ("trainval", 6667), "val": ("test", 3333)}
BANNER = 20  # rows at the bottom with the photographer's copyright

DOWNLOADS = [
    Download(
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
        2753340328,
        "d4acdd33327262359767eeaa97a4f732",
    )
]

HELP = "10,000 photographs of aeroplanes: 100 variants, 70 families or 30 manufacturers (Maji et al. 2013)"
DESCRIPTION = (
    "FGVC-Aircraft from fgvc-aircraft-2013b.tar.gz, unpacked or not. `train` is the official trainval, `val` the test. The "
    "20 rows with the copyright are cut off; boxes become masks in <name>/masks."
)
SOURCE_HELP = "fgvc-aircraft-2013b.tar.gz, or the folder that holds it or its files"
FLAGS: dict[str, dict[str, Any]] = {
    "source": {"type": Path, "required": True, "help": SOURCE_HELP},
    "level": {"choices": list(CLASSES), "default": "variant", "help": "which classes"},
    **SELECTION,
}


def prepare(target: Path, ranks: Ranks, *, source: Path, level: str, **flags: Any) -> None:
    """Write FGVC-Aircraft as the image folder `target`; raises as `prepare_photos`."""
    about = About(
        title=f"FGVC-Aircraft, {level}",
        url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
        licence="Images are made available for non-commercial research purposes only; photographers retain the copyright.",
        split="official: train is trainval, val is test",
        official={split: (images, CLASSES[level]) for split, (_, images) in SPLITS.items()},
    )
    settings = {"level": level, **flags}
    prepare_photos(target, ranks, about, source, lambda files: list(_read(files, level)), settings, BANNER)


def _read(files: Source, level: str) -> Iterator[Photo]:
    archives = "fgvc-aircraft*.tar.gz fgvc-aircraft*.tgz fgvc-aircraft*.tar"
    folder = files.find(f"images_{level}_trainval.txt", archives).parent
    boxes = dict(_boxes(folder / "images_box.txt"))
    for split, (official, _) in SPLITS.items():
        for name, label in read_rows(folder / f"images_{level}_{official}.txt", 2):
            yield Photo(f"{name}.jpg", inside(folder / "images", f"{name}.jpg"), label, split, boxes.get(name))


def _boxes(path: Path) -> Iterator[tuple[str, Box]]:
    """Yield the box of each picture; the file counts pixels from 1, and includes the last."""
    for name, *edges in read_rows(path, 5):
        left, top, right, bottom = (number(path, edge) for edge in edges)
        yield name, (left - 1, top - 1, right, bottom)
