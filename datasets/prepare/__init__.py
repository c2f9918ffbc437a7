"""Public data sets in ICN's layout: a module per source in `SOURCES`, from which the command line is made.

A module has `HELP` and `DESCRIPTION`, `FLAGS` (name without dashes -> keywords of `ArgumentParser.add_argument`), and
`prepare(target, ranks, **values of the flags)`, which writes the folder `target`.
"""

from __future__ import annotations

from types import ModuleType

from datasets.prepare import fashion_mnist

SOURCES: dict[str, ModuleType] = {"fashion-mnist": fashion_mnist}
