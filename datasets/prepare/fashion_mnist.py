"""Fashion-MNIST (Xiao et al. 2017) from its four IDX files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets.prepare.idx import read_idx
from datasets.prepare.source import Source
from datasets.prepare.writing import write_dataset

if TYPE_CHECKING:
    from util.distributed import Ranks

CLASSES = (*("t-shirt_top", "trouser", "pullover", "dress", "coat"), *("sandal", "shirt", "sneaker", "bag", "ankle_boot"))
PREFIXES = {"train": "train", "val": "t10k"}  # of the files of each split
SHAPE = (28, 28)


def prepare(target: Path, ranks: Ranks, *, source: Path, train_images: int | None = None) -> None:
    """Write Fashion-MNIST as the image folder `target`; an existing one is left as it is.

    Args:
        ranks: the processes that share the images.
        source: folder of the IDX files.
        train_images: only the first `train_images / 10` training images of each class; None for all.

    Raises:
        ValueError: `train_images` is not a multiple of 10 or too large, a file is missing or damaged, or `target` holds
            another number of training images.
    """
    per_class = None
    if train_images is not None:
        if train_images < 1 or train_images % len(CLASSES):
            raise ValueError(f"--train_images {train_images} must be a positive multiple of 10, as many per class")
        per_class = train_images // len(CLASSES)
    if target.exists():
        existing = sum(1 for _ in target.glob("train/*/*.png"))
        if train_images not in (None, existing):
            raise ValueError(
                f"{target} is already there with {existing} training images, not --train_images {train_images}; "
                "choose another --name or remove it"
            )
        print(f"already there: {target}, {existing} training images")
        return
    pictures = []
    for split, prefix in PREFIXES.items():
        images, labels = _read_split(source, prefix)
        chosen = range(len(labels)) if split == "val" else _first_of_each_class(labels, per_class, source)
        pictures += [(f"{split}/{CLASSES[labels[i]]}/{i:05}.png", images[i]) for i in chosen]
    write_dataset(target, pictures, ranks)


def _read_split(source: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images uint8 `[N, 28, 28]` and labels uint8 `[N]` of a split.

    Raises:
        ValueError: a file is missing or damaged, or the two do not belong together.
    """
    image_file = _find_file(source, f"{prefix}-images-idx3-ubyte")
    label_file = _find_file(source, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or images.shape[1:] != SHAPE:
        raise ValueError(f"{image_file}: holds an array of shape {images.shape}; expected (images, 28, 28)")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{label_file}: holds an array of shape {labels.shape}; expected ({len(images)},)")
    if set(np.unique(labels)) != set(range(len(CLASSES))):
        raise ValueError(f"{label_file}: labels are {np.unique(labels).tolist()}; expected each of 0 to 9")
    return images, labels


def _first_of_each_class(labels: np.ndarray, per_class: int | None, source: Path) -> list[int]:
    """Return the indices of the first `per_class` images of each class, in order; all of them if None."""
    smallest = int(np.bincount(labels).min())
    if per_class is not None and per_class > smallest:
        most = smallest * len(CLASSES)
        raise ValueError(f"--train_images {per_class * len(CLASSES)} is more than {source} has: at most {most}")
    return sorted(i for label in np.unique(labels) for i in np.flatnonzero(labels == label)[:per_class].tolist())


def _find_file(source: Path, name: str) -> Path:
    for path in (source / name, source / f"{name}.gz"):
        if path.is_file():
            return path
    what = f"no file {name} or {name}.gz" if source.is_dir() else "no such folder"
    raise ValueError(f"--source {source}: {what}; expected Fashion-MNIST's four IDX files")


FASHION_MNIST = Source(
    prepare,
    help="70,000 grey pictures of clothes, 28 x 28 pixels, 10 classes (Xiao et al. 2017)",
    description="Fashion-MNIST from its four IDX files. `train` holds the 60,000 training images, `val` the 10,000 "
    "test images; there is no `test`, since the data set has only two splits.",
    flags={
        "source": {
            "type": Path,
            "required": True,
            "help": "folder of the four IDX files, plain or .gz (as in Debian's package dataset-fashion-mnist)",
        },
        "train_images": {"type": int, "help": "only the first N/10 training images of each class"},
    },
)
