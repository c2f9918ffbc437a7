"""Cambridge Butterflies (Jiggins and others), the 65 species on which INTR was trained (Paul et al. 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.prepare.archives import Source
from datasets.prepare.downloads import Download
from datasets.prepare.photos import About, Photo, prepare_photos
from datasets.prepare.selection import FLAGS as SELECTION
from datasets.prepare.split_folders import read_split_folders

if TYPE_CHECKING:
    from util.distributed import Ranks

ABOUT = About(
    title="Cambridge Butterflies, 65 species",
    url="https://huggingface.co/datasets/imageomics/Cambridge_butterfly",
    licence="not quoted here: see the site",
    split="official: train and val of INTR's authors",
    official={"train": (None, 65)},
)
DOWNLOADS = [Download(f"{ABOUT.url}/resolve/main/butterfly.zip")]

HELP = "65 species of butterflies of the collections in Cambridge (Paul et al. 2024)"
DESCRIPTION = (
    "Cambridge Butterflies from butterfly.zip, unpacked or not, as INTR's authors serve it: the folders train and val. They give "
    "the number of species, which must be 65, and none of pictures."
)
SOURCE_HELP = "butterfly.zip, or the folder that holds it or train and val"
FLAGS: dict[str, dict[str, Any]] = {"source": {"type": Path, "required": True, "help": SOURCE_HELP}, **SELECTION}


def prepare(target: Path, ranks: Ranks, *, source: Path, **settings: Any) -> None:
    """Write Cambridge Butterflies as the image folder `target`; raises as `prepare_photos`."""
    prepare_photos(target, ranks, ABOUT, source, _read, settings)


def _read(files: Source) -> list[Photo]:
    return list(read_split_folders(files.find("train/", "*utterfl*.zip").parent, files.notes))
