"""Everything that is run when there is a GPU, in one command of at most 8 minutes: `python -m tests.gpu` (make gpu).

The tests marked `cuda`, the speed of training and evaluation against a plain implementation and a peer's, images per second of a
training with its loader against the bare step, and the time of a whole recipe. Each part is a process of its own with a time
budget; a part that fails, or runs out of time, does not end the others. Results: gpu.json, rewritten after each part.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from flags import DEVICES
from tests.gpu.parts import Part, Settings, make_parts
from tools.benchmark.meters import describe, machine
from util.atomic import atomic_write
from util.cli import Flags, Parser, launch
from util.device import select_device
from util.errors import RunFailed, did_you_mean
from util.number import COUNT
from util.progress import clock

TOTAL = 480  # seconds


def get_args_parser() -> Parser:
    parser = Parser("python -m tests.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help=f"{DEVICES}; on cpu everything is tiny: a test of this command")
    parser.add_argument(
        "--peer", nargs="*", default=[], metavar="FOLDER", help="repositories with INTR's models.build_model(args)"
    )
    parser.add_argument("--parts", nargs="+", metavar="PART", help="only these: tests, benchmark, training, recipe; None: all")
    parser.add_argument("--recipe", default="recipes/one_gpu_448.args", metavar="FILE", help="that is measured")
    parser.add_argument("--flags", default="", help="further flags of its training, in quotation marks")
    parser.add_argument("--pictures", type=COUNT, help="training pictures of 100 classes; None: 6,667, as FGVC-Aircraft has")
    parser.add_argument("--seconds", type=COUNT, default=TOTAL, help="for all parts together")
    parser.add_argument("--output_dir", default="output/gpu", help="folder of gpu.json, and of what each part prints")
    return parser


def main(args: Flags) -> None:
    """Run the parts; raise a RunFailed at the end where one failed, and a ValueError where there is no GPU."""
    device = select_device(args.device)
    if device.type != "cuda" and args.device != "cpu":
        raise ValueError("there is no CUDA device here (--device cpu tries this command on a CPU, on tiny sizes)")
    folder = Path(args.output_dir).resolve()
    peers = [str(Path(peer).resolve()) for peer in args.peer]
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    start, deadline = time.monotonic(), time.monotonic() + args.seconds
    settings = Settings(
        device, folder / "parts", str(Path(args.recipe).resolve()), args.flags, peers, args.pictures, args.seconds
    )
    parts = chosen(make_parts(settings), args.parts)
    content: dict[str, Any] = {"machine": machine(device, torch.get_num_threads()), "tiny": settings.tiny, "parts": {}}
    print(f"{describe(content['machine'])}: {len(parts)} parts, at most {clock(args.seconds)}", flush=True)
    for part in parts:
        print(f"{part.name}: at most {clock(min(part.budget, deadline - time.monotonic()))} ...", flush=True)
        row = part.run(min(part.budget, deadline - time.monotonic()))
        content["parts"][part.name] = row
        content["seconds"] = round(time.monotonic() - start, 1)
        with atomic_write(folder / "gpu.json") as file:
            file.write(json.dumps(content, indent=1) + "\n")
        print(f"{part.name}: {row['status']} in {clock(row['seconds'])}; {row['summary']}", flush=True)
    failed = [name for name, row in content["parts"].items() if row["status"] != "passed"]
    print(f"{folder / 'gpu.json'}: {len(parts) - len(failed)} of {len(parts)} parts passed in {clock(content['seconds'])}")
    if failed:
        raise RunFailed(f"{', '.join(failed)}: see {folder / 'parts'}/<part>.log")


def chosen(parts: list[Part], names: list[str] | None) -> list[Part]:
    """Return the parts of these names; a ValueError for one that there is not."""
    known = [part.name for part in parts]
    if unknown := [name for name in names or [] if name not in known]:
        raise ValueError(f"--parts {unknown[0]} is unknown: choose from {', '.join(known)}{did_you_mean(unknown[0], known)}")
    return [part for part in parts if names is None or part.name in names]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    launch(main, get_args_parser())
