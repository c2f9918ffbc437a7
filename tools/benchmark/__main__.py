"""Measure the engine: evaluation and training step against the backbone alone, a plain transcription and other repositories.

python -m tools.benchmark --peer <folder of INTR>
python -m tools.benchmark --image_size 448 --batch_size 8 --classes 100 1000 --modes training
python -m tools.benchmark --time_to 98 --recipe recipes/demo.args <another> --dataset_path <datasets> --dataset_name <name>

Each implementation runs in a process of its own, on random weights and random images, and is measured once in every round.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `python tools/benchmark` works too

import torch

from flags import add_model_flags
from flags import get_args_parser as main_flags
from tools.benchmark.cases import ICN, MODES, Implementation, grid_cases, parse_size, scale_cases
from tools.benchmark.loading import measure_loading
from tools.benchmark.meters import machine, measure_startup
from tools.benchmark.report import Report
from tools.benchmark.runner import Runner
from tools.benchmark.time_to import main_words, measure_recipes
from util.cli import Parser, launch, parse
from util.device import select_device
from util.memory import available
from util.number import AMOUNT, COUNT, SEED, Number
from util.precision import PRECISIONS

PLAIN = Implementation("plain", str(Path(__file__).resolve().parent / "implementations" / "plain"))
GRID = {"image_size", "batch_size", "precision", "compile", "device", "output_dir"}  # flags that mean something else in main.py
ALL_MODES = (*MODES, "loading", "startup")


def get_args_parser() -> argparse.ArgumentParser:
    parser = Parser("benchmark", description=__doc__)
    group = parser.add_argument_group("grid (every combination is measured)")
    group.add_argument("--image_size", nargs="+", metavar="N|HxW", help="pixels; None: 800 with 1 image and 448 with 8")
    group.add_argument("--batch_size", nargs="+", type=COUNT, metavar="N", help="images per step")
    group.add_argument("--classes", nargs="+", type=COUNT, metavar="N", help="class queries; None: 100")
    group.add_argument("--precision", nargs="+", choices=PRECISIONS[1:], default=["fp32", "bf16"], help="of ICN")
    group.add_argument("--compile", nargs="+", choices=["off", "on"], default=["off"], help="torch.compile")
    group.add_argument("--modes", nargs="+", choices=ALL_MODES, default=list(ALL_MODES), help="what is measured")
    group = parser.add_argument_group("implementations")
    group.add_argument(
        "--peer", nargs="+", default=[], metavar="FOLDER", help="repositories with INTR's models.build_model(args)"
    )
    group.add_argument("--without_plain", action="store_true", help="leave the plain transcription out")
    group = parser.add_argument_group("run")
    group.add_argument("--rounds", type=COUNT, default=5, help="measurements of each implementation")
    group.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="auto, cuda, cuda:<index> or cpu")
    group.add_argument("--threads", type=Number(int, 1, 1024), default=torch.get_num_threads(), help="of each process")
    group.add_argument(
        "--max_memory", type=Number(float, above=True), metavar="GIB", help="on the CPU, of each process; None: 90 %% of the free"
    )
    group.add_argument("--patience", type=AMOUNT, default=10.0, metavar="S", help="seconds to wait for CPU contention to end")
    group.add_argument("--output_dir", default="output/benchmark", help="folder of the results; '' writes none")
    group.add_argument("--scale", action="store_true", help="evaluation against the number of classes and of pixels instead")
    group = parser.add_argument_group("time to accuracy (whole trainings instead)")
    group.add_argument("--time_to", type=Number(float, 0, 100, above=True), metavar="PERCENT", help="accuracy to be reached")
    group.add_argument("--recipe", nargs="+", default=[], metavar="FILE", help="files of flags; each is trained with each seed")
    group.add_argument("--seeds", nargs="+", type=SEED, default=[42, 43, 44], help="of the trainings")
    group.add_argument("--dataset_path", default="datasets", help="folder of data sets, as of main.py")
    group.add_argument("--dataset_name", default="cub", help="of the data set, as of main.py")
    group.add_argument("--backbone_weights", default="none", help="as of main.py; what else there is goes into a recipe")
    add_model_flags(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure, print the tables, write benchmark.json and benchmark.md (with --scale: scale.json, scale.md, scale.png).

    The files are rewritten after every case, so that a long run that is cut short leaves what it has measured.
    """
    check_flags(args)
    if args.time_to is not None:
        print(time_to(args))
        return
    implementations = make_implementations(args)
    settings = worker_settings(args)
    axes = scale_cases(args) if args.scale else {}
    cases = list(dict.fromkeys(itertools.chain(*axes.values()))) or grid_cases(args)
    description = machine(torch.device(settings["device"]), args.threads)
    report = Report(Path(args.output_dir) if args.output_dir else None, description, args.rounds, settings["flags"], axes)
    results = Runner(args.rounds, settings, args.scale, args.patience).measure(cases, implementations, report.write)
    modes = () if args.scale else args.modes
    loading = measure_loading() if "loading" in modes else []
    print(report.write(results, loading, measure_startup(args.rounds) if "startup" in modes else []))
    if args.output_dir:
        print(f"{'scale' if args.scale else 'benchmark'}.*: {args.output_dir}")


def time_to(args: argparse.Namespace) -> str:
    """Train the recipes of --time_to; return the table."""
    if not args.recipe or not args.output_dir:
        raise ValueError("--time_to needs --recipe FILE ... and --output_dir, for the logs")
    description = machine(select_device(args.device), args.threads)
    words = [*main_words(args, vars(parse(main_flags(), [])), GRID), "--device", args.device]
    return measure_recipes(args.recipe, words, args.time_to, args.seeds, args.threads, Path(args.output_dir), description)


def make_implementations(args: argparse.Namespace) -> list[Implementation]:
    """Return ICN in every precision, compiled or not, the transcription, the peers. ValueError for folders that are no peers."""
    icn = [Implementation(ICN, None, p, c == "on") for c in dict.fromkeys(args.compile) for p in dict.fromkeys(args.precision)]
    others = [] if args.without_plain else [PLAIN]
    for text in args.peer:
        folder = Path(text).resolve()
        if not (folder / "models").is_dir() and not (folder / "models.py").is_file():
            raise ValueError(f"--peer {text}: no models/ there; give the folder of a repository with models.build_model(args)")
        others.append(Implementation(folder.name, str(folder)))
    names = [each.name for each in others]
    if len(set(names)) < len(names) or ICN in names:
        raise ValueError(f"--peer: two implementations have the same name ({', '.join(names)}): rename a folder")
    return icn + others


def worker_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return what is the same for every process: device, threads, memory limit, and main's flags with the model's as given."""
    device = select_device(args.device)
    if device.type == "mps":
        raise ValueError("--device mps is not measured: choose cuda or cpu")
    limit = args.max_memory or (0.9 * free / 2**30 if (free := available()) else None)
    model = Parser(add_help=False)
    add_model_flags(model)
    flags = {**vars(parse(main_flags(), [])), **{action.dest: getattr(args, action.dest) for action in model._actions}}
    del flags["explicit"]
    memory = limit if device.type == "cpu" else None
    return {"device": str(device), "threads": args.threads, "memory_gib": memory, "flags": flags}


def check_flags(args: argparse.Namespace) -> None:
    """Raise ValueError for flags that cannot be measured, before anything is; make the output folder."""
    if "num_queries" in args.explicit or "backbone_norm" in args.explicit:
        raise ValueError("--num_queries and --backbone_norm: the benchmark has --classes, and frozen batch norms throughout")
    for text in args.image_size or []:
        parse_size(text)
    if args.output_dir:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)  # a folder that cannot be written to fails here


if __name__ == "__main__":
    launch(main, get_args_parser())
