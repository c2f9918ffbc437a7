"""Caches: finished results on disk, which survive an interruption, and logits in memory."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import ICN, ICNOutput
from util.atomic import atomic_write
from util.ranks import fingerprint

FORMAT_VERSION = 2  # of the partial results; those of another version are not read


def cache_key(model: nn.Module, files: Iterable[Path], root: Path, options: Mapping[str, Any]) -> str:
    """Return a hash of the weights, the files (their names and sizes) and the options, in 16 hex digits."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, options], sort_keys=True, default=str).encode())
    digest.update(fingerprint(model.state_dict()).encode())
    for path in files:
        name = str(path.relative_to(root) if path.is_relative_to(root) else path)
        digest.update(f"{name}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


class ResultCache:
    """The finished parts of a measurement, files `<folder>/partial/<key>/<name>/<number>.pt`.

    Results of another key (another model, other data or options) are in another folder, one of `others`, and are never mixed.
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

    def save(self, part: Any, name: str, number: int = 0) -> None:
        path = self._path(name, number)
        path.parent.mkdir(exist_ok=True)
        with atomic_write(path, "wb") as file:
            torch.save(part, file)

    def _path(self, name: str, number: int) -> Path:
        return self.folder / name / f"{number:05d}.pt"


class CachedModel:
    """A model that computes the logits of each batch once: methods that use outputs alone repeat their inputs for every class.

    A batch is identified by two sums over it in float64, plain and weighted. Nothing in `known` is dropped by itself.
    """

    def __init__(self, model: ICN) -> None:
        self.model = model
        self.known: dict[tuple[object, ...], ICNOutput] = {}
        self.weights = torch.empty(0)

    def __call__(self, images: Tensor) -> ICNOutput:
        if self.weights.shape != images.shape:
            self.weights = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images.device)
        sums = torch.stack([images.sum(dtype=torch.float64), (images * self.weights).sum(dtype=torch.float64)])
        key = (*images.shape, *sums.tolist())
        if key not in self.known:
            output = self.model(images)
            self.known[key] = ICNOutput(output.logits, output.features[:, :0])
        return self.known[key]
