"""curves.png and bars.png, the curves and headline metrics of all methods; examples.jpg, their maps of the same images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from attribution.evaluation.evaluate import AttributionResults
from attribution.metrics.registry import METRICS
from attribution.report.names import label, shown
from attribution.report.overlay import at_pixels, fit, lack_of_pattern, overlay, own_scale
from attribution.report.render import GREEN, GRID_TILE, RED, Section, Tile, panel
from datasets.decode import decode_image
from util.atomic import atomic_write, replacing
from util.plotting import Axes, Figure, FigureCanvasAgg

# Okabe and Ito's palette, for every form of colour blindness; families of methods differ by their lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = {"own": "-", "posthoc": "--", "control": ":"}
CURVES = {
    "deletion": "most relevant first turn to the mean (lower is better)",
    "least_first": "least relevant first turn to the mean (higher is better)",
    "insertion": "most relevant first come back into the blur (higher is better)",
}
FAINT = "#8a8a8a"
EXAMPLES = 3  # best, and worst
RANKED_BY = ("srg", "pointing", "contrast_pointing")  # the first that was measured


def draw_curves(content: Mapping[str, Any], path: Path) -> None:
    """Draw the perturbation curves of all methods, if there are any, with 95 % intervals but for controls."""
    names = shown(content["methods"])
    methods = {name: content["methods"][name] for name in names if content["methods"][name].get("curves")}
    if not methods:
        return
    figure = Figure(figsize=(15, 5 + 0.12 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(CURVES), sharey=True)
    for axes, (kind, title) in zip(panels, CURVES.items(), strict=True):
        for (name, entry), colour in zip(methods.items(), _colours(methods), strict=True):
            curve = entry["curves"][kind]
            share = np.linspace(0, 1, len(curve["mean"]))
            width, alpha = (2.6, 0.22) if name == content["ours"] else (1.3, 0.06)
            axes.plot(share, curve["mean"], STYLES[entry["family"]], color=colour, linewidth=width, label=names[name])
            if entry["family"] != "control":
                axes.fill_between(share, curve["low"], curve["high"], color=colour, alpha=alpha, linewidth=0)
        axes.set_xlabel("share of the pixels")
        axes.set_xlim(0, 1)
        _finish(axes, title, "both")
    panels[0].set_ylabel("probability of the predicted class")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def draw_bars(content: Mapping[str, Any], path: Path) -> None:
    """Draw the headline metrics that were measured as bars with 95 % intervals."""
    names, pairs = shown(content["methods"]), content.get("pairs", {})
    methods = {name: content["methods"][name] for name in names}
    rows = {name: {**entry["metrics"], **pairs.get(name, {}).get("metrics", {})} for name, entry in methods.items()}
    bars = [metric for metric in METRICS.values() if metric.bar]
    bars = [metric for metric in bars if any(row.get(metric.name, {}).get("images") for row in rows.values())]
    if not bars:
        return
    order = list(rows)[::-1]
    figure = Figure(figsize=(2.2 + 3.2 * len(bars), 1.6 + 0.3 * len(order)), layout="constrained")
    panels = figure.subplots(1, len(bars), sharey=True, squeeze=False)[0]
    colours = dict(zip(methods, _colours(methods), strict=True))
    for axes, metric in zip(panels, bars, strict=True):
        for place, name in enumerate(order):
            value = rows[name].get(metric.name, {"images": 0})
            if value["images"]:
                error = [[max(0.0, value["mean"] - value["low"])], [max(0.0, value["high"] - value["mean"])]]
                axes.barh(place, value["mean"], xerr=error, color=colours[name], error_kw={"linewidth": 1, "ecolor": "#333333"})
        axes.axvline(0, color="black", linewidth=0.6)
        _finish(axes, metric.title, "x")
        axes.set_axisbelow(True)
    panels[0].set_yticks(range(len(order)), [names[name] + " (ours)" * (name == content["ours"]) for name in order])
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def _finish(axes: Axes, title: str, grid: Any) -> None:
    axes.set_title(title, fontsize=10)
    axes.grid(True, axis=grid, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _colours(methods: Mapping[str, Any]) -> list[str]:
    """Return a colour for each method; controls are grey."""
    colours = iter(COLOURS * len(methods))
    return [FAINT if entry["family"] == "control" else next(colours) for entry in methods.values()]


def write_examples(evaluation: AttributionResults, path: Path) -> None:
    """Write the maps of the images on which the map that represents ICN scores best and worst."""
    settings, ours = evaluation.content["settings"], evaluation.content["ours"]
    title = f"{settings['dataset']}, {settings['split']}: {settings['checkpoint']}"
    accuracy = f"{100 * settings['accuracy']:.1f} % right"
    note = f"{settings['decoder']} decoder, {accuracy}; each map explains the class that is predicted"
    metric, best, worst = choose(evaluation.measured[ours]["values"])
    places = [*(("best", place) for place in best), *(("worst", place) for place in worst)]
    sections = [_section(evaluation, place, metric, word) for word, place in places]
    sheet = panel(title, note, None, sections, "positive part of each map, on its own scale").array()
    encoded = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    with atomic_write(path, "wb") as file:
        file.write(encoded.tobytes())


def choose(columns: Mapping[str, np.ndarray], count: int = EXAMPLES) -> tuple[str, list[int], list[int]]:
    """Return the metric, and the images in which it is best (best first) and worst (worst first); none twice."""
    metric = next((name for name in RANKED_BY if name in columns and np.isfinite(columns[name]).any()), "")
    if not metric:
        return "", list(range(min(count, len(next(iter(columns.values())))))), []
    order = [int(place) for place in np.argsort(-columns[metric], kind="stable") if np.isfinite(columns[metric][place])]
    best = order[: min(count, (len(order) + 1) // 2)]
    return metric, best, order[::-1][: min(count, len(order) - len(best))]


def _section(evaluation: AttributionResults, place: int, metric: str, word: str) -> Section:
    """Return the image at `place` and the maps of all methods, the one that represents ICN first."""
    image, ours = evaluation.content["images"][place], evaluation.content["ours"]
    path, size = evaluation.images.paths[place], evaluation.images.sizes[place]
    right = image["label"] == image["predicted"]
    verdict = f"right: {image['label']}" if right else f"predicted {image['predicted']}, is {image['label']}"
    picture = fit(decode_image(path).permute(1, 2, 0).numpy(), GRID_TILE)
    tiles = [Tile(picture, ("picture",), GREEN if right else RED)]
    methods = evaluation.content["methods"]
    names = shown(methods)
    for name in [ours, *(name for name in names if name in evaluation.measured and name != ours)]:
        values = evaluation.measured[name]["values"]
        positive = np.maximum(evaluation.measured[name]["maps"][place].float().numpy(), 0)
        drawn = overlay(picture, at_pixels(positive[None], size, size, picture.shape[:2])[0], own_scale(positive))
        score = values[metric][place] if metric in values else np.nan
        words = (f"{metric} {score:.2f}" if np.isfinite(score) else "", lack_of_pattern(positive))
        tiles.append(Tile(drawn, (label(name, methods), " · ".join(filter(None, words)))))
    heading = f"{path.name} · {verdict}"
    return Section(f"{word} {metric} of {label(ours, methods)} · {heading}" if metric else heading, tiles)
