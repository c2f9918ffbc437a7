"""Draw the attribution maps of one class: `python -m tools.visualization --resume <checkpoint.pth> --class_index <i> ...`

For every image three panels are drawn: the heads of the true class's query, the most similar classes, and the heads of each of
these. `index.html` in the folder of the class shows them all. Under torchrun or srun the processes share the images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/visualization.py` works too

import cv2
import torch
from torch.utils.data import DataLoader

from attribution.report.html import ClassPages, Row, index_html, writing
from attribution.report.panels import DrawnImages, Explained, collate_items, explain_classes, safe_name
from attribution.report.render import WEIGHT
from datasets import EvalSampler, ImageFolder, class_names, open_split, verify_images, worker_init
from flags import add_data_flags, add_model_flags, explicit_flags, fill_from_checkpoint
from models import ICN, load_checkpoint
from util.atomic import atomic_write
from util.cli import Flags, Parser, launch
from util.device import select_device
from util.distributed import init_distributed
from util.launcher import read_launcher_env
from util.printable import printable
from util.progress import Progress
from util.ranks import Ranks

PROG = "python -m tools.visualization"
NEIGHBOURS = 3


def get_args_parser() -> Parser:
    """Return INTR's flags for drawing, and the flags of the model and the data."""
    parser = Parser(PROG, description=__doc__)
    group = parser.add_argument_group("drawing")
    group.add_argument("--resume", default="", help="the checkpoint (ICN's or INTR's; path or URL)")
    group.add_argument("--class_index", default=0, type=int, help="the class whose images are drawn")
    group.add_argument("--dec_layer_index", type=int, help="decoder layer, negative from the end; None: the last")
    group.add_argument("--top_q", default=5, type=int, help="number of most similar classes")
    group.add_argument("--gt_query_heads", default=1, type=int, choices=[0, 1], help="draw the heads of the true class")
    group.add_argument("--sim_query_heads", default=1, type=int, choices=[0, 1], help="draw the heads of the similar classes")
    group.add_argument("--eval", action="store_true", help="accepted: nothing is ever trained here")
    add_model_flags(parser)
    add_data_flags(parser)
    parser.set_defaults(batch_size=1)
    return parser


def check_flags(args: Flags, classes: Sequence[str], layers: int) -> None:
    """Raise a ValueError for a flag that does not fit the checkpoint, whose cross-attention to be drawn has `layers`."""
    count, layer = len(classes), args.dec_layer_index
    if not 0 <= args.class_index < count:
        near = range(max(0, count - NEIGHBOURS), count) if args.class_index >= count else range(min(NEIGHBOURS, count))
        names = ", ".join(f"{index} {classes[index]}" for index in near)
        raise ValueError(f"--class_index {args.class_index} does not exist: {args.resume} has 0 to {count - 1} (near: {names})")
    if layer is not None and not layers:
        raise ValueError(f"--dec_layer_index: {args.resume} has no decoder layers, its map is its logit: leave the flag out")
    if layer is not None and not -layers <= layer < layers:
        known = f"0 to {layers - 1} (or -{layers} to -1 from the end)"
        raise ValueError(f"--dec_layer_index {layer} does not exist: {args.resume} has decoder layers {known}")
    if not 1 <= args.top_q <= count and (args.top_q < 1 or "top_q" in args.explicit):
        raise ValueError(f"--top_q {args.top_q} must be from 1 to {count}, the number of classes in {args.resume}")
    if not args.output_dir:
        raise ValueError("--output_dir is empty: name a folder for the pictures")
    if args.batch_size < 1 or args.num_workers < 0:
        raise ValueError(f"--batch_size {args.batch_size} must be at least 1, and --num_workers {args.num_workers} at least 0")


def main(args: Flags) -> None:
    """Draw the images of `--class_index`, and their index; raise a ValueError for a wrong flag or file."""
    cv2.setNumThreads(1)  # OpenCV's own threads do not survive the fork of a loader
    if not args.resume:
        raise ValueError("--resume is missing: give the checkpoint whose maps are to be drawn")
    device = select_device(args.device, read_launcher_env())
    with init_distributed(args.dist_url, device.type == "cuda") as ranks:
        visualize(args, device, ranks)


def visualize(args: Flags, device: torch.device, ranks: Ranks) -> None:
    """Run `main` in one of its processes: the batches are shared out, rank 0 writes the index."""
    model, meta = load_checkpoint(args.resume, device, explicit_flags(args))
    model.eval().to(memory_format=torch.channels_last)
    args = fill_from_checkpoint(args, meta.args)
    classes = meta.classes or class_names(args.dataset_path, args.dataset_name, args.test, model.num_classes)
    # Where the logit is a sum over cells, what each of them added is drawn, not the attention.
    spec = model.decoder_spec
    layers = 0 if spec.is_additive else model.num_decoder_layers
    if not layers and not spec.is_additive:
        where = f"its map, {spec.default_map}, is drawn by predictor.Predictor and by tools.evaluate_attribution"
        raise ValueError(f"--resume {args.resume}: the {spec.name} decoder has neither attention nor evidence; {where}")
    check_flags(args, classes, layers)
    layer = None if not layers else layers - 1 if args.dec_layer_index is None else args.dec_layer_index
    split = open_split(args.dataset_path, args.dataset_name, args.test, classes, only_class=args.class_index)
    verify_images(split.paths[ranks.rank :: ranks.size])
    ranks.barrier()

    words = "what speaks for the class, cell by cell" if layer is None else f"decoder layer {layer % layers} of 0 to {layers - 1}"
    heads, query_heads = (bool(flag) and layer is not None for flag in (args.gt_query_heads, args.sim_query_heads))
    true = classes[args.class_index]
    data_set = [safe_name(part, limit=255) for part in Path(args.dataset_name).parts]
    target = Path(args.output_dir, "visualization", *data_set, args.test, f"{args.class_index}_{safe_name(true)}")
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    pages = ClassPages(split.root / split.folders[args.class_index], target, classes, words, heads, query_heads)
    rows = draw_images(args, model, meta.normalisation, split, pages, layer, ranks)
    if ranks.main:
        write_index(args, pages, rows, words if layer is None else f"cross-attention of {words}")


def draw_images(
    args: Flags, model: ICN, normalisation: dict[str, list[float]], split: ImageFolder, pages: ClassPages, layer: int | None,
    ranks: Ranks,
) -> list[Row]:  # fmt: skip
    """Draw the images of the class; return their rows in the order of the split, of all processes on rank 0."""
    batches = EvalSampler(len(split), args.batch_size).batches[ranks.rank :: ranks.size]
    loader = DataLoader(
        DrawnImages(split, args.image_size, args.square), batch_sampler=batches, num_workers=min(args.num_workers, len(batches)),
        collate_fn=collate_items, worker_init_fn=worker_init,
    )  # fmt: skip
    top_q = min(args.top_q, len(pages.classes))

    def explain() -> Iterator[tuple[Path, Explained]]:
        for batch, items in loader:
            images = explain_classes(model, normalisation, batch, items, args.class_index, top_q, layer)
            yield from ((item.path, explained) for item, explained in zip(items, images, strict=True))

    rows: dict[str, Row] = {}
    with Progress(len(split), "drawing") as progress:
        for row in ranks.gather_in_order(pages.draw_all(explain())):
            rows[row.name] = row
            progress.step()
    return [rows[str(path.relative_to(pages.source))] for path in split.paths] if ranks.main else []


def write_index(args: Flags, pages: ClassPages, rows: list[Row], what: str) -> None:
    """Write the index, and print where it is."""
    true = pages.classes[args.class_index]
    about = (
        f"{args.dataset_name}, {args.test} split; checkpoint {Path(args.resume).name}; {what}. Each map is on its own "
        f"scale: its minimum has the weight {WEIGHT[0]:.0%} over the picture, its maximum {WEIGHT[1]:.0%}."
    )
    index = pages.target / "index.html"
    with writing(index), atomic_write(index) as file:
        file.write(index_html(f"{args.class_index} {true}", about, rows))
    right = sum(row.right for row in rows)
    print(f"{len(rows)} images of class {args.class_index} ({printable(true)}): {right} right, {len(rows) - right} wrong")
    print(f"open {index}")


if __name__ == "__main__":
    launch(main, get_args_parser())
