"""The format of a checkpoint: its entries, what each must be, and the check of a file's content."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

VERSION = 1
HEADER = "icn"  # entry of the header of a safetensors file that holds, as JSON, the entries of a checkpoint besides its weights
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"  # names of that file in a folder, and of those beside it
KEPT = 1000  # order statistics that thresholds are kept as, of each score
COUNT_LIMIT = 10**12  # of epochs, steps, images and seconds

Check = Callable[[Any], bool]


def check_entries(checkpoint: Mapping[str, Any], path: str) -> None:
    """Raise a ValueError for an entry that is not what `ENTRIES` says, or a format that is newer than `VERSION`."""
    for name, (description, fits) in ENTRIES.items():
        if checkpoint.get(name) is not None and not fits(checkpoint[name]):
            raise ValueError(f"checkpoint {path}: the entry {name!r} is damaged, {description} is needed")
    if (checkpoint.get("version") or 0) > VERSION:
        raise ValueError(f"checkpoint {path} has format {checkpoint['version']}, this ICN reads up to {VERSION}: update ICN")


def started_from(args: Mapping[str, Any]) -> str | None:
    """Return what the weights of a run started from: a file's name, `random` or `default`; None where its flags do not say.

    `default` are the weights that the library of the backbone has for it. A run that was resumed does not say.
    """
    finetune, resume, backbone = (args.get(name) for name in ("finetune", "resume", "backbone_weights"))
    source = finetune or (None if resume else {"none": "random"}.get(str(backbone), backbone))
    source = args.get("started_from", source)
    return Path(urlsplit(source).path.rstrip("/")).name[:200] or None if isinstance(source, str) else None


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Return whether a value is a finite number (not a bool) within bounds."""
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and low <= value <= high and (isinstance(value, int) or math.isfinite(value))


def is_state_dict(value: Any) -> bool:
    """Return whether a value is a state dict: names to tensors, apart from the extra state of modules."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(k, str) and (isinstance(v, Tensor) or k.endswith("_extra_state")) for k, v in value.items())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and is_number(value, 0, COUNT_LIMIT)


def _is_list_of(fits: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(fits, value))


_is_names = _is_list_of(lambda value: isinstance(value, str))


def _is_normalisation(value: Any) -> bool:
    bounds = {"mean": (-1e6, 1e6), "std": (1e-6, 1e6)}
    return isinstance(value, dict) and all(
        isinstance(value.get(key), list) and len(value[key]) == 3 and all(is_number(x, *bounds[key]) for x in value[key])
        for key in bounds
    )


def _is_best(value: Any) -> bool:
    if not isinstance(value, dict) or not {"acc1", "epoch"} <= value.keys():
        return False
    epoch, acc1, loss = (value.get(name) for name in ("epoch", "acc1", "loss"))
    return (
        (epoch is None or _is_count(epoch)) and (acc1 is None) == (epoch is None)
        and (acc1 is None or is_number(acc1, 0, 100)) and (loss is None or is_number(loss))
    )  # fmt: skip


def _is_epoch(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    value = {"world_size": 1, **value}
    positive = [value.get(name) for name in ("batch_size", "accumulate", "world_size")]
    if not all(map(_is_count, [*positive, *map(value.get, ("epoch", "batches", "train_images", "images"))])) or 0 in positive:
        return False
    images_per_batch = value["batch_size"] * value["world_size"]
    if value["batches"] and not (value["images"] and (value["batches"] - 1) * images_per_batch < value["train_images"]):
        return False
    if not isinstance(value.get("grouping"), (str, type(None))):
        return False
    sums, terms = value.get("sums"), value.get("terms", ["class"])
    if not isinstance(sums, Tensor) or sums.ndim != 1 or not sums.is_floating_point() or not sums.isfinite().all():
        return False
    is_old = "terms" not in value and len(sums) == 3  # without values per term
    return _is_names(terms) and (is_old or len(sums) == 3 + len(terms))


def _is_gaussians(value: Any) -> bool:
    names = {"means", "precision", "mean", "spread"}
    if not isinstance(value, dict) or value.keys() != names or not all(isinstance(x, Tensor) for x in value.values()):
        return False
    dimensions = value["mean"].shape
    shapes = (value["means"].shape[1:], value["precision"].shape, value["spread"].shape)
    fits = len(dimensions) == 1 and shapes == (dimensions, dimensions * 2, dimensions * 2)
    finite = all(value[name].isfinite().all() for name in names - {"means"})  # a class without images has none
    return fits and finite and all(x.dtype == torch.float64 for x in value.values())


def _is_thresholds(value: Any) -> bool:
    fields = {"score", "split", "files", "images", "known", "true"}
    if not isinstance(value, dict) or value.keys() - {"gaussians"} != fields:
        return False
    if "gaussians" in value and not _is_gaussians(value["gaussians"]):
        return False
    values = value["known"], value["true"]
    return (
        all(isinstance(value[name], str) for name in ("score", "split", "files")) and _is_count(value["images"])
        and all(_is_list_of(is_number)(x) and x and len(x) == min(value["images"], KEPT) and x == sorted(x) for x in values)
    )  # fmt: skip


def _is_optimizer(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    groups, moments = value.get("param_groups", []), value.get("state", {})
    return (
        isinstance(groups, list) and all(isinstance(x, dict) and _is_list_of(_is_count)(x.get("params")) for x in groups)
        and isinstance(moments, dict) and all(isinstance(x, dict) for x in moments.values())
    )  # fmt: skip


def _is_scaler(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    factors = ("scale", "growth_factor", "backoff_factor")
    counts = ("growth_interval", "_growth_tracker")
    return not value or (
        all(is_number(value.get(x), 1e-30, 1e30) for x in factors) and all(_is_count(value.get(x)) for x in counts)
    )


def _is_random_state(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("cuda"), list):
        return False
    return all(isinstance(x, Tensor) and x.ndim == 1 and x.dtype == torch.uint8 for x in (value.get("cpu"), *value["cuda"]))


# Entries that may be missing or None (INTR's and DETR's files lack most of them), but not be something else: what is needed, in
# words, and whether a value is that. `model` and `args` are checked against each other where the model is built.
ENTRIES: dict[str, tuple[str, Check]] = {
    **dict.fromkeys(("epoch", "step", "version"), ("a number from 0", _is_count)),
    "classes": (
        "a list of names, all different",
        lambda x: _is_list_of(lambda y: isinstance(y, str))(x) and len(set(x)) == len(x),
    ),
    "normalisation": ("a mean and a std (from 1e-6) of three numbers", _is_normalisation),
    "best": ("a table with acc1 and epoch", _is_best),
    "ema": ("a state dict of tensors", is_state_dict),
    "optimizer": ("a state dict of an optimizer", _is_optimizer),
    "scaler": ("a state dict of a gradient scaler", _is_scaler),
    "in_epoch": ("the state of an epoch", _is_epoch),
    "thresholds": ("the table of thresholds", _is_thresholds),
    "elapsed": ("a number of seconds", lambda x: is_number(x, 0, COUNT_LIMIT)),
    "rng": ("a list of states of random numbers, bytes each", _is_list_of(_is_random_state)),
}
