"""attribution.md: what was found, in tables. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attribution.metrics.registry import column
from util.tables import markdown_table

Summary = Mapping[str, Any]
FAMILIES = {"own": "the model's own", "posthoc": "post hoc", "control": "control, oracle"}
ARROW = {1: " ↑", -1: " ↓", 0: ""}

SECTIONS: dict[str, tuple[str, ...]] = {
    "Faithfulness": ("srg", "srg_native", "rd", "rd_native", "insertion", "insertion_start", "deletion"),
    "On the object": ("pointing", "energy", "energy_gain", "ap", "pointing_native", "energy_native"),
    "Known evidence: class against sibling": (
        *("contrast_pointing", "contrast_energy", "contrast_ap"),
        *("contrast_pointing_native", "contrast_energy_native"),
    ),
    "Known evidence: parts": (
        *("sd", "sd_swap", "pc", "dc", "ts", "part_srg", "part_insertion", "part_deletion"),
        *("shortcut_pointing", "shortcut_energy", "shortcut_top"),
    ),
    "Description": ("gini", "max_sensitivity"),
}
PAIRS = ("own_hit", "other_hit", "own_energy", "other_energy", "own_area", "own_hit_native", "other_hit_native")
AGAINST = ("srg", "rd", "insertion", "deletion", "pointing", "energy", "ap", "contrast_pointing", "contrast_energy", "sd", "ts")


def markdown(found: Summary) -> str:
    """The whole file."""
    methods, settings, ours = found["methods"], found["settings"], found["ours"]
    lines = [f"# Maps of {settings['checkpoint']} on {settings['dataset']}, {settings['split']}", "", _about(found), ""]
    for title, names in SECTIONS.items():
        rows = {name: entry["metrics"] for name, entry in methods.items()}
        if title == "Faithfulness":
            lines += _section(title, rows, names, found, {"ms a map": _milliseconds, "passes": _passes})
        elif title == "Description":
            lines += _section(title, rows, names, found, {"all weights random": _randomisation})
        else:
            lines += _section(title, rows, names, found, {})
        if title.endswith("sibling"):
            slots = _present(rows, (f"contrast_pointing/{slot}" for slot in settings.get("slots", ())))
            lines += _section("Known evidence: pointing in each slot", rows, slots, found, {})
    if "pairs" in found:
        rows = {name: entry["metrics"] for name, entry in found["pairs"].items()}
        lines += _section("Two objects in a picture", rows, PAIRS, found, {})
    lines += _against(found, ours)
    lines += _model_table(found["model"])
    return "\n".join(lines)


def _about(found: Summary) -> str:
    settings = found["settings"]
    return (
        f"{settings['images']} of {settings['split_images']} pictures, {settings['decoder']} decoder, grid "
        f"{' x '.join(map(str, settings['grid']))}, accuracy {100 * found['model']['accuracy']:.1f} %. Mean and 95 % bootstrap "
        f"interval over pictures; the class explained is the one predicted. Every map is pooled to the grid of the model and "
        f"enlarged by one kernel; `native` is the map at its own resolution. {settings['steps']} steps a curve, pixels turn to "
        f"the mean colour (deletion, SRG, RD) or come back into a blurred picture (insertion). ICN is represented by "
        f"**{found['ours']}**. Numbers of fewer pictures than the rest say how many (n)."
    )


def _section(
    title: str,
    rows: Mapping[str, Mapping[str, Any]],
    names: Iterable[str],
    found: Summary,
    more: Mapping[str, Callable[[Mapping[str, Any]], str]],
) -> list[str]:
    """A table with a row a method, and what its columns mean; nothing if no method has any of them."""
    names, methods = _present(rows, names), found["methods"]
    entries = {name: methods.get(name, {}) for name in rows}
    extra = {label: cell for label, cell in more.items() if any(cell(entry) for entry in entries.values())}
    if not names and not (extra and title == "Description"):
        return []
    heads = [column(name).label + ARROW[column(name).better] for name in names]
    full = max((metrics[name]["images"] for metrics in rows.values() for name in names if name in metrics), default=0)
    body = []
    for name, metrics in sorted(rows.items(), key=lambda row: list(FAMILIES).index(_family(row[0], methods))):
        cells = [_cell(metrics.get(one), full) for one in names] + [cell(entries[name]) or "–" for cell in extra.values()]
        if any(cell != "–" for cell in cells[: len(names)]) or not names:
            shown = f"**{name}**" if name == found["ours"] else name
            body.append([shown, FAMILIES[_family(name, methods)], *cells])
    legend = [f"- {column(name).label}: {column(name).meaning}" for name in names if "/" not in name and column(name).meaning]
    return [f"## {title}", "", markdown_table(["map", "kind", *heads, *extra], body), "", *legend, ""]


def _present(rows: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[str]:
    return [name for name in names if any(metrics.get(name, {}).get("images") for metrics in rows.values())]


def _family(name: str, methods: Mapping[str, Any]) -> str:
    return methods[name]["family"] if name in methods else "control"


def _cell(metric: Mapping[str, Any] | None, full: int) -> str:
    if not metric or not metric["images"]:
        return "–"
    few = f" n={metric['images']}" if metric["images"] < full else ""
    return f"{metric['mean']:.3f} ({metric['low']:.3f} to {metric['high']:.3f}){few}"


def _milliseconds(entry: Mapping[str, Any]) -> str:
    return f"{entry['metrics']['ms']['mean']:.1f}" if entry.get("metrics", {}).get("ms", {}).get("images") else ""


def _passes(entry: Mapping[str, Any]) -> str:
    if "passes" not in entry:
        return ""
    forward, backward = entry["passes"]["forward"], entry["passes"]["backward"]
    return f"{forward} + {backward} back" if backward else str(forward)


def _randomisation(entry: Mapping[str, Any]) -> str:
    if "randomisation" not in entry:
        return ""
    known = entry["randomisation"]
    stages = ", ".join(f"{stage} {value:.2f}" for stage, value in known["stages"].items())
    return f"{'pass' if known['passed'] else 'FAIL'} ({stages})"


def _against(found: Summary, ours: str) -> list[str]:
    """Paired differences, ours less theirs; in bold where the interval leaves out 0."""
    rows = {name: entry["metrics"] for name, entry in found["methods"].items() if name != ours}
    names = [name for name in _present(rows, AGAINST) if any("difference" in metrics.get(name, {}) for metrics in rows.values())]
    if not names:
        return []
    body = []
    for name, metrics in sorted(rows.items(), key=lambda row: list(FAMILIES).index(_family(row[0], found["methods"]))):
        cells = []
        for one in names:
            gap = metrics.get(one, {}).get("difference", {"images": 0})
            text = f"{gap['mean']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f})" if gap["images"] else "–"
            cells.append(f"**{text}**" if gap["images"] and (gap["low"] > 0 or gap["high"] < 0) else text)
        body.append([name, *cells])
    heads = [column(name).label + ARROW[column(name).better] for name in names]
    about = f"{ours} less the map of the row, on the same pictures; in bold where the 95 % interval leaves out 0."
    return [f"## {ours} against the others", "", about, "", markdown_table(["map", *heads], body), ""]


def _model_table(model: Mapping[str, Any]) -> list[str]:
    words = {
        "reliance": "accuracy with the class queries' attention as it is, and replaced: if it survives, the map is decoration",
        "locality": "share of the gradient energy of a cell that lies on its own patch, and with the cells around it",
        "head_diversity": "mean Jensen-Shannon divergence between heads, over ln 2",
    }
    body = [
        [f"{group}: {name.replace('_', ' ')}", _cell(metric, metric["images"]), str(metric["images"])]
        for group in words
        for name, metric in model.get(group, {}).items()
    ]
    if not body:
        return []
    legend = [f"- {group}: {text}" for group, text in words.items() if group in model]
    return ["## The model", "", markdown_table(["", "value", "pictures"], body), "", *legend, ""]
