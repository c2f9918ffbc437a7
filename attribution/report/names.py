"""What maps are called in tables and plots: each once, in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Entries = Mapping[str, Mapping[str, Any]]  # `methods` of attribution.json
FAMILIES = {"own": "the model's own", "posthoc": "post hoc", "control": "control", "truth": "ground truth"}


def label(name: str, methods: Entries) -> str:
    """Return the name of a map in plain words."""
    return str(methods.get(name, {}).get("label", name))


def shown(methods: Entries) -> dict[str, str]:
    """Return the maps that are shown and what they are called; one that equals another on this model is named with that."""
    same: dict[str, list[str]] = {}
    for name, entry in methods.items():
        if "same_as" in entry:
            same.setdefault(entry["same_as"], []).append(label(name, methods))
    names = [name for name, entry in methods.items() if "same_as" not in entry]
    return {name: label(name, methods) + (f" (also: {', '.join(same[name])})" if name in same else "") for name in names}


def family(name: str, methods: Entries) -> str:
    """Return the key of `FAMILIES` of a map; one that is no method is a control."""
    entry = methods.get(name, {})
    return "truth" if entry.get("ground_truth") else str(entry.get("family", "control"))
