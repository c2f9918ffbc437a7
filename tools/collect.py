"""One table of several runs: accuracy of each, mean and standard deviation.

    python -m tools.collect <run folder> ...

A run folder is `<output_dir>/<dataset_name>/<output_sub_dir>` of a training, where its log.txt stands.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from util.cli import Parser, launch


def get_args_parser() -> Parser:
    parser = Parser("collect", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="run", help="folder of a run")
    return parser


def table(folders: Sequence[Path]) -> str:
    """Epochs, last and best accuracy of each run, and their means and standard deviations (of a sample: n - 1).

    Raises:
        ValueError: a folder has no log of a finished epoch.
    """
    names = ["run", "epochs", "last acc@1", "best acc@1"]
    rows, last, best = [], [], []
    for folder in folders:
        try:
            lines = [json.loads(line) for line in (folder / "log.txt").read_text(encoding="utf-8").splitlines()]
            numbers = lines[-1]["epoch"] + 1, float(lines[-1]["test_acc1"]), float(lines[-1]["best_acc1"])
        except (OSError, ValueError, LookupError, TypeError):
            raise ValueError(f"{folder / 'log.txt'} has no finished epoch: give the folder of a training") from None
        last.append(numbers[1])
        best.append(numbers[2])
        rows.append([folder.name, str(numbers[0]), f"{numbers[1]:.2f}", f"{numbers[2]:.2f}"])
    if len(rows) > 1:
        rows.append(
            [f"mean +- sd of {len(rows)}", "", *(f"{mean(values):.2f} +- {stdev(values):.2f}" for values in (last, best))]
        )
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in [names, *rows]]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def main(args: argparse.Namespace) -> None:
    """Print the table.

    Raises:
        ValueError: as `table`.
    """
    print(table(args.runs))


if __name__ == "__main__":
    launch(main, get_args_parser())
