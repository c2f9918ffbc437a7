"""The table of several training runs: accuracy of each, mean and standard deviation of those that differ in their seed only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from .checkpoint import LAST
from .results_folder import LOCK

SEED = re.compile(r"_seed\d+$")
SHOWN = 4  # flags in which a run differs


@dataclass(frozen=True)
class Run:
    """A training: number of finished epochs, accuracies (percent) of the last scored and of the best one, and its flags.

    It has no accuracies before an epoch is scored, and no flags without a checkpoint.
    """

    folder: Path
    epochs: int
    accuracies: tuple[float, float] | None
    flags: dict[str, Any] | None

    @property
    def is_finished(self) -> bool:
        return self.accuracies is not None and (self.flags is None or self.epochs >= self.flags.get("epochs", 0))

    def cells(self) -> list[str]:
        of = "" if self.is_finished else f" of {self.flags['epochs']}, unfinished" if self.flags else ", unfinished"
        return [self.folder.name, f"{self.epochs}{of}", *([f"{value:.2f}" for value in self.accuracies or ()] or ["", ""])]


def run_table(folders: Sequence[Path], compared: Sequence[str]) -> str:
    """Return a table of the epochs, the last and the best accuracy (percent) of each run, read from its log.txt.

    Runs are a group if their `compared` flags agree, which their checkpoints contain, and their names but for a final `_seed<n>`
    (where no name ends so: whatever their names). A group of several finished runs has a row of means and sample standard
    deviations (n - 1). ValueError for a folder that is not that of a training.
    """
    runs = [_read_run(folder) for folder in {folder.resolve(): folder for folder in folders}.values()]
    known = [run.flags for run in runs if run.flags is not None]
    differing = [name for name in compared if len({repr(flags.get(name)) for flags in known}) > 1]
    seeded = any(SEED.search(run.folder.name) for run in runs)
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        name = (run.folder.resolve().parent, SEED.sub("", run.folder.name)) if seeded else ()
        groups.setdefault((*name, _describe(run, differing)), []).append(run)
    rows = [row for group in groups.values() for row in _rows(group, differing, seeded and len(groups) > 1)]
    cells = [["run", "epochs", "last acc@1", "best acc@1", "differs in" if any(row[4] for row in rows) else ""], *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _rows(group: Sequence[Run], differing: Sequence[str], named: bool) -> Iterator[list[str]]:
    """Yield the rows of runs that differ in their seed only, and of their mean."""
    for run in group:
        shown = _describe(run, differing[:SHOWN]) + (f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else "")
        yield [*run.cells(), shown]
    finished = [run.accuracies for run in group if run.is_finished and run.accuracies is not None]
    if len(finished) > 1:
        prefix = f"{SEED.sub('', group[0].folder.name)}: " if named else ""
        only = " finished" if len(finished) < len(group) else ""
        spread = [f"{mean(values):.2f} +- {stdev(values):.2f}" for values in zip(*finished, strict=True)]
        yield [f"{prefix}mean +- sd of {len(finished)}{only}", "", *spread, ""]


def _describe(run: Run, names: Sequence[str]) -> str:
    """Return the values of flags in which runs differ."""
    if run.flags is None:
        return "unknown: no checkpoint" if names else ""
    return ", ".join(f"{name} {run.flags.get(name)}" for name in names)


def _read_run(folder: Path) -> Run:
    """Return the run of a folder; the last line of a log may be cut short. ValueError if it has none."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    if not any((folder / name).exists() for name in ("log.txt", LAST, LOCK)):
        raise ValueError(f"{folder} has no log.txt: give the folder of a training, <output_dir>/<dataset_name>/<output_sub_dir>")
    epochs, accuracies, flags = 0, None, None
    try:
        flags = dict(torch.load(folder / LAST, map_location="cpu", weights_only=True, mmap=True)["args"])
        flags["batch_size"] *= flags.get("world_size", 1)  # images per step, of all processes
    except Exception:  # no checkpoint, INTR's, or whatever a damaged one raises
        flags = None
    lines = (
        (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines() if (folder / "log.txt").exists() else []
    )
    for line in lines:
        try:
            stats = json.loads(line)
            best = stats["best_acc1"]
            epochs = stats["epoch"] + 1
            if "test_acc1" in stats:  # not every epoch is scored
                accuracies = float(stats["test_acc1"]), float(best)
        except (ValueError, LookupError, TypeError):
            continue
    return Run(folder, epochs, accuracies, flags)
