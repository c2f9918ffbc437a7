"""Measure the maps of a model: `python -m tools.evaluate_attribution --resume <checkpoint.pth> --dataset_path ... --quick`

All methods explain the same predictions on the same pictures. Writes attribution.json, attribution.md, curves.png, bars.png and
examples.jpg to --output_dir. What is done is kept in its folder `partial`: a run that was cut short goes on from there. Under
torchrun or srun the processes share the pictures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from attribution.evaluation.cache import ResultCache, fingerprint, write_json
from attribution.evaluation.harness import GROUPS, MODEL_GROUPS, Harness, chosen_groups
from attribution.evaluation.images import Pictures, subset
from attribution.evaluation.measure import collect, measure_maps, measure_model, measure_pairs, slot_columns
from attribution.evaluation.protocol import FULL, QUICK, Budget
from attribution.evaluation.selection import in_turn, most_confused, score_split
from attribution.evaluation.summary import summary
from attribution.methods.registry import METHODS, Method, methods_of
from attribution.planes.metrics import PlanesMetrics
from attribution.report.examples import draw_sheet
from attribution.report.plots import draw_bars, draw_curves
from attribution.report.tables import markdown
from datasets import EvalSampler, ImageFolder, class_names, collate, decode_image, eval_transform, image_size, open_split
from datasets.loaders import build_eval_loader
from datasets.masks import check_masks, mask_path
from datasets.pairs import PairPicture, read_pairs
from datasets.planes.annotations import PlanesSplit, is_planes, open_planes
from flags import INPUT, add_data_flags, add_model_flags, explicit_flags, fill_from_checkpoint
from models import ICN, for_inference, load_checkpoint
from util.cli import Parser, launch, select_device
from util.distributed import Ranks, init_distributed
from util.launcher import read_launcher_env
from util.precision import select_precision
from util.progress import Progress, clock
from util.stopping import StopRequest

PROG = "python -m tools.evaluate_attribution"


def get_args_parser(add_help: bool = True) -> Parser:
    """The flags of the measurement, and those of the model and of the data; without --help it can be a parent parser."""
    parser = Parser(PROG, description=__doc__.splitlines()[0], add_help=add_help)
    group = parser.add_argument_group("measurement")
    group.add_argument("--resume", default="", help="the checkpoint (ICN's or INTR's; path or URL)")
    group.add_argument("--methods", help="maps to measure, with commas between; controls are added; None: all")
    group.add_argument("--ours", help="the map that represents ICN; None: additive, with --decoder detr contribution")
    group.add_argument("--metrics", help=f"with commas between: {', '.join((*GROUPS, *MODEL_GROUPS))}; None: all")
    budget = group.add_mutually_exclusive_group()
    budget.add_argument("--quick", action="store_true", help="64 pictures, 28 steps a curve: the default")
    budget.add_argument("--full", action="store_true", help="all pictures, 224 steps a curve")
    group.add_argument("--images", type=int, help="number of pictures, classes in turn; None: as --quick or --full say")
    group.add_argument(
        "--costly_images", type=int, help="on how many of them methods of 40 and more passes make the maps of many classes"
    )
    group.add_argument("--steps", type=int, help="steps of a curve; None: as --quick or --full say")
    group.add_argument("--masks", help="folder of object masks <split>/<class>/<stem>.png; None: those of a planes data set")
    group.add_argument("--pairs", help="pairs.json: pictures of two objects, their masks beside them")
    group.add_argument("--seed", default=0, type=int, help="of the choice of pictures, and of random maps, masks and weights")
    add_model_flags(parser)
    add_data_flags(parser)
    parser.set_defaults(batch_size=16, output_dir="output/attribution")
    return parser


def check_flags(args: argparse.Namespace) -> Budget:
    """How much to measure; a ValueError for flags that nothing can be done with."""
    if not args.resume:
        raise ValueError("--resume is missing: give the checkpoint whose maps are to be measured")
    if not args.output_dir:
        raise ValueError("--output_dir is empty: name a folder for the results")
    for name in ("images", "costly_images", "steps", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)} must be at least 1")
    if args.num_workers < 0 or not 0 <= args.seed < 2**63:
        raise ValueError(
            f"--num_workers {args.num_workers} and --seed {args.seed} must not be negative (nor the seed above 2^63)"
        )
    budget = FULL if args.full else QUICK
    given = {name: getattr(args, name) for name in ("images", "costly_images", "steps")}
    budget = replace(budget, **{name: value for name, value in given.items() if value is not None})
    try:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output_dir: {args.output_dir} cannot be made ({error.strerror}): choose another folder") from None
    return budget


def split_names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def choose_methods(args: argparse.Namespace, model: ICN, budget: Budget) -> tuple[list[Method], str]:
    """The methods, in the order of the registry, and the one that represents ICN; without those whose package is missing."""
    ours = args.ours or model.decoder_spec.default_map
    applicable = {method.name for method in methods_of(model)}
    if ours not in applicable:
        raise ValueError(
            f"--ours {ours} is no map of --decoder {model.decoder_name}: choose from {', '.join(sorted(applicable))}"
        )
    asked = split_names(args.methods)
    wanted = applicable - set(budget.left_out) if asked is None else {method.name for method in methods_of(model, asked)}
    wanted |= {ours} | {name for name in applicable if METHODS[name].family == "control"}
    if missing := sorted(name for name in wanted if not METHODS[name].is_installed):
        install = "pip install " + " ".join(f"'{package}'" for package in sorted({METHODS[name].requires for name in missing}))
        if ours in missing:
            raise ValueError(f"--ours {ours} needs a package that is not installed: {install}")
        print(f"{', '.join(missing)} left out: a package is not installed ({install})")
        wanted -= set(missing)
    return [method for method in METHODS.values() if method.name in wanted], ours


@dataclass
class Inputs:
    """What a measurement starts from.

    score: probabilities of normalised images. places: of all pictures of the split, classes in turn.
    masks, pairs, planes: what is known about the pictures; None, or empty, where nothing is.
    """

    model: ICN
    score: Callable[[Tensor], Tensor]
    device: torch.device
    normalisation: dict[str, list[float]]
    split: ImageFolder
    places: list[int]
    masks: Path | None
    pairs: list[PairPicture]
    planes: PlanesSplit | None
    precision: str

    def images(self, pictures: Sequence[Tensor]) -> Tensor:
        """Pictures uint8 `[3, H, W]` of one size, through the eval transform and normalised."""
        assert self.split.transform is not None
        batch = collate([(self.split.transform(picture, None), 0, place) for place, picture in enumerate(pictures)])
        return batch.to(self.device).normalise(**self.normalisation)


def open_inputs(args: argparse.Namespace, budget: Budget, groups: frozenset[str], device: torch.device) -> Inputs:
    """Read the checkpoint, and see what the data have.

    Raises:
        ValueError: a file or a flag is not what it should be, or a metric was asked for that nothing is known for.
    """
    model, meta = load_checkpoint(args.resume, device, explicit_flags(args))
    model.eval().to(memory_format=torch.channels_last)
    fill_from_checkpoint(args, meta.args, INPUT)
    precision = select_precision(args.precision, device)
    classes = meta.classes or class_names(args.dataset_path, args.dataset_name, args.test, model.num_classes)
    transform = eval_transform(args.image_size, args.square)
    split = open_split(args.dataset_path, args.dataset_name, args.test, classes, transform)
    places = in_turn(split.labels, args.seed)
    root = Path(args.dataset_path, args.dataset_name)
    masks = Path(args.masks) if args.masks else root / "masks" if is_planes(root) and (root / "masks").is_dir() else None
    if masks is not None:
        measured = subset(split, places[: budget.images]).paths
        if missing := len(measured) - check_masks(masks, split.root, measured):
            print(f"{missing} of {len(measured)} pictures have no mask in {masks}: they do not count where masks are needed")
    pairs = read_pairs(Path(args.pairs), classes)[: budget.images] if args.pairs and "pairs" in groups else []
    planes = open_planes(root, args.test, classes) if is_planes(root) and "planes" in groups else None
    known = {"masks": masks, "pairs": pairs, "planes": planes}
    if args.metrics and (lacking := [group for group, what in known.items() if group in groups and not what]):
        hint = {"masks": "give --masks", "pairs": "give --pairs", "planes": f"{root} is not of tools.make_planes"}[lacking[0]]
        raise ValueError(f"--metrics {args.metrics}: there is nothing that {lacking[0]} could be measured by: {hint}")
    fast = for_inference(model, precision.dtype)

    def score(images: Tensor) -> Tensor:
        with torch.no_grad(), precision.autocast():
            return fast(images).logits.float().softmax(1)

    return Inputs(model, score, device, meta.normalisation, split, places, masks, pairs, planes, precision.name)


def build_planes_metrics(inputs: Inputs, pictures: Pictures, batch_size: int, ranks: Ranks) -> PlanesMetrics:
    """Render and score the counterfactuals of the pictures that are measured."""
    assert inputs.planes is not None
    fast = for_inference(inputs.model)

    @torch.no_grad()
    def logits(images: Tensor) -> Tensor:
        return fast(images.to(memory_format=torch.channels_last)).logits

    with Progress(1, "counterfactuals") as progress:

        def step(done: int, total: int) -> None:
            progress.total = total
            progress.step(done - progress.done)

        return PlanesMetrics(
            inputs.planes,
            pictures.paths,
            lambda picture: inputs.images([picture])[0],
            logits,
            size=pictures.sizes[0][0],
            batch_size=batch_size,
            progress=step,
            ranks=ranks,
        )


def two_objects(
    args: argparse.Namespace, inputs: Inputs, harness: Harness, methods: list[Method], partial: ResultCache, ranks: Ranks
) -> Any:
    """The part of --pairs: {method: {metric: one number a picture}}, and the pictures in the order of the numbers."""
    transform: Any = inputs.split.transform
    shapes = [transform.output_size(*image_size(pair.path)) for pair in inputs.pairs]
    batches = EvalSampler(len(shapes), args.batch_size, shapes=shapes).batches
    if "oracle" not in [method.name for method in methods]:
        methods = [*methods, METHODS["oracle"]]

    def load(pairs: Sequence[PairPicture]) -> Tensor:
        return inputs.images([decode_image(pair.path) for pair in pairs])

    values = measure_pairs(harness, methods, inputs.pairs, batches, load, partial, ranks)
    return values, [str(inputs.pairs[place].path) for batch in batches for place in batch]


def labelled(inputs: Inputs, args: argparse.Namespace, count: int | None, ranks: Ranks) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's normalised batches of the first pictures of the split, classes in turn, with their labels."""
    chosen = subset(inputs.split, inputs.places[:count])
    for batch in build_eval_loader(args, chosen, inputs.device, ranks.rank, ranks.size):
        batch = batch.to(inputs.device)
        yield batch.normalise(**inputs.normalisation), batch.labels


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, write, and return what attribution.json holds; of several processes rank 0 does the latter two.

    Raises:
        ValueError: what the user can mend, in one line.
        RunFailed: another process is gone.
        Stopped: it was asked to stop, and did; what is done is kept.
    """
    cv2.setNumThreads(1)
    budget, groups = check_flags(args), chosen_groups(split_names(args.metrics))
    device = select_device(args.device, read_launcher_env())
    with init_distributed(args.dist_url, device.type == "cuda") as ranks, StopRequest(ranks.place) as request:
        found = evaluate(args, budget, groups, device, replace(ranks, request=request))
        ranks.barrier()  # some clusters end a job soon after the first of its processes
        return found


def evaluate(
    args: argparse.Namespace, budget: Budget, groups: frozenset[str], device: torch.device, ranks: Ranks
) -> dict[str, Any]:
    """`main` among its processes."""
    start, inputs = time.monotonic(), open_inputs(args, budget, groups, device)
    model, split, folder = inputs.model, inputs.split, Path(args.output_dir)
    methods, ours = choose_methods(args, model, budget)
    known = {"siblings": True, "masks": inputs.masks, "removal_effects": inputs.planes}
    methods = [method for method in methods if all(known[need] is not None for need in method.needs)]
    settings = {
        "checkpoint": Path(args.resume).name, "decoder": model.decoder_name, "dataset": args.dataset_name, "split": args.test,
        "image_size": args.image_size, "square": args.square, "classes": split.classes, "seed": args.seed,
        "batch_size": args.batch_size, "precision": inputs.precision, "device": inputs.device.type, "metrics": sorted(groups),
        "steps": budget.steps, "effort": budget.describe(),
    }  # fmt: skip
    masks = [mask_path(inputs.masks, split.root, path) for path in split.paths] if inputs.masks else []
    files = [*split.paths, *filter(Path.is_file, masks)]
    keys = ranks.gather(fingerprint(model, files, split.root, settings))
    if strange := [str(rank) for rank, key in enumerate(keys) if key != keys[0]]:
        raise ValueError(f"rank {', '.join(strange)} finds another checkpoint or other pictures than rank 0: give all the same")
    partial = ResultCache(folder, keys[0])
    if partial.others:
        print(
            f"{partial.folder.parent} holds results of other models, data or flags, too: they are not used, remove them at will"
        )

    scored = ranks.broadcast(partial.load("split") if ranks.main else None)
    if scored is None:
        loader = build_eval_loader(args, split, device, ranks.rank, ranks.size)
        scored = score_split(inputs.score, loader, inputs.normalisation, len(split.classes), device, ranks)
        if ranks.main:
            partial.save(scored, "split")
    accuracy = float((scored["predicted"] == torch.tensor(split.labels)).double().mean())
    print(f"{args.test}: {len(split)} images of {len(split.classes)} classes, {100 * accuracy:.2f} % right; {budget.name}")
    pictures = Pictures(
        split, inputs.places[: budget.images], scored["predicted"], args.batch_size, inputs.normalisation, device, inputs.masks
    )
    if inputs.planes is not None:
        pictures.planes = build_planes_metrics(inputs, pictures, args.batch_size, ranks)
    siblings = most_confused(scored["confusion"])
    harness = Harness(
        model, inputs.score, siblings, budget, groups, planes=pictures.planes, batch_size=args.batch_size, seed=args.seed
    )

    measure_maps(harness, methods, pictures.units, pictures.load, partial, ranks)
    of_model = {}
    if groups & set(MODEL_GROUPS):
        name = "model-" + fingerprint(model, [], folder, {"methods": [method.name for method in methods]})
        of_model = ranks.broadcast(partial.load(name) if ranks.main else None)
        if of_model is None:
            those = labelled(inputs, args, budget.reliance_images, ranks)
            of_model = measure_model(harness, methods, those, pictures.units, pictures.load, ranks)
            if ranks.main:
                partial.save(of_model, name)
    pairs, pair_files = {}, []
    if inputs.pairs:
        files = [path for pair in inputs.pairs for path in (pair.path, *pair.masks)]
        of_pairs = ResultCache(partial.folder, fingerprint(model, files, Path(args.pairs).parent, {}))
        pairs, pair_files = two_objects(args, inputs, harness, methods, of_pairs, ranks)
    if not ranks.main:
        return {}

    measured = {method.name: collect(partial, method, pictures.units, pictures.planes) for method in methods}
    extra = {}
    if pictures.planes is not None:
        extra["fixed_place"] = slot_columns(pictures.planes.fixed_place(), pictures.planes.slots, len(pictures))
        settings["slots"] = list(pictures.planes.slots)
    first = pictures.load(0)
    settings |= {
        "images": len(pictures), "split_images": len(split), "accuracy": accuracy, "grid": list(harness.grid(first.images)),
        "siblings": {name: split.classes[other] for name, other in zip(split.classes, siblings.tolist(), strict=True)},
        "minutes": (time.monotonic() - start) / 60, "pair_files": pair_files,
    }  # fmt: skip
    described = [
        {"file": str(path.relative_to(split.root)), "label": split.classes[label], "predicted": split.classes[predicted]}
        for path, label, predicted in zip(pictures.paths, pictures.labels, pictures.predicted.tolist(), strict=True)
    ]
    costs = {method.name: harness.passes(method, first.images) for method in methods}
    found = summary(settings, methods, costs, measured, of_model, pairs, described, ours, extra)
    write_json(folder / "attribution.json", found)
    (folder / "attribution.md").write_text(markdown(found), encoding="utf-8")
    draw_curves(found, folder / "curves.png")
    draw_bars(found, folder / "bars.png")
    title = f"{args.dataset_name}, {args.test}: {settings['checkpoint']}"
    values = {name: one["values"] for name, one in measured.items()}
    maps = {name: one["maps"] for name, one in measured.items()}
    note = f"{model.decoder_name} decoder, {100 * accuracy:.1f} % right; each map explains the class that is predicted"
    draw_sheet(folder / "examples.jpg", title, note, described, pictures.paths, pictures.sizes, maps, values, ours)
    print(f"{len(methods)} methods on {len(pictures)} images in {clock(time.monotonic() - start)}: {folder}/attribution.md")
    return found


if __name__ == "__main__":
    launch(main, get_args_parser())
