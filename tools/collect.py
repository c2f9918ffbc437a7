"""One table of several runs: accuracy of each, mean and standard deviation.

    python -m tools.collect <run folder> ...

A run folder is `<output_dir>/<dataset_name>/<output_sub_dir>` of a training, where its log.txt stands. Runs of one
recipe, whose names differ in the number at their end (`_seed<n>`), are a group; where no name ends so, all of them are one.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from util.cli import Parser, launch

SEED = re.compile(r"_seed\d+$")


def get_args_parser() -> Parser:
    parser = Parser("collect", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="run", help="folder of a run")
    return parser


def table(folders: Sequence[Path]) -> str:
    """Epochs, last and best accuracy of each run; of each group the means and standard deviations (of a sample: n - 1).

    Raises:
        ValueError: a folder has no log of a finished epoch.
    """
    groups: dict[tuple[Path, str], list[Path]] = {}
    seeded = any(SEED.search(folder.name) for folder in folders)
    for folder in folders:
        groups.setdefault((folder.parent, SEED.sub("", folder.name)) if seeded else (Path(), ""), []).append(folder)
    names = ["run", "epochs", "last acc@1", "best acc@1"]
    rows = []
    for (_, group), members in groups.items():
        numbers = [_numbers(folder) for folder in members]
        for folder, (epochs, last, best) in zip(members, numbers, strict=True):
            rows.append([folder.name, str(epochs), f"{last:.2f}", f"{best:.2f}"])
        if len(members) > 1:
            of_group = f"{group}: " if len(groups) > 1 else ""
            spread = [f"{mean(values):.2f} +- {stdev(values):.2f}" for values in list(zip(*numbers, strict=True))[1:]]
            rows.append([f"{of_group}mean +- sd of {len(members)}", "", *spread])
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [names, *rows]]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _numbers(folder: Path) -> tuple[int, float, float]:
    """Epochs, last and best accuracy of a run."""
    try:
        last = json.loads((folder / "log.txt").read_text(encoding="utf-8").splitlines()[-1])
        return last["epoch"] + 1, float(last["test_acc1"]), float(last["best_acc1"])
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(f"{folder / 'log.txt'} has no finished epoch: give the folder of a training") from None


def main(args: argparse.Namespace) -> None:
    """Print the table.

    Raises:
        ValueError: as `table`.
    """
    print(table(args.runs))


if __name__ == "__main__":
    launch(main, get_args_parser())
