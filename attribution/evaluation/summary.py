"""All that attribution.json holds: settings, model, methods, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from attribution.evaluation.cache import curve_summary, summarise
from attribution.methods.registry import Method, Passes
from attribution.metrics.randomisation import PASS, passes


def summary(
    settings: Mapping[str, Any],
    methods: Sequence[Method],
    costs: Mapping[str, Passes],
    measured: Mapping[str, Mapping[str, Any]],
    of_model: Mapping[str, Mapping[str, Tensor]],
    pairs: Mapping[str, Mapping[str, np.ndarray]],
    pictures: Sequence[Mapping[str, Any]],
    ours: str,
    extra: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """Put it together.

    Args:
        measured: of each method, as `measurement.collect` gives it.
        of_model: from `measurement.measure_model`.
        pairs: from `measurement.measure_pairs`; empty without pairs.
        pictures: `file`, `label`, `predicted` of each.
        ours: the method that the others are held against.
        extra: columns of rows that are no maps of a method, for the planes table.
    """
    right = np.array([picture["label"] == picture["predicted"] for picture in pictures])
    found: dict[str, Any] = {"settings": dict(settings), "model": _model(settings, of_model), "ours": ours, "methods": {}}
    for method in methods:
        values = measured[method.name]["values"]
        rival = measured[ours]["values"] if method.name != ours else None
        entry = {
            "family": method.family,
            "signed": method.signed,
            "passes": costs[method.name]._asdict(),
            "metrics": summarise(values, right, rival),
            "curves": {
                name: curve_summary(curves[np.isfinite(curves).all(1)])
                for name, curves in measured[method.name]["curves"].items()
                if np.isfinite(curves).all(1).any()
            },
            "per_image": values,
        }
        stages = of_model.get(f"randomisation/{method.name}")
        if stages:
            last = list(stages.values())[-1]
            means = {stage: float(scores.mean()) for stage, scores in stages.items()}
            entry["randomisation"] = {"stages": means, "images": len(last), "limit": PASS, "passed": passes(last)}
        found["methods"][method.name] = entry
    for name, values in extra.items():
        metrics = summarise(values, right, measured[ours]["values"])
        found["methods"][name] = {"family": "control", "signed": False, "metrics": metrics, "per_image": values}
    if pairs:
        rival_columns = pairs.get(ours)
        found["pairs"] = {
            name: {"metrics": summarise(values, None, rival_columns if name != ours else None), "per_image": values}
            for name, values in pairs.items()
        }
    found["images"] = list(pictures)
    return found


def _model(settings: Mapping[str, Any], of_model: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    groups = {name: scores for name, scores in of_model.items() if not name.startswith("randomisation/")}
    means = {name: summarise({key: column.double().numpy() for key, column in scores.items()}) for name, scores in groups.items()}
    return {"accuracy": settings["accuracy"], **means}
