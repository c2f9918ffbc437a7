"""AdamW with DETR's parameter groups, optionally without weight decay of norms, and with layer-wise learning-rate decay."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import torch
from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's state of a parameter


def make_optimizer(
    model: nn.Module,
    lr: float,
    lr_backbone: float,
    weight_decay: float,
    *,
    norm_decay: bool = True,
    layer_decay: float = 1.0,
    fused: bool = False,
) -> torch.optim.AdamW:
    """Build AdamW over the trained parameters, those of the backbone in groups of their own.

    The first two groups are INTR's, `rest` and `backbone`, even if they are empty (a frozen backbone), so that INTR's optimizer
    states fit. Each group has a `name` and its largest rate as `base_lr`.

    Args:
        model: an ICN.
        lr: rate of everything but the backbone.
        lr_backbone: rate of the backbone's last stage, that of the feature map, and of learned position encodings.
        weight_decay: of AdamW (decoupled: `w -= rate * weight_decay * w`).
        norm_decay: False: no decay of norms and biases (parameters of one dimension), class queries and position embeddings:
            they are not multiplied with an input, and queries that shrink to 0 become equal.
        layer_decay: the rate of a stage that is d stages before the feature map is `lr_backbone * layer_decay ** d`.
        fused: one kernel for all parameters.

    Raises:
        ValueError: `layer_decay` is out of range, or the stages of the backbone are not known.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"--layer_decay {layer_decay} must be above 0 and at most 1 (1: the whole backbone at one rate)")
    distances = {} if layer_decay == 1 else _stage_distances(model)
    exempt = set() if norm_decay else _without_decay(model)
    groups = {name: _group(name, rate, weight_decay) for name, rate in (("rest", lr), ("backbone", lr_backbone))}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        distance = distances.get(name, 0)
        group, rate = ("backbone", lr_backbone * layer_decay**distance) if name.startswith("backbone.") else ("rest", lr)
        key = group + f" -{distance}" * (distance > 0) + " without decay" * (name in exempt)
        if key not in groups:
            groups[key] = _group(key, rate, 0.0 if name in exempt else weight_decay)
        groups[key]["params"].append(parameter)
    # None lets torch choose; False would force its slowest implementation.
    return torch.optim.AdamW(groups.values(), fused=True if fused else None)


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the moments of a saved state (ICN's or INTR's); rates, weight decay and options stay those of `optimizer`.

    ValueError if the state belongs to other parameters; `optimizer` is unchanged, then.
    """
    try:
        saved = state["param_groups"]
        sizes, own = ([len(group["params"]) for group in groups] for groups in (saved, optimizer.param_groups))
        if sizes != own:
            raise ValueError(f"its groups hold {sizes} parameters, those of this run {own}")
        moments = {}
        for group, other in zip(optimizer.param_groups, saved, strict=True):
            for parameter, index in zip(group["params"], other["params"], strict=True):
                entries = state["state"].get(index)
                moments[index] = {name: _check_moment(name, entries[name], parameter) for name in MOMENTS} if entries else {}
        # With the options of `optimizer`: torch places the step counts where those of the loaded state demand (fused).
        groups = [{**group, "params": other["params"]} for group, other in zip(optimizer.param_groups, saved, strict=True)]
        optimizer.load_state_dict({"state": {key: value for key, value in moments.items() if value}, "param_groups": groups})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the optimizer state of the checkpoint does not fit ({error}): resume with the flags that it was trained with, "
            "or start anew with --finetune"
        ) from None


def _check_moment(name: str, value: Any, parameter: Tensor) -> Any:
    """Return a saved moment in the memory layout of its parameter (a fused kernel follows it), a step count as a number."""
    if name == "step":
        count = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if not isinstance(count, (int, float)) or not 0 <= count < 1e12:
            raise ValueError("step is no number of steps")
        return torch.tensor(float(count))
    if not isinstance(value, Tensor) or value.shape != parameter.shape or value.layout != torch.strided:
        raise ValueError(f"{name} is of a parameter {list(getattr(value, 'shape', []))} where {list(parameter.shape)} is trained")
    if not (value.is_floating_point() and value.isfinite().all()) or (name == "exp_avg_sq" and (value < 0).any()):
        raise ValueError(f"{name} holds values that no moment has")
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def _group(name: str, lr: float, weight_decay: float) -> dict[str, Any]:
    return {"params": [], "lr": lr, "base_lr": lr, "weight_decay": weight_decay, "name": name}


def _without_decay(model: nn.Module) -> set[str]:
    """Return the names of the parameters that `norm_decay=False` exempts, with those that a timm backbone names."""
    names = {name for name, parameter in model.named_parameters() if parameter.dim() <= 1}
    names |= {f"{prefix}.weight" for prefix, module in model.named_modules() if isinstance(module, nn.Embedding)}
    body: Any = model.backbone[0].body  # type: ignore[index, union-attr]
    patterns: set[str] = getattr(getattr(body, "model", None), "no_weight_decay", set)()
    prefix = "backbone.0.body.model."
    return names | {name for name, _ in model.named_parameters() if any(fnmatch(name, prefix + pattern) for pattern in patterns)}


def _stage_distances(model: nn.Module) -> dict[str, int]:
    """Return the number of stages between each parameter of the backbone's network and the feature map."""
    body: Any = model.backbone[0].body  # type: ignore[index, union-attr]
    names = [name for name, _ in body.named_parameters()]
    if not hasattr(body, "model"):  # torchvision's ResNet: conv1 and bn1 are the stem, then layer1, layer2, ...
        stages = {name: int(name[5]) if name.startswith("layer") else 0 for name in names}
        last = max(stages.values())
    else:
        # timm puts parameters without a stage after the last one; older versions have an unused final norm there.
        named = [(name.removeprefix("model."), None) for name in [*names, "head"]]
        try:
            stages = group_with_matcher(iter(named), body.model.group_matcher(coarse=True), reverse=True)
        except (AttributeError, AssertionError, NotImplementedError):
            stages = {"head": 0}
        last = stages.pop("head") - 1
        if last < 1:
            raise ValueError(
                f"--layer_decay: timm does not know the stages of {type(body.model).__name__}: "
                "leave the flag out, or choose another --backbone"
            )
        stages = {f"model.{name}": stage for name, stage in stages.items()}
    return {f"backbone.0.body.{name}": max(0, last - stage) for name, stage in stages.items()}
