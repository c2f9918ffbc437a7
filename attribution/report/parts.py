"""The table of parts: how well the heads' regions follow the parts of the object, beside the controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attribution.metrics.registry import METRICS
from util.tables import markdown_table

MISSING = "–"


def parts_section(content: Mapping[str, Any]) -> list[str]:
    """Return the lines of the section of attribution.md, of its content; nothing where parts were not measured."""
    if not (parts := content.get("parts")):
        return []
    names = part_columns(parts)
    body = [[name, *(_cell(metrics.get(column)) for column in names)] for name, metrics in parts["rows"].items()]
    legend = [f"- {METRICS[name].label}: {METRICS[name].meaning}" for name in names]
    table = markdown_table(["regions", *(METRICS[name].title for name in names)], body)
    return [f"## {METRICS[names[0]].section}", "", about_parts(parts), "", table, "", *legend, ""]


def about_parts(parts: Mapping[str, Any]) -> str:
    """Return what was compared, of the entry `parts` of attribution.json."""
    return (
        f"{parts['images']} pictures, {parts['key_points']} key points of {len(parts['names'])} parts. A pixel belongs to the "
        f"head whose map, of the predicted class, is the largest there: {parts['regions']} heads, and as many regions of each "
        f"control (but for the true parts)."
    )


def parts_table(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the section as the page of a report has it: `title`, `about`, `columns`, and `rows` of means; None without parts."""
    if not (parts := content.get("parts")):
        return None
    metrics = [METRICS[name] for name in part_columns(parts)]
    columns = [{"title": metric.title, "label": metric.label, "meaning": metric.meaning} for metric in metrics]
    means = {name: [row.get(metric.name, {}).get("mean") for metric in metrics] for name, row in parts["rows"].items()}
    rows = [{"name": name, "values": values} for name, values in means.items()]
    return {"title": metrics[0].section, "about": about_parts(parts), "columns": columns, "rows": rows}


def part_columns(parts: Mapping[str, Any]) -> list[str]:
    """Return the metrics that any row of the entry `parts` of attribution.json has."""
    return [name for name in METRICS if any(name in metrics for metrics in parts["rows"].values())]


def _cell(metric: Mapping[str, Any] | None) -> str:
    return f"{metric['mean']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})" if metric else MISSING
