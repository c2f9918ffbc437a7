"""Checkpoints (ICN's, INTR's and DETR's) and state dicts: finding them in a file, and loading what fits a model exactly."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch
from torch import Tensor, nn

from models.architecture import ParameterError
from models.checkpoint_format import ENTRIES, WEIGHTS, check_entries, is_state_dict
from models.hub import SCHEME, fetch_from_hub
from models.reading import first_line, read_file, shown

OPTIONAL = "num_batches_tracked"  # counters of batch norms, which old files lack
QUERIES = "query_embed.weight"  # the tensor by which a model of ICN, INTR or DETR is known
TIMEOUT = 60  # seconds without an answer of a server


@dataclass
class CheckpointMeta:
    """The content of a checkpoint besides its weights.

    args: flags of the run that wrote it, as plain values; the architecture is among them.
    classes: class names in logit order; None in INTR's files.
    normalisation: `{"mean": [r, g, b], "std": [r, g, b]}` of the model's input.
    epoch: the last finished epoch, from 0.
    averaged: the weights are the moving average of the trained ones.
    thresholds: the fields of `models.thresholds.Thresholds` for these weights; None where there are none.
    """

    args: dict[str, Any]
    classes: list[str] | None
    normalisation: dict[str, list[float]]
    epoch: int | None
    averaged: bool
    thresholds: dict[str, Any] | None = None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint: a file, a folder of `tools.export`, a URL or an address of the hub (`hf://owner/repo`).

    What a URL names is downloaded into torch.hub's folder first, what is on the hub into the hub's own.

    The weights come back under `model`, whatever the name of their entry and the prefix of their tensors in the file
    (`find_state_dict`, `strip_prefix`), the flags as a dict under `args`; the other entries are those of `ENTRIES`.

    Raises:
        ValueError: no such file, not a checkpoint, damaged, or a pickle with code.
    """
    file, is_download = _local_file(str(path))
    said = str(path) if is_download else str(file)
    try:
        content = read_file(file)
        source, state = find_state_dict(content, said, QUERIES)
    except ValueError as error:
        if is_download:  # nothing that cannot be read stays in the cache
            file.unlink(missing_ok=True)
        raise ValueError(f"checkpoint {str(error).replace(str(file), said)}") from None
    checkpoint = dict(content) if source else {}
    checkpoint["model"] = strip_prefix(state, QUERIES)
    if checkpoint.get("args") is None:
        checkpoint["args"] = {}
    if not isinstance(checkpoint["args"], dict):
        raise ValueError(f"checkpoint {said}: the entry 'args' is no table of flags")
    checkpoint["args"] = {key: value for key, value in checkpoint["args"].items() if isinstance(key, str)}
    check_entries(checkpoint, said)
    if checkpoint.get("ema"):
        checkpoint["ema"] = strip_prefix(checkpoint["ema"], QUERIES)
    return checkpoint


def find_state_dict(content: Any, path: str, anchor: str | None = None) -> tuple[str, dict[str, Tensor]]:
    """Return the state dict in the content of a file, and the name of its entry ('' where it is the content itself).

    That is `model` where it is one; else the only one there is, or the only one with a tensor whose name ends in `anchor`.

    Raises:
        ValueError: there is none, or more than one that could be meant; names what the file holds.
    """
    found = dict(_state_dicts(content))
    anchored = {name: state for name, state in found.items() if any(key.endswith(anchor or "") for key in state)}
    for candidates in ({name: found[name] for name in ("", "model") if name in found}, anchored, found):
        if len(candidates) == 1:
            name, state = next(iter(candidates.items()))
            return name, {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if found:
        names = ", ".join(shown(name) for name in list(found)[:5])
        raise ValueError(f"{path} holds several state dicts ({names}): save the one that is meant as {{'model': state_dict}}")
    raise ValueError(f"{path} holds no state dict (names of tensors to tensors) but {shown(describe(content), 300)}")


def _state_dicts(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield all state dicts within nested tables, with the names of their entries (`model.state_dict`)."""
    if is_state_dict(content):
        yield name, content
    elif isinstance(content, Mapping) and depth < 3:
        for key, value in content.items():
            if not (depth == 0 and key in ENTRIES):  # the moving average of `model`, not another model
                yield from _state_dicts(value, f"{name}.{key}".lstrip("."), depth + 1)


def describe(content: Any, depth: int = 0) -> str:
    """Return a phrase for the content of a file: its type, and for a table the first entries."""
    if isinstance(content, Tensor):
        return f"a tensor {list(content.shape)}"
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}" if not isinstance(content, str) else f"a value of type {shown(content)}"
    entries = []
    for key, value in list(content.items())[:5]:
        inner = f" of {describe(value, depth + 1)}" if isinstance(value, Mapping) and depth < 1 else ""
        entries.append(f"{shown(str(key))} ({type(value).__name__}{inner})")
    return f"the entries {', '.join(entries)}{', ...' * (len(content) > 5)}" if entries else "an empty table"


def strip_prefix(state: Mapping[str, Tensor], anchor: str) -> dict[str, Tensor]:
    """Remove what wrappers put before the names of tensors (`module.`, `detr.`, and torch.compile's `_orig_mod.` anywhere).

    The prefix is what stands before `anchor`, the shortest where others continue it; tensors without the prefix stay as they are.
    """
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    prefixes = sorted((key.removesuffix(anchor) for key in state if key.endswith(f".{anchor}")), key=len)
    if anchor in state or not prefixes or not all(prefix.startswith(prefixes[0]) for prefix in prefixes):
        return state
    return {key.removeprefix(prefixes[0]): value for key, value in state.items()}


def is_detection(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether the file is DETR's: a detector with box and class heads."""
    return "class_embed.weight" in checkpoint["model"]


def name_tensors(state: Mapping[str, Tensor]) -> str:
    """Return a phrase with the first names of a state dict."""
    return f"its {len(state)} tensors: {', '.join(shown(key) for key in list(state)[:3])}{', ...' * (len(state) > 3)}"


def read_state_dict(path: str | Path, parameter: str = "backbone_weights") -> dict[str, Tensor]:
    """Read a state dict (torchvision, timm; .pth or .safetensors), bare or as an entry of a table.

    ParameterError, of the `parameter` that named the file: there is no such file, it holds none, or a pickle with code.
    """
    try:
        return find_state_dict(read_file(Path(path)), str(path))[1]
    except ValueError as error:
        raise ParameterError(parameter, str(error)) from None


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str, parameter: str | None = None) -> None:
    """Load a state dict that must match the model exactly.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; a ParameterError where `parameter` named the file.
    """
    own = model.state_dict()
    problems = misfits(own, state)
    problems += [f"{shown(key)} is unexpected" for key in state if key not in own and not key.endswith(OPTIONAL)]
    message = f"{source} is of another architecture: {len(problems)} tensors do not fit ({summary(problems)})" if problems else ""
    if not problems and (broken := not_finite(own, state)):
        message = f"{source} has values that are not finite numbers ({summary(broken)}): it is damaged, or its training diverged"
    if message:
        raise ParameterError(parameter, message) if parameter else ValueError(message)
    model.load_state_dict(dict(state), strict=False)


def misfits(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """List the tensors of a model's state dict `own` that `state` lacks, or has in another shape or of another kind of number."""
    problems = [f"{key} is missing" for key in own if key not in state and not key.endswith(OPTIONAL)]
    for key, needed in own.items():
        given = state.get(key, needed)
        if given.shape != needed.shape:
            shape = tuple(given.shape) if given.ndim < 6 else f"of {given.ndim} dimensions"
            problems.append(f"{key} is {shape} where {tuple(needed.shape)} is needed")
        elif given.is_floating_point() != needed.is_floating_point() or given.is_complex():
            problems.append(f"{key} is {given.dtype} where {needed.dtype} is needed")
    return problems


def not_finite(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """List the floating-point tensors of `own` for which `state` has values that are not finite."""
    return [key for key in own if key in state and own[key].is_floating_point() and not state[key].float().isfinite().all()]


def summary(problems: list[str], count: int = 5) -> str:
    """Return the first of several problems in one line."""
    return "; ".join(problems[:count]) + ("; ..." if len(problems) > count else "")


def _local_file(path: str) -> tuple[Path, bool]:
    """Return the file that a path or a URL names, and whether it is a download of ours; ValueError if it cannot be fetched."""
    if path.lower().startswith(SCHEME):
        return fetch_from_hub(path), False
    url = urlparse(path)
    if url.scheme.lower() in ("http", "https"):
        return _fetch(path), True
    if url.scheme.lower() == "file":
        return Path(url2pathname(url.path)), False
    if "://" in path:
        raise ValueError(f"checkpoint {path} cannot be fetched: give a path, or an address of http, https, file or hf")
    inside = Path(path, WEIGHTS)
    if Path(path).is_dir() and not inside.is_file():
        raise ValueError(f"checkpoint {path} is a folder that has no {WEIGHTS}: give a folder of tools.export, or a .pth file")
    return inside if inside.is_file() else Path(path), False


def _fetch(url: str) -> Path:
    """Download a URL once and return the file; a name that ends in a hash (`detr-r50-e632da11.pth`) is checked against it."""
    name = Path(urlparse(url).path).name or "checkpoint.pth"
    # Two addresses may end in the same name.
    target = Path(torch.hub.get_dir()) / "checkpoints" / hashlib.sha256(url.encode()).hexdigest()[:16] / name
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    if not target.is_file():
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(TIMEOUT)  # torch's own download waits for ever
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(target), hash_prefix=digest[1] if digest else None)
        except (OSError, ValueError, RuntimeError, HTTPException) as error:
            raise ValueError(f"checkpoint {url} cannot be fetched ({shown(first_line(error), 160)})") from None
        finally:
            socket.setdefaulttimeout(before)
    return target
