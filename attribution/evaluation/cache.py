"""Caches: finished results on disk, which survive an interruption, and logits in memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import ICN, ICNOutput
from util.atomic import atomic_write
from util.errors import RunFailed
from util.progress import Progress
from util.ranks import fingerprint

DIGEST = 32  # bytes of a checksum
BLOCK = 2**20  # bytes that are read of a file at once
LIBRARIES = ("torch", "torchvision", "timm", "captum")
SOURCES = ("attribution", "datasets", "models")  # packages whose code the numbers depend on


def cache_key(model: nn.Module, files: Mapping[str, Path], options: Mapping[str, Any]) -> str:
    """Return a hash of a model, the content of files, their names in the measurement, options and code, in 16 hex digits.

    Raises:
        ValueError: a file cannot be read.
    """
    digest = hashlib.blake2b(json.dumps([code_version(), options], sort_keys=True, default=str).encode())
    digest.update(f"{fingerprint(model.state_dict())}{_structure(model)}".encode())
    with Progress(len(files), "reading the files") as progress:
        for name, path in files.items():
            digest.update(os.fsencode(f"{name}\0") + _file_digest(path))
            progress.step()
    return digest.hexdigest()[:16]


@cache
def code_version() -> str:
    """Return a hash of the repository's code that makes numbers, and of the versions of the libraries that it calls."""
    root, digest = Path(__file__).resolve().parents[2], hashlib.blake2b()
    for path in sorted(path for package in SOURCES for path in (root / package).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + _file_digest(path))
    for library in LIBRARIES:
        try:
            digest.update(f"{library} {version(library)}".encode())
        except PackageNotFoundError:  # captum may be missing
            continue
    return digest.hexdigest()


def _structure(model: nn.Module) -> str:
    """Return what a state dict does not hold of a model: its modules and their settings, such as the number of heads."""
    plain = (bool, int, float, str, tuple, type(None))
    settings = ({key: value for key, value in vars(module).items() if isinstance(value, plain)} for module in model.modules())
    return str([(name, type(module).__name__, own) for (name, module), own in zip(model.named_modules(), settings, strict=True)])


def _file_digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST)
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    return digest.digest()


class ResultCache:
    """The finished parts of a measurement, files `<folder>/partial/<key>/<name>/<number>.pt`, each behind its checksum.

    Results of another key (another model, other data, options or code) are in another folder, one of `others`, and are never
    mixed: the checksum of a part is also of its key, name and number.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder / "partial" / key, key
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
        self.others = sorted(path.name for path in self.folder.parent.iterdir() if path.name != key)

    def load(self, name: str, number: int = 0) -> Any:
        """Return a part, or None where it is missing or, with a message, damaged or of another measurement."""
        path = self._path(name, number)
        try:
            content = path.read_bytes()
            if content[:DIGEST] == self._checksum(content[DIGEST:], name, number):
                return torch.load(io.BytesIO(content[DIGEST:]), weights_only=True)
            problem = "its content is not what was written"
        except FileNotFoundError:
            return None
        except OSError as error:
            problem = str(error.strerror)
        print(f"{path} is damaged ({problem}): it is measured again")
        return None

    def read(self, name: str, number: int = 0) -> Any:
        """Return a part that was measured; a RunFailed where it was lost since."""
        part = self.load(name, number)
        if part is None:
            path = self._path(name, number)
            raise RunFailed(f"{path} was removed or changed during the measurement; the same command measures it again")
        return part

    def save(self, part: Any, name: str, number: int = 0) -> None:
        """Write a part; a RunFailed where the disk does not take it."""
        buffer, path = io.BytesIO(), self._path(name, number)
        torch.save(part, buffer)
        with self._writing():
            path.parent.mkdir(exist_ok=True)
            with atomic_write(path, "wb") as file:
                file.write(self._checksum(buffer.getvalue(), name, number) + buffer.getvalue())

    def _path(self, name: str, number: int) -> Path:
        return self.folder / name / f"{number:05d}.pt"

    def _checksum(self, content: bytes, name: str, number: int) -> bytes:
        return hashlib.blake2b(f"{self.key} {name} {number} ".encode() + content, digest_size=DIGEST).digest()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            problem = f"{self.folder} cannot be written ({error.strerror})"
            raise RunFailed(f"{problem}: make room or give another --output_dir; what is done is kept") from None


class CachedModel:
    """A model that computes the logits of each batch once: methods that use outputs alone repeat their inputs for every class.

    A batch is identified by two sums over it in float64, plain and weighted. Nothing in `known` is dropped by itself.
    """

    def __init__(self, model: ICN) -> None:
        self.model = model
        self.known: dict[tuple[object, ...], ICNOutput] = {}
        self.weights = torch.empty(0)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return what the model makes of logits."""
        return self.model.probabilities(logits)

    def __call__(self, images: Tensor) -> ICNOutput:
        if self.weights.shape != images.shape:
            self.weights = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)).to(images.device)
        sums = torch.stack([images.sum(dtype=torch.float64), (images * self.weights).sum(dtype=torch.float64)])
        key = (*images.shape, *sums.tolist())
        if key not in self.known:
            output = self.model(images)
            self.known[key] = ICNOutput(output.logits, output.features[:, :0])
        return self.known[key]
