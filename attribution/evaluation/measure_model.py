"""The metrics of the model, whatever map is drawn of it: reliance, locality, diversity of heads, randomisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from attribution.evaluation.harness import Harness
from attribution.evaluation.measure import Loader
from attribution.methods.registry import Method
from attribution.metrics.batch import Columns, ModelBatch
from attribution.metrics.metric import Metric
from attribution.metrics.registry import METRICS
from util.ranks import SINGLE_PROCESS, Ranks


def measure_model(
    harness: Harness,
    methods: Sequence[Method],
    labelled: Callable[[int | None], Iterable[tuple[Tensor, Tensor]]],
    units: Sequence[int],
    load: Loader,
    ranks: Ranks = SINGLE_PROCESS,
) -> dict[str, Columns]:
    """Compute the metrics of the model in the harness's families.

    Args:
        labelled: this process's part of the first images, normalised, with their true classes, for metrics that need labels.
        units: how many images each has. load: a unit by its number.
        ranks: who share the units.

    Returns:
        for each metric its columns, one number per image; `randomisation/<method>` for each method that is not costly.
    """
    groups: dict[str, list[Columns]] = {}
    for metric in METRICS.values():
        if metric.scope == "model" and metric.family in harness.families and metric.applies(harness.model):
            count = getattr(harness.budget, metric.images) if metric.images else None
            if metric.labelled:
                batches: Iterable[ModelBatch] = (harness.model_batch(*batch) for batch in labelled(count))
            else:
                batches = _batches(harness, methods, count, units, load, ranks)
            for results in ranks.gather_in_order(_columns(metric, batches)):
                for name, columns in results.items():
                    groups.setdefault(name, []).append(columns)
    return {name: {key: torch.cat([part[key] for part in parts]) for key in parts[0]} for name, parts in groups.items()}


def _columns(metric: Metric, batches: Iterable[ModelBatch]) -> Iterator[dict[str, Columns]]:
    for batch in batches:
        results = metric.compute(batch)
        yield {name: {key: column.cpu() for key, column in columns.items()} for name, columns in results.items()}


def _batches(
    harness: Harness, methods: Sequence[Method], count: int | None, units: Sequence[int], load: Loader, ranks: Ranks
) -> Iterator[ModelBatch]:
    """Yield this process's part of the first `count` images; None for all."""
    starts = [sum(units[:number]) for number in range(len(units))]
    numbers = [number for number, start in enumerate(starts) if count is None or start < count]
    for number in numbers[ranks.rank :: ranks.size]:
        unit = load(number)
        first = unit.first(count)
        yield harness.model_batch(unit.images[:first], unit.classes[:first], methods)
