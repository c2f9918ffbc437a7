"""Fashion-MNIST (Xiao et al. 2017) from its four IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.prepare.downloads import Download
from datasets.prepare.writing import Entry, is_prepared, write_dataset
from util.number import COUNT

if TYPE_CHECKING:
    from util.distributed import Ranks

ABOUT = {
    "title": "Fashion-MNIST",
    "url": "https://github.com/zalandoresearch/fashion-mnist",
    "licence": "MIT",
    "split": "official: val is the test",
}
DOWNLOADS = [
    Download(f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{name}-ubyte.gz", md5=md5)
    for name, md5 in (
        ("train-images-idx3", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ("train-labels-idx1", "25c81989df183df01b3e8a0aad5dffbe"),
        ("t10k-images-idx3", "bef4ecab320f06d8554ea6380940ec79"),
        ("t10k-labels-idx1", "bb300cfdad3c16e7a12a480ee83cd310"),
    )
]

HELP = "70,000 grey pictures of clothes, 28 x 28 pixels, 10 classes (Xiao et al. 2017)"
DESCRIPTION = (
    "Fashion-MNIST from its four IDX files. `train` holds the 60,000 training images, `val` the 10,000 test images; there is "
    "no `test`, since the data set has only two splits."
)
SOURCE_HELP = "folder of the four IDX files, plain or .gz (as in Debian's package dataset-fashion-mnist)"
FLAGS: dict[str, dict[str, Any]] = {
    "source": {"type": Path, "required": True, "help": SOURCE_HELP},
    "train_images": {"type": COUNT, "help": "only the first N/10 training images of each class"},
}
CLASSES = ["t-shirt_top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot"]
LARGEST = 2**28  # bytes of a file, unpacked; the largest of Fashion-MNIST has 47 million
PREFIXES = {"train": "train", "val": "t10k"}  # of the files of each split


def prepare(target: Path, ranks: Ranks, *, source: Path, train_images: int | None = None) -> None:
    """Write Fashion-MNIST as the image folder `target`; an existing one is left as it is.

    Args:
        ranks: the processes that share the images.
        source: folder of the IDX files.
        train_images: only the first `train_images / 10` training images of each class; None for all.

    Raises:
        ValueError: `train_images` is not a multiple of 10 or too large, a file is missing or damaged, or `target` is
            there already, with other settings.
    """
    if train_images is not None and (train_images < 1 or train_images % len(CLASSES)):
        raise ValueError(f"--train_images {train_images} must be a positive multiple of 10, as many per class")
    settings = {"train_images": train_images}
    if is_prepared(target, settings):
        return
    pictures: list[Entry] = []
    counts = {}
    for split, prefix in PREFIXES.items():
        images, labels = _read_split(source, prefix)
        chosen = range(len(labels)) if split == "val" else _first_of_each_class(labels, train_images, source)
        pictures += [(f"{split}/{CLASSES[labels[i]]}/{i:05}.png", images[i]) for i in chosen]
        counts[split] = {"images": len(chosen), "classes": len(CLASSES)}
    write_dataset(target, pictures, ranks, {**ABOUT, "source": str(source.resolve()), "settings": settings, "images": counts})


def _read_split(source: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images uint8 `[N, 28, 28]` and labels uint8 `[N]` of a split."""
    image_file = _find_file(source, f"{prefix}-images-idx3-ubyte")
    label_file = _find_file(source, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or images.shape[1:] != (28, 28):
        raise ValueError(f"{image_file}: holds an array of shape {images.shape}; expected (images, 28, 28)")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{label_file}: holds an array of shape {labels.shape}; expected ({len(images)},)")
    if set(np.unique(labels)) != set(range(len(CLASSES))):
        raise ValueError(f"{label_file}: labels are {np.unique(labels).tolist()}; expected each of 0 to 9")
    return images, labels


def _first_of_each_class(labels: np.ndarray, count: int | None, source: Path) -> list[int]:
    """Return the indices of `count` images in order, the first ones of each class; all of them if None."""
    most = int(np.bincount(labels).min()) * len(CLASSES)
    if count is not None and count > most:
        raise ValueError(f"--train_images {count} is more than {source} has: at most {most}")
    per_class = None if count is None else count // len(CLASSES)
    return sorted(i for label in np.unique(labels) for i in np.flatnonzero(labels == label)[:per_class].tolist())


def _find_file(source: Path, name: str) -> Path:
    for path in (source / name, source / f"{name}.gz"):
        if path.is_file():
            return path
    what = f"no file {name} or {name}.gz" if source.is_dir() else "no such folder"
    raise ValueError(f"--source {source}: {what}; expected Fashion-MNIST's four IDX files")


def read_idx(path: Path) -> np.ndarray:
    """Read a uint8 array from an IDX file, plain or gzipped.

    IDX: two zero bytes, the type, the number of dimensions, the dimensions as big-endian uint32, the data.

    Raises:
        ValueError: damaged gzip, another magic number or type, or data shorter or longer than the shape says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(LARGEST)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); copy it again") from None
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError(f"{path}: is not an IDX file; its first four bytes are {data[:4].hex() or 'missing'}")
    if data[2] != 0x08:
        raise ValueError(f"{path}: holds IDX type 0x{data[2]:02x}; expected 0x08, unsigned bytes")
    start = 4 + 4 * data[3]
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, min(start, len(data)), 4))
    if len(data) != start + math.prod(shape):
        raise ValueError(f"{path}: is {len(data)} bytes long; its header {shape} means {start + math.prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
