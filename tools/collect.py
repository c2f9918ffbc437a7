"""Print one table of several training runs: accuracy of each, mean and standard deviation over seeds.

    python -m tools.collect <run folder> ...

A run folder is `<output_dir>/<dataset_name>/<output_sub_dir>`, which holds the log.txt and the checkpoint of a training. Runs are
a group if their model, their data and all that they were trained with agree, except the seed, and so do their names but for
`_seed<n>` at the end; where no name ends so, names do not count. Unfinished runs are marked, and are no part of a mean.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/collect.py` works too

from flags import compared_flags
from util.cli import Parser, launch
from util.run_table import run_table


def get_args_parser() -> argparse.ArgumentParser:
    parser = Parser("collect", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="run", help="folder of a run")
    return parser


def main(args: argparse.Namespace) -> None:
    """Print the table. ValueError for a folder that is not that of a training."""
    print(run_table(args.runs, compared_flags()))


if __name__ == "__main__":
    launch(main, get_args_parser())
