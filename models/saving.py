"""Writing a model for others: a safetensors file or a folder that rebuilds the model alone, or what INTR reads."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from models.architecture import ARCHITECTURE, TRAINING
from models.build_backbone import IMAGENET, RESNETS
from models.card import Measured, model_card
from models.checkpoint_format import CARD, CONFIG, HEADER, VERSION, WEIGHTS, check_entries, started_from
from models.icn import ICN
from models.loading import OPTIONAL, CheckpointMeta

FILES = (WEIGHTS, CONFIG, CARD)
# The flags that travel with a model: what rebuilds it, how its input is made, and its recipe; none is of one machine.
TRAVELLING = (
    *ARCHITECTURE, *TRAINING, "image_size", "square", "bit_depth", "dataset_name", "batch_size", "precision", "lr", "min_lr",
    "layer_decay", "weight_decay", "no_norm_decay", "epochs", "lr_drop", "lr_scheduler", "warmup_epochs", "clip_max_norm",
    "accumulate", "ema", "seed", "label_smoothing", "adversarial", "mosaic", "locality", "crop_min", "hflip", "color_jitter",
    "randaugment", "random_erasing", "size_schedule", "cache_features",
)  # fmt: skip
# Parameters of the architecture that INTR has; of the others it needs what is given here.
_INTR_ONLY: dict[str, Any] = {"decoder": "detr", "feature_stride": None, "fuse": False, "window": None, "loss": "ce"}


def published(meta: CheckpointMeta) -> CheckpointMeta:
    """Return what travels of a model's metadata: of its flags those of `TRAVELLING`, of a data set's path the name."""
    args = {name: meta.args[name] for name in sorted(TRAVELLING) if name in meta.args}
    if isinstance(name := args.get("dataset_name"), str):
        args["dataset_name"] = public_name(name)
    if source := started_from(meta.args):
        args["started_from"] = source
    classes = list(meta.classes) if isinstance(meta.classes, tuple) else meta.classes
    return CheckpointMeta(args, classes, meta.normalisation, meta.epoch, meta.averaged, meta.thresholds)


def public_name(dataset: str) -> str:
    """Return the name of a data set; of one that is given by a path from elsewhere only the last part."""
    path = Path(dataset)
    return path.name if path.is_absolute() or ".." in path.parts else dataset


def describe(meta: CheckpointMeta) -> dict[str, Any]:
    """Return the entries of a checkpoint besides its weights, without what is of one machine."""
    kept = published(meta)
    entries = {"args": kept.args, "classes": kept.classes, "normalisation": kept.normalisation, "epoch": kept.epoch}
    # Gaussians are no JSON: what is exported is calibrated by another score, or has no thresholds.
    thresholds = {"thresholds": kept.thresholds} if kept.thresholds and "gaussians" not in kept.thresholds else {}
    return {"version": VERSION, **entries, **thresholds}


def save_folder(folder: Path, model: ICN, address: str, measured: Measured | None = None) -> None:
    """Write `FILES` into a folder, which is created: the weights, their header as config.json, and a model card.

    Files of an earlier call are replaced but for the card, which may have been edited.

    Args:
        folder: where they go.
        model: with its `meta`.
        address: what the card's example loads.
        measured: of the model, for the card.

    Raises:
        ValueError: it is not known how the model is built, its `meta` is wrong, or a file of that name is of something else.
        OSError: the folder cannot be written to.
    """
    meta = checked_meta(model)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name, is_own in ((WEIGHTS, _is_own_weights), (CONFIG, _is_own_config)):
        if os.path.lexists(folder / name) and not is_own(folder / name):
            raise ValueError(f"{folder / name} exists, is no file of ICN and is not overwritten: choose another folder")
    with TemporaryDirectory(dir=folder, prefix=".unfinished.") as draft:
        description = describe(meta)
        save_weights(Path(draft, WEIGHTS), model, description)
        Path(draft, CONFIG).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        Path(draft, CARD).write_text(model_card(model, published(meta), address, measured), encoding="utf-8")
        check_written(model, Path(draft, WEIGHTS))
        for name in FILES:
            if name != CARD or not (folder / CARD).exists():
                os.replace(Path(draft, name), folder / name)


def checked_meta(model: ICN) -> CheckpointMeta:
    """Return a model's `meta`; ValueError where it has none (a network put together by hand), or one that does not fit it."""
    if model.meta is None:
        raise ValueError("this ICN has no meta (flags, normalisation, class names): build it by models.build_model, or load it")
    classes = model.meta.classes
    if classes is not None and len(classes) != model.num_classes:
        raise ValueError(f"meta.classes has {len(classes)} names, the model {model.num_classes} classes: give one name for each")
    check_entries(describe(model.meta), "meta")
    return model.meta


def check_written(model: ICN, path: Path) -> CheckpointMeta:
    """Read a file back, and return what it says besides the weights; ValueError where it is another model than the given one.

    Counters of batch norms are not compared: files of INTR have none, and no output depends on them.
    """
    from models.build import load_checkpoint

    try:
        copy, meta = load_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"the model is not what its flags say, so that a file of it could not be read ({error})") from None
    own, read = model.state_dict(), copy.state_dict()
    compared = [name for name in own if not name.endswith(OPTIONAL)]
    if different := [name for name in compared if not torch.equal(own[name].cpu().to(read[name].dtype), read[name])]:
        raise ValueError(f"{path} was read back with other weights ({different[0]}): nothing was written")
    return meta


def _is_own_weights(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return HEADER in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _is_own_config(path: Path) -> bool:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"args", "classes", "normalisation"} <= content.keys()


def save_weights(path: Path, model: ICN, description: dict[str, Any]) -> None:
    """Write a safetensors file with the weights of a model, and its description as JSON in the header (OSError)."""
    from safetensors.torch import save

    content = save(_plain(model), metadata={"format": "pt", HEADER: json.dumps(description)})
    path.write_bytes(content)  # not save_file, whose files only their owner can read


def intr_checkpoint(model: ICN, meta: CheckpointMeta, args: dict[str, Any]) -> dict[str, Any]:
    """Return a model as a checkpoint of INTR: the tensors by its names, and `args`, the flags, in a namespace.

    Raises:
        ValueError: INTR cannot have such a model; names the parameter.
    """
    for name, needed in _INTR_ONLY.items():
        if meta.args[name] != needed:
            raise ValueError(f"INTR has no model with {name} = {meta.args[name]}, only with {needed}: choose another format")
    if meta.args["backbone"] not in RESNETS:
        raise ValueError(f"INTR has the ResNets of torchvision, not {meta.args['backbone']}: choose another format")
    if meta.normalisation != IMAGENET:
        raise ValueError(f"INTR normalises its input by {IMAGENET}, this model by {meta.normalisation}: choose another format")
    weights = {name: tensor for name, tensor in _plain(model).items() if not name.endswith(OPTIONAL)}
    return {"model": weights, "epoch": meta.epoch or 0, "args": argparse.Namespace(**args)}


def _plain(model: ICN) -> dict[str, Tensor]:
    """Return the state dict as tensors on the CPU that share no memory."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
