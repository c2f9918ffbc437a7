"""Results that survive an interruption."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from util.atomic import atomic_write

FORM = 2  # of the partial results; other numbers are results of other code


def fingerprint(model: nn.Module, files: Iterable[Path], root: Path, options: Mapping[str, Any]) -> str:
    """Return a hash of the weights, the files (their names and sizes) and the options, in 16 hex digits."""
    digest = hashlib.sha256(json.dumps([FORM, options], sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for path in files:
        name = str(path.relative_to(root) if path.is_relative_to(root) else path)
        digest.update(f"{name}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


class ResultCache:
    """The finished parts of a measurement, files `<folder>/partial/<key>/<name>/<number>.pt`.

    Results of another key (another model, other data or options) are in another folder, and are never mixed with these.

    Attributes:
        others: the other keys in the folder.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder / "partial" / key
        self.folder.mkdir(parents=True, exist_ok=True)
        self.others = sorted(path.name for path in self.folder.parent.iterdir() if path.name != key)

    def load(self, name: str, number: int = 0) -> Any:
        """Return a part, or None where it is missing or damaged."""
        try:
            return torch.load(self._path(name, number), weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return None

    def has(self, name: str, number: int = 0) -> bool:
        return self.load(name, number) is not None

    def save(self, part: Any, name: str, number: int = 0) -> None:
        path = self._path(name, number)
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path, "wb") as file:
            torch.save(part, file)

    def _path(self, name: str, number: int) -> Path:
        return self.folder / name / f"{number:05d}.pt"
