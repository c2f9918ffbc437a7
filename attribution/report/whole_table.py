"""attribution.csv: every column of every map in one table, for a spreadsheet or a statistics program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attribution.metrics.registry import find_metric
from attribution.report.names import FAMILIES, family, label
from util.tables import write_csv

MILLISECONDS = "ms"  # the column of the time that a map takes, the only one that is no metric
HEADS = (
    *("map", "name", "kind", "same_as", "forward_passes", "backward_passes", "metric", "label", "images", "mean", "low", "high"),
    *("mean_right", "mean_wrong", "difference", "difference_low", "difference_high"),
)


def write_whole_table(content: Mapping[str, Any], path: Path) -> None:
    """Write a row for each map and metric: mean and 95 % interval, means of right and wrong predictions, paired difference.

    The difference is that of the map that represents ICN, less the map of the row.
    """
    write_csv(path, HEADS, _rows(content))


def _rows(content: Mapping[str, Any]) -> Iterator[list[Any]]:
    methods = content["methods"]
    for entries in (methods, content.get("pairs", {})):
        for name, entry in entries.items():
            known = methods.get(name, {})
            passes = known.get("passes", {})
            about = [name, label(name, methods), FAMILIES[family(name, methods)], known.get("same_as", "")]
            about += [passes.get("forward", ""), passes.get("backward", "")]
            for column, metric in entry["metrics"].items():
                if metric["images"]:
                    difference = metric.get("difference", {})
                    numbers = [metric[key] for key in ("images", "mean", "low", "high")]
                    numbers += [metric.get(key) for key in ("right", "wrong")]
                    numbers += [difference.get(key) for key in ("mean", "low", "high")]
                    yield [*about, column, _label(column), *(_text(number) for number in numbers)]


def _label(column: str) -> str:
    if column == MILLISECONDS:
        return "ms a map"
    metric = find_metric(column)
    return f"{find_metric(column.partition('/')[0]).label}: {metric.label}" if "/" in column else metric.label


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"
