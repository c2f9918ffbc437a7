"""The content of attribution.json: settings, metrics of the model, of each method and of each image, with their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from attribution.methods.registry import Method, Passes
from attribution.metrics.model import MAX_CORRELATION, passes_sanity_check

Values = Mapping[str, np.ndarray]  # of metrics: one number per image, [N], nan where it was not measured or is not defined
RESAMPLES = 2000
AT_ONCE = 4_000_000  # counts of a bootstrap held in memory


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
    entries: dict[str, dict[str, Any]] = {}
    for method in methods:
        values, curves = measured[method.name]["values"], measured[method.name]["curves"]
        curves = {name: rows[np.isfinite(rows).all(1)] for name, rows in curves.items()}
        entries[method.name] = {
            "family": method.family, "signed": method.signed, "passes": costs[method.name]._asdict(),
            "metrics": summarise(values, right, reference if method.name != ours else None),
            "curves": {name: curve_summary(rows) for name, rows in curves.items() if len(rows)}, "per_image": values,
        }  # fmt: skip
        if stages := model.get(f"randomisation/{method.name}"):
            last = list(stages.values())[-1]
            means = {stage: float(scores.mean()) for stage, scores in stages.items()}
            verdict = {"stages": means, "images": len(last), "limit": MAX_CORRELATION, "passed": passes_sanity_check(last)}
            entries[method.name]["randomisation"] = verdict
    for name, values in controls.items():
        metrics = summarise(values, right, reference)
        entries[name] = {"family": "control", "signed": False, "metrics": metrics, "per_image": values}
    shown = {name: columns for name, columns in model.items() if not name.startswith("randomisation/")}
    scores = {name: summarise({key: x.double().numpy() for key, x in columns.items()}) for name, columns in shown.items()}
    of_model = {"accuracy": settings["accuracy"], **scores}
    content = {"settings": dict(settings), "model": of_model, "ours": ours, "methods": entries}
    if pairs:
        others = {name: pairs.get(ours) if name != ours else None for name in pairs}
        content["pairs"] = {
            name: {"metrics": summarise(values, None, others[name]), "per_image": values} for name, values in pairs.items()
        }
    return content | {"images": list(images)}


def summarise(values: Values, right: np.ndarray | None = None, reference: Values | None = None) -> dict[str, dict[str, Any]]:
    """Compute the statistics of one method: for each metric `mean`, `low`, `high` (bootstrap, 95 %), `images`.

    With `right`, bool `[N]`, also the means of `right` and `wrong` predictions; with the values of a reference method the
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
            mean, low, high, images = mean_interval(np.stack([columns[name][finite] for name in names], 1))
            for name, *numbers in zip(names, mean.tolist(), low.tolist(), high.tolist(), strict=True):
                intervals[name] = dict(zip(("mean", "low", "high", "images"), (*numbers, images), strict=True))
    return intervals


def curve_summary(curves: np.ndarray) -> dict[str, list[float]]:
    """Return the mean curve of `[N, K]` and its interval."""
    mean, low, high, _ = mean_interval(curves)
    return {"mean": mean.tolist(), "low": low.tolist(), "high": high.tolist()}


class Interval(NamedTuple):
    """A mean over images and its bootstrap interval, `[]` or `[K]`."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    images: int


def mean_interval(values: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Compute the mean over images of `[N]` or `[N, K]` values and its percentile bootstrap interval (Efron 1979).

    A seed and a number of images draw the same samples, whatever the values are, so that differences are paired. A single image
    has no spread. A ValueError is raised where there are no values, or one is not finite.
    """
    array = np.asarray(values, np.float64)
    if array.ndim not in (1, 2) or not len(array):
        raise ValueError(f"values must be [N] or [N, K] with N at least 1, not {list(array.shape)}")
    if not np.isfinite(array).all():
        raise ValueError("a value is NaN or infinite: a mean over images needs one finite value for each")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"level must lie between 0 and 1 and resamples be at least 1, not {level} and {resamples}")
    tail = (1 - level) / 2
    low, high = np.quantile(_resampled(array, resamples, seed), [tail, 1 - tail], axis=0)
    return Interval(array.mean(0), low, high, len(array))


def _resampled(rows: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Return means `[resamples, ...]` of N rows drawn with replacement from `[N, ...]`."""
    rng = np.random.default_rng(seed)
    share = np.full(len(rows), 1 / len(rows))
    means = []
    while resamples:
        now = min(resamples, max(1, AT_ONCE // len(rows)))
        counts = rng.multinomial(len(rows), share, size=now)  # [now, N], how often each was drawn
        means.append(counts @ rows / len(rows))
        resamples -= now
    return np.concatenate(means)
