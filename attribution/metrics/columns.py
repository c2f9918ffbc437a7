"""What follows from the registry of metrics: families, columns, tables, and the scores of a batch of maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from attribution.metrics.batch import Columns, MapBatch
from attribution.metrics.metric import Metric
from attribution.metrics.registry import METRICS

NATIVE = "_native"
NATIVE_FAMILY = "native"  # asks for the maps at the methods' own resolutions, too


def find_metric(column: str) -> Metric:
    """Return the row of a column: a metric's, its native twin's `<name>_native`, or that of one slot of planes, `<name>/<slot>`.

    Raises:
        KeyError: no metric has the column.
    """
    name, _, slot = column.partition("/")
    if name not in METRICS and name.endswith(NATIVE):
        metric = METRICS[name.removesuffix(NATIVE)]
        return replace(metric, label=f"{metric.label}, native", meaning="the same, of the map at its own resolution")
    return replace(METRICS[name], label=slot) if slot else METRICS[name]


def families() -> dict[str, tuple[str, ...]]:
    """Return the columns of each family, in the order of the registry; native twins are a family of their own."""
    columns: dict[str, tuple[str, ...]] = {}
    for metric in METRICS.values():
        columns[metric.family] = (*columns.get(metric.family, ()), metric.name)
    twins = tuple(metric.name + NATIVE for metric in METRICS.values() if metric.native)
    first, *rest = columns.items()
    return dict([first, (NATIVE_FAMILY, twins), *rest])


def chosen_families(names: Iterable[str] | None) -> frozenset[str]:
    """Return the families of `names`, each a family or a column; None for all.

    Raises:
        ValueError: there is no such metric.
    """
    known = families()
    if names is None:
        return frozenset(known)
    chosen = set()
    for name in names:
        homes = [family for family, columns in known.items() if name == family or name in columns]
        if not homes:
            choice = ", ".join(dict.fromkeys([*known, *(column for columns in known.values() for column in columns)]))
            raise ValueError(f"--metrics {name}: there is no such metric; choose from {choice}")
        chosen.add(homes[0])
        if homes[0] == NATIVE_FAMILY and name != NATIVE_FAMILY:
            chosen.add(find_metric(name).family)
    return frozenset(chosen)


def sections(scope: str) -> dict[str, list[str]]:
    """Return the columns of each table of attribution.md, by its title."""
    by_title: dict[str, list[Metric]] = {}
    for metric in METRICS.values():
        if metric.section and metric.scope == scope:
            by_title.setdefault(metric.section, []).append(metric)
    tables = {}
    for title, metrics in by_title.items():
        names = [name for m in metrics for name in (m.name, *([m.name + NATIVE] if m.native == "beside" else []))]
        tables[title] = names + [m.name + NATIVE for m in metrics if m.native == "last"]
    return tables


def compute_columns(batch: MapBatch, chosen: frozenset[str], scope: str = "maps") -> Columns:
    """Compute the metrics of a batch that are in the `chosen` families, each shared function once, in the registry's order."""
    metrics = [metric for metric in METRICS.values() if metric.scope == scope and metric.family in chosen]
    columns = _columns(batch, metrics)
    if batch.made is not None and NATIVE_FAMILY in chosen:
        twins = _columns(batch.at_native(), [metric for metric in metrics if metric.native])
        columns |= {name + NATIVE: column for name, column in twins.items() if name in METRICS and METRICS[name].native}
    return columns


def _columns(batch: MapBatch, metrics: Sequence[Metric]) -> Columns:
    columns: Columns = {}
    for compute in dict.fromkeys(metric.compute for metric in metrics):
        result = compute(batch)
        if isinstance(result, Tensor):
            result = {metric.name: result for metric in metrics if metric.compute is compute}
        unknown = [name for name in result if name.partition("/")[0] not in METRICS]
        assert not unknown, f"columns without a row in the registry: {unknown}"
        columns |= result
    return columns
