"""Make the headline table of docs/results.md: `python -m tools.headline <output folder>`

The folder holds the runs of recipes/reproduce_results.sh, `<data set>/<run>_seed<n>`, with their logs and measurements. A figure
is the mean over the seeds, with the lowest and the highest in brackets. Nothing is copied by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/headline.py` works too

from util.atomic import atomic_write
from util.cli import Parser, launch
from util.number import SEED
from util.tables import markdown_table, replace_table

NAME = "headline"  # of the markers in the page
HEADS = ["", "mean (lowest - highest)", "seeds", "goal"]


@dataclass(frozen=True)
class Row:
    """A figure: what it is, the run and the file that have it, how it is read there, its digits, and the goal of the project."""

    label: str
    run: str
    file: str
    read: Callable[[Any], float]
    digits: int = 2
    goal: str = ""


def _entry(*keys: str) -> Callable[[Any], float]:
    def read(content: Any) -> float:
        for key in keys:
            content = content[key]
        return float(content)

    return read


def _grid(method: str) -> Callable[[Any], float]:
    def read(content: Any) -> float:
        (result,) = (x for x in content["results"] if (x["setting"], x["n"]) == ("gridpg", 3))
        return float(result["methods"][method]["mean"])

    return read


LOG, MAPS, GRID = "log.txt", "attribution_val/attribution.json", "grid_val/grid.json"
UNKNOWN = "unknown_val_planes-f16/unknown.json"
F16, KNOWN = "planes-f16", "planes-f16-known"
ROWS = (
    Row("top-1 (%), `detr` (`recipes/demo.args`), 2 epochs", f"{F16}/detr", LOG, _entry("test_acc1"), 1),
    Row("top-1 (%), `additive`, 5 epochs", f"{F16}/additive", LOG, _entry("test_acc1"), 1),
    Row("top-1 (%), `additive --loss bce`, 5 epochs", f"{F16}/bce", LOG, _entry("test_acc1"), 1),
    Row("top-1 (%), `average`, 3 epochs, then 1 of `--adversarial 4`", f"{F16}/parts", LOG, _entry("test_acc1"), 1),
    Row("ECE, `additive`", f"{F16}/additive", LOG, _entry("test_ece"), 3),
    Row("ECE, `additive --loss bce`", f"{F16}/bce", LOG, _entry("test_ece"), 3),
    Row("evidence pointing, cells, 1 pass, after `--adversarial 4`", f"{F16}/parts", MAPS,
        _entry("methods", "additive", "metrics", "contrast_pointing", "mean"), goal="≥ .50"),
    Row("evidence pointing, pixels: `contrast`, 18 + 18 passes", f"{F16}/parts", MAPS,
        _entry("methods", "contrast", "metrics", "contrast_pointing_native", "mean"), goal="≥ .85"),
    Row("GridPG 3 x 3, `detr`: attention", f"{F16}/detr", GRID, _grid("attention")),
    Row("GridPG 3 x 3, `detr`: contribution", f"{F16}/detr", GRID, _grid("contribution")),
    Row("GridPG 3 x 3, `additive`: evidence", f"{F16}/additive", GRID, _grid("additive"), goal="≥ .90"),
    Row("GridPG 3 x 3, `additive`: softmax over classes", f"{F16}/additive", GRID, _grid("additive_softmax"), goal="≥ .90"),
    Row("GridPG 3 x 3, `additive --loss bce`: evidence", f"{F16}/bce", GRID, _grid("additive")),
    Row("GridPG 3 x 3, `additive --loss bce`: softmax over classes", f"{F16}/bce", GRID, _grid("additive_softmax"), goal="≥ .90"),
    Row("GridPG 3 x 3, `additive` and 2 epochs of `--mosaic 0.5`: evidence", f"{F16}/mosaic", GRID, _grid("additive")),
    Row("GridPG 3 x 3, the same: softmax over classes", f"{F16}/mosaic", GRID, _grid("additive_softmax"), goal="≥ .97"),
    Row("two objects, own hit, cells, after `--mosaic 0.5`", f"{F16}/mosaic", MAPS,
        _entry("pairs", "additive", "metrics", "own_hit", "mean"), goal="≥ .90"),
    Row("two objects, other hit, cells", f"{F16}/mosaic", MAPS,
        _entry("pairs", "additive", "metrics", "other_hit", "mean"), 3, "≤ .01"),
    Row("two objects, own hit, pixels: `additive_pixels`", f"{F16}/mosaic", MAPS,
        _entry("pairs", "additive_pixels", "metrics", "own_hit_native", "mean"), goal="≥ .97"),
    Row("two objects, other hit, pixels", f"{F16}/mosaic", MAPS,
        _entry("pairs", "additive_pixels", "metrics", "other_hit_native", "mean"), 3, "≤ .01"),
    Row("unknown classes, AUROC: largest probability", f"{KNOWN}/known", UNKNOWN,
        _entry("scores", "max_probability", "auroc", "value"), 3),
    Row("unknown classes, AUROC: relative Mahalanobis distance", f"{KNOWN}/known", UNKNOWN,
        _entry("scores", "relative_mahalanobis", "auroc", "value"), 3, "≥ .95"),
)  # fmt: skip


def get_args_parser() -> Parser:
    """Return the flags."""
    parser = Parser("python -m tools.headline", description=__doc__)
    parser.add_argument("folder", type=Path, help="--output_dir of the runs")
    parser.add_argument("--seeds", nargs="+", default=[42, 1, 2], type=SEED, metavar="N", help="seeds of the runs")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="also write the table between the page's markers")
    return parser


def main(args: argparse.Namespace) -> str:
    """Print and return the table. ValueError where no run is there, a file cannot be read, or the page has no markers."""
    table = headline(args.folder, args.seeds)
    print(table)
    if args.write is not None:
        try:
            page = args.write.read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"--write {args.write}: {error.strerror}; give a page of Markdown") from None
        if f"<!-- {NAME}:begin -->\n" not in page or f"<!-- {NAME}:end -->" not in page:
            raise ValueError(f"--write {args.write} has no lines <!-- {NAME}:begin --> and <!-- {NAME}:end -->: add them")
        with atomic_write(args.write) as file:
            file.write(replace_table(page, NAME, table))
    return table


def headline(folder: Path, seeds: Sequence[int]) -> str:
    """Return the table of the runs in a folder; a figure that no seed has is a dash."""
    rows, found = [], 0
    for row in ROWS:
        values = [value for seed in seeds if (value := _read(row, folder, seed)) is not None]
        found += len(values)
        spread = f" ({min(values):.{row.digits}f} - {max(values):.{row.digits}f})" if len(values) > 1 else ""
        rows.append([row.label, f"{mean(values):.{row.digits}f}{spread}" if values else "–", str(len(values)), row.goal])
    if not found:
        raise ValueError(f"{folder} has no run of recipes/reproduce_results.sh with the seeds {seeds}: run it first")
    return markdown_table(HEADS, rows, text_columns=1)


def _read(row: Row, folder: Path, seed: int) -> float | None:
    """Return a figure of a seed; None where its file is missing."""
    path = folder / f"{row.run}_seed{seed}" / row.file
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return row.read(json.loads(text.splitlines()[-1] if path.suffix == ".txt" else text))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} lacks what the table needs ({error!r}): remove it and measure again") from None


if __name__ == "__main__":
    launch(main, get_args_parser())
