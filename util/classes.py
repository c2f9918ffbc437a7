"""Names of classes: which are the same, and finding a class by its name or its index."""

from __future__ import annotations

import difflib
import operator
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

from .printable import short_name

SHOWN = 5
INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufe0e\ufe0f\ufeff]")


@cache
def class_key(name: str) -> str:
    """Return what the names that look like `name` have in common: NFC without invisible letters and spaces at its ends."""
    return " ".join(INVISIBLE.sub("", unicodedata.normalize("NFC", name)).split())


def match_classes(names: Iterable[str], classes: Sequence[str]) -> list[int | None]:
    """Return the index of each name among the classes, by the very name or else by its key; None where there is none."""
    known = {class_key(name): index for index, name in enumerate(classes)}
    known |= {name: index for index, name in enumerate(classes)}
    return [known.get(name, known.get(class_key(name))) for name in names]


def find_class(choice: str | int, classes: Sequence[str]) -> int:
    """Return the index of the class that `choice` names, or whose index it is, also as text; a name goes before an index.

    Raises:
        ValueError: there is no such class; the message names similar ones.
    """
    if isinstance(choice, str) and (label := match_classes([choice], classes)[0]) is not None:
        return label
    count = len(classes)
    index = _as_index(choice)
    if index is not None and 0 <= index < count:
        return index
    if index is None:
        near = [classes.index(name) for name in difflib.get_close_matches(str(choice), classes, SHOWN, cutoff=0)]
    else:
        near = list(range(max(0, count - SHOWN), count) if index >= count else range(min(SHOWN, count)))
    names = ", ".join(f"{place} {short_name(classes[place])}" for place in near)
    raise ValueError(
        f"class {short_name(repr(choice))} does not exist: give an index from 0 to {count - 1}, or a name (near: {names})"
    )


def find_classes(words: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the indices of the classes that words name by name or index; `all` alone names all.

    A word that is no class is split at its commas.

    Raises:
        ValueError: there is no such class, or one is given twice.
    """
    if list(words) == ["all"] and "all" not in classes:
        return list(range(len(classes)))
    whole = [label is not None for label in match_classes(words, classes)]
    parts = [part for word, is_class in zip(words, whole, strict=True) for part in ([word] if is_class else word.split(","))]
    indices: dict[int, None] = {}
    for part in filter(str.strip, parts):
        index = find_class(part, classes)
        if index in indices:
            raise ValueError(f"{part.strip()} is given twice: give each class once")
        indices[index] = None
    return list(indices)


def _as_index(choice: str | int) -> int | None:
    if isinstance(choice, bool):
        return None
    try:
        return int(choice) if isinstance(choice, str) else operator.index(choice)
    except (ValueError, TypeError):
        return None
