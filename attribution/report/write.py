"""The files of a measurement: attribution.json, attribution.md, curves.png, bars.png."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attribution.report.plots import draw_bars, draw_curves
from attribution.report.tables import markdown
from util.atomic import atomic_write

DIGITS = 6


def write_results(content: Mapping[str, Any], folder: Path) -> None:
    """Write what `evaluation.summary` made."""
    write_json(folder / "attribution.json", content)
    with atomic_write(folder / "attribution.md") as file:
        file.write(markdown(content))
    draw_curves(content, folder / "curves.png")
    draw_bars(content, folder / "bars.png")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write keys in their order, one per line, and each list in one line."""
    with atomic_write(path) as file:
        file.write(_text(plain(content)) + "\n")


def plain(value: Any) -> Any:
    """Return a value as JSON has it: nan and infinity as null, arrays as lists, floats rounded to `DIGITS` significant digits."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _text(value: Any, indent: int = 0) -> str:
    if isinstance(value, dict) and value:
        pad = " " * (indent + 1)
        lines = (f"{pad}{json.dumps(key, ensure_ascii=False)}: {_text(item, indent + 1)}" for key, item in value.items())
        return "{\n" + ",\n".join(lines) + "\n" + " " * indent + "}"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
