"""The audit of the metrics: which map that knows nothing of the class comes closest to the best real map, by each metric.

A metric by which such a dummy is as good as the best real map says nothing of the maps, or all maps are bad: the latter where the
ground truth beats the dummy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from attribution.evaluation.verdict import FEWEST
from attribution.metrics.registry import METRICS
from attribution.metrics.statistics import intervals

Content = Mapping[str, Any]  # of attribution.json
Entries = Mapping[str, Mapping[str, Any]]  # methods with `metrics` and `per_image`


def audit(content: Content) -> dict[str, dict[str, Any]]:
    """Return for each metric with a better direction its best real map, the closest dummy, and what follows.

    Returns:
        by metric: `best`, `dummy` and `truth`, the best of the ground truth (None: there is none), each with `map` and `mean`;
        `difference` of best and dummy on the same images, above 0 where the former is better: mean, low, high, images; `outcome`:
        `told apart`, `dummy wins`, or `open`, where the interval holds 0 or few images speak for the maps; `main`: whether it is
        in the main tables.
    """
    methods = content["methods"]
    rows = {}
    for metric in METRICS.values():
        entries = content.get("pairs", {}) if metric.scope == "pairs" else methods
        if metric.better and metric.scope != "model" and (row := _row(metric.name, metric.better, entries, methods)):
            rows[metric.name] = row | {"main": bool(metric.main)}
    return rows


def _row(name: str, sign: int, entries: Entries, methods: Entries) -> dict[str, Any] | None:
    measured = {key: entry["metrics"][name] for key, entry in entries.items() if entry["metrics"].get(name, {}).get("images")}
    groups: dict[str, list[str]] = {"real": [], "dummy": [], "truth": []}
    for key in measured:
        method = methods.get(key, {"family": "control"})
        kind = "truth" if method.get("ground_truth") else "dummy" if method["family"] == "control" else "real"
        groups[kind].append(key)
    most = max((measured[key]["images"] for key in groups["real"]), default=0)
    groups["real"] = [key for key in groups["real"] if measured[key]["images"] == most]  # not costly ones, of fewer images
    if not groups["real"] or not groups["dummy"]:
        return None
    best, dummy, truth = (_best(group, measured, sign) for group in groups.values())
    assert best and dummy
    one, other = (np.asarray(entries[key]["per_image"][name], np.float64) for key in (best, dummy))  # null of a file is nan
    difference = sign * (one - other)
    gap = intervals({"gap": difference})["gap"]
    if not gap["images"]:
        return None
    outcome = "dummy wins" if gap["mean"] <= 0 else "told apart" if gap["low"] > 0 else "open"
    if gap["images"] < FEWEST and gap["high"] >= 0:
        outcome = "open"
    found = {kind: key and {"map": key, "mean": measured[key]["mean"]} for kind, key in zip(("best", "dummy", "truth"),
             (best, dummy, truth), strict=True)}  # fmt: skip
    return {**found, "difference": gap, "outcome": outcome}


def _best(names: Sequence[str], measured: Mapping[str, Any], sign: int) -> str | None:
    return max(names, key=lambda name: sign * measured[name]["mean"], default=None)
