"""Data sets in ICN's layout: a module per source in `SOURCES`, from which the command line is made.

A module has `HELP` and `DESCRIPTION`, `FLAGS` (name without dashes -> keywords of `ArgumentParser.add_argument`), and
`prepare(target, ranks, **values of the flags)`, which writes the folder `target`; `DOWNLOADS` where the official site serves its
files at lasting addresses.
"""

from __future__ import annotations

from types import ModuleType

from datasets.prepare import (
    aircraft,
    birds,
    butterflies,
    cars,
    cub,
    dogs,
    fashion_mnist,
    fish_vista,
    flowers,
    nabirds,
    own_photographs,
    pets,
)

SOURCES: dict[str, ModuleType] = {
    "folder": own_photographs,
    "fgvc-aircraft": aircraft,
    "cub": cub,
    "stanford-cars": cars,
    "stanford-dogs": dogs,
    "oxford-pets": pets,
    "oxford-flowers": flowers,
    "nabirds": nabirds,
    "birds-525": birds,
    "butterflies": butterflies,
    "fish-vista": fish_vista,
    "fashion-mnist": fashion_mnist,
}
