"""Tensors in, tensors out. `build_model` is the only place in this package that sees the flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.additive import AdditiveDecoder, AverageDecoder
from models.backbone import build_backbone, load_backbone_weights
from models.finetune import finetune_state
from models.icn import DECODERS, ICN, ICNOutput
from models.inference import for_inference
from models.loading import CheckpointMeta, is_detection, load_weights, read_checkpoint, read_state_dict
from models.position_encoding import build_position_encoding
from models.transformer import Transformer

__all__ = [
    "ARCHITECTURE",
    "DECODERS",
    "ICN",
    "CheckpointMeta",
    "ICNOutput",
    "build_model",
    "for_inference",
    "load_checkpoint",
    "load_finetune",
]

# The flags that decide which tensors a model has, with the values of a file that does not mention them.
ARCHITECTURE: dict[str, Any] = {
    "backbone": "resnet50",
    "dilation": False,
    "feature_stride": None,
    "fuse": False,
    "window": None,
    "backbone_norm": "frozen",
    "position_embedding": "sine",
    "enc_layers": 6,
    "dec_layers": 6,
    "dim_feedforward": 2048,
    "hidden_dim": 256,
    "nheads": 8,
    "pre_norm": False,
    "decoder": "detr",
    "num_queries": None,
}
# What a model may have otherwise than the file that it starts from.
FREE = ("num_queries", "window")


def build_model(args: argparse.Namespace) -> ICN:
    """Build an ICN from flags.

    Reads the flags of `ARCHITECTURE`, and `dropout`, `lr_backbone` (0 freezes the backbone) and `backbone_weights`.

    Raises:
        ValueError: a flag has a value that no model can have; names the flag.
    """
    if not args.num_queries or args.num_queries < 1:
        raise ValueError(f"--num_queries {args.num_queries}: at least one class is needed")
    if not 0 <= args.dropout < 1:
        raise ValueError(f"--dropout {args.dropout} must be at least 0 and below 1")
    weights = args.backbone_weights
    backbone = build_backbone(
        args.backbone,
        dilation=args.dilation,
        feature_stride=args.feature_stride,
        fuse=args.fuse,
        norm=args.backbone_norm,
        window=args.window,
        weights=weights if weights == "default" else "none",
    )
    if weights not in ("none", "default"):
        load_backbone_weights(backbone, read_state_dict(weights), f"--backbone_weights {weights}")
    backbone.freeze(all_of_it=args.lr_backbone == 0)
    transformer = Transformer(
        d_model=args.hidden_dim,
        nhead=args.nheads,
        enc_layers=args.enc_layers,
        dec_layers=args.dec_layers,
        dim_feedforward=args.dim_feedforward,
        dropout=args.dropout,
        pre_norm=args.pre_norm,
        decoder=build_decoder(args),
    )
    position_encoding = build_position_encoding(args.position_embedding, args.hidden_dim)
    return ICN(backbone, position_encoding, transformer, args.num_queries, args.hidden_dim)


def build_decoder(args: argparse.Namespace) -> AdditiveDecoder | AverageDecoder | None:
    """The decoder in the place of DETR's, if one is asked for."""
    if args.decoder not in DECODERS:
        raise ValueError(f"--decoder {args.decoder!r} is not known: choose {', '.join(DECODERS)}")
    if args.decoder == "additive":
        return AdditiveDecoder(args.hidden_dim, args.nheads)
    return AverageDecoder() if args.decoder == "none" else None


def load_checkpoint(
    path: str | Path,
    device: torch.device | str = "cpu",
    overrides: Mapping[str, Any] | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    averaged: bool = True,
) -> tuple[ICN, CheckpointMeta]:
    """Rebuild a model from the file alone (ICN's or INTR's).

    Args:
        path: the file.
        device: where the model goes.
        overrides: flags that the user gave; those of the architecture must agree with the file, `dropout` and
            `lr_backbone` replace the file's.
        checkpoint: the file's content, when it has been read already.
        averaged: take the average of the weights where the file has one (`--ema`); False: those that were trained.

    Raises:
        ValueError: the file cannot be read, is of another architecture, or contradicts a given flag (names both values).
    """
    overrides = overrides or {}
    checkpoint = read_checkpoint(path) if checkpoint is None else checkpoint
    if is_detection(checkpoint):
        raise ValueError(f"{path} is a DETR detector, not a classifier: train from it with --finetune")
    args = resolve_architecture(checkpoint, str(path), overrides)
    model = build_model(argparse.Namespace(**args))
    average = checkpoint.get("ema") if averaged else None
    load_weights(model, average or checkpoint["model"], str(path))
    classes = checkpoint.get("classes")
    if classes is not None and len(classes) != model.num_classes:
        raise ValueError(f"{path} names {len(classes)} classes and has {model.num_classes} queries: the file is damaged")
    meta = CheckpointMeta(
        path=str(path),
        args=args,
        classes=classes,
        normalisation=checkpoint.get("normalisation") or model.backbone[0].normalisation,  # type: ignore[arg-type]
        epoch=checkpoint.get("epoch"),
        step=checkpoint.get("step"),
        best=checkpoint.get("best"),
        version=checkpoint.get("version"),
        averaged=bool(average),
    )
    return model.to(device), meta


def load_finetune(path: str | Path, args: argparse.Namespace, given: Mapping[str, Any]) -> tuple[ICN, str]:
    """Build a model for `args.num_queries` classes that starts from the file's weights (DETR's, INTR's or ICN's).

    An ICN or INTR file brings its architecture along, of which `--window` may differ; for DETR's the flags describe it.

    Returns:
        The model, and one line that says what was kept, dropped and made.

    Raises:
        ValueError: the file cannot be read or does not fit.
    """
    checkpoint = read_checkpoint(path)
    if not is_detection(checkpoint) and checkpoint["args"]:
        own = {key: value for key, value in given.items() if key not in FREE}
        for key, value in resolve_architecture(checkpoint, str(path), own).items():
            if key in ARCHITECTURE and key != "num_queries" and not (key in FREE and key in given):
                setattr(args, key, value)
    model = build_model(argparse.Namespace(**{**vars(args), "backbone_weights": "none"}))
    state, report = finetune_state(checkpoint.get("ema") or checkpoint["model"], model, args.noise_frac, args.seed)
    load_weights(model, state, f"--finetune {path}")
    return model, f"{path}: {report}"


def resolve_architecture(checkpoint: Mapping[str, Any], path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The file's flags, completed; a ValueError where a given flag of the architecture says something else."""
    state = checkpoint["model"]
    queries = state.get("query_embed.weight")
    if queries is None or queries.ndim != 2:
        raise ValueError(f"{path} has no class queries (query_embed.weight): it is not a checkpoint of ICN or INTR")
    known = {**ARCHITECTURE, **{key: value for key, value in checkpoint["args"].items() if value is not None}}
    if not checkpoint["args"]:
        known.update({key: value for key, value in given.items() if key in ARCHITECTURE})
    known["num_queries"] = len(queries)
    for key, default in ARCHITECTURE.items():
        if default is not None and type(known[key]) is not type(default):
            raise ValueError(f"{path} has {key} = {known[key]!r} among its flags where a {type(default).__name__} is needed")
    if known["decoder"] != "detr":
        known["dec_layers"] = 0
    for key, value in sizes_of_state_dict(state).items():  # before a model is built to the measure of a damaged flag
        if known[key] != value:
            raise ValueError(f"{path} is of another architecture: its flags say {key} = {known[key]}, its tensors {value}")
    for key in ARCHITECTURE:
        if key in given and given[key] != known[key]:
            raise ValueError(f"--{key} {given[key]} contradicts {path}, which has {known[key]}: leave the flag out")
    free = {"dropout": 0.1, "lr_backbone": 1e-5}  # no part of the weights: what is given wins
    training = {key: given.get(key, known.get(key, default)) for key, default in free.items()}
    for key, value in training.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{path} has {key} = {value!r} among its flags where a number is needed")
    return {**known, **training, "backbone_weights": "none"}


def sizes_of_state_dict(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """What the tensors themselves say of the architecture."""
    layers = [key.split(".")[1:4] for key in state if key.startswith("transformer.")]
    measures = {
        f"{half[:3]}_layers": len({index for stack, word, index in layers if stack == half and word == "layers"})
        for half in ("encoder", "decoder")
    }
    measures["hidden_dim"] = state["query_embed.weight"].shape[1]
    width = state.get("transformer.decoder.layers.0.linear1.bias")
    return measures if width is None else {**measures, "dim_feedforward": len(width)}
