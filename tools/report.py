"""Write one page on a model: accuracy, confusions, calibration, and maps of every image, to be opened from disk.

    python -m tools.report --resume <checkpoint.pth> --dataset_path <datasets> --dataset_name <name> [--out <folder>]

Over an image the reader chooses class, head, method, and the contrast of two classes. The folder needs no server and no network.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/report.py` works too

import cv2
import numpy as np
import torch

from attribution.methods.registry import METHODS, drawn_methods
from attribution.report import page
from attribution.report.measured import measured_maps
from attribution.report.panels import DrawnImages, Explained, Item, collate_items, compute_maps, explain_classes
from attribution.report.shortcuts import ClassEvidence
from datasets import EvalSampler, ImageBatch, ImageFolder, Loader, eval_transform, open_split, verify_images
from datasets.decode import set_decoding
from datasets.scan import eval_shapes
from flags import add_data_flags, add_model_flags
from models import ICN
from tools.opening import open_checkpoint
from util.atomic import atomic_write, replace_folder
from util.calibration import calibration
from util.cli import Flags, Parser, launch
from util.device import select_device
from util.launcher import read_launcher_env
from util.number import COUNT
from util.printable import printable
from util.progress import Progress
from util.results_folder import results_beside_checkpoint

PROG = "python -m tools.report"
LONGEST = 448  # side of the pictures on the page


def get_args_parser() -> Parser:
    """Return the flags of the report, the model and the data."""
    parser = Parser(PROG, description=__doc__)
    group = parser.add_argument_group("report")
    group.add_argument("--resume", default="", help="the checkpoint (ICN's or INTR's; path, URL or hf://owner/repo)")
    group.add_argument("--out", help="folder of the page; None: report_<split> beside the checkpoint")
    group.add_argument("--top_q", default=4, type=COUNT, help="classes with maps: those of the highest logits, and the true one")
    group.add_argument(
        "--methods", nargs="+", metavar="METHOD", help="names of attribution.METHODS; None: attention, and the map of the decoder"
    )
    group.add_argument(
        "--attribution", type=Path, metavar="FILE", help="attribution.json; None: that beside the checkpoint, if it is there"
    )
    add_model_flags(parser)
    add_data_flags(parser)
    parser.set_defaults(batch_size=8)
    return parser


def main(args: Flags) -> None:
    """Score the split, make the maps and write the page; raise a ValueError for a wrong flag or file."""
    cv2.setNumThreads(1)  # OpenCV's own threads do not survive the fork of a loader
    if not args.resume:
        raise ValueError("--resume is missing: give the checkpoint that the page is about")
    device = select_device(args.device, read_launcher_env())
    args, model, meta, classes = open_checkpoint(args, device)
    default = [*["attention"] * (model.num_decoder_layers > 0), model.decoder_spec.default_map]
    methods = drawn_methods("--methods", model, args.methods or default)
    measured = args.attribution or results_beside_checkpoint(args, "attribution", meta.args) / "attribution.json"
    attribution = read_attribution(measured) if args.attribution or measured.exists() else None
    set_decoding(args.bit_depth, args.max_image_mb)
    split = open_split(args.dataset_path, args.dataset_name, args.test, classes, eval_transform(args.image_size, args.square))
    verify_images(split.paths)
    out = Path(args.out) if args.out else results_beside_checkpoint(args, "report", meta.args)
    if (out / page.SUMMARY).exists():
        print(f"the report in {out} will be replaced")
    with replace_folder(out, page.SUMMARY) as folder:
        (folder / page.PICTURES).mkdir()
        (folder / page.MAPS).mkdir(parents=True)
        summary = write_images(args, model, meta.normalisation, split, methods, folder)
        epoch = "" if meta.epoch is None else f", epoch {meta.epoch + 1}"
        title = f"{args.dataset_name}, {args.test}"
        titles = {name: METHODS[name].title for name in methods}
        maps = "; ".join(titles.values())
        about = f"Checkpoint {Path(args.resume).name}{epoch}; {model.decoder_name} decoder; maps: {maps}."
        extra = {"curves": page.training_curves(Path(args.resume).parent / "log.txt"), "attribution": attribution}
        page.write_report(folder, title, about, {"classes": classes, "methods": titles, **summary, **extra})
    print(f"{len(split)} images of {len(classes)} classes, {summary['acc1']:.2f} % right")
    print(f"open {out / 'index.html'}")


def read_attribution(path: Path) -> dict[str, Any]:
    """Return what the page shows of an attribution.json; ValueError where the file is not one."""
    try:
        found = measured_maps(json.loads(path.read_text("utf-8")))
        return {**found, "about": f"{found['about']}: {path.name}"}
    except OSError as error:
        raise ValueError(
            f"--attribution {path} cannot be read ({error.strerror}): give an attribution.json of tools.evaluate_attribution"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"--attribution {path} is no attribution.json of tools.evaluate_attribution ({error!r})") from None


def write_images(
    args: Flags, model: ICN, normalisation: dict[str, list[float]], split: ImageFolder, methods: Sequence[str], folder: Path
) -> dict[str, Any]:
    """Write the picture and the maps of every image; return the columns of all images and the accuracies."""
    shapes = eval_shapes(split, max(1, args.num_workers))
    batches = EvalSampler(len(split), args.batch_size, shapes=shapes)
    drawn = DrawnImages(split.with_transform(None), args.image_size, args.square)
    loader = Loader(drawn, batch_sampler=batches, num_workers=min(args.num_workers, len(batches)), collate_fn=collate_items)
    columns: dict[str, list[Any]] = {name: [None] * len(split) for name in ("label", "predicted", "p", "rank")}
    evidence = ClassEvidence(split, Path(args.dataset_path, args.dataset_name, "masks"))
    represents = model.decoder_spec.default_map
    with Progress(len(split), "drawing") as progress:
        for item, explained, maps in explain_all(model, normalisation, loader, min(args.top_q, model.num_classes), methods):
            write_image(folder, item, explained, maps)
            evidence.add(item, explained, maps.get(represents, maps[methods[0]]))
            values = (
                explained.true,
                explained.predicted,
                round(explained.predicted_score, 6),
                explained.ranks[explained.true_row],
            )
            for column, value in zip(columns.values(), values, strict=True):
                column[item.place] = value
            progress.step()
    ranks = np.array(columns.pop("rank"))
    right, p = np.equal(columns["label"], columns["predicted"]), np.array(columns["p"])
    columns["file"] = [printable(path.relative_to(split.root).as_posix()) for path in split.paths]
    acc5 = float(100 * (ranks <= 5).mean()) if len(split.classes) >= 5 else None
    accuracy = {"acc1": float(100 * right.mean()), "acc5": acc5, "calibration": calibration(p, right)}
    return {"images": columns, **accuracy, "shortcuts": evidence.write(folder)}


def explain_all(
    model: ICN, normalisation: dict[str, list[float]], loader: Loader, top_q: int, methods: Sequence[str]
) -> Iterator[tuple[Item, Explained, dict[str, np.ndarray]]]:
    """Yield each image, what the model says of it, and its maps `[Q, heads, h, w]` by every method."""
    device = next(model.parameters()).device
    batch: ImageBatch
    for batch, items in loader:
        explained = explain_classes(model, normalisation, batch, items, top_q, methods[0])
        moved = batch.to(device)
        images = moved.normalise(**normalisation)
        classes = torch.tensor([each.classes for each in explained], device=device)
        more = {name: compute_maps(model, images, moved.padding_mask, classes, name).cpu().numpy() for name in methods[1:]}
        for row, (item, each) in enumerate(zip(items, explained, strict=True)):
            yield item, each, {methods[0]: each.maps, **{name: maps[row] for name, maps in more.items()}}


def write_image(folder: Path, item: Item, explained: Explained, maps: dict[str, np.ndarray]) -> None:
    """Write one image's picture, and its maps as a script."""
    page.write_picture(folder / page.picture_name(item.place), item.picture, LONGEST)
    sizes = explained.padded_size, explained.valid_size
    encoded = {name: page.encode_maps(values, *sizes, METHODS[name].signed) for name, values in maps.items()}
    scores = {"p": [float(f"{p:.6g}") for p in explained.scores], "logits": [float(f"{x:.6g}") for x in explained.logits]}
    with atomic_write(folder / page.maps_name(item.place)) as file:
        file.write(page.script("icnMaps", item.place, {"classes": explained.classes, **scores, "maps": encoded}))


if __name__ == "__main__":
    launch(main, get_args_parser())
