"""The content of attribution.json: settings, metrics of the model, of each method and of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from attribution.methods.registry import Method, Passes
from attribution.metrics.randomisation import PASS, passes
from attribution.metrics.statistics import mean_interval

Values = Mapping[str, np.ndarray]  # of metrics: one number per image, [N], nan where it was not measured or is not defined
STATISTICS = ("mean", "low", "high", "images")


def summary(
    settings: Mapping[str, Any],
    methods: Sequence[Method],
    costs: Mapping[str, Passes],
    measured: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Mapping[str, Tensor]],
    pairs: Mapping[str, Values],
    images: Sequence[Mapping[str, Any]],
    ours: str,
    controls: Mapping[str, Values],
) -> dict[str, Any]:
    """Return the content of attribution.json.

    Args:
        costs: passes of one map of each method.
        measured: of each method, from `measure.collect`.
        model: from `measure_model`.
        pairs: from `measure_pairs`; empty without pairs.
        images: `file`, `label`, `predicted` of each.
        ours: the method that the others are compared with.
        controls: values of controls that are no method, for the table of planes.
    """
    right = np.array([image["label"] == image["predicted"] for image in images])
    reference = measured[ours]["values"]
    entries = {}
    for method in methods:
        others = reference if method.name != ours else None
        entries[method.name] = _method(method, costs[method.name], measured[method.name], right, others)
        if stages := model.get(f"randomisation/{method.name}"):
            entries[method.name]["randomisation"] = _randomisation(stages)
    for name, values in controls.items():
        metrics = summarise(values, right, reference)
        entries[name] = {"family": "control", "signed": False, "metrics": metrics, "per_image": values}
    content = {"settings": dict(settings), "model": _model(settings["accuracy"], model), "ours": ours, "methods": entries}
    if pairs:
        others = {name: pairs.get(ours) if name != ours else None for name in pairs}
        content["pairs"] = {
            name: {"metrics": summarise(values, None, others[name]), "per_image": values} for name, values in pairs.items()
        }
    return content | {"images": list(images)}


def _method(
    method: Method, cost: Passes, measured: Mapping[str, Any], right: np.ndarray, others: Values | None
) -> dict[str, Any]:
    curves = {name: curves[np.isfinite(curves).all(1)] for name, curves in measured["curves"].items()}
    return {
        "family": method.family,
        "signed": method.signed,
        "passes": cost._asdict(),
        "metrics": summarise(measured["values"], right, others),
        "curves": {name: curve_summary(rows) for name, rows in curves.items() if len(rows)},
        "per_image": measured["values"],
    }


def _randomisation(stages: Mapping[str, Tensor]) -> dict[str, Any]:
    last = list(stages.values())[-1]
    means = {stage: float(scores.mean()) for stage, scores in stages.items()}
    return {"stages": means, "images": len(last), "limit": PASS, "passed": passes(last)}


def _model(accuracy: float, groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    shown = {name: columns for name, columns in groups.items() if not name.startswith("randomisation/")}
    means = {name: summarise({key: x.double().numpy() for key, x in columns.items()}) for name, columns in shown.items()}
    return {"accuracy": accuracy, **means}


def summarise(values: Values, right: np.ndarray | None = None, reference: Values | None = None) -> dict[str, dict[str, Any]]:
    """Compute the statistics of one method.

    Args:
        values: of the method.
        right: bool `[N]`, which predictions are right.
        reference: values of the method that the others are compared with.

    Returns:
        for each metric `mean`, `low`, `high` (bootstrap, 95 %), `images`; the means of `right` and `wrong` predictions; and
        `difference`, the reference less this, paired: mean, low, high, images. Without a value: images 0 and nothing else.
    """
    metrics = _intervals(values)
    for name, column in values.items():
        if right is not None and metrics[name]["images"]:
            for word, chosen in (("right", right), ("wrong", ~right)):
                finite = column[chosen & np.isfinite(column)]
                metrics[name][word] = float(finite.mean()) if len(finite) else None
    if reference is not None:
        differences = {name: reference[name] - column for name, column in values.items() if name in reference}
        for name, interval in _intervals(differences).items():
            metrics[name]["difference"] = interval
    return metrics


def _intervals(columns: Values) -> dict[str, dict[str, Any]]:
    """Compute mean and interval of many columns; those defined for the same images are drawn together, which is much faster."""
    alike: dict[bytes, list[str]] = {}
    for name, column in columns.items():
        alike.setdefault(np.isfinite(column).tobytes(), []).append(name)
    intervals: dict[str, dict[str, Any]] = {name: {"images": 0} for name in columns}
    for names in alike.values():
        finite = np.isfinite(columns[names[0]])
        if finite.any():
            interval = mean_interval(np.stack([columns[name][finite] for name in names], 1))
            for place, name in enumerate(names):
                numbers = [float(np.asarray(x)[place]) for x in interval[:3]]
                intervals[name] = dict(zip(STATISTICS, (*numbers, interval.images), strict=True))
    return intervals


def curve_summary(curves: np.ndarray) -> dict[str, list[float]]:
    """Return the mean curve of `[N, K]` and its interval."""
    interval = mean_interval(curves)
    return {name: np.asarray(x).tolist() for name, x in zip(STATISTICS[:3], interval, strict=False)}
