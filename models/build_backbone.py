"""Backbones by name: any torchvision ResNet, or any timm model that offers its features; and their pretrained weights."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import timm
import torchvision
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from models.activation import replace_relu6
from models.architecture import ParameterError
from models.backbone import Backbone, Stages
from models.folding import fold_frozen_norms
from models.loading import misfits, not_finite, read_state_dict, strip_prefix, summary
from models.reading import first_line

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
        weights: `none`, `default` for the library's ImageNet weights (from its cache or the network), or a state-dict file.

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
    if weights not in ("none", "default"):
        load_backbone_weights(backbone, read_state_dict(weights), weights)
    return backbone


def _torchvision_resnet(name: str, dilation: bool, feature_stride: int | None, fuse: bool, norm: str, weights: str) -> Backbone:
    last = 16 if dilation else 32
    strides = {s: stage for s, stage in RESNET_STAGES.items() if s < last} | {last: "layer4"}
    stride = last if feature_stride is None else feature_stride
    if stride not in strides:
        raise _no_such_stride(name, stride, strides, dilation)
    norm_layer = FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d
    dilated = [False, False, dilation]
    try:
        net = torchvision.models.get_model(name, weights=None, norm_layer=norm_layer, replace_stride_with_dilation=dilated)
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
    used = [list(stage.modules()) for stage in list(body)[-body.num_outputs :]]
    channels = sum([module.out_channels for module in stage if isinstance(module, nn.Conv2d)][-1] for stage in used)
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
        raise unknown_backbone(name)
    options: dict[str, Any] = {"features_only": True, "feature_cls": "getter"}  # ends where the features are taken
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
    replace_relu6(body)
    backbone = Backbone(body, channels, normalisation, (), strides[last])
    backbone.native_size = config.input_size[-1] if config else backbone.native_size
    return backbone


def load_backbone_weights(backbone: Backbone, state: dict[str, Tensor], source: str) -> None:
    """Load a state dict of a whole torchvision or timm classifier, of which tensors behind the feature map are ignored.

    Raises:
        ParameterError: tensors are missing or of another shape.
    """
    body: Any = backbone.body.model if hasattr(backbone.body, "model") else backbone.body
    own = body.state_dict()
    state = strip_prefix(state, next(iter(own)))
    if problems := misfits(own, state):
        message = f"{source} does not fit the backbone: {len(problems)} of {len(own)} tensors differ ({summary(problems, 3)})"
        raise ParameterError("backbone_weights", message)
    if problems := not_finite(own, state):
        raise ParameterError("backbone_weights", f"{source} has values that are not finite numbers ({summary(problems)})")
    body.load_state_dict({key: state[key] for key in own if key in state}, strict=False)


def _timm_create(name: str, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, **options)
    except ParameterError:
        raise
    except Exception as error:  # whatever a network of timm raises for options that it does not have
        with_dilation = " with dilation" if "output_stride" in options else ""
        raise ParameterError("backbone", f"{name} cannot give its features{with_dilation}: {first_line(error)}") from None


def unknown_backbone(name: str) -> ParameterError:
    """Return the error for a name that neither library has, with similar names."""
    similar = difflib.get_close_matches(name.lower().rpartition("/")[2], {*RESNETS, *timm.list_models()}, 5)
    message = f"{name!r} is neither a torchvision ResNet ({', '.join(RESNETS[:5])}, ...) nor a timm model"
    return ParameterError("backbone", message + (f"; similar: {', '.join(similar)}" if similar else ""))


def _no_such_stride(name: str, stride: int, strides: Iterable[int], dilation: bool) -> ParameterError:
    known = ", ".join(str(s) for s in sorted(set(strides)))
    message = f"{stride} is not possible: {name}{' with dilation' * dilation} has feature maps of stride {known}"
    return ParameterError("feature_stride", message)


def _fetch(get: Callable[[], Any], name: str) -> Any:
    try:
        return get()
    except Exception as error:  # whatever the network and the hub's client may raise
        message = f"the default weights of {name}, of ImageNet, cannot be fetched ({first_line(error)}); "
        message += "give a state-dict file, or none to start from scratch"
        raise ParameterError("backbone_weights", message) from None
