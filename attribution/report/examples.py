"""examples.jpg: the maps of all methods on the same images, those on which the map that represents ICN scores best and worst."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from attribution.evaluation.evaluate import Evaluation
from attribution.report.render import GREEN, GRID_TILE, RED, Section, Tile, display_maps, fit, overlay, panel
from datasets.decode import decode_image

EXAMPLES = 3  # best, and worst
QUALITY = 90
RANKED_BY = ("srg", "pointing", "contrast_pointing")  # the first that was measured


def write_examples(evaluation: Evaluation, path: Path) -> None:
    """Write the maps of an evaluation."""
    settings, ours = evaluation.content["settings"], evaluation.content["ours"]
    accuracy = f"{100 * settings['accuracy']:.1f} % right"
    title = f"{settings['dataset']}, {settings['split']}: {settings['checkpoint']}"
    note = f"{settings['decoder']} decoder, {accuracy}; each map explains the class that is predicted"
    metric, best, worst = choose(evaluation.values[ours])
    sections = [
        _section(evaluation, place, metric, word) for word, places in (("best", best), ("worst", worst)) for place in places
    ]
    sheet = panel(title, note, True, sections, "positive part of each map, on its own scale")
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


def choose(columns: Mapping[str, np.ndarray], count: int = EXAMPLES) -> tuple[str, list[int], list[int]]:
    """Return the metric, and the images in which it is best (best first) and worst (worst first); none twice."""
    metric = next((name for name in RANKED_BY if name in columns and np.isfinite(columns[name]).any()), "")
    if not metric:
        return "", list(range(min(count, len(next(iter(columns.values())))))), []
    order = [int(place) for place in np.argsort(-columns[metric], kind="stable") if np.isfinite(columns[metric][place])]
    best = order[: min(count, (len(order) + 1) // 2)]
    return metric, best, order[::-1][: min(count, len(order) - len(best))]


def _section(evaluation: Evaluation, place: int, metric: str, word: str) -> Section:
    """Return the picture at `place` and the maps of all methods, the one that represents ICN first."""
    image, ours = evaluation.content["images"][place], evaluation.content["ours"]
    path, size = evaluation.images.paths[place], evaluation.images.sizes[place]
    right = image["label"] == image["predicted"]
    verdict = f"right: {image['label']}" if right else f"predicted {image['predicted']}, is {image['label']}"
    picture = fit(decode_image(path).permute(1, 2, 0).numpy(), GRID_TILE)
    tiles = [Tile(picture, ("picture",), GREEN if right else RED)]
    for name in [ours, *(name for name in evaluation.maps if name != ours)]:
        heat = np.maximum(evaluation.maps[name][place].float().numpy(), 0)[None]
        heat = display_maps(heat, size, size, picture.shape[:2])[0]
        score = evaluation.values[name][metric][place] if metric in evaluation.values[name] else np.nan
        tiles.append(Tile(overlay(picture, heat), (name, f"{metric} {score:.2f}" if np.isfinite(score) else "")))
    heading = f"{path.name} · {verdict}"
    return Section(f"{word} {metric} of {ours} · {heading}" if metric else heading, tiles)
