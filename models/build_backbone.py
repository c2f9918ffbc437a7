"""Backbones by name: any torchvision ResNet, or any timm model that offers its features; and their pretrained weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import timm
import torchvision
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from models.backbone import Backbone, Stages
from models.errors import ParameterError, first_line
from models.folding import fold_frozen_norms
from models.loading import misfits

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
RESNETS = torchvision.models.list_models(module=torchvision.models, include="*resn*")
RESNET_STAGES = {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}  # by their strides


def build_backbone(
    name: str,
    *,
    dilation: bool = False,
    feature_stride: int | None = None,
    fuse: bool = False,
    norm: str = "frozen",
    window: int | None = None,
    weights: str = "none",
) -> Backbone:
    """Build a backbone.

    Args:
        name: a torchvision ResNet (`resnet50`), else a timm model; `timm/resnet50` is timm's model of that name.
        dilation: the last stage keeps the resolution of its input (DC5 in DETR).
        feature_stride: pixels per cell of the feature map that is used; None for the last one.
        fuse: add the maps of all deeper stages, enlarged to the grid of that one.
        norm: `frozen`: batch norms are fixed affine maps (DETR); `batch`: they are trained, for training from scratch.
        window: side in pixels of windows that are processed independently; None for the whole image.
        weights: `none`, or `default` for the library's ImageNet weights (from its cache or the network).

    Raises:
        ParameterError: unknown name, a stride or a window that the model cannot have, weights that cannot be fetched.
    """
    if norm not in ("frozen", "batch"):
        raise ParameterError("backbone_norm", f"{norm!r} is not known: choose frozen or batch")
    build = _torchvision_resnet if name in RESNETS else _timm_model
    backbone = build(name, dilation, feature_stride, fuse, norm, weights)
    if window is not None and (window < 1 or window % backbone.stride):
        raise ParameterError("window", f"{window} must be a multiple of the {backbone.stride} pixels of a cell")
    backbone.window = window
    return backbone


def _torchvision_resnet(name: str, dilation: bool, feature_stride: int | None, fuse: bool, norm: str, weights: str) -> Backbone:
    last = 16 if dilation else 32
    strides = {s: stage for s, stage in RESNET_STAGES.items() if s < last} | {last: "layer4"}
    stride = last if feature_stride is None else feature_stride
    if stride not in strides:
        raise _no_such_stride(name, stride, strides, dilation)
    norm_layer = FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d
    try:
        net = torchvision.models.get_model(
            name, weights=None, norm_layer=norm_layer, replace_stride_with_dilation=[False, False, dilation]
        )
    except NotImplementedError as error:
        raise ParameterError("dilation", f"{name} cannot have it: {error}") from None
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for child, module in net.named_children():
        stages[child] = module
        if child == strides[last if fuse else stride]:
            break
    body = Stages(stages)
    fold_frozen_norms(body)
    body.num_outputs = sum(s >= stride for s in strides) if fuse else 1
    channels = sum(_channels_of(stage) for stage in list(body)[-body.num_outputs :])
    frozen_stem = ("conv1.", "bn1.", "layer1.") if norm == "frozen" else ()
    backbone = Backbone(body, channels, IMAGENET, frozen_stem, stride)
    if weights == "default":
        enum = torchvision.models.get_model_weights(name)
        state = _fetch(lambda: enum.DEFAULT.get_state_dict(progress=True, check_hash=True), name)
        load_backbone_weights(backbone, state, f"torchvision's {name}")
    return backbone


def _timm_model(name: str, dilation: bool, feature_stride: int | None, fuse: bool, norm: str, weights: str) -> Backbone:
    name = name.removeprefix("timm/")
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise ParameterError(
            "backbone",
            f"{name!r} is neither a torchvision ResNet ({', '.join(RESNETS[:5])}, ...) nor a timm model"
            + (f"; similar: {near}" if near else ""),
        )
    options: dict[str, Any] = {"features_only": True, "feature_cls": "getter"}
    if dilation:
        options["output_stride"] = 16
    offered = _timm_create(name, options).feature_info
    strides: list[int] = offered.reduction()
    if feature_stride is not None and feature_stride not in strides:
        raise _no_such_stride(name, feature_stride, strides, dilation)
    # The deepest of the maps of the requested stride, and with `fuse` the deepest of each larger stride.
    last = max(i for i, stride in enumerate(strides) if feature_stride in (None, stride))
    deeper = [i for i, s in enumerate(strides) if s > strides[last] and s not in strides[i + 1 :]] if fuse else []
    options["out_indices"] = tuple(offered.out_indices[i] for i in (last, *deeper))
    if weights == "default":
        body = _fetch(lambda: _timm_create(name, {**options, "pretrained": True}), name)
    else:
        body = _timm_create(name, options)
    channels = sum(body.feature_info.channels())
    config = timm.get_pretrained_cfg(name)
    normalisation = {"mean": list(config.mean), "std": list(config.std)} if config else IMAGENET
    if norm == "frozen":
        body = freeze_batch_norm_2d(body)
        fold_frozen_norms(body)
    return Backbone(body, channels, normalisation, (), strides[last])


def load_backbone_weights(backbone: Backbone, state: dict[str, Tensor], source: str) -> None:
    """Load a torchvision or timm state dict of a whole classifier; tensors behind the feature map are ignored.

    Raises:
        ParameterError: tensors are missing or of another shape; names `source`.
    """
    body: Any = backbone.body.model if hasattr(backbone.body, "model") else backbone.body
    own = body.state_dict()
    problems = misfits(own, state)
    if problems:
        shown = "; ".join(problems[:3]) + ("; ..." if len(problems) > 3 else "")
        message = f"{source} does not fit the backbone: {len(problems)} of {len(own)} tensors differ ({shown})"
        raise ParameterError("backbone_weights", message)
    body.load_state_dict({key: state[key] for key in own if key in state}, strict=False)


def _timm_create(name: str, options: dict[str, Any]) -> Any:
    """Create timm's feature extractor, which ends where the features are taken."""
    try:
        return timm.create_model(name, **options)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError, AssertionError) as error:
        with_dilation = " with dilation" if "output_stride" in options else ""
        raise ParameterError("backbone", f"{name} cannot give its features{with_dilation}: {error}") from None


def _channels_of(stage: nn.Module) -> int:
    last_block = list(stage.children())[-1]
    convolutions = [module for module in last_block.modules() if isinstance(module, nn.Conv2d)]
    return convolutions[-1].out_channels


def _no_such_stride(name: str, stride: int, strides: Iterable[int], dilation: bool) -> ParameterError:
    known = ", ".join(str(s) for s in sorted(set(strides)))
    message = f"{stride} is not possible: {name}{' with dilation' * dilation} has feature maps of stride {known}"
    return ParameterError("feature_stride", message)


def _fetch(get: Callable[[], Any], name: str) -> Any:
    try:
        return get()
    except Exception as error:  # whatever the network and the hub's client may raise
        raise ParameterError(
            "backbone_weights",
            f"the default weights of {name}, of ImageNet, cannot be fetched ({first_line(error)}); give a state-dict file, or "
            "none to start from scratch",
        ) from None
