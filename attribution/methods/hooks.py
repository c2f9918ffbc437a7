"""Hooks on attention: record it in one forward pass, with gradients that reach it, or replace it.

The model computes attention in a fused kernel that holds neither the weights nor the outputs of the heads. Hooks make each
`MultiheadAttention` take its explicit path instead, which gives the same logits to rounding, and are removed after the pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from models import ICN
from models.attention import MultiheadAttention, split_heads

MAX_WEIGHTS = 2**26  # attention weights that a method may hold at once (256 MiB in float32)
Inputs = dict[str, Any]  # arguments of `MultiheadAttention.forward`
Replacement = Callable[[Tensor, "Tensor | None"], Tensor]  # weights [B, heads, C, S] and valid keys [B, 1, 1, S] or None


class AttentionRecord(NamedTuple):
    """One attention of a forward pass; where the model computes it once for all images, it is repeated for each.

    weights: A, `[B, heads, N, S]`.
    tracked: the tensor of the graph that `weights` is a view of: gradients reach it alone.
    values: V, `[B, heads, S, d]`, without gradient; None for a decoder without layers.
    head_outputs: z = A V, the heads side by side, `[B, N, heads * d]`; None likewise.
    """

    weights: Tensor
    tracked: Tensor
    values: Tensor | None = None
    head_outputs: Tensor | None = None


class ForwardRecord(NamedTuple):
    """The logits `[B, C]`, the grid `(h, w)` of the memory and the attention of one forward pass.

    encoder: self-attention of the image, N = S = h*w, a record per layer.
    queries: self-attention of the class queries, N = S = C, per layer; empty for a decoder without layers.
    cross: cross-attention, N = C, S = h*w, per layer.
    """

    logits: Tensor
    grid: tuple[int, int]
    encoder: list[AttentionRecord]
    queries: list[AttentionRecord]
    cross: list[AttentionRecord]


def record(
    model: ICN,
    images: Tensor,
    padding_mask: Tensor | None = None,
    *,
    encoder: bool = True,
    queries: bool = True,
    gradients: bool = True,
) -> ForwardRecord:
    """Run a model in evaluation mode, whose decoder has attention, once and keep its attention.

    Args:
        encoder, queries: keep these self-attentions as well.
        gradients: keep the graph from the attention to the logits; no gradient reaches the parameters or the backbone.
    """
    assert not model.training, "dropout thins the maps of a model that is not in evaluation mode"
    decoder: Any = model.transformer.decoder
    layers = decoder.layers if model.decoder_spec.is_layered else ()
    encoder_layers: Any = model.transformer.encoder.layers if encoder else ()
    modules: dict[str, list[MultiheadAttention]] = {"encoder": [layer.self_attn for layer in encoder_layers]}
    modules |= {"queries": [layer.self_attn for layer in layers if queries], "cross": [layer.multihead_attn for layer in layers]}
    records: dict[nn.Module, AttentionRecord] = {}
    with frozen(model), ExitStack() as hooks:
        for module in chain(*modules.values()):
            for handle in _record_attention(module, records, len(images), gradients):
                hooks.callback(handle.remove)
        if not layers and gradients:
            hooks.callback(decoder.register_forward_pre_hook(_start_graph).remove)
        output = model(images, padding_mask, attention=None if layers else -1)
    grid = (output.features.shape[-2], output.features.shape[-1])
    stacks = {name: [records[module] for module in stack] for name, stack in modules.items()}
    if not layers:
        stacks["cross"] = [AttentionRecord(output.attention[0].flatten(-2), output.attention)]
    return ForwardRecord(output.logits, grid, **stacks)


def gradients_of(recorded: ForwardRecord, classes: Tensor, tensors: Iterable[Tensor]) -> list[Tensor]:
    """Compute the gradients of each image's logit of its class with respect to recorded tensors.

    The logits of a batch are summed: no image's logit depends on another's tensors, so that each keeps its own gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        score = recorded.logits.gather(1, classes.clone()[:, None]).sum()
        return list(torch.autograd.grad(score, list(tensors)))


def class_attention(
    model: ICN, images: Tensor, padding_mask: Tensor | None, choose: Callable[[Tensor], Tensor], layer: int = -1
) -> tuple[Tensor, Tensor]:
    """Return logits `[B, C]`, and the cross-attention of a layer for the classes `[B, Q]` that `choose` takes by the logits.

    It is `[B, Q, heads, h, w]`. In a decoder of layers, weights are computed for these classes alone: those of all classes are
    never held. A ValueError is raised where the model has no such layer.
    """
    (index,) = model.attention_layers(layer)
    if not model.decoder_spec.is_layered:
        output = model(images, padding_mask, attention=layer)
        return output.logits, class_maps(output.attention[0], choose(output.logits))
    decoder: Any = model.transformer.decoder
    module, calls = decoder.layers[index].multihead_attn, []
    signature = inspect.signature(module.forward)

    def save(_: nn.Module, args: tuple[Any, ...], kwargs: Inputs) -> None:  # one call for each chunk of the classes
        calls.append(signature.bind(*args, **kwargs).arguments)

    handle = module.register_forward_pre_hook(save, with_kwargs=True)
    try:
        output = model(images, padding_mask)
    finally:
        handle.remove()
    queries = torch.cat([call["query"] for call in calls], 1)  # [B, C, D]
    chosen = queries.gather(1, choose(output.logits)[:, :, None].expand(-1, -1, queries.shape[2]))  # [B, Q, D]
    weights = module(**{**calls[0], "query": chosen, "need_weights": True, "weights_shape": None})[1]  # [B, heads, Q, h*w]
    return output.logits, weights.transpose(1, 2).unflatten(-1, output.features.shape[-2:])


def class_maps(attention: Tensor, classes: Tensor) -> Tensor:
    """Select the maps of classes `[B, Q]` in the cross-attention of a layer, `[B, heads, C, h, w]`: `[B, Q, heads, h, w]`."""
    index = classes[:, :, None, None, None].expand(-1, -1, attention.shape[1], *attention.shape[-2:])
    return attention.transpose(1, 2).gather(1, index)


def logits_with_attention(
    model: ICN, images: Tensor, padding_mask: Tensor | None = None, *, replacement: Replacement, layer: int | None = None
) -> Tensor:
    """Return logits `[B, C]` of a model with attention, cross-attention weights replaced by `replacement(weights, valid)`.

    It is called with the weights `[B, heads, C, S]` of each layer, or of the decoder `layer` alone, and the valid keys
    `[B, 1, 1, S]`, or None.
    """
    decoder: Any = model.transformer.decoder
    with ExitStack() as undo:
        if model.decoder_spec.is_layered:
            for each in decoder.layers if layer is None else [decoder.layers[layer]]:
                for handle in _replace_attention(each.multihead_attn, replacement):
                    undo.callback(handle.remove)
            return model(images, padding_mask).logits
        computed = decoder.attention_weights
        decoder.attention_weights = lambda query, key, valid: replacement(computed(query, key, valid), valid)
        undo.callback(lambda: delattr(decoder, "attention_weights"))
        return model(images, padding_mask, attention=-1).logits  # with attention: the path that computes the weights


def uniform_attention(weights: Tensor, valid: Tensor | None) -> Tensor:
    """Return weights of the same shape that are equal over the valid keys."""
    even = torch.ones_like(weights) if valid is None else valid.expand_as(weights).to(weights)
    return even / even.sum(-1, keepdim=True)


@contextmanager
def fixed_features(model: ICN, images: Tensor) -> Iterator[None]:
    """Compute the backbone's features of images once; within the context the model takes them whatever its input is."""
    backbone: Any = model.backbone[0]
    features = backbone(images)
    backbone.forward = lambda images: features
    try:
        yield
    finally:
        del backbone.forward


def chunked(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a method take as many images at once as `MAX_WEIGHTS` allows, with 16 x 16 pixels a cell."""

    @wraps(method)
    def in_chunks(model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None, **options: Any) -> Tensor:
        cells, count = images.shape[2] * images.shape[3] // 16**2, model.num_classes
        heads = max(getattr(module, "num_heads", 1) for module in model.transformer.modules())
        weights = len(model.transformer.encoder.layers) * cells**2 + model.num_decoder_layers * count * (count + cells)
        at_once, maps = max(1, MAX_WEIGHTS // max(1, heads * weights)), []
        for first in range(0, len(images), at_once):
            part = slice(first, first + at_once)
            mask = None if padding_mask is None else padding_mask[part]
            maps.append(method(model, images[part], classes[part], padding_mask=mask, **options))
        return torch.cat(maps)

    return in_chunks


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Enable gradients, but for no parameter: what lies before the first tensor that requires one keeps nothing."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def start_graph(x: Tensor) -> Tensor:
    """Return `x` as a leaf that requires gradients, unless it has them already."""
    return x if x.requires_grad else x.detach().requires_grad_()


def _start_graph(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(start_graph(x) if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)


def _hook_attention(
    module: MultiheadAttention, prepare: Callable[[Inputs], Inputs], finish: Callable[[Inputs, Tensor, Tensor], Tensor]
) -> list[RemovableHandle]:
    """Make an attention compute its weights, on inputs from `prepare`; `finish` has inputs, output and weights, and may replace
    the output."""
    signature = inspect.signature(module.forward)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: Inputs) -> tuple[tuple[Any, ...], Inputs]:
        inputs = prepare(dict(signature.bind(*args, **kwargs).arguments))
        return (), {**inputs, "need_weights": True, "weights_shape": None}

    def after(_: nn.Module, args: tuple[Any, ...], inputs: Inputs, output: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        return finish(inputs, *output), None

    return [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after, with_kwargs=True)]


def _values(module: MultiheadAttention, inputs: Inputs) -> Tensor:  # [B, heads, S, d]
    d = module.embed_dim
    values = F.linear(inputs["value"], module.in_proj_weight[2 * d :], module.in_proj_bias[2 * d :])
    return split_heads(values, module.num_heads)


def _record_attention(
    module: MultiheadAttention, records: dict[nn.Module, AttentionRecord], batch: int, gradients: bool
) -> list[RemovableHandle]:
    head_outputs: list[Tensor] = []

    def prepare(inputs: Inputs) -> Inputs:
        expanded: dict[int, Tensor] = {}  # by identity: equal inputs are projected as one
        names = ("query", "key", "value")
        for name in names:
            if id(inputs[name]) not in expanded:
                own = inputs[name].expand(batch, -1, -1)  # a shared attention would have the gradients of all images in one
                expanded[id(inputs[name])] = start_graph(own) if gradients and name == "query" else own
        return {**inputs, **{name: expanded[id(inputs[name])] for name in names}}

    def save_head_outputs(_: nn.Module, args: tuple[Tensor]) -> None:
        head_outputs.append(args[0])

    def finish(inputs: Inputs, output: Tensor, weights: Tensor) -> Tensor:
        with torch.no_grad():
            records[module] = AttentionRecord(weights, weights, _values(module, inputs), head_outputs.pop())
        return output

    return [*_hook_attention(module, prepare, finish), module.out_proj.register_forward_pre_hook(save_head_outputs)]


def _replace_attention(module: MultiheadAttention, replacement: Replacement) -> list[RemovableHandle]:
    def finish(inputs: Inputs, output: Tensor, weights: Tensor) -> Tensor:
        mask = inputs.get("key_padding_mask")
        values = _values(module, inputs)
        weights = replacement(weights, None if mask is None else ~mask[:, None, None, :])
        return module.out_proj((weights.to(values.dtype) @ values).transpose(1, 2).flatten(2))  # [B, C, D]

    return _hook_attention(module, lambda inputs: inputs, finish)
