"""Listing all splits of a data set, also of one whose folders are not as they should be: what is wrong is said, not raised."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from datasets.folders import SPLITS, LeftOut, class_folders, images_below
from datasets.image_folder import split_folder
from util.classes import match_classes
from util.printable import quoted


@dataclass
class Inventory:
    """The image files of a data set.

    Attributes:
        root: folder of the splits.
        splits: names of those that are there.
        classes: names, those of train first.
        trained: number of the classes of train.
        paths, split_of, label_of: file of each image, index of its split, and of its class.
        left_out: the files that are no images, below `root`, by reason.
        faults: what a training refuses, a line each.
    """

    root: Path
    splits: list[str]
    classes: list[str] = field(default_factory=list)
    trained: int = 0
    paths: list[Path] = field(default_factory=list)
    split_of: list[int] = field(default_factory=list)
    label_of: list[int] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> str:
        """Return the path of an image below the root."""
        return os.path.relpath(self.paths[index], self.root)

    def counts(self) -> list[list[int]]:
        """Return the numbers of images of each class `[C]` in each split `[S]`."""
        table = [[0] * len(self.splits) for _ in self.classes]
        for split, label in zip(self.split_of, self.label_of, strict=True):
            table[label][split] += 1
        return table


def take_inventory(dataset_path: str | os.PathLike[str], dataset_name: str) -> Inventory:
    """List the images of all splits of `<dataset_path>/<dataset_name>`; nothing is decoded.

    Raises:
        ValueError: there is no such folder, no split or no image in it.
    """
    root = Path(dataset_path) / dataset_name
    found = Inventory(root, [split for split in SPLITS if (root / split).is_dir()])
    if not found.splits:
        split_folder(dataset_path, dataset_name, SPLITS[0])  # raises
    if found.splits[0] != SPLITS[0]:
        found.faults.append(f"{root}: there is no folder {SPLITS[0]}, whose class folders are the list of classes")
    for place, split in enumerate(found.splits):
        left_out = LeftOut(root)
        try:
            folders = class_folders(root / split, left_out)
        except ValueError as error:
            found.faults.append(str(error))
            folders = {}
        labels = _labels(found, split, list(folders))
        for label, folder in zip(labels, folders.values(), strict=True):
            _list_class(found, root / split / folder, place, label, left_out)
        for reason, names in sorted(left_out.names.items()):
            found.left_out.setdefault(reason, []).extend(sorted(names))
    if not found.paths:
        raise ValueError("; ".join([f"{root}: there is no image in any class folder", *found.faults]))
    return found


def _labels(found: Inventory, split: str, names: list[str]) -> list[int]:
    """Return the class of each folder of a split; a name that is not among those of train becomes a further class."""
    labels = match_classes(names, found.classes[: found.trained] or found.classes)
    unknown = [name for name, label in zip(names, labels, strict=True) if label is None]
    if split == SPLITS[0]:
        found.trained = len(names)
        if len(names) == 1:
            found.faults.append(f"{found.root / split} has a single class, {quoted(names)}: a classifier needs two")
    elif unknown and found.trained:
        what = f"{len(unknown)} class folders are" if len(unknown) > 1 else "a class folder is"
        found.faults.append(f"{found.root / split}: {what} not among those of train: {quoted(unknown)}; remove or rename it")
    further = {name: place for place, name in enumerate(found.classes) if place >= found.trained}
    for name in unknown:
        if name not in further:
            further[name] = len(found.classes)
            found.classes.append(name)
    return [further[name] if label is None else label for name, label in zip(names, labels, strict=True)]


def _list_class(found: Inventory, folder: Path, split: int, label: int, left_out: LeftOut) -> None:
    before = len(found)
    try:
        for path in sorted(images_below(os.fspath(folder), left_out)):
            found.paths.append(Path(path))
    except ValueError as error:
        found.faults.append(str(error))
    new = len(found) - before
    found.split_of += [split] * new
    found.label_of += [label] * new
    if not new and found.splits[split] == SPLITS[0]:
        found.faults.append(f"{folder.parent}: no image in class {quoted([folder.name])}")
