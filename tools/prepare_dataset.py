"""Write your own photographs, or a public data set, as ICN's folders: `<out>/<name>/{train,val}/<class>/<image>`.

    python -m tools.prepare_dataset folder --source <your photographs> --out <datasets> --name birds
    python -m tools.prepare_dataset fgvc-aircraft --source <what the site serves> --out <datasets> [--download]

Pictures are linked, not copied, where the file system allows. An interrupted run continues where it stopped; a data set that
is there already is left as it is. Under torchrun or srun the processes share the pictures.

Another data set is another row of `datasets.prepare.SOURCES`.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/prepare_dataset.py` works too

from datasets.prepare import SOURCES
from datasets.prepare.downloads import FLAG, fetch_files
from datasets.prepare.writing import locked
from util.cli import Parser, launch
from util.distributed import init_distributed


def get_args_parser() -> Parser:
    """Build the parser: a sub-command for each source."""
    parser = Parser(
        "prepare_dataset", description="Writes photographs or a public data set as <out>/<name>/<split>/<class>/<image>"
    )
    commands = parser.add_subparsers(title="data sets", dest="dataset", required=True, metavar="<data set>")
    for name, source in SOURCES.items():
        command = commands.add_parser(name, help=source.HELP, description=source.DESCRIPTION)
        for flag, keywords in source.FLAGS.items():
            command.add_argument(f"--{flag}", **keywords)
        if hasattr(source, "DOWNLOADS"):
            command.add_argument("--download", **FLAG)
        command.add_argument("--out", type=Path, required=True, help="folder of data sets: main.py's --dataset_path")
        command.add_argument("--name", default=name, help=f"folder to write in it: --dataset_name (default: {name})")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the data set that the sub-command names.

    Raises:
        ValueError: a source that is missing or damaged, a name that is not that of one folder, or another process
            prepares the same.
        OSError: a file cannot be read or written.
        RunFailed: another process is gone, or a download failed.
    """
    source = SOURCES[args.dataset]
    with init_distributed() as ranks:
        if args.name in ("", ".", "..") or Path(args.name).name != args.name:
            raise ValueError(f"--name {args.name!r} must be the name of one folder, without slashes")
        target = args.out / args.name
        with locked(target) if ranks.main else nullcontext():
            if getattr(args, "download", False) and not target.exists():
                fetch_files(source.DOWNLOADS, args.source, ranks)
            source.prepare(target, ranks, **{flag: getattr(args, flag) for flag in source.FLAGS})


if __name__ == "__main__":
    launch(main, get_args_parser(), shared=True)
