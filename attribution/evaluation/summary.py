"""The content of attribution.json: settings, metrics of the model, of each method and of each image, with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from attribution.evaluation.audit import audit
from attribution.evaluation.dummies import FIXED_PLACE, find_same
from attribution.evaluation.verdict import verdict
from attribution.methods.registry import Method, Passes
from attribution.metrics.model import MAX_CORRELATION, passes_sanity_check
from attribution.metrics.statistics import Values, intervals, mean_interval


def attribution_json(
    settings: Mapping[str, Any], methods: Sequence[Method], costs: Mapping[str, Passes],
    measured: Mapping[str, Mapping[str, Any]], model: Mapping[str, Mapping[str, Tensor]], pairs: Mapping[str, Values],
    images: Sequence[Mapping[str, Any]], ours: str, controls: Mapping[str, Values],
) -> dict[str, Any]:  # fmt: skip
    """Return the content of attribution.json.

    Args:
        costs: passes of one map of each method. measured: of each method, from `measure.collect`.
        model: from `measure_model`. pairs: from `measure_pairs`; empty without pairs.
        images: `file`, `label`, `predicted` of each. ours: the method that the others are compared with.
        controls: values of controls that are no method, for the table of planes.
    """
    right = np.array([image["label"] == image["predicted"] for image in images])
    reference = measured[ours]["values"]
    same = find_same(measured, ours)
    entries: dict[str, dict[str, Any]] = {}
    for method in methods:
        values, curves = measured[method.name]["values"], measured[method.name]["curves"]
        curves = {name: rows[np.isfinite(rows).all(1)] for name, rows in curves.items()}
        entries[method.name] = {
            "label": method.title, "family": method.family, "ground_truth": method.knows_ground_truth,
            **({"same_as": same[method.name]} if method.name in same else {}),
            "signed": method.signed, "passes": costs[method.name]._asdict(),
            "metrics": summarise(values, right, reference if method.name != ours else None),
            "curves": {name: curve_summary(rows) for name, rows in curves.items() if len(rows)}, "per_image": values,
        }  # fmt: skip
        if stages := model.get(f"randomisation/{method.name}"):
            last = list(stages.values())[-1]
            means = {stage: float(scores.mean()) for stage, scores in stages.items()}
            result = {"stages": means, "images": len(last), "limit": MAX_CORRELATION, "passed": passes_sanity_check(last)}
            entries[method.name]["randomisation"] = result
    for name, values in controls.items():
        metrics = summarise(values, right, reference)
        label = {FIXED_PLACE: "best fixed place"}.get(name, name)
        entries[name] = {"label": label, "family": "control", "signed": False, "metrics": metrics, "per_image": values}
    shown = {name: columns for name, columns in model.items() if not name.startswith("randomisation/")}
    scores = {name: summarise({key: x.double().numpy() for key, x in columns.items()}) for name, columns in shown.items()}
    of_model = {"accuracy": settings["accuracy"], **scores}
    content = {"settings": dict(settings), "model": of_model, "ours": ours, "methods": entries}
    if pairs:
        others = {name: pairs.get(ours) if name != ours else None for name in pairs}
        content["pairs"] = {
            name: {"metrics": summarise(values, None, others[name]), "per_image": values} for name, values in pairs.items()
        }
    return {"verdict": verdict(content), **content, "audit": audit(content), "images": list(images)}


def summarise(values: Values, right: np.ndarray | None = None, reference: Values | None = None) -> dict[str, dict[str, Any]]:
    """Compute the statistics of one method: for each metric `mean`, `low`, `high` (bootstrap, 95 %), `images`.

    With `right`, bool `[N]`, also the means of `right` and `wrong` predictions; with the values of a reference method the
    `difference`, the reference less this, paired: mean, low, high, images. Without a value: images 0 and nothing else.
    """
    metrics = intervals(values)
    for name, column in values.items():
        if right is not None and metrics[name]["images"]:
            for word, chosen in (("right", right), ("wrong", ~right)):
                finite = column[chosen & np.isfinite(column)]
                metrics[name][word] = float(finite.mean()) if len(finite) else None
    if reference is not None:
        differences = {name: reference[name] - column for name, column in values.items() if name in reference}
        for name, interval in intervals(differences).items():
            metrics[name]["difference"] = interval
    return metrics


def curve_summary(curves: np.ndarray) -> dict[str, list[float]]:
    """Return the mean curve of `[N, K]` and its interval."""
    mean, low, high, _ = mean_interval(curves)
    return {"mean": mean.tolist(), "low": low.tolist(), "high": high.tolist()}
