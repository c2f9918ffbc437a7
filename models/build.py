"""Models from flags and from files. The only file of this package, next to the registry of decoders, that sees the flags."""

from __future__ import annotations

import argparse
import contextlib
import reprlib
from collections.abc import Container, Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from models.architecture import ARCHITECTURE, TRAINING, ParameterError
from models.build_backbone import build_backbone
from models.checkpoint_format import is_number, started_from
from models.decoders import canonical_decoder, find_decoder
from models.icn import ICN
from models.loading import QUERIES, CheckpointMeta, is_detection, load_weights, name_tensors, read_checkpoint
from models.position_encoding import build_position_encoding
from models.transformer import Encoder, Transformer

FREE = ("num_queries", "window", "loss")  # parameters in which a fine-tuned model may differ from the file that it starts from
DETECTION_HEADS = ("class_embed.", "bbox_embed.", "bbox_attention.", "mask_head.")  # the last two: of DETR's segmentation
FILE_LIMITS = {"enc_layers": 1000, "dec_layers": 1000, "nheads": 10**4, "window": 10**6, "feature_stride": 10**4}  # in files
CUT_OFF = 5 * 10**8  # parameters that a network is built with beyond those of its file: stages that are not used, classifiers


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
    model = ICN(backbone, position_encoding, transformer, args.num_queries, args.hidden_dim, spec.name, args.loss)
    model.meta = CheckpointMeta({**vars(args), "decoder": spec.name}, None, backbone.normalisation, None, False)
    return model


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
    model = _build_from_file(argparse.Namespace(**args), path, checkpoint, overrides or {})
    average = checkpoint.get("ema") if averaged else None
    load_weights(model, average or checkpoint["model"], str(path))
    classes = checkpoint.get("classes")
    if classes is not None and len(classes) != model.num_classes:
        raise ValueError(f"{path} names {len(classes)} classes and has {model.num_classes} queries: the file is damaged")
    normalisation: Any = checkpoint.get("normalisation") or model.backbone[0].normalisation
    args["started_from"] = started_from(checkpoint["args"])
    thresholds = checkpoint.get("thresholds")
    model.meta = CheckpointMeta(args, classes, normalisation, checkpoint.get("epoch"), bool(average), thresholds)
    return model.to(device), model.meta


def _build_from_file(args: argparse.Namespace, path: str | Path, checkpoint: Mapping[str, Any], explicit: Container[str]) -> ICN:
    """Build a model by the flags of a file; ValueError for one with an impossible value, a ParameterError if it is explicit."""
    try:
        with _bounded_size(args.backbone, sum(value.numel() for value in checkpoint["model"].values())):
            return build_model(args)
    except ParameterError as error:
        if error.parameter in explicit:
            raise
        raise ValueError(f"{path} has flags that no model can have: {error.parameter} {error}") from None


@contextlib.contextmanager
def _bounded_size(backbone: str, size: int) -> Iterator[None]:
    """Raise a ParameterError as soon as modules are built of far more parameters than a file of `size` values can fill."""
    built = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal built
        built += parameter.numel()
        if built > 10 * size + CUT_OFF:  # a network may be built, and parameters registered, more than once
            raise ParameterError("backbone", f"{backbone} has far more parameters than the file ({size / 1e6:.1f} M)")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def resolve_architecture(checkpoint: Mapping[str, Any], path: str, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's parameters, completed by defaults and by what its tensors say.

    Raises:
        ValueError: the file contradicts itself.
        ParameterError: an explicit flag of the architecture contradicts the file.
    """
    state = checkpoint["model"]
    queries = state.get(QUERIES)
    if queries is None or queries.ndim != 2 or not queries.numel():
        raise ValueError(
            f"{path} has no class queries ({QUERIES}): it is not a checkpoint of ICN or INTR ({name_tensors(state)})"
        )
    known = {**ARCHITECTURE, **{key: value for key, value in checkpoint["args"].items() if value is not None}}
    if not checkpoint["args"]:
        known.update({key: value for key, value in explicit.items() if key in ARCHITECTURE})
    known["num_queries"] = len(queries)
    _check_flags_of_file(known, path)
    known["decoder"] = canonical_decoder(known["decoder"])
    try:
        is_layered = find_decoder(known["decoder"]).is_layered
    except ParameterError as error:
        raise ValueError(f"{path} has flags that no model can have: {error.parameter} {error}") from None
    if not is_layered:
        known["dec_layers"] = 0
    for key, value in sizes_of_state_dict(state).items():  # before a model of the size of a damaged flag is built
        if known[key] != value:
            raise ValueError(f"{path} is of another architecture: its flags say {key} = {known[key]}, its tensors {value}")
    _check_layers(state, known, path)
    for key in ARCHITECTURE:
        if key in explicit and (canonical_decoder(explicit[key]) if key == "decoder" else explicit[key]) != known[key]:
            raise ParameterError(key, f"{explicit[key]} contradicts {path}, which has {known[key]}: leave it out")
    training = {key: explicit.get(key, known.get(key, default)) for key, default in TRAINING.items()}
    for key, value in training.items():
        if not is_number(value, 0):
            raise ValueError(f"{path} has {key} = {reprlib.repr(value)} among its flags where a number from 0 is needed")
    return {**known, **training, "backbone_weights": "none"}


def _check_flags_of_file(known: Mapping[str, Any], path: str) -> None:
    """Raise a ValueError for a flag of the architecture of another type or beyond `FILE_LIMITS`."""
    for key, default in ARCHITECTURE.items():
        value, kind = known[key], int if default is None else type(default)
        if not (type(value) is kind or value is default):
            raise ValueError(f"{path} has {key} = {reprlib.repr(value)} among its flags where a {kind.__name__} is needed")
        if key in FILE_LIMITS and value is not None and not 0 <= value <= FILE_LIMITS[key]:
            raise ValueError(f"{path} has {key} = {reprlib.repr(value)} among its flags; 0 to {FILE_LIMITS[key]} are allowed")


def _check_layers(state: Mapping[str, Tensor], known: Mapping[str, Any], path: str) -> None:
    """Raise a ValueError where the large tensors of a layer are not in the file: the model to build is no larger than that."""
    width, hidden = known["hidden_dim"], known["dim_feedforward"]
    shapes = {"self_attn.in_proj_weight": (3 * width, width), "linear1.weight": (hidden, width)}
    for stack in ("encoder", "decoder"):
        for layer, (name, shape) in product(range(known[f"{stack[:3]}_layers"]), shapes.items()):
            key = f"transformer.{stack}.layers.{layer}.{name}"
            given = tuple(state[key].shape) if key in state else "missing"
            if given != shape:
                raise ValueError(f"{path} is of another architecture: its tensor {key} is {given} where {shape} is needed")


def sizes_of_state_dict(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the parameters of the architecture that can be read off the tensors of a state dict."""
    layers = {tuple(key.split(".", 4)[1:4]) for key in state if key.startswith("transformer.")}  # ("encoder", "layers", "0")
    sizes = {f"{stack[:3]}_layers": sum(key[:2] == (stack, "layers") for key in layers) for stack in ("encoder", "decoder")}
    sizes["hidden_dim"] = state[QUERIES].shape[1]
    width = state.get("transformer.decoder.layers.0.linear1.bias")
    return sizes if width is None or width.ndim != 1 else {**sizes, "dim_feedforward": len(width)}


def finetune_architecture(checkpoint: Mapping[str, Any], path: str, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a file to fine-tune from decides; ParameterError if an explicit flag contradicts it.

    An ICN or INTR file decides the architecture, but for the `FREE` parameters; a DETR file those that are among its own flags,
    and of these only the sizes of the layers that the decoder takes.
    """
    if not checkpoint["args"]:
        return {}
    decided = ARCHITECTURE.keys()
    if is_detection(checkpoint):
        decided = decided & checkpoint["args"].keys()
        if not find_decoder(explicit.get("decoder", ARCHITECTURE["decoder"])).is_layered:
            decided -= {"enc_layers", "dec_layers", "dim_feedforward"}
    free = {"num_queries", *(ARCHITECTURE.keys() - decided), *(key for key in FREE if key in explicit)}
    known = resolve_architecture(checkpoint, path, {key: value for key, value in explicit.items() if key not in free})
    return {key: known[key] for key in ARCHITECTURE if key not in free}


def load_finetune(path: str | Path, args: argparse.Namespace, checkpoint: Mapping[str, Any]) -> tuple[ICN, str]:
    """Build a model for `args.num_queries` classes from weights of a DETR, INTR or ICN file; ParameterError if they do not fit.

    `args` are all flags, completed by `finetune_architecture`; `checkpoint` is the content of the file, `path` names it. Returns
    the model, and one line that says what was kept, dropped and initialised.
    """
    args = argparse.Namespace(**{**vars(args), "backbone_weights": "none", "finetune": str(path)})
    model = _build_from_file(args, path, checkpoint, getattr(args, "explicit", ())) if checkpoint["args"] else build_model(args)
    state, report = finetune_state(checkpoint.get("ema") or checkpoint["model"], model, args.noise_frac, args.seed)
    if "bce" in (model.loss, checkpoint["args"].get("loss")):  # its bias belongs to the loss and to the number of classes
        state["presence_vector.bias"] = model.state_dict()["presence_vector.bias"]
        report += f"; bias of the logits for loss {model.loss}"
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
