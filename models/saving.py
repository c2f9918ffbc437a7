"""Writing a model for others: its weights in a safetensors file that rebuilds the model alone, or as INTR reads them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from models.build_backbone import IMAGENET, RESNETS
from models.checkpoint_format import HEADER, VERSION
from models.icn import ICN
from models.loading import OPTIONAL, CheckpointMeta

# Parameters of the architecture that INTR has; of the others it needs what is given here.
_INTR_ONLY: dict[str, Any] = {"decoder": "detr", "feature_stride": None, "fuse": False, "window": None}


def describe_model(meta: CheckpointMeta, flags: Collection[str]) -> dict[str, Any]:
    """Return the entries of a checkpoint besides its weights, without what is of one machine: of its flags those of `flags`."""
    args = {name: meta.args[name] for name in sorted(flags) if name in meta.args}
    entries = {"args": args, "classes": meta.classes, "normalisation": meta.normalisation, "epoch": meta.epoch}
    return {"version": VERSION, **entries}


def save_weights(path: Path, model: ICN, description: dict[str, Any]) -> None:
    """Write a safetensors file with the weights of a model, and its description as JSON in the header (OSError)."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(_plain(model), path, metadata={"format": "pt", HEADER: json.dumps(description)})
    except SafetensorError as error:
        raise OSError(None, str(error), str(path)) from None


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
