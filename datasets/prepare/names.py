"""Names of the folders and files of a prepared data set, from labels and paths that may hold anything."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence

from datasets.folders import SYSTEM
from util.classes import class_key
from util.printable import HARMLESS, quoted

LONGEST = 180  # bytes of a name: file systems allow 255, encrypted ones 143 letters, and masks and temporary files add some


def safe_name(text: str) -> str:
    """Return the name of a file or folder: `_` for slashes and what does not print, and before a name that would be hidden."""
    name = "".join("_" if mark in "/\\" or not (mark.isprintable() or mark in HARMLESS) else mark for mark in class_key(text))
    name = f"_{name}" if SYSTEM.fullmatch(name) else name
    return name.encode()[:LONGEST].decode(errors="ignore").strip()


def class_folders_of(labels: Iterable[str]) -> dict[str, str]:
    """Return the folder of each label.

    Raises:
        ValueError: a label is empty, or two would have one folder.
    """
    folders = {label: safe_name(label) for label in sorted(set(labels))}
    owners: dict[str, str] = {}
    for label, folder in folders.items():
        if not folder:
            raise ValueError(f"a label is empty ({quoted([label])}): give each class a name")
        other = owners.setdefault(folder, label)
        if other != label:
            raise ValueError(f"the classes {quoted([other, label])} would share the folder {quoted([folder])}: rename one")
    return folders


def picture_names(paths: Sequence[str]) -> list[str]:
    """Return a file name for each picture of a class, no two with one stem, which is that of a mask, too.

    It is the picture's own where no other has its stem, else that of its path; a number is added where this does not suffice.
    """
    counts = Counter(_stem(os.path.basename(path)) for path in paths)
    names, used = [], set()
    for path in paths:
        base = os.path.basename(path)
        stem = first = _stem(base) if counts[_stem(base)] == 1 else _stem(path)
        number = 2
        while stem.casefold() in used:
            stem, number = f"{first}-{number}", number + 1
        used.add(stem.casefold())
        names.append(stem + os.path.splitext(base)[1])
    return names


def _stem(path: str) -> str:
    return safe_name(os.path.splitext(path)[0]) or "_"  # a name of spaces
