"""Measure the maps of a model: `python -m tools.evaluate_attribution --resume <checkpoint.pth> --dataset_path ... --quick`

Writes attribution.json, attribution.md, curves.png, bars.png and examples.jpg to --output_dir, by default `attribution_<split>`
beside the checkpoint. Finished parts are kept in its folder `partial`: an interrupted run is resumed from there. Under torchrun
or srun the processes share the images.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/evaluate_attribution.py` works too

import cv2
import torch

from attribution.evaluation.evaluate import evaluate_maps
from attribution.evaluation.inputs import open_inputs
from attribution.evaluation.protocol import COSTLY, FULL, QUICK, TOGETHER, Budget
from attribution.metrics.registry import chosen_families, families
from attribution.report.figures import write_examples
from attribution.report.tables import write_results
from datasets import ImageFolder
from datasets.loaders import Batches, build_eval_loader
from flags import add_data_flags, add_model_flags
from tools.opening import open_checkpoint
from util.cli import Flags, Parser, comma_separated, launch
from util.device import select_device
from util.distributed import init_distributed
from util.launcher import read_launcher_env
from util.number import COUNT, SEED
from util.precision import select_precision
from util.progress import clock
from util.ranks import Ranks
from util.results_folder import expand_job_id, results_folder
from util.stopping import StopRequest

PROG = "python -m tools.evaluate_attribution"


def get_args_parser(add_help: bool = True) -> Parser:
    """Return the flags of the measurement, the model and the data; without --help the parser can be a parent."""
    parser = Parser(PROG, description=__doc__, add_help=add_help)
    group = parser.add_argument_group("measurement")
    group.add_argument("--resume", default="", help="the checkpoint (ICN's or INTR's; path, URL or hf://owner/repo)")
    group.add_argument(
        "--methods", type=comma_separated, help="maps to measure, with commas between; controls are added; None: all"
    )
    group.add_argument("--ours", help="the map that represents ICN; None: that of the decoder")
    group.add_argument("--metrics", type=comma_separated, help=f"with commas between: {', '.join(families())}; None: all")
    budget = group.add_mutually_exclusive_group()
    budget.add_argument("--quick", action="store_true", help="64 images, 28 steps a curve: the default")
    budget.add_argument("--full", action="store_true", help="all images, 224 steps a curve")
    group.add_argument("--images", type=COUNT, help="number of images, classes in turn; None: as --quick or --full say")
    costly = f"on how many of them methods make the maps of many classes that take {COSTLY} passes each, or {TOGETHER} in all"
    group.add_argument("--costly_images", type=COUNT, help=costly)
    group.add_argument("--steps", type=COUNT, help="steps of a curve; None: as --quick or --full say")
    group.add_argument("--masks", help="folder of object masks <split>/<class>/<stem>.png; None: those of a planes data set")
    group.add_argument("--pairs", help="pairs.json: images of two objects, their masks beside them")
    group.add_argument("--seed", default=0, type=SEED, help="of the choice of images, and of random maps, masks and weights")
    add_model_flags(parser)
    add_data_flags(parser)
    parser.set_defaults(batch_size=16)
    return parser


def check_flags(args: Flags) -> Budget:
    """Return the sizes of the measurement; raise a ValueError for a wrong flag."""
    if not args.resume:
        raise ValueError("--resume is missing: give the checkpoint whose maps are to be measured")
    if not args.output_dir:
        raise ValueError("--output_dir is empty: name a folder for the results")
    sizes = {name: getattr(args, name) for name in ("images", "costly_images", "steps")}
    budget = replace(FULL if args.full else QUICK, **{name: size for name, size in sizes.items() if size is not None})
    return budget


def main(args: Flags) -> dict[str, Any]:
    """Measure, write, and return the content of attribution.json; of several processes rank 0 does the latter two.

    Raises:
        ValueError: a flag or a file is wrong.
        Stopped: the run was asked to stop; what is done is kept.
    """
    cv2.setNumThreads(1)
    budget = check_flags(args)
    args = expand_job_id(args)
    chosen_families(args.metrics)  # a wrong name is an error before anything is read
    device = select_device(args.device, read_launcher_env(), float64=True)
    message = "stopped; the same command resumes from what is done"
    with (
        init_distributed(args, device.type == "cuda") as ranks,
        StopRequest(ranks.process, message) as request,
        request.reacting(request.stop),
    ):
        content = measure(args, budget, device, replace(ranks, request=request))
        ranks.barrier()  # some clusters end a job soon after the first of its processes
        return content


def measure(args: Flags, budget: Budget, device: torch.device, ranks: Ranks) -> dict[str, Any]:
    """Run `main` in one of its processes."""
    start = time.monotonic()
    opened = open_checkpoint(args, device)
    args, model, meta, classes = opened
    precision = select_precision(args.precision, device)

    def loader(split: ImageFolder) -> Batches:
        return build_eval_loader(args, split, device, ranks.rank, ranks.size)

    folder = opened.results("attribution")
    args = args.replace(output_dir=str(folder))
    inputs = open_inputs(args, budget, model, meta.normalisation, classes, precision, device, loader)
    facts = {"the images": inputs.split.summary(), "the classes": classes, "the weights": model.state_dict()}
    ranks.check_equal({**facts, "the pairs of --pairs": f"{len(inputs.pairs)}", "the masks": f"{inputs.masks is not None}"})
    with results_folder(folder if ranks.main else None, "attribution.json"):
        evaluation = evaluate_maps(inputs, ranks)
        if evaluation is None:
            return {}
        write_results(evaluation.content, folder)
        write_examples(evaluation, folder / "examples.jpg")
    methods, images = len(evaluation.measured), len(evaluation.images)
    print(f"{methods} methods on {images} images in {clock(time.monotonic() - start)}: {folder}/attribution.md")
    return evaluation.content


if __name__ == "__main__":
    launch(main, get_args_parser(), shared=True)
