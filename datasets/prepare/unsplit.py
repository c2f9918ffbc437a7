"""From labelled pictures, with or without splits, to photographs with splits: groups and near-duplicates are never divided."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from datasets.near_duplicates import BITS, measure_looks, near_duplicates
from datasets.prepare.broken import find_usable
from datasets.prepare.photo_lists import Row
from datasets.prepare.photos import Photo, check_once
from datasets.prepare.selection import FLAGS as SELECTION
from datasets.prepare.selection import select
from datasets.prepare.splits import join_groups, split_by_group
from util.number import PART, SEED, Number
from util.printable import quoted

FLAGS: dict[str, dict[str, Any]] = {
    "val": {"type": PART, "default": 0.2, "help": "share of each class for val"},
    "test": {"type": PART, "default": 0.0, "help": "share of each class for test"},
    **SELECTION,
    "seed": {"type": SEED, "default": 0, "help": "seed of the split and of --limit_per_class"},
    "duplicate_bits": {
        "type": Number(int, -1, 16),
        "default": 4,
        "help": f"bits, of {BITS}, that the perceptual hashes of near-duplicates differ by at most; -1: do not look for them",
    },
}


def with_splits(rows: Sequence[Row], flags: Mapping[str, Any], notes: list[str]) -> list[Photo]:
    """Return the photographs of rows, with the splits that these give, or else drawn by class and group.

    Args:
        rows: labelled pictures.
        flags: values of `FLAGS`.
        notes: what there is to say is appended.

    Raises:
        ValueError: a picture is listed with two labels or splits, or broken (without --partial); a group or near-duplicates are
            in several splits; no class has enough pictures.
    """
    check_once([Photo(row.name, row.path, row.label, row.split) for row in rows])
    rows = sorted({row.path: row for row in rows}.values())
    if missing := [row.name for row in rows if not os.path.isfile(row.path)]:  # with --partial
        notes.append(f"{len(missing)} of {len(rows)} listed pictures are missing: {quoted(missing)}")
        rows = [row for row in rows if os.path.isfile(row.path)]
    usable = find_usable([row.name for row in rows], [row.path for row in rows], flags["partial"], notes)
    rows = [rows[index] for index in usable]
    rows = [rows[index] for index in select([row.label for row in rows], [row.split for row in rows], flags, notes)]
    pairs = _near_duplicates(rows, flags["duplicate_bits"], notes)
    if any(row.split for row in rows):
        _check_splits(rows, pairs)
        splits = [row.split for row in rows]
        if "val" not in splits and "test" in splits:
            notes.append("the list has no val: its test is val")
            splits = ["val" if split == "test" else split for split in splits]
        for split in sorted({*splits} - {"train"}):
            if lacking := _lacking(rows, splits, split):
                count = len({row.label for row in rows})
                notes.append(f"{len(lacking)} of {count} classes have no picture in {split}: {quoted(lacking)}")
    else:
        groups = join_groups([row.group or index for index, row in enumerate(rows)], pairs)
        splits = _draw_splits(rows, groups, flags, notes)
    return [Photo(row.name, row.path, row.label, split, row.box) for row, split in zip(rows, splits, strict=True)]


def pad_numbers(rows: Sequence[Row]) -> list[Row]:
    """Return rows whose labels, where all are numbers, have as many digits, so that their order is that of the numbers."""
    if not all(row.label.isdecimal() for row in rows):
        return list(rows)
    width = max((len(row.label) for row in rows), default=0)
    return [row._replace(label=row.label.zfill(width)) for row in rows]


def _near_duplicates(rows: Sequence[Row], bits: int, notes: list[str]) -> list[tuple[int, int]]:
    """Return the pairs of near-duplicates; none if `bits` is negative."""
    pairs = near_duplicates(measure_looks([row.path for row in rows]), bits) if bits >= 0 else []
    for what, chosen in (
        ("near-duplicates (kept in one split)", pairs),
        ("near-duplicates with two labels", [(i, j) for i, j in pairs if rows[i].label != rows[j].label]),
    ):
        if chosen:
            named = quoted([f"{rows[i].name} = {rows[j].name}" for i, j in chosen])
            notes.append(f"{len(chosen)} pairs of {what}: {named}")
    return pairs


def _check_splits(rows: Sequence[Row], pairs: Sequence[tuple[int, int]]) -> None:
    """Raise a ValueError for a group or near-duplicates in several splits of the list."""
    first: dict[str, Row] = {}
    for row in rows:
        other = first.setdefault(row.group, row)
        if row.group and other.split != row.split:
            both = f"{quoted([other.name])} ({other.split}) and {quoted([row.name])} ({row.split})"
            raise ValueError(f"the group {quoted([row.group])} is in two splits: {both}; give them one split, or other groups")
    if across := [(rows[i], rows[j]) for i, j in pairs if rows[i].split != rows[j].split]:
        named = quoted([f"{one.name} ({one.split}) = {other.name} ({other.split})" for one, other in across])
        advice = "give both of a pair one split, remove one, or allow it by --duplicate_bits -1"
        raise ValueError(f"{len(across)} pairs of near-duplicates are in two splits: {named}; {advice}")


def _lacking(rows: Sequence[Row], splits: Sequence[str], split: str) -> list[str]:
    """Return the classes without a picture in a split, sorted."""
    found = {row.label for row, other in zip(rows, splits, strict=True) if other == split}
    return sorted({row.label for row in rows} - found)


def _draw_splits(rows: Sequence[Row], groups: Sequence[int], flags: Mapping[str, Any], notes: list[str]) -> list[str]:
    """Return splits drawn by class and group, and note the classes that a split lacks."""
    shares = {"train": 1 - flags["val"] - flags["test"], "val": flags["val"], "test": flags["test"]}
    shares = {split: share for split, share in shares.items() if share}
    labels = [row.label for row in rows]
    splits = split_by_group(labels, groups, shares, flags["seed"])
    for split in shares:
        lacking = _lacking(rows, splits, split)
        if len(lacking) == len(set(labels)):
            advice = f"give more pictures or groups, a larger --{split}, or --{split} 0"
            raise ValueError(f"no class has enough pictures or groups for {split}: {advice}")
        if lacking:
            notes.append(
                f"{len(lacking)} of {len(set(labels))} classes have too few pictures or groups for {split}: {quoted(lacking)}"
            )
    return splits
