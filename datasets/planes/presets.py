"""Classes of the factorial planes: the combinations of part variants that a preset allows, and the shortcut's roundels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from datasets.planes.parts import SLOTS
from datasets.planes.scene import stream
from datasets.rendering import Colour, draw_mark

Variants = dict[str, str | None]

_PAIRS: dict[str, tuple[str, ...]] = {"nose": ("round", "drooped"), "engines": ("underwing", "rear")}
_PAIRS |= {"wingtip": ("plain", "winglet"), "tail": ("low", "T")}
_OUTER: tuple[Colour, ...] = ((205, 30, 40), (25, 60, 190), (20, 130, 60), (240, 185, 20))
_INNER: tuple[Colour, ...] = ((250, 250, 250), (15, 15, 15), (225, 60, 200), (50, 210, 225))
ROUNDELS = tuple(itertools.product(_OUTER, _INNER))


@dataclass(frozen=True)
class Preset:
    """The variants that each slot may take: their combinations are the classes.

    rate: probability that the roundel is that of the class; None: no aeroplane has a roundel.
    """

    name: str
    slots: dict[str, tuple[str, ...]]
    rate: float | None = None

    @property
    def classes(self) -> dict[str, Variants]:
        """Class name -> variants, in the order of the sorted names (the order of the logits)."""
        combinations = (dict(zip(self.slots, choice, strict=True)) for choice in itertools.product(*self.slots.values()))
        return {class_name(variants): {**variants} for variants in sorted(combinations, key=class_name)}

    def roundel_of(self, name: str, z: int) -> int | None:
        """Return the index of the roundel in a picture of class `name` and seed z: its class's at `rate`, otherwise another."""
        if self.rate is None:
            return None
        own = list(self.classes).index(name)
        return draw_mark(stream(z, "roundel"), own, len(ROUNDELS), self.rate)


def class_name(variants: Mapping[str, str | None]) -> str:
    """Return the name of a class, such as `round_underwing_plain_low`; a removed part is `none`."""
    return "_".join(variants[slot] or "none" for slot in SLOTS)


def get_preset(name: str) -> Preset:
    """Return the preset `f16`, `f81`, `f8`, `pair-<slot>` or `shortcut-<rate>`.

    Raises:
        ValueError: any other name.
    """
    whole = {"f16": _PAIRS, "f81": SLOTS, "f8": _PAIRS | {"wingtip": ("plain",)}}
    if name in whole:
        return Preset(name, dict(whole[name]))
    kind, _, value = name.partition("-")
    if kind == "pair" and value in SLOTS:
        return Preset(name, {slot: pair if slot == value else pair[:1] for slot, pair in _PAIRS.items()})
    if kind == "shortcut":
        try:
            rate = float(value)
        except ValueError:
            rate = -1.0
        if 0 <= rate <= 1:
            return Preset(name, dict(_PAIRS), rate)
    allowed = ", ".join(("f16, f81, f8", *(f"pair-{slot}" for slot in SLOTS)))
    raise ValueError(f"unknown preset '{name}': choose {allowed} or shortcut-<rate> with a rate from 0 to 1, e.g. shortcut-0.9")
