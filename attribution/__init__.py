"""Attribution maps: where the evidence for a class lies in an image, and how good such maps are.

`explain` makes maps; `METHODS` and `METRICS` are the registries of what can be made and measured.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["METHODS", "METRICS", "explain"]  # noqa: F822

_MODULES = {"METHODS": "methods.registry", "METRICS": "metrics.registry", "explain": "methods.explain"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
