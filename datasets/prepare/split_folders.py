"""Splits by the names of folders and files, as people call them; folders of splits that hold class folders."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from datasets.folders import LeftOut, class_folders, images_below
from datasets.prepare.photo_lists import SPLIT
from datasets.prepare.photos import Photo
from util.classes import class_key
from util.printable import quoted


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split; where there is none of val, that of test is val.

    Raises:
        ValueError: two folders are of one split.
    """
    found: dict[str, Path] = {}
    for path in sorted(path for path in root.iterdir() if path.is_dir() and path.name.casefold() in SPLIT):
        other = found.setdefault(SPLIT[path.name.casefold()], path)
        if other != path:
            raise ValueError(f"{root}: the folders {quoted([other.name, path.name])} are of one split: merge them, or remove one")
    if "val" not in found and "test" in found:
        found["val"] = found.pop("test")
    return found


def splits_in_names(names: Sequence[str]) -> list[str]:
    """Return the split that each name of a file contains as a word; '' for all where they do not divide the files.

    Raises:
        ValueError: only some of them name a split.
    """
    words = [{SPLIT[word] for word in re.findall("[a-z]+", name.casefold()) if word in SPLIT} for name in names]
    splits = ["".join(found) if len(found) == 1 else "" for found in words]
    if len(set(splits)) < 2:
        return [""] * len(names)
    if without := [name for name, split in zip(names, splits, strict=True) if not split]:
        raise ValueError(f"{quoted(without)} name no split, where others name one: rename them, or move them away")
    return splits


def read_split_folders(root: Path, notes: list[str], name_class: Callable[[str], str] = class_key) -> Iterator[Photo]:
    """Yield the pictures of split folders; `name_class` returns a label from the name of a class folder."""
    left_out = LeftOut(root)
    for split, folder in split_folders(root).items():
        for name, class_folder in class_folders(folder, left_out).items():
            for image in sorted(images_below(os.fspath(folder / class_folder), left_out)):
                yield Photo(os.path.relpath(image, root), Path(image), name_class(name), split)
    if text := str(left_out):
        notes.append(f"left out are {text}")
