"""Results that survive an interruption, and what is said of them: means, intervals, paired differences."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from attribution.metrics.statistics import mean_interval

FORM = 1  # of the partial results; other numbers are results of other code
DIGITS = 6


def fingerprint(model: nn.Module, files: Iterable[Path], root: Path, options: Mapping[str, Any]) -> str:
    """A name for what is measured: the weights, the files (their names and sizes) and the options; 16 hex digits."""
    known = hashlib.sha256(json.dumps([FORM, options], sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        known.update(name.encode())
        known.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for path in files:
        place = path.relative_to(root) if path.is_relative_to(root) else path
        known.update(f"{place}:{path.stat().st_size}\n".encode())
    return known.hexdigest()[:16]


class ResultCache:
    """The parts of a measurement that are done: `<folder>/partial/<key>/<name>/<number>.pt`, each written in one step.

    Results of another key (another model, other data or options) lie in another folder, and are never mixed with these.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder / "partial" / key
        self.folder.mkdir(parents=True, exist_ok=True)
        self.others = sorted(path.name for path in self.folder.parent.iterdir() if path.name != key)

    def load(self, name: str, number: int = 0) -> Any:
        """A part, or None where it is not done (or was cut short)."""
        try:
            return torch.load(self._path(name, number), weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return None

    def has(self, name: str, number: int = 0) -> bool:
        return self.load(name, number) is not None

    def save(self, part: Any, name: str, number: int = 0) -> None:
        path = self._path(name, number)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        torch.save(part, temporary)
        os.replace(temporary, path)

    def _path(self, name: str, number: int) -> Path:
        return self.folder / name / f"{number:05d}.pt"


def summarise(
    values: Mapping[str, np.ndarray], right: np.ndarray | None = None, ours: Mapping[str, np.ndarray] | None = None
) -> dict[str, dict[str, Any]]:
    """What is said of one method.

    Args:
        values: one number a picture, `[N]`, nan where it was not measured or is not defined.
        right: bool `[N]`, which predictions are right.
        ours: those of the method that the others are held against.

    Returns:
        for each metric `mean`, `low`, `high` (bootstrap, 95 %), `images`; the means of `right` and `wrong` predictions; and
        `difference` to ours, ours less this, paired: mean, low, high, images. Without a value: images 0 and nothing else.
    """
    found = {name: _interval(interval) for name, interval in _intervals(values).items()}
    for name, column in values.items():
        if right is not None and found[name]["images"]:
            for word, some in (("right", right), ("wrong", ~right)):
                those = column[some & np.isfinite(column)]
                found[name][word] = float(those.mean()) if len(those) else None
    if ours is not None:
        both = {name: ours[name] - column for name, column in values.items() if name in ours}
        for name, interval in _intervals(both).items():
            found[name]["difference"] = _interval(interval)
    return found


def _intervals(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Intervals of many columns; those that are defined for the same pictures are drawn together, which is much faster."""
    alike: dict[bytes, list[str]] = {}
    for name, column in columns.items():
        alike.setdefault(np.isfinite(column).tobytes(), []).append(name)
    found: dict[str, Any] = dict.fromkeys(columns)
    for names in alike.values():
        finite = np.isfinite(columns[names[0]])
        if finite.any():
            interval = mean_interval(np.stack([columns[name][finite] for name in names], 1))
            for place, name in enumerate(names):
                parts = (np.asarray(x)[place] for x in interval[:3])
                found[name] = (*map(float, parts), interval.images)
    return found


def _interval(interval: tuple[float, float, float, int] | None) -> dict[str, Any]:
    if interval is None:
        return {"images": 0}
    return dict(zip(("mean", "low", "high", "images"), interval, strict=True))


def curve_summary(curves: np.ndarray) -> dict[str, list[float]]:
    """Mean curve and interval of `[N, K]`."""
    interval = mean_interval(curves)
    return {name: np.asarray(x).tolist() for name, x in zip(("mean", "low", "high"), interval, strict=False)}


def concatenate(parts: Sequence[Mapping[str, torch.Tensor]], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """The columns of all units, `[N, ...]`; nan in units that lack one."""
    names = dict.fromkeys(name for part in parts for name in part)
    columns = {}
    for name in names:
        shape = next(part[name].shape[1:] for part in parts if name in part)
        rows = [part.get(name, torch.full((size, *shape), torch.nan)) for part, size in zip(parts, sizes, strict=True)]
        columns[name] = torch.cat(rows).double().numpy()
    return columns


def plain(value: Any) -> Any:
    """As JSON has it: nan and infinity become null, arrays lists, floats are rounded to `DIGITS` significant digits."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write in one step; keys in their order, a list in one line."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(_text(plain(content)) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _text(value: Any, indent: int = 0) -> str:
    if isinstance(value, dict) and value:
        pad = " " * (indent + 1)
        inner = ",\n".join(f"{pad}{json.dumps(key, ensure_ascii=False)}: {_text(one, indent + 1)}" for key, one in value.items())
        return "{\n" + inner + "\n" + " " * indent + "}"
    return json.dumps(value, allow_nan=False, ensure_ascii=False)
