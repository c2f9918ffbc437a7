"""Change a photograph and see what the model says then: `python -m tools.whatif PHOTO --resume <checkpoint.pth> --erase x,y,w,h`

A region, in pixels of the upright photograph, is filled with its mean colour (--erase) or from its surroundings (--inpaint), or
another picture is put at a place (--paste). With --top the strongest part of the map of each photograph is erased instead, and as
much of it elsewhere, and a table says how often the predicted class changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/whatif.py` works too

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from attribution.methods.registry import METHODS, drawn_methods
from attribution.report.overlay import common_scale, fit, overlay
from attribution.report.render import FORMATS, TILE, Section, Tile, panel
from datasets.decode import decode_image, set_decoding
from datasets.photographs import find_photographs
from flags import DEVICES
from predictor import Explanation, Predictor
from util.classes import find_class
from util.cli import Flags, Parser, launch
from util.number import COUNT, SEED
from util.output_files import check_output_file
from util.printable import short_name
from util.progress import Progress
from util.tables import markdown_table

PROG = "python -m tools.whatif"
INPAINT_RADIUS = 5  # pixels around a pixel from which it is filled


class Region(NamedTuple):
    """A rectangle in pixels: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int


def get_args_parser() -> Parser:
    """Return the flags."""
    parser = Parser(PROG, description=__doc__)
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="one photograph; with --top files, folders or patterns")
    parser.add_argument("--resume", required=True, help="the checkpoint (ICN's or INTR's; path, URL or hf://owner/repo)")
    change = parser.add_mutually_exclusive_group(required=True)
    change.add_argument("--erase", metavar="X,Y,W,H", help="fill a region with the mean colour of the photograph")
    change.add_argument("--inpaint", metavar="X,Y,W,H", help="fill a region from its surroundings (Telea 2004)")
    change.add_argument("--paste", metavar="FILE@X,Y", help="put a picture over the photograph; its transparency is kept")
    change.add_argument(
        "--top", metavar="SHARE", help="erase this share of each photograph, where its map is strongest, such as 5%%"
    )
    parser.add_argument("--class", dest="class_", metavar="CLASS", help="the class that is explained; None: the predicted one")
    parser.add_argument("--method", help="a name of attribution.METHODS; None: the map that represents the decoder")
    parser.add_argument("--topk", default=3, type=COUNT, help="number of classes in the table")
    parser.add_argument("--seed", default=42, type=SEED, help="of the places elsewhere")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="draw the photograph and its map before and after: PNG, PDF or SVG"
    )
    parser.add_argument("--max_image_mb", default=1200, type=COUNT, help="memory in MB that a photograph may take to decode")
    parser.add_argument("--device", default="cuda", help=DEVICES)
    return parser


def main(args: Flags) -> None:
    """Print what changes, and draw it with --out; raise a ValueError for a wrong flag or file."""
    if args.out is not None:
        check_output_file("--out", args.out, [f".{suffix}" for suffix in FORMATS])
        if args.top is not None:
            raise ValueError("--out draws one changed photograph: leave it out with --top")
    set_decoding(max_image_mb=args.max_image_mb)
    share = None if args.top is None else parse_share(args.top)
    paths = find_photographs(args.photos, sys.stdin)
    if share is None and len(paths) > 1:
        raise ValueError(f"{len(paths)} photographs are named: --erase, --inpaint and --paste change one; --top takes many")
    predictor = Predictor.from_checkpoint(args.resume, args.device)
    index = None if args.class_ is None else find_class(args.class_, predictor.classes)
    if args.method is not None:
        drawn_methods("--method", predictor.model, [args.method])
    if share is None:
        picture = decode_image(paths[0], predictor.decoding).permute(1, 2, 0).numpy()
        change_one(args, predictor, paths[0], picture, changed(args, picture), index)
    else:
        print(change_many(args, predictor, paths, share, index))


def parse_share(text: str) -> float:
    """Return a share, `5%` or `0.05`, as a number between 0 and 1."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0
    if not 0 < share <= 0.5:
        raise ValueError(f"--top {text}: give a share above 0 and up to a half, such as 5% or 0.05")
    return share


def parse_numbers(flag: str, text: str, count: int) -> list[int]:
    """Return `count` whole numbers from a text with commas between them."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise ValueError(f"{flag} {text}: give {count} whole numbers with commas between them, in pixels")
    return numbers


def changed(args: Flags, picture: np.ndarray) -> np.ndarray:
    """Return a changed copy of a picture uint8 `[H, W, 3]`; a ValueError where the region or the other picture does not fit."""
    if args.paste is not None:
        return paste(args.paste, picture)
    flag, text = ("--erase", args.erase) if args.erase is not None else ("--inpaint", args.inpaint)
    x, y, width, height = Region(*parse_numbers(flag, text, 4))
    if width < 1 or height < 1 or x < 0 or y < 0 or x + width > picture.shape[1] or y + height > picture.shape[0]:
        raise ValueError(f"{flag} {text} is no region of the photograph, which is {picture.shape[1]} x {picture.shape[0]} pixels")
    mask = np.zeros(picture.shape[:2], bool)
    mask[y : y + height, x : x + width] = True
    if mask.all():
        raise ValueError(f"{flag} {text} is the whole photograph: leave a part of it")
    if args.erase is not None:
        return erase(picture, mask)
    return cv2.inpaint(np.ascontiguousarray(picture), mask.astype(np.uint8), INPAINT_RADIUS, cv2.INPAINT_TELEA)


def erase(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fill a mask with the mean colour of the picture."""
    return np.where(mask[:, :, None], picture.mean((0, 1)).round().astype(np.uint8), picture)


def paste(text: str, picture: np.ndarray) -> np.ndarray:
    """Put the picture `FILE@X,Y` with its upper left corner at a place; what lies outside is cut off."""
    file, at, place = text.rpartition("@")
    if not at:
        raise ValueError(f"--paste {text}: give a file and a place, such as beak.png@40,60")
    x, y = parse_numbers("--paste", place, 2)
    colours = decode_image(file).permute(1, 2, 0).numpy()  # refuses what is no image
    with Image.open(file) as image:
        other = np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))
        if not image.has_transparency_data:
            other = np.dstack([colours, np.full(colours.shape[:2], 255, np.uint8)])
    left, top, right, bottom = (
        max(x, 0),
        max(y, 0),
        min(x + other.shape[1], picture.shape[1]),
        min(y + other.shape[0], picture.shape[0]),
    )
    if left >= right or top >= bottom:
        raise ValueError(f"--paste {text} lies outside the photograph, which is {picture.shape[1]} x {picture.shape[0]} pixels")
    part = other[top - y : bottom - y, left - x : right - x].astype(float)
    alpha, result = part[:, :, 3:] / 255, picture.copy()
    result[top:bottom, left:right] = (
        (part[:, :, :3] * alpha + picture[top:bottom, left:right] * (1 - alpha)).round().astype(np.uint8)
    )
    return result


def change_one(args: Flags, predictor: Predictor, path: Path, before: np.ndarray, after: np.ndarray, index: int | None) -> None:
    """Print logits and probabilities of one photograph before and after the change, and draw its maps."""
    logits = predictor.logits([before, after])
    p = predictor.model.probabilities(logits)
    first = logits.topk(min(args.topk, logits.shape[1])).indices  # [2, topk]
    shown = list(dict.fromkeys([*first[0].tolist(), *first[1].tolist(), *([] if index is None else [index])]))
    rows = [
        [
            short_name(predictor.classes[k]),
            *(f"{logits[i, k]:.2f} ({p[i, k]:.1%})" for i in (0, 1)),
            f"{logits[1, k] - logits[0, k]:+.2f}",
        ]
        for k in shown
    ]
    print(markdown_table(["class", "before: logit (p)", "after", "change"], rows, text_columns=1))
    old, new = (short_name(predictor.classes[int(row.argmax())]) for row in logits)
    print(f"still {old}" if old == new else f"{old} -> {new}")
    if args.out is not None:
        chosen = int(logits[0].argmax()) if index is None else index
        explained = [predictor.explain(picture, chosen, method=args.method) for picture in (before, after)]
        draw_change(args.out, path, explained, [f"{predictor.classes[chosen]}: logit {row[chosen]:.2f}" for row in logits])


def draw_change(out: Path, path: Path, explained: Sequence[Explanation], lines: Sequence[str]) -> None:
    """Draw the photograph and its map before and after, on one scale."""
    scale = common_scale(np.stack([each.map for each in explained]), METHODS[explained[0].method].signed)
    tiles = []
    for each, word, line in zip(explained, ("before", "after"), lines, strict=True):
        drawn = overlay(each.picture, each.map, scale)
        tiles += [Tile(fit(each.picture, TILE), (word,)), Tile(fit(drawn, TILE), (f"{each.method}, {word}", line))]
    sheet = panel(path.name, "what if", None, [Section("", tiles, scale)], "one scale for both maps")
    sheet.save(out)
    print(f"before and after: {out}")


def change_many(args: Flags, predictor: Predictor, paths: Sequence[Path], share: float, index: int | None) -> str:
    """Erase the strongest share of each photograph's map, and as much elsewhere; return a table of what changed."""
    rng = np.random.default_rng(args.seed)
    results: list[torch.Tensor] = []
    with Progress(len(paths), "erasing") as progress:
        for path in paths:
            picture = decode_image(path, predictor.decoding).permute(1, 2, 0).numpy()
            explained = predictor.explain(picture, index, method=args.method)
            mask = strongest(explained.map, share)
            logits = predictor.logits([picture, erase(picture, mask), erase(picture, elsewhere(mask, rng))])
            results.append(logits)
            progress.step()
    logits = torch.stack(results)  # [N, 3, C]
    classes = logits.argmax(2)
    first = classes[:, :1, None].expand(-1, 3, 1)
    p = predictor.model.probabilities(logits).gather(2, first)[:, :, 0]  # of the class predicted before, [N, 3]
    rows = []
    for column, name in ((1, f"strongest {share:.3g} of the map"), (2, "as much elsewhere")):
        count = int((classes[:, column] != classes[:, 0]).sum())
        rows.append(
            [name, f"{count} of {len(paths)}", f"{count / len(paths):.1%}", f"{p[:, 0].mean() - p[:, column].mean():.3f}"]
        )
    return markdown_table(["erased", "changed class", "share", "mean drop of p"], rows, text_columns=1)


def strongest(values: np.ndarray, share: float) -> np.ndarray:
    """Return the mask of the largest values, `share` of all, bool `[H, W]`; ties go to the first."""
    count = max(1, round(share * values.size))
    mask = np.zeros(values.size, bool)
    mask[np.argsort(-values, axis=None, kind="stable")[:count]] = True
    return mask.reshape(values.shape)


def elsewhere(mask: np.ndarray, rng: np.random.Generator, tries: int = 50) -> np.ndarray:
    """Shift a mask around the edges to a random place, of `tries` the one that overlaps it least."""
    shifts = [(int(rng.integers(mask.shape[0])), int(rng.integers(mask.shape[1]))) for _ in range(tries)]
    overlap: Callable[[Any], int] = lambda shift: int((np.roll(mask, shift, (0, 1)) & mask).sum())  # noqa: E731
    return np.roll(mask, min(shifts, key=overlap), (0, 1))


if __name__ == "__main__":
    launch(main, get_args_parser())
