"""Folding batch norms into the convolutions before them, and a faster copy of a model for evaluation.

`(conv(x, w) - mean) / sqrt(var + eps) * gamma + beta` is `conv(x, w * scale) + shift` with `scale = gamma / sqrt(var + eps)`
and `shift = beta - mean * scale`. Frozen norms are folded in training too; for evaluation every norm is.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from typing import Any

import torch
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from models.attention import MultiheadAttention
from models.icn import ICN

FROZEN = (FrozenBatchNorm2d, FrozenBatchNormAct2d)
NORMS = (*FROZEN, nn.BatchNorm2d, BatchNormAct2d)
PROBE = 64  # side in pixels of the image on which the order of modules is traced


class AbsorbedNorm(nn.Module):
    """A frozen norm that is applied by its convolution: keeps its buffers under their names, and its activation."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach())
        self.eps = norm.eps
        self.act = getattr(norm, "act", nn.Identity())  # timm's norms hold one

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


class FoldedConv2d(nn.Conv2d):
    """A convolution with the frozen norm behind it; its weight keeps its name, its value and its gradient."""

    def __init__(self, conv: nn.Conv2d, norm: AbsorbedNorm) -> None:
        super().__init__(**_arguments(conv), bias=False, device="meta")
        self.weight = conv.weight
        self.norm = (norm,)  # in a tuple: the norm is registered in its own place in the network, not in this one

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the one convolution that equals convolution and norm."""
        scale, shift = _affine(self.norm[0])
        return self.weight * scale[:, None, None, None], shift

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *self.folded())


def fold_frozen_norms(body: nn.Module) -> None:
    """Fold the frozen norms of `body` into the plain convolutions before them, in place; names of tensors stay."""
    for conv_name, norm_name in _pairs(body, FROZEN):
        conv = body.get_submodule(conv_name)
        if type(conv) is nn.Conv2d and conv.bias is None:  # others have another forward
            norm = AbsorbedNorm(body.get_submodule(norm_name))
            body.set_submodule(norm_name, norm)
            body.set_submodule(conv_name, FoldedConv2d(conv, norm))


@torch.no_grad()
def bake_norms(body: nn.Module) -> None:
    """Multiply every norm of `body` into the weights of the convolution before it, in place: for evaluation only."""
    for name, module in list(body.named_modules()):
        if isinstance(module, FoldedConv2d):
            conv = nn.Conv2d(**_arguments(module), device="meta")
            conv.weight, conv.bias = (nn.Parameter(tensor) for tensor in module.folded())
            body.set_submodule(name, conv)
        elif isinstance(module, AbsorbedNorm):
            body.set_submodule(name, module.act)
    for conv_name, norm_name in _pairs(body, NORMS):
        module, norm = body.get_submodule(conv_name), body.get_submodule(norm_name)
        assert isinstance(module, nn.Conv2d)
        scale, shift = _affine(norm)
        module.weight = nn.Parameter(module.weight * scale[:, None, None, None])
        module.bias = nn.Parameter(shift if module.bias is None else shift + module.bias * scale)
        body.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))


@torch.no_grad()
def _pairs(body: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[tuple[str, str]]:
    """Return the names of the convolutions whose output goes into a norm of `kinds` only, and of these norms.

    They are traced in one forward pass: neither names nor the order of registration say it.
    """
    names = {module: name for name, module in body.named_modules()}
    if not any(isinstance(module, kinds) for module in names):
        return []
    outputs: dict[int, tuple[str, Tensor]] = {}  # of convolutions; keeps the tensors, so that no id is used twice
    pairs: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()

    def trace(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[names[module]] += 1
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = (names[module], output)
        elif isinstance(module, kinds) and id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], names[module]))

    hooks = [module.register_forward_hook(trace) for module in body.modules() if isinstance(module, (nn.Conv2d, *kinds))]
    training = body.training
    weight = next(body.parameters())
    image = torch.linspace(-1, 1, 3 * PROBE * PROBE, device=weight.device, dtype=weight.dtype).view(1, 3, PROBE, PROBE)
    try:
        body.eval()(image)
    except (RuntimeError, AssertionError):  # a network of a fixed size keeps its norms
        return []
    finally:
        body.train(training)
        for hook in hooks:
            hook.remove()
    # A module that is called twice, or a convolution with two norms, is not one affine map.
    norms_of = Counter(conv for conv, _ in pairs)
    return [(conv, norm) for conv, norm in pairs if norms_of[conv] == calls[conv] == calls[norm] == 1]


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a norm in evaluation, each `[channels]`."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _arguments(conv: nn.Conv2d) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(conv, name) for name in names}


def for_inference(model: ICN, dtype: torch.dtype = torch.float32) -> ICN:
    """Copy a model for evaluation: batch norms folded into the convolutions, channels_last, no parameter to train.

    `dtype` is that of the weights of convolutions and matrix products. With bfloat16 or float16 call the copy under autocast of
    that type, which then has nothing to cast; norms and queries stay in float32.
    """
    copy = deepcopy(model).eval()
    bake_norms(copy.backbone[0].body)  # type: ignore[arg-type]
    copy.requires_grad_(False).to(memory_format=torch.channels_last)
    if dtype != torch.float32:
        for module in copy.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.to(dtype)
            elif isinstance(module, MultiheadAttention):
                module.in_proj_weight.data = module.in_proj_weight.data.to(dtype)
                module.in_proj_bias.data = module.in_proj_bias.data.to(dtype)
    return copy
