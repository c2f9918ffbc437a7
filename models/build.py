"""Models from flags and from files. The only file of this package, next to the registry of decoders, that sees the flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.architecture import ARCHITECTURE, TRAINING, ParameterError
from models.build_backbone import build_backbone
from models.decoders import canonical_decoder, find_decoder
from models.icn import ICN
from models.loading import CheckpointMeta, is_detection, load_weights, read_checkpoint
from models.position_encoding import build_position_encoding
from models.transformer import Encoder, Transformer

FREE = ("num_queries", "window")  # parameters in which a fine-tuned model may differ from the file that it starts from
DETECTION_HEADS = ("class_embed.", "bbox_embed.")


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
    backbone = build_backbone(
        args.backbone, dilation=args.dilation, feature_stride=args.feature_stride, fuse=args.fuse, norm=args.backbone_norm,
        window=args.window, weights=args.backbone_weights,
    )  # fmt: skip
    backbone.freeze(entirely=args.lr_backbone == 0)
    # A decoder without layers draws its first weights before the encoder: a seed keeps its meaning.
    decoder = None if spec.is_layered else spec.build(args)
    encoder = Encoder(args.enc_layers, args.hidden_dim, args.nheads, args.dim_feedforward, args.dropout, args.pre_norm)
    transformer = Transformer(encoder, spec.build(args) if decoder is None else decoder)
    position_encoding = build_position_encoding(args.position_embedding, args.hidden_dim)
    return ICN(backbone, position_encoding, transformer, args.num_queries, args.hidden_dim, spec.name)


def load_checkpoint(
    path: str | Path,
    device: torch.device | str = "cpu",
    overrides: Mapping[str, Any] | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    averaged: bool = True,
) -> tuple[ICN, CheckpointMeta]:
    """Rebuild a model from a checkpoint of ICN or INTR alone.

    Args:
        path, device: the file, and where the model goes.
        overrides: explicit flags; those of the architecture must agree with the file, those of `TRAINING` replace the file's.
        checkpoint: the file's content, when it has been read already.
        averaged: take the moving average of the weights where the file has one; False: the trained weights.

    Raises:
        ValueError: the file cannot be read, or is of another architecture.
        ParameterError: a flag contradicts the file; names both values.
    """
    checkpoint = read_checkpoint(path) if checkpoint is None else checkpoint
    if is_detection(checkpoint):
        raise ValueError(f"{path} is a DETR detector, not a classifier: train from it (finetune)")
    args = resolve_architecture(checkpoint, str(path), overrides or {})
    model = build_model(argparse.Namespace(**args))
    average = checkpoint.get("ema") if averaged else None
    load_weights(model, average or checkpoint["model"], str(path))
    classes = checkpoint.get("classes")
    if classes is not None and len(classes) != model.num_classes:
        raise ValueError(f"{path} names {len(classes)} classes and has {model.num_classes} queries: the file is damaged")
    normalisation: Any = checkpoint.get("normalisation") or model.backbone[0].normalisation
    return model.to(device), CheckpointMeta(args, classes, normalisation, checkpoint.get("epoch"), bool(average))


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
    layers = {tuple(key.split(".")[1:4]) for key in state if key.startswith("transformer.")}  # ("encoder", "layers", "0")
    sizes = {f"{stack[:3]}_layers": sum(key[:2] == (stack, "layers") for key in layers) for stack in ("encoder", "decoder")}
    sizes["hidden_dim"] = state["query_embed.weight"].shape[1]
    width = state.get("transformer.decoder.layers.0.linear1.bias")
    return sizes if width is None else {**sizes, "dim_feedforward": len(width)}


def finetune_architecture(checkpoint: Mapping[str, Any], path: str, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a file to fine-tune from decides; ParameterError if an explicit flag contradicts it.

    An ICN or INTR file decides the architecture, but for the `FREE` parameters; a DETR file decides nothing.
    """
    if is_detection(checkpoint) or not checkpoint["args"]:
        return {}
    known = resolve_architecture(checkpoint, path, {key: value for key, value in explicit.items() if key not in FREE})
    free = {"num_queries", *(key for key in FREE if key in explicit)}
    return {key: known[key] for key in ARCHITECTURE if key not in free}


def load_finetune(path: str | Path, args: argparse.Namespace, checkpoint: Mapping[str, Any]) -> tuple[ICN, str]:
    """Build a model for `args.num_queries` classes from weights of a DETR, INTR or ICN file; ParameterError if they do not fit.

    `args` are all flags, completed by `finetune_architecture`; `checkpoint` is the content of the file, `path` names it. Returns
    the model, and one line that says what was kept, dropped and initialised.
    """
    model = build_model(argparse.Namespace(**{**vars(args), "backbone_weights": "none"}))
    state, report = finetune_state(checkpoint.get("ema") or checkpoint["model"], model, args.noise_frac, args.seed)
    load_weights(model, state, str(path), "finetune")
    return model, f"{path}: {report}"


def finetune_state(state: Mapping[str, Tensor], model: ICN, noise_frac: float, seed: int) -> tuple[dict[str, Tensor], str]:
    """Convert a DETR, INTR or ICN state dict with N queries to one for `model` with C classes.

    Up to N classes take the first queries; further ones repeat them in order, with `noise_frac` times a standard normal
    added to the repeats, so that no two classes start from the same query (INTR, section 3.3 and its released code).

    `seed` is of that noise and of a new classifier, and the same on every rank.

    Returns:
        The state dict, and one line that says what was kept, dropped and initialised.

    Raises:
        ParameterError: the file has no queries of the width of the model.
    """
    own = model.state_dict()
    num_classes, width = own["query_embed.weight"].shape
    queries = state.get("query_embed.weight")
    if queries is None or queries.ndim != 2 or queries.shape[1] != width:
        shown = "no query_embed.weight" if queries is None else f"query_embed.weight {tuple(queries.shape)}"
        raise ParameterError("finetune", f"the file has {shown}; queries [N, {width}] are needed to start from")
    generator = torch.Generator().manual_seed(seed)
    result = {key: value for key, value in state.items() if not key.startswith(DETECTION_HEADS)}
    dropped = sorted({key.split(".")[0] for key in state if key.startswith(DETECTION_HEADS)})
    adapted = queries.repeat(-(-num_classes // len(queries)), 1)[:num_classes].clone()  # [C, D]
    extra = num_classes - len(queries)
    if extra > 0:
        adapted[len(queries) :] += noise_frac * torch.randn(extra, width, generator=generator)
    result["query_embed.weight"] = adapted
    initialised = []
    if not model.decoder_spec.is_layered:  # the file's decoder is another: the model keeps its own first weights
        unknown = [key for key in result if key not in own or result[key].shape != own[key].shape]
        fresh = [key for key in own if key not in result or key in unknown]
        result = {key: own[key] if key in fresh else result[key] for key in own}
        dropped += sorted({".".join(key.split(".")[:2]) for key in unknown} - set(own))
        initialised += sorted({".".join(key.split(".")[:2]) for key in fresh if "num_batches" not in key})
    elif "presence_vector.weight" not in result:
        bound = (6 / (width + 1)) ** 0.5  # Glorot's uniform for a [1, D] matrix
        result["presence_vector.weight"] = torch.empty(1, width).uniform_(-bound, bound, generator=generator)
        result["presence_vector.bias"] = torch.zeros(1)
        initialised.append("presence_vector")
    origin = f"{num_classes} of the file's {len(queries)} queries"
    if extra > 0:
        origin = f"all {len(queries)} queries and {extra} repeats with noise {noise_frac:g}"
    kept = sum(key in own and key in state for key in result)
    changes = f"dropped {', '.join(dropped) or 'nothing'}; initialised {', '.join(initialised) or 'nothing'}"
    return result, f"kept {kept} tensors, {origin}; {changes}"
