"""Measure the engine: evaluation and training step against the bare backbone, a plain transcription, and other repositories.

python -m tools.benchmark
python -m tools.benchmark --image_size 448 --batch_size 8 --classes 100 1000 --modes training
python -m tools.benchmark --peer <folder of INTR>
python -m tools.benchmark --scale

Everybody runs in a process of its own, on random weights and random images, and has a turn in every round.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from flags import add_model_flags
from flags import get_args_parser as main_flags
from tools.benchmark import data
from tools.benchmark.cases import MODES, Case, Contestant, Series
from tools.benchmark.goals import ICN, LARGE, SMALL
from tools.benchmark.machine import machine
from tools.benchmark.memory import available_gib
from tools.benchmark.plots import plot_scale
from tools.benchmark.processes import ROOT
from tools.benchmark.report import NOTES, grid_report, heading, scale_report
from tools.benchmark.rounds import Rounds
from util.cli import Parser, launch, parse, select_device

PLAIN = Contestant("plain", str(ROOT / "tools" / "benchmark" / "implementations" / "plain"))
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
SCALE_CLASSES, SCALE_SIZES = (10, 100, 1000, 10000), (224, 320, 448, 640, 800, 1120)
SCALE_SIZE, SCALE_COUNT = 448, 100  # what the other axis is held at


def get_args_parser() -> argparse.ArgumentParser:
    parser = Parser("benchmark", description=__doc__)
    group = parser.add_argument_group("grid (every combination is measured)")
    group.add_argument("--image_size", nargs="+", metavar="N|HxW", help="pixels; None: 800 with 1 image and 448 with 8")
    group.add_argument("--batch_size", nargs="+", type=int, metavar="N", help="images a step")
    group.add_argument("--classes", nargs="+", type=int, metavar="N", help="class queries; None: 100")
    group.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"], help="of ICN")
    group.add_argument("--compile", nargs="+", choices=["off", "on"], default=["off"], help="torch.compile")
    group.add_argument("--modes", nargs="+", choices=(*MODES, "loading"), default=[*MODES, "loading"], help="what is run")
    group = parser.add_argument_group("contestants")
    group.add_argument(
        "--peer", nargs="+", default=[], metavar="FOLDER", help="repositories with INTR's models.build_model(args)"
    )
    group.add_argument("--without_plain", action="store_true", help="leave the plain transcription out")
    group = parser.add_argument_group("run")
    group.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    group.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda, cuda:<index> or cpu")
    group.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    group.add_argument("--max_memory", type=float, metavar="GIB", help="of each process on the CPU; None: 90 %% of what is free")
    group.add_argument(
        "--patience", type=float, default=10.0, metavar="S", help="seconds to wait for other processes that disturb a measurement"
    )
    group.add_argument("--output_dir", default="output/benchmark", help="folder of the results; '' writes none")
    group.add_argument("--scale", action="store_true", help="evaluation against the number of classes and of pixels instead")
    add_model_flags(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure, print the tables, write benchmark.json and benchmark.md (with --scale: scale.json, scale.md, scale.png).

    The files are written anew after every case, so that a long run that is cut short leaves what it has measured.

    Raises:
        ValueError: flags that cannot be measured.
    """
    check_flags(args)
    device = select_device(args.device)
    contestants = make_contestants(args)
    free = available_gib()
    limit = args.max_memory or (0.9 * free if free else None)
    settings = {
        "device": str(device),
        "threads": args.threads,
        "memory_gib": limit if device.type == "cpu" else None,
        "flags": model_flags(args),
    }
    where = machine(device, args.threads)
    by_classes, by_size = scale_cases(args) if args.scale else ([], [])
    cases = list(dict.fromkeys(by_classes + by_size)) if args.scale else grid_cases(args)

    def report(found: list[Series], loading: list[dict[str, Any]]) -> str:
        if args.scale:
            axes = [[one for case in axis for one in found if one.case == case] for axis in (by_classes, by_size)]
            numbers, tables = scale_report(*axes)
        else:
            numbers, tables = grid_report(found, loading, device.type)
        text = f"{heading(where, args.rounds, found)}\n\n{tables}\n\n{NOTES}\n"
        if args.output_dir:
            numbers = {"machine": where, "rounds": args.rounds, "flags": settings["flags"], **numbers}
            stem = Path(args.output_dir) / ("scale" if args.scale else "benchmark")
            stem.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")
            stem.with_suffix(".md").write_text(text)
            if args.scale:
                plot_scale(*axes, stem.with_suffix(".png"))
        return text

    rounds = Rounds(args.rounds, settings, frozenset({"evaluation"}) if args.scale else None, not args.scale, args.patience)
    found = rounds.measure([(case, contestants) for case in cases], lambda sofar: report(sofar, []))
    print(report(found, data.measure() if "loading" in args.modes and not args.scale else []))
    if args.output_dir:
        print(f"{'scale' if args.scale else 'benchmark'}.*: {args.output_dir}")


def grid_cases(args: argparse.Namespace) -> list[Case]:
    """Every combination of the flags; without sizes the two shapes of the goals."""
    shapes = [LARGE, SMALL]
    if args.image_size or args.batch_size:
        shapes = [(*size(s), b) for s in args.image_size or ["800"] for b in args.batch_size or [1]]
    modes = [mode for mode in MODES if mode in args.modes]
    return [Case(mode, *shape, classes) for mode in modes for shape in shapes for classes in args.classes or [100]]


def scale_cases(args: argparse.Namespace) -> tuple[list[Case], list[Case]]:
    """Evaluations against the number of classes, and against the number of pixels."""
    batch = (args.batch_size or [1])[0]
    sizes = [size(text) for text in args.image_size or map(str, SCALE_SIZES)]
    by_classes = [Case("evaluation", SCALE_SIZE, SCALE_SIZE, batch, classes) for classes in args.classes or SCALE_CLASSES]
    return by_classes, [Case("evaluation", *shape, batch, SCALE_COUNT) for shape in sizes]


def make_contestants(args: argparse.Namespace) -> list[Contestant]:
    """ICN in every precision, compiled or not, the transcription, the peers."""
    ours = [Contestant(ICN, None, p, c == "on") for c in dict.fromkeys(args.compile) for p in dict.fromkeys(args.precision)]
    peers = []
    for text in args.peer:
        folder = Path(text).resolve()
        if not (folder / "models").is_dir() and not (folder / "models.py").is_file():
            raise ValueError(
                f"--peer {text}: no models/ there; give the folder of a repository that has models.build_model(args)"
            )
        peers.append(Contestant(folder.name, str(folder)))
    contestants = ours + ([] if args.without_plain else [PLAIN]) + peers
    names = [one.name for one in contestants if one.folder]
    if len(set(names)) < len(names) or ICN in names:
        raise ValueError(f"--peer: two contestants are called the same ({', '.join(names)}): rename a folder")
    return contestants


def model_flags(args: argparse.Namespace) -> dict[str, Any]:
    """All of main's flags at their defaults, with the model's as given here."""
    flags = vars(parse(main_flags(), []))
    flags.update({key: value for key, value in vars(args).items() if key in flags and key in MODEL_FLAGS})
    return {key: value for key, value in flags.items() if key != "given"}


def check_flags(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured, before anything is."""
    if "num_queries" in args.explicit or "backbone_norm" in args.explicit:
        raise ValueError("--num_queries and --backbone_norm: the benchmark has --classes, and frozen batch norms throughout")
    for name in ("batch_size", "classes"):
        for value in getattr(args, name) or []:
            if value < 1:
                raise ValueError(f"--{name} {value} must be at least 1")
    for name in ("rounds", "threads"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)} must be at least 1")
    if not args.patience >= 0:
        raise ValueError(f"--patience {args.patience} must be 0 seconds or more")
    if args.max_memory is not None and not args.max_memory > 0:
        raise ValueError(f"--max_memory {args.max_memory} must be above 0 GiB")
    for text in args.image_size or []:
        size(text)
    if args.output_dir:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is found out now


def size(text: str) -> tuple[int, int]:
    """Height and width from `448` or `800x1066`."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) >= 32 for part in parts):
        raise ValueError(f"--image_size {text}: give pixels, as in 448 or 800x1066 (height x width), at least 32")
    return int(parts[0]), int(parts[-1])


def _model_flag_names() -> frozenset[str]:
    parser = argparse.ArgumentParser(add_help=False)
    add_model_flags(parser)
    return frozenset(action.dest for action in parser._actions)


MODEL_FLAGS = _model_flag_names()

if __name__ == "__main__":
    launch(main, get_args_parser())
