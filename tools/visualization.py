"""Draw attribution maps of the images of classes: `python -m tools.visualization --resume <checkpoint.pth> --class_index <i> ...`

For every image up to three panels are drawn: the heads of the true class's query, the most similar classes, and the heads of each
of these. `index.html` in the folder of a class shows them all. Under torchrun or srun the processes share the images.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/visualization.py` works too

import cv2
import numpy as np
import torch

import engine
from attribution.methods.registry import METHODS, drawn_methods
from attribution.report.html import ClassPages, Row, draw_all, index_html
from attribution.report.panels import DrawnImages, Explained, Style, collate_items, explain_classes, safe_name
from attribution.report.render import FORMATS
from datasets import EvalSampler, ImageFolder, Loader, eval_transform, open_split, verify_images
from datasets.decode import set_decoding
from datasets.loaders import build_eval_loader
from flags import add_data_flags, add_model_flags
from models import ICN, for_inference
from tools.opening import open_checkpoint
from util.atomic import atomic_write
from util.classes import find_classes
from util.cli import Flags, Parser, launch
from util.device import select_device
from util.distributed import init_distributed
from util.launcher import read_launcher_env
from util.number import COUNT, Number
from util.progress import Progress
from util.ranks import Ranks
from util.results_folder import expand_job_id, is_typed, results_beside_checkpoint, results_folder
from util.stopping import StopRequest

PROG = "python -m tools.visualization"
LOCKED = 256  # folders of classes, of many: each lock needs an open file
LAYER, SWITCH = Number(int, -1000, 1000), Number(int, 0, 1)


def get_args_parser() -> Parser:
    """Return INTR's flags for drawing, and the flags of the model and the data."""
    parser = Parser(PROG, description=__doc__)
    group = parser.add_argument_group("drawing")
    group.add_argument("--resume", default="", help="the checkpoint (ICN's or INTR's; path, URL or hf://owner/repo)")
    group.add_argument(
        "--class_index",
        default=["0"],
        nargs="+",
        metavar="CLASS",
        help="classes whose images are drawn: indices or names, or all",
    )
    group.add_argument(
        "--map", metavar="METHOD", help="a name of attribution.METHODS; None: attention, or evidence where a logit is a sum"
    )
    group.add_argument(
        "--dec_layer_index", type=LAYER, help="decoder layer of the attention, negative from the end; None: the last"
    )
    group.add_argument("--top_q", default=5, type=COUNT, help="number of most similar classes")
    group.add_argument("--gt_query_heads", default=1, type=SWITCH, help="1: draw the heads of the true class")
    group.add_argument("--sim_query_heads", default=1, type=SWITCH, help="1: draw the heads of the similar classes")
    group.add_argument(
        "--predicted", action="store_true", help="the images that are predicted as the classes, not those of their folders"
    )
    group.add_argument("--wrong_only", action="store_true", help="only images whose prediction is wrong")
    group.add_argument("--limit", type=COUNT, help="number of images of each class; None: all")
    group.add_argument("--own_scale", action="store_true", help="scale each map alone, instead of all heads of a class alike")
    group.add_argument("--grid", action="store_true", help="draw the cells as they are, without interpolation")
    group.add_argument("--format", default="png", choices=FORMATS, help="of the panels")
    group.add_argument("--eval", action="store_true", help="accepted: nothing is ever trained here")
    add_model_flags(parser)
    add_data_flags(parser)
    parser.set_defaults(batch_size=1)
    return parser


def check_flags(args: Flags, count: int, model: ICN) -> None:
    """Raise a ValueError for a flag that does not fit the checkpoint, whose classes are `count`."""
    layer, layers = args.dec_layer_index, model.num_decoder_layers
    if layer is not None and map_name(args, model) != "attention":
        raise ValueError("--dec_layer_index chooses a layer of the attention: leave it out, or add --map attention")
    if layer is not None and not -layers <= layer < layers:
        known = f"0 to {layers - 1} (or -{layers} to -1 from the end)"
        raise ValueError(f"--dec_layer_index {layer} does not exist: {args.resume} has decoder layers {known}")
    if args.top_q > count and "top_q" in args.explicit:
        raise ValueError(f"--top_q {args.top_q} must be from 1 to {count}, the number of classes in {args.resume}")
    if not args.output_dir:
        raise ValueError("--output_dir is empty: name a folder for the pictures")


def map_name(args: Flags, model: ICN) -> str:
    """Return the name of the map to draw: `--map`'s, else attention as in INTR, or the evidence of an additive decoder."""
    if args.map is None:
        return "attention" if model.decoder_spec.is_layered else model.decoder_spec.default_map
    return drawn_methods("--map", model, [args.map])[0]


def main(args: Flags) -> None:
    """Draw the images of `--class_index`, and their index; raise a ValueError for a wrong flag or file."""
    cv2.setNumThreads(1)  # OpenCV's own threads do not survive the fork of a loader
    if not args.resume:
        raise ValueError("--resume is missing: give the checkpoint whose maps are to be drawn")
    args = expand_job_id(args)
    device = select_device(args.device, read_launcher_env())
    with (
        init_distributed(args, device.type == "cuda") as ranks,
        StopRequest(ranks.process) as request,
        request.reacting(request.stop),
    ):
        visualize(args, device, replace(ranks, request=request))


def visualize(args: Flags, device: torch.device, ranks: Ranks) -> None:
    """Run `main` in one of its processes: the batches are shared out, rank 0 writes the index of each class."""
    args, model, meta, classes = open_checkpoint(args, device)
    check_flags(args, len(classes), model)
    method = map_name(args, model)
    try:
        wanted = find_classes(args.class_index, classes)
    except ValueError as error:
        raise ValueError(f"--class_index: {args.resume}: {error}") from None
    layer = None
    if method == "attention":
        layer = (-1 if args.dec_layer_index is None else args.dec_layer_index) % model.num_decoder_layers
    only = wanted[0] if len(wanted) == 1 and not args.predicted else None
    set_decoding(args.bit_depth, args.max_image_mb)
    split = open_split(args.dataset_path, args.dataset_name, args.test, classes, only_class=only)
    ranks.check_equal({"the images": split.summary(), "the classes": classes, "the weights": model.state_dict()})
    data_set = [safe_name(part, limit=255) for part in Path(args.dataset_name).parts]
    base = Path(args.output_dir, "visualization", *data_set, args.test)
    if not is_typed(args):
        base = results_beside_checkpoint(args, "visualization", meta.args)
    pages = class_pages(args, split, base, wanted, describe_map(method, layer, model), METHODS[method].signed, layer)
    with contextlib.ExitStack() as stack:
        for place, index in enumerate(wanted[:LOCKED] if ranks.main else ()):
            stack.enter_context(results_folder(pages[index].target, "index.html" if place == 0 else ""))
        images = select_images(args, model, meta.normalisation, split, wanted, device, ranks)
        verify_images([split.paths[index] for index in list(images)[ranks.rank :: ranks.size]])
        ranks.barrier()
        rows = draw_images(args, model, meta.normalisation, split, images, pages, method, layer, ranks)
        for index in wanted if ranks.main else ():
            write_index(args, pages[index], index, rows[index])


def select_images(
    args: Flags, model: ICN, normalisation: dict[str, list[float]], split: ImageFolder, wanted: Sequence[int],
    device: torch.device, ranks: Ranks,
) -> dict[int, int]:  # fmt: skip
    """Return the images to draw, indices of the split, each with the class on whose page it is; of a page at most `--limit`.

    Raises:
        ValueError: there is none.
    """
    page_of, labels = list(split.labels), split.labels
    right = [False] * len(split)
    if args.predicted or args.wrong_only:
        scored = split.with_transform(eval_transform(args.image_size, args.square))
        loader = build_eval_loader(args, scored, device, ranks.rank, ranks.size)
        scores = engine.evaluate(
            for_inference(model), loader, device, normalisation, model.num_classes, args.test, ranks=ranks, loss=model.loss
        )
        predictions = scores.predictions.tolist()
        right = (np.equal(predictions, labels) & args.wrong_only).tolist()
        page_of = predictions if args.predicted else page_of
    chosen: dict[int, int] = {}
    for page in wanted:
        images = [index for index in range(len(split)) if page_of[index] == page and not right[index]]
        chosen |= dict.fromkeys(images[: args.limit], page)
    if not chosen:
        which = "is predicted as" if args.predicted else "is in"
        wrong = " with a wrong prediction" * args.wrong_only
        raise ValueError(
            f"no image{wrong} of the split {args.test} {which} --class_index {' '.join(args.class_index)}: nothing to draw"
        )
    return chosen


def describe_map(method: str, layer: int | None, model: ICN) -> str:
    """Return what is drawn, in words."""
    if layer is not None:
        return f"cross-attention of decoder layer {layer} of 0 to {model.num_decoder_layers - 1}"
    return "evidence: what each cell adds to the logit" if method == "additive" else method


def class_pages(
    args: Flags, split: ImageFolder, base: Path, wanted: Sequence[int], origin: str, signed: bool, layer: int | None
) -> dict[int, ClassPages]:
    """Return the pages of each class, in a folder of its own below `base`."""
    heads, query_heads = (bool(flag) and layer is not None for flag in (args.gt_query_heads, args.sim_query_heads))
    style = Style(args.own_scale, args.grid, signed)
    pages = {}
    for index in wanted:
        target = base / f"{index}_{safe_name(split.classes[index])}"
        source = split.root if args.predicted else split.root / split.folders.get(index, split.classes[index])
        pages[index] = ClassPages(source, target, split.classes, origin, heads, query_heads, style, args.format)
    return pages


def draw_images(
    args: Flags, model: ICN, normalisation: dict[str, list[float]], split: ImageFolder, images: dict[int, int],
    pages: dict[int, ClassPages], method: str, layer: int | None, ranks: Ranks,
) -> dict[int, list[Row]]:  # fmt: skip
    """Draw images; return the rows of each page in the order of the split, of all processes on rank 0."""
    order = list(images)
    batches = [[order[place] for place in batch] for batch in EvalSampler(len(order), args.batch_size)]
    batches = batches[ranks.rank :: ranks.size]
    loader = Loader(
        DrawnImages(split, args.image_size, args.square), batch_sampler=batches,
        num_workers=min(args.num_workers, len(batches)), collate_fn=collate_items,
    )  # fmt: skip
    top_q = min(args.top_q, len(split.classes))

    def explain() -> Iterator[tuple[ClassPages, Path, Explained]]:
        for batch, items in loader:
            explained = explain_classes(model, normalisation, batch, items, top_q, method, layer)
            for item, each in zip(items, explained, strict=True):
                yield pages[images[item.place]], item.path, each

    own = ((path.relative_to(split.root), row) for path, row in draw_all(explain()))  # each process may have a root of its own
    drawn: dict[Path, Row] = {}
    with Progress(len(order), "drawing") as progress:
        for path, row in ranks.gather_in_order(own):
            drawn[path] = row
            progress.step()
    rows: dict[int, list[Row]] = {page: [] for page in pages}
    for index, page in images.items() if ranks.main else ():
        rows[page].append(drawn[split.paths[index].relative_to(split.root)])
    return rows


def write_index(args: Flags, pages: ClassPages, index: int, rows: list[Row]) -> None:
    """Write the index of a class, and print where it is."""
    name = pages.classes[index]
    scales = (
        "Each map is on its own scale." if args.own_scale else "The maps of a section are on one scale, that of its colour bar."
    )
    about = f"{args.dataset_name}, {args.test} split; checkpoint {Path(args.resume).name}; {pages.origin}. {scales}"
    file = pages.target / "index.html"
    with atomic_write(file) as page:
        page.write(index_html(f"{index} {name}", about, rows))
    right = sum(row.right for row in rows)
    where = "predicted as" if args.predicted else "of"
    print(f"{len(rows)} images {where} class {index} ({name}): {right} right, {len(rows) - right} wrong")
    print(f"open {file}")


if __name__ == "__main__":
    launch(main, get_args_parser(), shared=True)
