"""Print one table of several training runs: accuracy of each, mean and standard deviation over seeds.

    python -m tools.collect <run folder> ...

A run folder is `<output_dir>/<dataset_name>/<output_sub_dir>`, which holds the log.txt of a training. Runs whose names differ
only in `_seed<n>` at the end are a group; where no name ends so, all runs are one group.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/collect.py` works too

from util.cli import Parser, launch
from util.logging import run_table


def get_args_parser() -> argparse.ArgumentParser:
    parser = Parser("collect", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="run", help="folder of a run")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the table. ValueError for a folder without the log of a finished epoch."""
    print(run_table(args.runs))


if __name__ == "__main__":
    launch(main, get_args_parser())
