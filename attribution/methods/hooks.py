"""One forward pass with its attention written down, and gradients that reach what was written.

The model computes attention in a fused kernel that holds neither the weights nor what each head found. Hooks ask each
`MultiheadAttention` for its explicit path instead, which gives the same logits to rounding; the model itself stays as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import ICN
from models.attention import MultiheadAttention

HELD = 2**28  # attention weights that a method may hold at once (1 GiB in float32)


class AttentionRecord(NamedTuple):
    """One attention as it happened. Where the model computes it once for all images, it is repeated for each.

    weights: A, `[B, heads, N, S]`.
    tracked: the tensor of the graph that `weights` is a view of: gradients reach it alone.
    values: V, `[B, heads, S, d]`, without gradient; None where an additive decoder looked.
    found: z = A V, the heads side by side, `[B, N, heads * d]`; None likewise.
    """

    weights: Tensor
    tracked: Tensor
    values: Tensor | None = None
    found: Tensor | None = None


class ForwardRecord(NamedTuple):
    """What one forward pass left.

    logits: `[B, C]`.
    grid: `(h, w)` of the memory.
    encoder: self-attention of the image, N = S = h*w, a `AttentionRecord` per layer.
    queries: self-attention of the class queries, N = S = C, per layer; empty where queries do not talk.
    cross: what the queries looked at, N = C, S = h*w, per layer.
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
    """Run the model once and keep its attention, `[B, heads, C, h*w]` a decoder layer.

    Args:
        model: in evaluation mode; its decoder has attention.
        images, padding_mask: as in `ICN.forward`.
        encoder, queries: keep these self-attentions as well.
        gradients: keep the graph from the attention to the logits; no gradient reaches the parameters or the backbone.
    """
    assert not model.training, "maps are of the model in evaluation mode: dropout thins them"
    additive = not model.decoder_spec.is_layered
    below: Any = model.transformer.encoder.layers if encoder else ()
    layers: Any = () if additive else model.transformer.decoder.layers
    own: list[MultiheadAttention] = [layer.self_attn for layer in below]
    talk: list[MultiheadAttention] = [layer.self_attn for layer in layers] if queries else []
    search: list[MultiheadAttention] = [layer.multihead_attn for layer in layers]
    looks: dict[nn.Module, AttentionRecord] = {}
    with frozen(model), ExitStack() as hooks:
        for module in (*own, *talk, *search):
            for handle in _listen(module, looks, len(images), gradients):
                hooks.callback(handle.remove)
        if additive and gradients:
            hooks.callback(model.transformer.decoder.register_forward_pre_hook(_start_graph).remove)
        output = model(images, padding_mask, attention=-1 if additive else None)
    cross = (
        [AttentionRecord(output.attention[0].flatten(-2), output.attention)] if additive else [looks[module] for module in search]
    )
    grid = (output.features.shape[-2], output.features.shape[-1])
    return ForwardRecord(output.logits, grid, [looks[m] for m in own], [looks[m] for m in talk], cross)


def gradients_of(recorded: ForwardRecord, classes: Tensor, tensors: Iterable[Tensor]) -> list[Tensor]:
    """Gradients of each image's logit of its class with respect to recorded tensors.

    The logits of a batch are summed: no image's logit depends on another's tensors, so that each keeps its own gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        score = recorded.logits.gather(1, classes.clone()[:, None]).sum()
        return list(torch.autograd.grad(score, list(tensors)))


def chunked(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A map method that takes as many images at once as `HELD` allows, reckoned with 16 pixels a cell."""

    @wraps(method)
    def in_pieces(model: ICN, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None, **options: Any) -> Tensor:
        at_once, pieces = _at_once(model, images), []
        for first in range(0, len(images), at_once):
            part = slice(first, first + at_once)
            mask = None if padding_mask is None else padding_mask[part]
            pieces.append(method(model, images[part], classes[part], padding_mask=mask, **options))
        return torch.cat(pieces)

    return in_pieces


def _at_once(model: ICN, images: Tensor) -> int:
    cells, count = images.shape[2] * images.shape[3] // 16**2, model.num_classes
    heads = max(getattr(module, "num_heads", 1) for module in model.transformer.modules())
    weights = len(model.transformer.encoder.layers) * cells**2 + model.num_decoder_layers * count * (count + cells)
    return max(1, HELD // max(1, heads * weights))


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Gradients are on, but no parameter asks for one: what lies before the first tensor that does keeps nothing."""
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
    """`x`, from here on with gradients."""
    return x if x.requires_grad else x.detach().requires_grad_()


def _start_graph(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(start_graph(x) if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)


def _listen(module: MultiheadAttention, looks: dict[nn.Module, AttentionRecord], batch: int, gradients: bool) -> list[Any]:
    """The hooks of one attention: ask for the weights, save_output what the heads found, keep both."""
    signature = inspect.signature(module.forward)
    found: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = signature.bind(*args, **kwargs).arguments
        new: dict[int, Tensor] = {}  # by identity: equal inputs are projected as one
        for name in ("query", "key", "value"):
            x = given[name]
            if id(x) not in new:
                each = x.expand(batch, -1, -1)  # a shared attention would have the gradients of all images in one
                new[id(x)] = start_graph(each) if gradients and name == "query" else each
        replaced = {name: new[id(given[name])] for name in ("query", "key", "value")}
        return (), {**given, **replaced, "need_weights": True}

    def save_output(_: nn.Module, args: tuple[Tensor]) -> None:
        found.append(args[0])

    def after(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        with torch.no_grad():
            d = module.embed_dim
            values = F.linear(kwargs["value"], module.in_proj_weight[2 * d :], module.in_proj_bias[2 * d :])
        looks[module] = AttentionRecord(output[1], output[1], module._split_heads(values), found.pop())
        return output[0], None

    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.out_proj.register_forward_pre_hook(save_output),
        module.register_forward_hook(after, with_kwargs=True),
    ]
