"""The verdict on the model's own map and the audit of the metrics, in Markdown: the beginning of attribution.md, and audit.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attribution.metrics.registry import METRICS
from attribution.report.names import label
from util.tables import markdown_table

Content = Mapping[str, Any]  # of attribution.json
OUTCOMES = {"told apart": "real maps are better", "open": "not told apart", "dummy wins": "**a dummy wins**"}
ABOUT_VERDICT = (
    "A control is a map that ignores the model. SRG, deletion and RD@5 % hide what a map marks and follow the probability of the "
    "class; a peak is the strongest place of a map. In brackets: the 95 % interval of the difference, and the images."
)
ABOUT_AUDIT = (
    "A dummy is a map without information on the class that is explained: random, the centre of the image, its edges, the same "
    "everywhere, the same map of another class, all classes at once, or (planes) the best fixed place. For each metric, the "
    "dummy that comes closest to the best real map of as many images, and by how much the latter is better (95 % bootstrap "
    "interval; above 0: better, also where lower scores are). By a metric that a dummy wins, maps of this model must not be "
    "ranked."
)


def verdict_lines(content: Content) -> list[str]:
    """Return three sentences on the map that represents ICN; nothing for an attribution.json of an older version."""
    if "verdict" not in content:
        return []
    found, sentences = content["verdict"], []
    for number, one in enumerate(content["verdict"]["sentences"], 1):
        words = ": ".join(filter(None, (one["meaning"], one["figures"])))
        sentences.append(f"{number}. **{one['question']} {one['answer'].capitalize()}.** {words}.")
    return [f"The model's own map, **{found['label']}** (`{found['map']}`):", "", *sentences, "", ABOUT_VERDICT, ""]


def failing(content: Content) -> list[str]:
    """Return the metrics by which, in this run, a map without information on the class is at least as good as all real ones."""
    return [name for name, row in content.get("audit", {}).items() if row["outcome"] == "dummy wins"]


def audit_summary(content: Content) -> list[str]:
    """Return a paragraph on the audit for attribution.md."""
    rows = content.get("audit", {})
    if not rows:
        return []
    apart = sum(row["outcome"] == "told apart" for row in rows.values())
    maps = [name for name in failing(content) if maps_at_fault(name, rows[name])]
    metrics = [name for name in failing(content) if name not in maps]
    about = (
        f"{apart} of {len(rows)} metrics tell{'s' * (apart == 1)} the best real map from every dummy: a map without information "
        "on the class, such as random, the centre of the image, its edges, or the same map of another class. "
        f"A dummy wins: {_labels(metrics)}. A dummy wins, but the ground truth beats it, so that the maps are at fault and not "
        f"the metric: {_labels(maps)}. Each of them: [audit.md](audit.md)."
    )
    return ["## Audit of the metrics", "", about, ""]


def _labels(names: list[str]) -> str:
    return ", ".join(METRICS[name].label for name in names) or "none"


def audit_markdown(content: Content) -> str:
    """Return audit.md."""
    settings, methods = content["settings"], content["methods"]
    body = [
        [
            METRICS[name].title,
            _score(row["best"], methods),
            _score(row["dummy"], methods),
            _score(row["truth"], methods) if row["truth"] else "–",
            "{mean:+.3f} ({low:+.3f} to {high:+.3f}), {images} images".format(**row["difference"]),
            outcome(name, row) + (" †" if not row["main"] else ""),
        ]
        for name, row in content["audit"].items()
    ]
    heads = ["metric", "best real map", "best dummy", "ground truth", "real less dummy", "outcome"]
    return "\n".join([
        f"# Audit of the metrics: {settings['checkpoint']} on {settings['dataset']}, {settings['split']}", "", ABOUT_AUDIT, "",
        markdown_table(heads, body) if body else "No metric with a direction was measured of a real map and a dummy.", "",
        "† not in the tables of attribution.md, but in attribution.csv.", "",
    ])  # fmt: skip


def outcome(name: str, row: Mapping[str, Any]) -> str:
    """Return the outcome of a metric's audit in words."""
    return OUTCOMES[row["outcome"]] + ", but not over the ground truth: the maps are at fault" * maps_at_fault(name, row)


def maps_at_fault(name: str, row: Mapping[str, Any]) -> bool:
    """Return whether a dummy beats the real maps, and the ground truth the dummy."""
    if row["outcome"] != "dummy wins" or not row["truth"]:
        return False
    return bool(METRICS[name].better * (row["truth"]["mean"] - row["dummy"]["mean"]) > 0)


def _score(entry: Mapping[str, Any], methods: Mapping[str, Any]) -> str:
    return f"{label(entry['map'], methods)} {entry['mean']:.3f}"
