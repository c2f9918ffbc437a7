"""What counts as a class folder and as an image, and what is left out: one rule for every command."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from util.classes import class_key
from util.printable import quoted

EXTENSIONS = ".bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp"
IMAGE_EXTENSIONS = frozenset(EXTENSIONS.split())
SPLITS = ("train", "val", "test")
LAYOUT = "<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>"

# Formats of images that are not read, and what converts them to JPEG or PNG.
CONVERTERS = {
    ".heic .heif .hif": "heif-convert (package libheif-examples), or Python's pillow-heif",
    ".avif": "avifdec (package libavif-bin), or Pillow from 11.3",
    ".jxl": "djxl (package libjxl-tools)",
    ".3fr .arw .cr2 .cr3 .crw .dng .nef .nrw .orf .pef .raf .raw .rw2 .sr2 .srw": "darktable-cli, or Python's rawpy",
    ".ai .eps .pdf .ps .svg .svgz": "inkscape --export-type=png",
    ".dcm .dds .exr .hdr .ico .j2c .j2k .jpf .jpx .jxr .pcx .pfm .psd .sgi .tga .wdp .xcf": "ImageMagick's mogrify -format png",
    ".avi .m4v .mkv .mov .mp4 .mpg .webm": "ffmpeg, which writes the frames of a video",
}
CONVERTER = {extension: converter for extensions, converter in CONVERTERS.items() for extension in extensions.split()}

# Names that start with a dot, and what NAS systems, macOS, Windows and Linux put into folders of images.
SYSTEM = re.compile(
    r"\..*|__macosx|__pycache__|@(eadir|tmp|recycle|recently-snapshot)|#(recycle|snapshot)|~snapshot|\$recycle\.bin|lost\+found|"
    r"(eh)?thumbs(_vista)?\.db|desktop\.ini|system volume information|network trash folder|temporary items|icon\r",
    re.IGNORECASE | re.DOTALL,
)


class LeftOut:
    """The entries of folders that do not count, by reason; names are paths below `root`."""

    def __init__(self, root: Path) -> None:
        self.start = len(os.fspath(root / "x")) - 1
        self.names: dict[str, list[str]] = {}

    def add(self, entry: os.DirEntry[str]) -> None:
        extension = os.path.splitext(entry.name)[1].lower()
        if SYSTEM.fullmatch(entry.name):
            reason = "hidden or of the system"
        elif entry.is_symlink() and not os.path.exists(entry.path):
            reason = "linked to nothing"
        elif extension in CONVERTER:
            reason = f"in a format that is not read (convert {extension} with {CONVERTER[extension]})"
        elif extension in IMAGE_EXTENSIONS:
            reason = "in no class folder"
        else:
            reason = "not named like an image"
        self.names.setdefault(reason, []).append(os.fspath(Path(entry.path))[self.start :])

    def __str__(self) -> str:
        """Return how many there are of each reason, and their first names; empty if there are none."""
        reasons = sorted(self.names.items())
        return "; ".join(f"{len(names)} {reason}: {quoted(sorted(names))}" for reason, names in reasons)


def class_folders(root: Path, left_out: LeftOut | None = None) -> dict[str, str]:
    """Return the folder of each class by the name of the class (NFC), sorted by folder.

    Raises:
        ValueError: there is no folder `root`, or none in it; two names look alike or one is no UTF-8; a link leads nowhere, to
            another class or to a folder that contains it.
    """
    if not root.is_dir():
        raise ValueError(f"no folder {root}; expected {LAYOUT}")
    left_out = left_out or LeftOut(root)
    folders = []
    for entry in _entries(os.fspath(root)):
        if SYSTEM.fullmatch(entry.name):
            left_out.add(entry)
        elif _is_folder(entry):
            folders.append(entry.name)
        elif entry.is_symlink() and not os.path.exists(entry.path):
            where = f"{root}: {quoted([entry.name])} is a link to {quoted([os.readlink(entry.path)])}"
            raise ValueError(f"{where}, which cannot be opened: a class would be lost; repair or remove the link")
        else:
            left_out.add(entry)
    if not folders:
        unsorted = len(left_out.names.get("in no class folder", ()))
        hint = f"; {unsorted} images lie in it directly: move each into a folder named by its class" if unsorted else ""
        raise ValueError(f"{root}: no class folder; expected {LAYOUT}{hint}")
    _check_names(root, sorted(folders))
    _check_links(root, sorted(folders))
    return {unicodedata.normalize("NFC", folder): folder for folder in sorted(folders)}


def _check_names(root: Path, folders: list[str]) -> None:
    known: dict[str, str] = {}
    for folder in folders:
        if any("\ud800" <= letter <= "\udfff" for letter in folder):
            raise ValueError(f"{root}: the name of the class folder {quoted([folder])} is not UTF-8; rename it{_locale_hint()}")
        other = known.setdefault(class_key(folder), folder)
        if other != folder:
            both = f"{ascii(other)} and {ascii(folder)}"
            raise ValueError(f"{root}: the class folders {both} have names that look alike; merge them, or rename one")


def _check_links(root: Path, folders: list[str]) -> None:
    """Raise a ValueError for a link to a folder whose images have another class already."""
    paths = [os.path.join(root, folder) for folder in folders]
    links = [path for path in paths if os.path.islink(path)]
    owners = {os.path.realpath(path): path for path in paths if path not in links} if links else {}
    for link in links:
        target = os.path.realpath(link)
        other = owners.setdefault(target, link)
        if other != link or os.path.realpath(root).startswith(os.path.join(target, "")) or os.path.samefile(target, root):
            what = "whose images have another class, too" if other != link else "which contains the link"
            raise ValueError(f"{root}: {quoted([os.path.basename(link)])} is a link to {target}, {what}; remove it")


def _locale_hint() -> str:
    encoding = sys.getfilesystemencoding()
    return "" if encoding == "utf-8" else f", or set PYTHONUTF8=1: Python takes names for {encoding} here"


def images_below(folder: str, left_out: LeftOut, ancestors: frozenset[tuple[int, int]] = frozenset()) -> Iterator[str]:
    """Yield the paths of all images below a folder; links are followed, except to a folder that contains them.

    A link that leads nowhere is yielded if it has the name of an image. ValueError where a folder cannot be read.
    """
    entries = _entries(folder)
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        return
    for entry in entries:
        if SYSTEM.fullmatch(entry.name):
            left_out.add(entry)
        elif _is_folder(entry):
            yield from images_below(entry.path, left_out, ancestors | {identity})
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS:
            yield entry.path
        else:
            left_out.add(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether this is a folder, or a link to one; a link to what cannot be opened is not (and no error, as a loop is)."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror}): make it readable, or remove it") from None
