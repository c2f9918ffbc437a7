"""What an attribution.json says, as the page of a report shows it: the verdict, the tables of maps, the audit, and parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attribution.metrics.registry import METRICS
from attribution.report.names import FAMILIES, family, label, shown
from attribution.report.parts import parts_table
from attribution.report.verdict import ABOUT_AUDIT, ABOUT_VERDICT, outcome


def measured_maps(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `about`, `verdict` (None in older files), `main` and `all`, tables of means, `audit`, and `parts` (or None).

    A table has `columns`, the titles, and `rows` with `name`, `kind` and `values`. The main one has the headline metrics.
    """
    settings, methods = content["settings"], content["methods"]
    headline = [metric.name for metric in METRICS.values() if metric.bar]
    every = [metric.name for metric in METRICS.values() if metric.scope != "model"]
    known = content.get("verdict")
    verdict = known and {
        "label": known["label"],
        "about": ABOUT_VERDICT,
        "sentences": [{key: one[key] for key in ("question", "answer", "meaning", "figures")} for one in known["sentences"]],
    }
    audit = [
        {
            "metric": METRICS[name].title,
            "best": f"{label(row['best']['map'], methods)} {row['best']['mean']:.3f}",
            "dummy": f"{label(row['dummy']['map'], methods)} {row['dummy']['mean']:.3f}",
            "difference": row["difference"]["mean"],
            "outcome": outcome(name, row).replace("**", ""),
        }
        for name, row in content.get("audit", {}).items()
        if name in METRICS
    ]
    return {
        "about": f"{settings['dataset']}, {settings['split']}, {len(content['images'])} images",
        "verdict": verdict or None, "main": _table(content, headline), "all": _table(content, every),
        "audit": {"about": ABOUT_AUDIT, "rows": audit}, "parts": parts_table(content),
    }  # fmt: skip


def _table(content: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Return the means of the metrics of `columns` that were measured, of each map."""
    methods, pairs = content["methods"], content.get("pairs", {})
    means = {
        name: {**entry["metrics"], **pairs.get(name, {}).get("metrics", {})} for name, entry in methods.items()
    }  # fmt: skip
    names = [name for name in columns if any(row.get(name, {}).get("images") for row in means.values())]
    rows = [
        {"name": text, "kind": FAMILIES[family(name, methods)], "ours": name == content["ours"],
         "values": list(_values(means[name], names))}
        for name, text in shown(methods).items()
    ]  # fmt: skip
    return {"columns": [METRICS[name].title for name in names], "rows": rows}


def _values(metrics: Mapping[str, Any], names: Iterable[str]) -> Iterable[float | None]:
    for name in names:
        value = metrics.get(name, {}).get("mean")
        yield None if value is None else float(value)
