"""Safe reading of checkpoints (ICN's, INTR's and DETR's) and of state dicts: no code in a file is ever executed."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from models.architecture import ParameterError

VERSION = 1
OPTIONAL = "num_batches_tracked"  # counters of batch norms, which old files lack


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_normalisation(value: Any) -> bool:
    is_numbers = _is_list_of((int, float))
    return isinstance(value, dict) and all(is_numbers(value.get(key)) and len(value[key]) == 3 for key in ("mean", "std"))


def _is_list_of(kind: type | tuple[type, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(x, kind) for x in value)


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _is_epoch(value: Any) -> bool:
    names = ("epoch", "batches", "batch_size", "accumulate", "train_images", "images")
    return isinstance(value, dict) and all(_is_count(value.get(name)) for name in names) and isinstance(value.get("sums"), Tensor)


# Entries that may be missing (INTR's and DETR's files lack most of them), but not be something else.
_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("epoch", "step", "version"), ("a number from 0", _is_count)),
    "classes": ("a list of names", _is_list_of(str)),
    "normalisation": ("a mean and a std of three numbers", _is_normalisation),
    "best": ("a table with acc1 and epoch", lambda value: isinstance(value, dict) and {"acc1", "epoch"} <= value.keys()),
    "ema": ("a state dict of tensors", _is_state),
    **dict.fromkeys(("optimizer", "scaler"), ("a state dict", lambda value: isinstance(value, dict))),
    "in_epoch": ("the state of an epoch", _is_epoch),
    "elapsed": ("a number of seconds", lambda value: isinstance(value, (int, float)) and value >= 0),
    "rng": ("a list of states", _is_list_of(dict)),
}


@dataclass
class CheckpointMeta:
    """The content of a checkpoint besides its weights.

    args: flags of the run that wrote it, as plain values; the architecture is among them.
    classes: class names in logit order; None in INTR's files.
    normalisation: `{"mean": [r, g, b], "std": [r, g, b]}` of the model's input.
    epoch: the last finished epoch, from 0.
    averaged: the weights are the moving average of the trained ones.
    """

    args: dict[str, Any]
    classes: list[str] | None
    normalisation: dict[str, list[float]]
    epoch: int | None
    averaged: bool


def first_line(error: object) -> str:
    """Return the first line of an error's text, or the name of its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file; one with a URL is downloaded into torch.hub's folder first.

    Only tensors, plain values and `argparse.Namespace` (INTR keeps its flags in one) are admitted; a Namespace comes back
    as a dict under `args`.

    Raises:
        ValueError: no such file, truncated, not a checkpoint, or a pickle with code.
    """
    path = _fetch(str(path)) if str(path).startswith(("http://", "https://")) else Path(path)
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"checkpoint {path} {problem}: give the path of a .pth file")
    try:
        if zipfile.is_zipfile(path):  # torch's own reader does not verify the checksums
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, str(error))) from None
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, KeyError, IndexError, AttributeError, TypeError) as error:
        raise ValueError(f"checkpoint {path} is truncated or no checkpoint at all ({first_line(error)})") from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("model"), Mapping):
        raise ValueError(f"checkpoint {path} has no entry 'model' with a state dict: it was not written by ICN, INTR or DETR")
    for name, value in checkpoint["model"].items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
            raise ValueError(f"checkpoint {path}: the entry 'model' holds something else than named tensors ({name!r})")
    if isinstance(checkpoint.get("args"), argparse.Namespace):
        checkpoint["args"] = vars(checkpoint["args"])
    if not isinstance(checkpoint.setdefault("args", {}), dict):
        raise ValueError(f"checkpoint {path}: the entry 'args' is no table of flags")
    for name, (description, fits) in _ENTRIES.items():
        if checkpoint.get(name) is not None and not fits(checkpoint[name]):
            raise ValueError(f"checkpoint {path}: the entry {name!r} is damaged, {description} is needed")
    if (checkpoint.get("version") or 0) > VERSION:
        raise ValueError(f"checkpoint {path} has format {checkpoint['version']}, this ICN reads up to {VERSION}: update ICN")
    return checkpoint


def is_detection(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether the file is DETR's: a detector with box and class heads."""
    return "class_embed.weight" in checkpoint["model"]


def read_state_dict(path: str | Path, parameter: str = "backbone_weights") -> dict[str, Tensor]:
    """Read a bare state dict (torchvision, timm; .pth or .safetensors), also one wrapped as `state_dict` or `model`.

    Raises:
        ParameterError: of the `parameter` that named the file: there is no such file, or it is no state dict.
        ValueError: a pickle with code.
    """
    path = Path(path)
    if not path.is_file():
        raise ParameterError(parameter, f"{path} does not exist: give the path of a state-dict file")
    state: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(path, str(error))) from None
    except Exception as error:  # safetensors has error types of its own
        raise ParameterError(parameter, f"{path} is truncated or no state dict ({first_line(error)})") from None
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ParameterError(parameter, f"{path} is no state dict: a mapping of names to tensors is needed")
    return dict(state)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str, parameter: str | None = None) -> None:
    """Load a state dict that must match the model exactly.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; a ParameterError where `parameter` named the file.
    """
    own = model.state_dict()
    problems = misfits(own, state)
    problems += [f"{key} is unexpected" for key in state if key not in own and not key.endswith(OPTIONAL)]
    if problems:
        shown = "; ".join(problems[:5]) + ("; ..." if len(problems) > 5 else "")
        message = f"{source} is of another architecture: {len(problems)} tensors do not fit ({shown})"
        raise ParameterError(parameter, message) if parameter else ValueError(message)
    model.load_state_dict(dict(state), strict=False)


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """List the tensors of a model's state dict `own` that `state` lacks or has in another shape."""
    missing = [f"{key} is missing" for key in own if key not in state and not key.endswith(OPTIONAL)]
    shapes = {key: (tuple(state[key].shape), tuple(own[key].shape)) for key in own if key in state}
    return missing + [f"{key} is {given} where {needed} is needed" for key, (given, needed) in shapes.items() if given != needed]


def _fetch(url: str) -> Path:
    """Download a URL once and return the file; a name that ends in a hash (`detr-r50-e632da11.pth`) is checked against it."""
    name = Path(urlparse(url).path).name
    # Two addresses may end in the same name.
    target = Path(torch.hub.get_dir()) / "checkpoints" / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    if not target.is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(target), hash_prefix=digest[1] if digest else None)
        except (OSError, ValueError, RuntimeError, HTTPException) as error:
            raise ValueError(f"checkpoint {url} cannot be fetched ({first_line(error)})") from None
    return target


def _refusal(path: Path, message: str) -> str:
    """Return one line for torch's refusal of a pickle, with the global that the file refers to."""
    for line in message.splitlines():
        if "GLOBAL" in line or "Unsupported global" in line or "Unsupported class" in line:
            wanted = line.split("WeightsUnpickler error:")[-1].strip().rstrip(".")
            return f"checkpoint {path} is refused, nothing in it was run: it holds more than plain values ({wanted[:160]})"
    return f"checkpoint {path} is truncated or no checkpoint at all ({first_line(message)[:160]})"
