"""The files of an evaluation: attribution.json, its tables in Markdown and CSV, and plots. Nothing is computed here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attribution.metrics.registry import METRICS, find_metric, sections
from attribution.report.figures import draw_bars, draw_curves
from attribution.report.names import FAMILIES, family, label, shown
from attribution.report.parts import parts_section
from attribution.report.shortcuts import shortcuts_section
from attribution.report.verdict import audit_markdown, audit_summary, failing, verdict_lines
from attribution.report.whole_table import write_whole_table
from util.atomic import atomic_write
from util.tables import markdown_table

Content = Mapping[str, Any]  # of attribution.json
Rows = Mapping[str, Mapping[str, Any]]  # statistics of each metric of each method
MISSING = "–"
DUMMY = " †"  # of a metric that a map without information wins
DIGITS = 6


def write_results(content: Content, folder: Path) -> None:
    """Write the files of what `evaluation.summary` made."""
    write_json(folder / "attribution.json", content)
    for name, text in (("attribution.md", markdown(content)), ("audit.md", audit_markdown(content))):
        with atomic_write(folder / name) as file:
            file.write(text)
    write_whole_table(content, folder / "attribution.csv")
    draw_curves(content, folder / "curves.png")
    draw_bars(content, folder / "bars.png")


def write_json(path: Path, content: Content) -> None:
    """Write keys in their order, one per line, and each list in one line."""
    with atomic_write(path) as file:
        file.write(_text(plain(content)) + "\n")


def plain(value: Any) -> Any:
    """Return a value as JSON has it: nan and infinity as null, arrays as lists, floats rounded to `DIGITS` significant digits."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _text(value: Any, indent: int = 0) -> str:
    if isinstance(value, dict) and value:
        pad = " " * (indent + 1)
        lines = (f"{pad}{json.dumps(key, ensure_ascii=False)}: {_text(item, indent + 1)}" for key, item in value.items())
        return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def markdown(content: Content) -> str:
    """Return the tables of attribution.md."""
    methods, settings = content["methods"], content["settings"]
    lines = [f"# Maps of {settings['checkpoint']} on {settings['dataset']}, {settings['split']}", "", *verdict_lines(content)]
    lines += [_about(content), ""]
    rows = {name: entry["metrics"] for name, entry in methods.items()}
    for title, names in sections("maps").items():
        lines += section(title, rows, names, content)
        if title == METRICS["contrast_pointing"].section:
            slots = [f"contrast_pointing/{slot}" for slot in settings.get("slots", ())]
            lines += section("Known evidence: pointing in each slot", rows, slots, content)
    if "pairs" in content:
        rows = {name: entry["metrics"] for name, entry in content["pairs"].items()}
        for title, names in sections("pairs").items():
            lines += section(title, rows, names, content)
    lines += [*_differences(content), *parts_section(content), *shortcuts_section(content), *audit_summary(content)]
    return "\n".join([*lines, *_model_table(content["model"])])


def _about(content: Content) -> str:
    settings = content["settings"]
    return (
        f"{settings['images']} of {settings['split_images']} pictures, {settings['decoder']} decoder, grid "
        f"{' x '.join(map(str, settings['grid']))}, accuracy {100 * content['model']['accuracy']:.1f} %. Mean and 95 % bootstrap "
        f"interval over pictures; the class explained is the one predicted. Every map is pooled to the grid of the model and "
        f"enlarged by one kernel; `native` is the map at its own resolution. {settings['steps']} steps a curve, pixels turn to "
        f"the mean colour (deletion, SRG) or come back into a blurred picture (insertion). The model's own map, in bold, is "
        f"**{label(content['ours'], content['methods'])}**. Numbers of fewer pictures than the rest say how many (n). "
        f"All columns are in attribution.csv, every number of every picture in attribution.json."
    )


def section(title: str, rows: Rows, names: Iterable[str], content: Content) -> list[str]:
    """Return a table with a row per map, and what its columns mean; nothing if no map has any of them."""
    names, methods = _measured(rows, names), content["methods"]
    entries = {name: methods.get(name, {}) for name in rows}
    more = {head: cell for head, cell in MORE.get(title, {}).items() if any(cell(entry) for entry in entries.values())}
    if not names and not (more and title == METRICS["gini"].section):
        return []
    most = max((metrics[name]["images"] for metrics in rows.values() for name in names if name in metrics), default=0)
    body = []
    for method, text in _by_family(rows, methods).items():
        cells = [_cell(rows[method].get(name), most) for name in names]
        if any(cell != MISSING for cell in cells) or not names:
            cells += [cell(entries[method]) or MISSING for cell in more.values()]
            text = f"**{text}**" if method == content["ours"] else text
            body.append([text, FAMILIES[family(method, methods)], *cells])
    metrics, lost = {name: find_metric(name) for name in names}, failing(content)
    marked = {name: metric.title + DUMMY * (name in lost) for name, metric in metrics.items()}
    table = markdown_table(["map", "kind", *marked.values(), *more], body)
    legend = [f"- {metric.label}: {metric.meaning}" for name, metric in metrics.items() if "/" not in name]
    if any(name in lost for name in names):
        legend.append(f"-{DUMMY} here a map without information on the class does at least as well: see audit.md")
    return [f"## {title}", "", table, "", *legend, ""]


def _measured(rows: Rows, names: Iterable[str]) -> list[str]:
    return [name for name in names if any(metrics.get(name, {}).get("images") for metrics in rows.values())]


def _by_family(rows: Rows, methods: Mapping[str, Any]) -> dict[str, str]:
    """Return the maps that have rows, and what they are called, in the order of their kinds."""
    names = {**{name: name for name in rows if name not in methods}, **shown(methods)}
    return {name: names[name] for kind in FAMILIES for name in rows if name in names and family(name, methods) == kind}


def _cell(metric: Mapping[str, Any] | None, most: int) -> str:
    """Return mean and interval, with the number of images where it is below `most`."""
    if not metric or not metric["images"]:
        return MISSING
    few = f" n={metric['images']}" if metric["images"] < most else ""
    return f"{metric['mean']:.3f} ({metric['low']:.3f} to {metric['high']:.3f}){few}"


def _passes(entry: Mapping[str, Any]) -> str:
    passes = entry.get("passes", {"forward": "", "backward": 0})
    return f"{passes['forward']} + {passes['backward']} back" if passes["backward"] else str(passes["forward"])


def _randomisation(entry: Mapping[str, Any]) -> str:
    if "randomisation" not in entry:
        return ""
    result = entry["randomisation"]
    if not entry["passes"]["forward"]:
        return "does not use the model"
    stages = ", ".join(f"{stage} {value:.2f}" for stage, value in result["stages"].items())
    return f"{'pass' if result['passed'] else 'FAIL'} ({stages})"


# Columns that are no mean over images, by the section that they follow.
MORE: dict[str, dict[str, Callable[[Mapping[str, Any]], str]]] = {
    METRICS["srg"].section: {"passes": _passes},
    METRICS["gini"].section: {METRICS["randomisation"].label: _randomisation},
}


def _differences(content: Content) -> list[str]:
    """Return paired differences to the method that represents ICN; in bold where the interval leaves out 0."""
    ours, methods = content["ours"], content["methods"]
    rows = {name: entry["metrics"] for name, entry in methods.items() if name != ours}
    names = [metric.name for metric in METRICS.values() if metric.bar]
    names = [name for name in _measured(rows, names) if any("difference" in row.get(name, {}) for row in rows.values())]
    if not names:
        return []
    called = _by_family(rows, methods)
    body = [[text, *(_difference(rows[method].get(name, {})) for name in names)] for method, text in called.items()]
    own = label(ours, methods)
    about = f"{own} less the map of the row, on the same pictures; in bold where the 95 % interval leaves out 0."
    table = markdown_table(["map", *(METRICS[name].title for name in names)], body)
    return [f"## {own} against the others", "", about, "", table, ""]


def _difference(metric: Mapping[str, Any]) -> str:
    gap = metric.get("difference", {"images": 0})
    if not gap["images"]:
        return MISSING
    text = f"{gap['mean']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})"
    return f"**{text}**" if gap["low"] > 0 or gap["high"] < 0 else text


def _model_table(model: Mapping[str, Any]) -> list[str]:
    tables: list[str] = []
    for title, names in sections("model").items():
        names = [name for name in names if name in model]
        body = [
            [f"{METRICS[name].label}: {column.replace('_', ' ')}", _cell(metric, metric["images"]), str(metric["images"])]
            for name in names
            for column, metric in model[name].items()
        ]
        if body:
            legend = [f"- {METRICS[name].label}: {METRICS[name].meaning}" for name in names]
            tables += [f"## {title}", "", markdown_table(["", "value", "pictures"], body), "", *legend, ""]
    return tables
