"""Families of classes: a CSV file that names one for each class."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from .classes import match_classes
from .printable import printable, quoted

FORM = "expected a CSV file with the columns class and family, a row for each class"


def read_families(path: str | os.PathLike[str], classes: Sequence[str]) -> list[str]:
    """Return the family of each class from a CSV file (UTF-8) with the columns `class` and `family`.

    Further columns, and classes that are not asked for, do not count: a list of all species serves many models.

    Raises:
        ValueError: there is no such file, or it is none of this form; a class has no family, or two.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            heads = [(head or "").strip().casefold() for head in reader.fieldnames or ()]
            reader.fieldnames = heads
            if not {"class", "family"} <= set(heads):
                raise ValueError(f"its columns are {quoted(heads) or 'none'}")
            rows = [((row["class"] or "").strip(), (row["family"] or "").strip()) for row in reader]
    except OSError as error:
        raise ValueError(f"families {path}: cannot be read ({error.strerror}); {FORM}") from None
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else printable(str(error))
        raise ValueError(f"families {path}: {reason}; {FORM}") from None
    families: list[str | None] = [None] * len(classes)
    names = [name for name, _ in rows]
    labels = match_classes(names, classes)
    for (_, family), label in zip(rows, labels, strict=True):
        if label is not None and family:
            if families[label] not in (None, family):
                both = quoted([str(families[label]), family])
                raise ValueError(
                    f"families {path}: the class {quoted([classes[label]])} has two families, {both}: keep one of the rows"
                )
            families[label] = family
    if missing := [name for name, family in zip(classes, families, strict=True) if family is None]:
        others = list(dict.fromkeys(name for name, label in zip(names, labels, strict=True) if label is None))
        hint = f" (it has {quoted(others)}, which the model does not know)" if others else ""
        raise ValueError(
            f"families {path}: {len(missing)} of {len(classes)} classes have no family: {quoted(missing)}; add them{hint}"
        )
    return [str(family) for family in families]
