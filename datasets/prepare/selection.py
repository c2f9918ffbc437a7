"""Selection of classes and pictures by the flags that every source of photographs has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets.prepare.splits import limit_per_class
from util.number import COUNT, SEED
from util.printable import quoted

FLAGS: dict[str, dict[str, Any]] = {
    "min_per_class": {"type": COUNT, "help": "leave out classes with fewer pictures, of all splits together"},
    "limit_per_class": {
        "type": COUNT,
        "help": "at most so many pictures of each class, chosen at random: in each split that the source gives, or else in all",
    },
    "seed": {"type": SEED, "help": "seed of --limit_per_class"},
    "square_crop": {
        "choices": ["boxes"],
        "help": "cut each picture to the square around its box, with a margin; others stay whole",
    },
    "partial": {
        "action": "store_true",
        "help": "take what is there: missing and broken pictures, and other numbers than the official ones are said, not refused",
    },
}


def select(labels: Sequence[str], splits: Sequence[str], flags: Mapping[str, Any], notes: list[str]) -> list[int]:
    """Return the indices of the pictures that --min_per_class and --limit_per_class leave, in order.

    Args:
        labels: of each picture.
        splits: of each picture; '' before they are drawn.
        flags: values of `FLAGS`.
        notes: what there is to say is appended.

    Raises:
        ValueError: no class has enough pictures.
    """
    counts = Counter(labels)
    folded = Counter(label.casefold() for label in counts)
    if alike := sorted(label for label in counts if folded[label.casefold()] > 1):
        notes.append(f"{len(alike)} classes differ from another by upper case alone: {quoted(alike)}")
    kept = list(range(len(labels)))
    least = flags["min_per_class"] or 1
    if few := {label for label, count in counts.items() if count < least}:
        notes.append(f"{len(few)} of {len(counts)} classes have fewer than {least} pictures: {quoted(sorted(few))}; left out")
        kept = [index for index in kept if labels[index] not in few]
    if most := flags["limit_per_class"]:
        chosen = limit_per_class([f"{labels[index]}\0{splits[index]}" for index in kept], most, flags["seed"] or 0)
        notes.append(
            f"{len(chosen)} of {len(kept)} pictures are taken: at most {most} of each class{' in each split' * any(splits)}"
        )
        kept = [kept[place] for place in chosen]
    if not kept:
        raise ValueError(f"no class has as many as {least} pictures: give a smaller --min_per_class")
    return kept
