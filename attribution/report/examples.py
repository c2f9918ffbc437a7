"""examples.jpg: the maps of all methods of the same pictures side by side, where our map does best and where it does worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from attribution.report.render import GREEN, GRID_TILE, RED, Section, Tile, display_maps, fit, overlay, panel
from datasets.decode import decode_image

EXAMPLES = 3  # best, and worst
QUALITY = 90
RANKED_BY = ("srg", "pointing", "contrast_pointing")  # the first that was measured


def choose(columns: Mapping[str, np.ndarray], count: int = EXAMPLES) -> tuple[str, list[int], list[int]]:
    """The metric, and the pictures in which it is best (best first) and worst (worst first); none twice."""
    metric = next((name for name in RANKED_BY if name in columns and np.isfinite(columns[name]).any()), "")
    if not metric:
        return "", list(range(min(count, len(next(iter(columns.values())))))), []
    order = [int(place) for place in np.argsort(-columns[metric], kind="stable") if np.isfinite(columns[metric][place])]
    best = order[: min(count, (len(order) + 1) // 2)]
    return metric, best, order[::-1][: min(count, len(order) - len(best))]


def draw_sheet(
    path: Path,
    title: str,
    note: str,
    pictures: Sequence[Mapping[str, Any]],
    files: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    maps: Mapping[str, Sequence[Tensor]],
    values: Mapping[str, Mapping[str, np.ndarray]],
    ours: str,
) -> None:
    """Write the sheet.

    Args:
        pictures: `label`, `predicted` (names) of each; files: where they are; sizes: as the network sees them.
        maps: of each method, one `[h, w]` a picture.
        values: of each method, the columns of its metrics.
        ours: the method by which pictures are chosen; the first of each row.
    """
    metric, best, worst = choose(values[ours])
    names = [ours, *(name for name in maps if name != ours)]
    sections = []
    for word, places in (("best", best), ("worst", worst)):
        for place in places:
            picture = pictures[place]
            right = picture["label"] == picture["predicted"]
            verdict = f"right: {picture['label']}" if right else f"predicted {picture['predicted']}, is {picture['label']}"
            drawn = fit(decode_image(files[place]).permute(1, 2, 0).numpy(), GRID_TILE)
            tiles = [Tile(drawn, ("picture",), GREEN if right else RED)]
            for name in names:
                heat = np.maximum(maps[name][place].float().numpy(), 0)[None]
                heat = display_maps(heat, sizes[place], sizes[place], drawn.shape[:2])[0]
                score = values[name].get(metric, np.full(len(pictures), np.nan))[place]
                tiles.append(Tile(overlay(drawn, heat), (name, f"{metric} {score:.2f}" if np.isfinite(score) else "")))
            heading = (
                f"{word} {metric} of {ours} · {files[place].name} · {verdict}" if metric else f"{files[place].name} · {verdict}"
            )
            sections.append(Section(heading, tiles))
    sheet = panel(title, note, True, sections, "positive part of each map, on its own scale")
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
