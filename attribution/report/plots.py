"""curves.png and bars.png: perturbation curves and headline metrics of all methods, with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attribution.metrics.registry import METRICS
from util.atomic import replacing

# Okabe and Ito's palette, for every form of colour blindness; families of methods differ by their lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = {"own": "-", "posthoc": "--", "control": ":"}
CURVES = {
    "deletion": "most relevant first turn to the mean (lower is better)",
    "least_first": "least relevant first turn to the mean (higher is better)",
    "insertion": "most relevant first come back into the blur (higher is better)",
}
FAINT = "#8a8a8a"


def draw_curves(content: Mapping[str, Any], path: Path) -> bool:
    """Draw the curves of all methods, with 95 % intervals but for controls; return False if there are none."""
    methods = {name: entry for name, entry in content["methods"].items() if entry.get("curves")}
    if not methods:
        return False
    figure = Figure(figsize=(15, 5 + 0.12 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(CURVES), sharey=True)
    for axes, (kind, title) in zip(panels, CURVES.items(), strict=True):
        for (name, entry), colour in zip(methods.items(), _colours(methods), strict=True):
            curve = entry["curves"][kind]
            share = np.linspace(0, 1, len(curve["mean"]))
            is_ours = name == content["ours"]
            width = 2.6 if is_ours else 1.3
            axes.plot(share, curve["mean"], STYLES[entry["family"]], color=colour, linewidth=width, label=name)
            if entry["family"] != "control":
                alpha = 0.22 if is_ours else 0.06
                axes.fill_between(share, curve["low"], curve["high"], color=colour, alpha=alpha, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of the pixels")
        axes.set_xlim(0, 1)
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("probability of the predicted class")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
    return True


def draw_bars(content: Mapping[str, Any], path: Path) -> bool:
    """Draw the headline metrics as bars with 95 % intervals; return False if none was measured."""
    methods, pairs = content["methods"], content.get("pairs", {})
    rows = {name: {**entry["metrics"], **pairs.get(name, {}).get("metrics", {})} for name, entry in methods.items()}
    bars = [metric for metric in METRICS.values() if metric.bar]
    bars = [metric for metric in bars if any(row.get(metric.name, {}).get("images") for row in rows.values())]
    if not bars:
        return False
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
        axes.set_title(metric.title, fontsize=10)
        axes.axvline(0, color="black", linewidth=0.6)
        axes.grid(True, axis="x", alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(order)), [f"{name} (ours)" if name == content["ours"] else name for name in order])
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
    return True


def _colours(methods: Mapping[str, Any]) -> list[str]:
    """Return a colour for each method; controls are grey."""
    colours = iter(COLOURS * len(methods))
    return [FAINT if entry["family"] == "control" else next(colours) for entry in methods.values()]
