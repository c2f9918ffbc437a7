"""Rank the heads that matter for a class: `python -m tools.traits --resume <checkpoint.pth> --classes A B ... --out <folder>`

A head matters as far as the logit drops when its attention is made uniform. The heads of each class are ranked greedily and drawn
in that order for some of its images. With --against B the heads and places that separate one class from B are ranked by AUROC.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/traits.py` works too

import cv2
import numpy as np
import torch
from torch import Tensor

from attribution.metrics.heads import (
    Ranking,
    auroc,
    best_columns,
    check_attention,
    head_scores,
    places,
    random_head_scores,
    rank_heads,
)
from attribution.report.overlay import at_pixels, common_scale, fit, overlay
from attribution.report.panels import compute_maps, safe_name
from attribution.report.paper import PAGE, draw_grid
from datasets import open_split
from datasets.decode import set_decoding
from datasets.photographs import photograph_batches
from flags import add_data_flags
from predictor import Predictor
from util.classes import find_class, find_classes
from util.cli import Flags, Parser, launch
from util.number import COUNT, SEED, WHOLE
from util.output_files import make_output_folder
from util.printable import short_name
from util.progress import Progress
from util.tables import markdown_table, write_csv

PROG = "python -m tools.traits"
LONGEST = 384  # pixels of an image's long side in a figure
SHOWN = 5  # places in the table of two classes


def get_args_parser() -> Parser:
    """Return the flags."""
    parser = Parser(PROG, description=__doc__)
    group = parser.add_argument_group("traits")
    group.add_argument("--resume", required=True, help="the checkpoint (ICN's or INTR's; path, URL or hf://owner/repo)")
    group.add_argument("--classes", nargs="+", metavar="CLASS", help="indices or names, or all; None: all")
    group.add_argument("--against", metavar="CLASS", help="separate the one class of --classes from this one")
    group.add_argument("--images", default=8, type=COUNT, help="images of each class that are measured")
    group.add_argument("--rows", default=4, type=WHOLE, help="images of each class that are drawn")
    group.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="for traits.csv and the figures")
    group.add_argument("--seed", default=42, type=SEED, help="of the random head")
    add_data_flags(parser)
    parser.set_defaults(batch_size=8)
    return parser


def main(args: Flags) -> None:
    """Write the table and the figures; raise a ValueError for a wrong flag or file."""
    cv2.setNumThreads(1)  # OpenCV's own threads do not survive the fork of a loader
    set_decoding(args.bit_depth, args.max_image_mb)
    predictor = Predictor.from_checkpoint(args.resume, args.device)
    check_attention(predictor.model)
    try:
        classes = list(range(len(predictor.classes)))
        if args.classes is not None:
            classes = find_classes(args.classes, predictor.classes)
        other = None if args.against is None else find_class(args.against, predictor.classes)
    except ValueError as error:
        raise ValueError(f"--classes, --against: {error}") from None
    if other is not None and (len(classes) != 1 or classes[0] == other):
        raise ValueError("--against: give one class in --classes, and another one here")
    make_output_folder("--out", args.out)
    if other is None:
        write_traits(args, predictor, classes)
    else:
        print(separate(args, predictor, classes[0], other))


def write_traits(args: Flags, predictor: Predictor, classes: Sequence[int]) -> None:
    """Rank and draw the heads of classes; write `traits.csv`."""
    rows = []
    with Progress(len(classes), "ranking heads") as progress:
        for index in classes:
            batches = list(class_batches(args, predictor, index, args.images))
            ranking = rank_heads(partial(scores_of, predictor, batches, logit_of(index)))
            name = predictor.classes[index]
            for rank, (head, alone, together) in enumerate(zip(*vars(ranking).values(), strict=True), 1):
                rows.append([index, name, rank, head, round(alone, 5), round(together, 5)])
            if args.rows:
                draw_traits(args, predictor, index, ranking)
            progress.step()
    write_csv(args.out / "traits.csv", ["class", "name", "rank", "head", "drop alone", "drop together"], rows)
    best = [[short_name(str(row[1])), str(row[3]), f"{row[4]:.3f}"] for row in rows if row[2] == 1]
    print(markdown_table(["class", "first head", "drop of the logit"], best[:20], text_columns=1))
    print(f"{len(classes)} classes: {args.out / 'traits.csv'}{' and figures beside it' * (args.rows > 0)}")


def class_batches(args: Flags, predictor: Predictor, index: int, count: int) -> Iterator[tuple[Tensor, list[np.ndarray]]]:
    """Yield images of a class in batches of one shape, normalised `[B, 3, H, W]`, with their pictures uint8 `[H, W, 3]`."""
    split = open_split(args.dataset_path, args.dataset_name, args.test, predictor.classes, only_class=index)
    paths = split.paths[:count]
    for batch in photograph_batches(paths, predictor.transform, args.batch_size, 0, originals=True, decoding=predictor.decoding):
        if batch.errors:
            raise ValueError(next(iter(batch.errors.values())))
        assert batch.images is not None
        images = batch.images.to(predictor.device).normalise(**predictor.normalisation)
        originals = [photograph.original for photograph in batch.photographs]
        yield images, [original.permute(1, 2, 0).numpy() for original in originals if original is not None]


def logit_of(index: int) -> Callable[[Tensor], Tensor]:
    """Return the function that takes a class's logit."""
    return lambda logits: logits[:, index].float()


def scores_of(
    predictor: Predictor,
    batches: Sequence[tuple[Tensor, list[np.ndarray]]],
    target: Callable[[Tensor], Tensor],
    off: Sequence[int],
) -> Tensor:
    """Return `head_scores` of all batches, `[N, heads]`."""
    return torch.cat([head_scores(predictor.model, images, target, off).cpu() for images, _ in batches])


def draw_traits(args: Flags, predictor: Predictor, index: int, ranking: Ranking) -> None:
    """Draw some images of a class with its heads in the order of their rank, on one scale per row."""
    rows = []
    for images, pictures in class_batches(args, predictor, index, args.rows):
        classes = torch.full((len(images), 1), index, device=images.device)
        maps = compute_maps(predictor.model, images, None, classes, "attention")[:, 0].cpu().numpy()  # [B, heads, h, w]
        size = images.shape[2], images.shape[3]
        for picture, heads in zip(pictures, maps, strict=True):
            small = fit(picture, LONGEST, enlarge=False)
            scale = common_scale(heads)
            values = at_pixels(heads[ranking.order], size, size, small.shape[:2])
            rows.append([small, *(overlay(small, each, scale) for each in values)])
    name = predictor.classes[index]
    word = "head " if len(ranking.order) < 10 else ""
    labels = ["image", *(f"{word}{head} ({alone:+.2f})" for head, alone in zip(ranking.order, ranking.alone, strict=True))]
    draw_grid(args.out / f"{index}_{safe_name(name)}.png", rows, [name] * len(rows), labels, PAGE)


def separate(args: Flags, predictor: Predictor, index: int, other: int) -> str:
    """Return a table of the heads and places that separate two classes best, beside a random head and random places."""
    target: Callable[[Tensor], Tensor] = lambda logits: (logits[:, index] - logits[:, other]).float()  # noqa: E731
    groups = [list(class_batches(args, predictor, each, args.images)) for each in (index, other)]
    counts = [sum(len(images) for images, _ in group) for group in groups]
    if min(counts) < 4:
        raise ValueError(f"--images: {min(counts)} images of a class are too few to rank on one half and measure on the other")
    batches = [batch for group in groups for batch in group]
    positive = np.arange(sum(counts)) < counts[0]
    model, method = predictor.model, predictor.model.decoder_spec.default_map
    heads = scores_of(predictor, batches, target, ()).numpy()
    rows = [[f"head {head}", f"{value:.3f}"] for head, value in best_columns(heads, positive, heads.shape[1])]
    random = torch.cat([random_head_scores(model, images, target, args.seed).cpu() for images, _ in batches]).numpy()
    chance = auroc(random, positive)
    rows.append(["a head with random attention", f"{np.maximum(chance, 1 - chance).mean():.3f}"])
    maps = []
    for images, _ in batches:
        pair = torch.tensor([[index, other]], device=images.device).expand(len(images), -1)
        both = compute_maps(model, images, None, pair, method).float().mean(2).cpu()  # [B, 2, h, w]
        maps += list(both[:, 0] - both[:, 1])
    cells = places(maps)
    values = cells.flatten(1).numpy()
    columns = cells.shape[2]
    for place, value in best_columns(values, positive, SHOWN):
        rows.append(
            [
                f"{method}: row {place // columns + 1}, column {place % columns + 1} of {cells.shape[1]} x {columns}",
                f"{value:.3f}",
            ]
        )
    shuffled = np.random.default_rng(args.seed).permuted(values, axis=1)
    best = np.mean([value for _, value in best_columns(shuffled, positive, SHOWN)])
    rows.append([f"{method}: the same, cells of each image shuffled", f"{best:.3f}"])
    names = f"{short_name(predictor.classes[index])} and {short_name(predictor.classes[other])}"
    heading = f"What separates {names} ({counts[0]} and {counts[1]} images; chosen on one half, measured on the other)"
    write_csv(args.out / f"{index}_against_{other}.csv", ["what", "AUROC"], [[what, float(value)] for what, value in rows])
    return f"{heading}\n\n{markdown_table(['what', 'AUROC'], rows, text_columns=1)}"


if __name__ == "__main__":
    launch(main, get_args_parser())
