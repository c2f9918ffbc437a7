"""Models from flags and from files. The only file of this package, next to the registry of decoders, that sees the flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.architecture import ARCHITECTURE, FREE
from models.backbone import Backbone
from models.build_backbone import build_backbone, load_backbone_weights
from models.decoders import canonical_decoder, find_decoder
from models.errors import ParameterError
from models.finetune import finetune_state
from models.icn import ICN
from models.loading import CheckpointMeta, is_detection, load_weights, read_checkpoint, read_state_dict
from models.position_encoding import build_position_encoding
from models.transformer import Encoder, Transformer

# Parameters that the weights do not depend on, with the values of a checkpoint that does not mention them.
TRAINING = {"dropout": 0.1, "lr_backbone": 1e-5}


def build_model(args: argparse.Namespace) -> ICN:
    """Build an ICN from flags.

    Reads the flags of `ARCHITECTURE`, and `dropout`, `lr_backbone` (0 freezes the backbone) and `backbone_weights`.

    Raises:
        ParameterError: a flag has a value that no model can have.
    """
    if not args.num_queries or args.num_queries < 1:
        raise ParameterError("num_queries", f"{args.num_queries}: at least one class is needed")
    if not 0 <= args.dropout < 1:
        raise ParameterError("dropout", f"{args.dropout} must be at least 0 and below 1")
    spec = find_decoder(args.decoder)
    backbone = _build_backbone(args)
    # A decoder without layers draws its first weights before the encoder: a seed keeps its meaning.
    decoder = None if spec.is_layered else spec.build(args)
    encoder = Encoder(args.enc_layers, args.hidden_dim, args.nheads, args.dim_feedforward, args.dropout, args.pre_norm)
    transformer = Transformer(encoder, spec.build(args) if decoder is None else decoder)
    position_encoding = build_position_encoding(args.position_embedding, args.hidden_dim)
    return ICN(backbone, position_encoding, transformer, args.num_queries, args.hidden_dim, spec.name)


def _build_backbone(args: argparse.Namespace) -> Backbone:
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
        load_backbone_weights(backbone, read_state_dict(weights), weights)
    backbone.freeze(all_of_it=args.lr_backbone == 0)
    return backbone


def load_checkpoint(
    path: str | Path,
    device: torch.device | str = "cpu",
    overrides: Mapping[str, Any] | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    averaged: bool = True,
) -> tuple[ICN, CheckpointMeta]:
    """Rebuild a model from a checkpoint of ICN or INTR alone.

    Args:
        path: the file.
        device: where the model goes.
        overrides: explicit flags; those of the architecture must agree with the file, `dropout` and `lr_backbone` replace
            the file's.
        checkpoint: the file's content, when it has been read already.
        averaged: take the moving average of the weights where the file has one; False: the trained weights.

    Raises:
        ValueError: the file cannot be read, or is of another architecture.
        ParameterError: a flag contradicts the file; names both values.
    """
    overrides = overrides or {}
    checkpoint = read_checkpoint(path) if checkpoint is None else checkpoint
    if is_detection(checkpoint):
        raise ValueError(f"{path} is a DETR detector, not a classifier: train from it (finetune)")
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


def load_finetune(path: str | Path, args: argparse.Namespace, checkpoint: Mapping[str, Any]) -> tuple[ICN, str]:
    """Build a model for `args.num_queries` classes that starts from the weights of a DETR, INTR or ICN file.

    Args:
        path: the file.
        args: all flags, completed by `finetune_architecture`.
        checkpoint: the file's content.

    Returns:
        The model, and one line that says what was kept, dropped and initialised.

    Raises:
        ValueError: the file does not fit.
    """
    model = build_model(argparse.Namespace(**{**vars(args), "backbone_weights": "none"}))
    state, report = finetune_state(checkpoint.get("ema") or checkpoint["model"], model, args.noise_frac, args.seed)
    load_weights(model, state, str(path), "finetune")
    return model, f"{path}: {report}"


def finetune_architecture(checkpoint: Mapping[str, Any], path: str, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a file to fine-tune from decides.

    An ICN or INTR file brings its architecture, of which `FREE` parameters may differ; a DETR file brings none.

    Raises:
        ParameterError: an explicit flag contradicts the file.
    """
    if is_detection(checkpoint) or not checkpoint["args"]:
        return {}
    known = resolve_architecture(checkpoint, path, {key: value for key, value in explicit.items() if key not in FREE})
    free = {"num_queries", *(key for key in FREE if key in explicit)}
    return {key: known[key] for key in ARCHITECTURE if key not in free}


def resolve_architecture(checkpoint: Mapping[str, Any], path: str, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's parameters, completed by defaults and by what its tensors say.

    Raises:
        ValueError: the file contradicts itself.
        ParameterError: an explicit flag of the architecture contradicts the file.
    """
    state = checkpoint["model"]
    queries = state.get("query_embed.weight")
    if queries is None or queries.ndim != 2:
        raise ValueError(f"{path} has no class queries (query_embed.weight): it is not a checkpoint of ICN or INTR")
    known = {**ARCHITECTURE, **{key: value for key, value in checkpoint["args"].items() if value is not None}}
    if not checkpoint["args"]:
        known.update({key: value for key, value in explicit.items() if key in ARCHITECTURE})
    known["num_queries"] = len(queries)
    for key, default in ARCHITECTURE.items():
        if default is not None and type(known[key]) is not type(default):
            raise ValueError(f"{path} has {key} = {known[key]!r} among its flags where a {type(default).__name__} is needed")
    known["decoder"] = canonical_decoder(known["decoder"])
    if not find_decoder(known["decoder"]).is_layered:
        known["dec_layers"] = 0
    for key, value in sizes_of_state_dict(state).items():  # before a model of the size of a damaged flag is built
        if known[key] != value:
            raise ValueError(f"{path} is of another architecture: its flags say {key} = {known[key]}, its tensors {value}")
    for key in ARCHITECTURE:
        if key in explicit and (canonical_decoder(explicit[key]) if key == "decoder" else explicit[key]) != known[key]:
            raise ParameterError(key, f"{explicit[key]} contradicts {path}, which has {known[key]}: leave it out")
    training = {key: explicit.get(key, known.get(key, default)) for key, default in TRAINING.items()}
    for key, value in training.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{path} has {key} = {value!r} among its flags where a number is needed")
    return {**known, **training, "backbone_weights": "none"}


def sizes_of_state_dict(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the parameters of the architecture that can be read off the tensors of a state dict."""
    layers = [key.split(".")[1:4] for key in state if key.startswith("transformer.")]
    sizes = {
        f"{half[:3]}_layers": len({index for stack, word, index in layers if stack == half and word == "layers"})
        for half in ("encoder", "decoder")
    }
    sizes["hidden_dim"] = state["query_embed.weight"].shape[1]
    width = state.get("transformer.decoder.layers.0.linear1.bias")
    return sizes if width is None else {**sizes, "dim_feedforward": len(width)}
