"""Summary of several training runs: accuracy of each, mean and standard deviation of each group."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from .tables import aligned_table

SEED = re.compile(r"_seed\d+$")


def run_table(folders: Sequence[Path]) -> str:
    """Return a table of the epochs, the last and the best accuracy (percent) of each run, read from its log.txt.

    Runs whose names differ only in a final `_seed<n>` are a group; without such names all runs are one group. A group of several
    runs has a row of means and sample standard deviations (n - 1).

    Raises:
        ValueError: a folder has no log of a finished epoch.
    """
    groups: dict[tuple[Path, str], list[Path]] = {}
    seeded = any(SEED.search(folder.name) for folder in folders)
    for folder in folders:
        groups.setdefault((folder.parent, SEED.sub("", folder.name)) if seeded else (Path(), ""), []).append(folder)
    rows = []
    for (_, group), members in groups.items():
        results = [_read_last_epoch(folder) for folder in members]
        for folder, (epochs, last, best) in zip(members, results, strict=True):
            rows.append([folder.name, str(epochs), f"{last:.2f}", f"{best:.2f}"])
        if len(members) > 1:
            prefix = f"{group}: " if len(groups) > 1 else ""
            spread = [f"{mean(values):.2f} +- {stdev(values):.2f}" for values in list(zip(*results, strict=True))[1:]]
            rows.append([f"{prefix}mean +- sd of {len(members)}", "", *spread])
    return aligned_table(["run", "epochs", "last acc@1", "best acc@1"], rows)


def _read_last_epoch(folder: Path) -> tuple[int, float, float]:
    """Return the number of epochs, the last and the best accuracy of a run."""
    try:
        last = json.loads((folder / "log.txt").read_text(encoding="utf-8").splitlines()[-1])
        return last["epoch"] + 1, float(last["test_acc1"]), float(last["best_acc1"])
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(f"{folder / 'log.txt'} has no finished epoch: give the folder of a training") from None
