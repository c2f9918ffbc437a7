"""curves.png and bars.png: perturbation curves with their intervals, and the headline numbers of all methods."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attribution.metrics.registry import column

# Okabe and Ito's colours, which are told apart in every form of colour blindness; families differ by their lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = {"own": "-", "posthoc": "--", "control": ":"}
CURVES = {
    "deletion": "most relevant first turn to the mean (lower is better)",
    "least_first": "least relevant first turn to the mean (higher is better)",
    "insertion": "most relevant first come back into the blur (higher is better)",
}
BARS = ("srg", "rd", "pointing", "contrast_pointing", "sd", "own_hit")
FAINT = "#8a8a8a"


def draw_curves(found: Mapping[str, Any], path: Path) -> bool:
    """Write the curves of all methods, with 95 % intervals for the model's own; False if there are none."""
    methods = {name: entry for name, entry in found["methods"].items() if entry.get("curves")}
    if not methods:
        return False
    figure = Figure(figsize=(15, 5 + 0.12 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(CURVES), sharey=True)
    for axes, (kind, title) in zip(panels, CURVES.items(), strict=True):
        for (name, entry), colour in zip(methods.items(), _colours(methods), strict=True):
            curve = entry["curves"][kind]
            share = np.linspace(0, 1, len(curve["mean"]))
            best = name == found["ours"]
            axes.plot(share, curve["mean"], STYLES[entry["family"]], color=colour, linewidth=2.6 if best else 1.3, label=name)
            if entry["family"] != "control":
                axes.fill_between(share, curve["low"], curve["high"], color=colour, alpha=0.22 if best else 0.06, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of the pixels")
        axes.set_xlim(0, 1)
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("probability of the predicted class")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def draw_bars(found: Mapping[str, Any], path: Path) -> bool:
    """Write the headline metrics as bars with 95 % intervals; False if none was measured."""
    methods, pairs = found["methods"], found.get("pairs", {})
    rows = {name: {**entry["metrics"], **pairs.get(name, {}).get("metrics", {})} for name, entry in methods.items()}
    names = [name for name in BARS if any(metrics.get(name, {}).get("images") for metrics in rows.values())]
    if not names:
        return False
    order = list(rows)[::-1]
    figure = Figure(figsize=(2.2 + 3.2 * len(names), 1.6 + 0.3 * len(order)), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    colours = dict(zip(methods, _colours(methods), strict=True))
    for axes, metric in zip(panels, names, strict=True):
        for place, name in enumerate(order):
            value = rows[name].get(metric, {"images": 0})
            if value["images"]:
                error = [[max(0.0, value["mean"] - value["low"])], [max(0.0, value["high"] - value["mean"])]]
                axes.barh(place, value["mean"], xerr=error, color=colours[name], error_kw={"linewidth": 1, "ecolor": "#333333"})
        known = column(metric)
        axes.set_title(known.label + {1: " ↑", -1: " ↓", 0: ""}[known.better], fontsize=10)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.grid(True, axis="x", alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(order)), [f"{name} (ours)" if name == found["ours"] else name for name in order])
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def _colours(methods: Mapping[str, Any]) -> list[str]:
    """A colour for each method; controls are grey."""
    coloured = iter(COLOURS * len(methods))
    return [FAINT if entry["family"] == "control" else next(coloured) for entry in methods.values()]
