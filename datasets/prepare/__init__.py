"""Data sets in ICN's layout: a module per source in `SOURCES`, from which the command line is made.

A module has `HELP` and `DESCRIPTION`, `FLAGS` (name without dashes -> keywords of `ArgumentParser.add_argument`), and
`prepare(target, ranks, **values of the flags)`, which writes the folder `target`.
"""

from __future__ import annotations

from types import ModuleType

from datasets.prepare import aircraft, cars, cub, dogs, fashion_mnist, flowers, nabirds, own_photographs, pets

SOURCES: dict[str, ModuleType] = {
    "folder": own_photographs,
    "fgvc-aircraft": aircraft,
    "cub": cub,
    "stanford-cars": cars,
    "stanford-dogs": dogs,
    "oxford-pets": pets,
    "oxford-flowers": flowers,
    "nabirds": nabirds,
    "fashion-mnist": fashion_mnist,
}
