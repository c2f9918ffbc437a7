"""The feature extractor: any torchvision ResNet, or any timm model that offers its features."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import FrozenBatchNorm2d

from models.folding import fold_frozen_norms
from models.windows import in_windows

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
RESNETS = torchvision.models.list_models(module=torchvision.models, include="*resn*")
RESNET_STAGES = {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}


class Backbone(nn.Module):
    """A convolutional (or other) network up to one feature map.

    Attributes:
        body: the network; its parameters keep torchvision's or timm's names.
        num_channels: channels of the feature map.
        normalisation: `{"mean": [r, g, b], "std": [r, g, b]}` of the input, in units of the full range 0..1.
        stem: parameter names of the stages that stay frozen under fine-tuning, as in DETR (empty: none).
        stride: pixels per cell of the feature map.
        window: side in pixels of the windows that are seen each on its own; None: the picture is seen whole.
    """

    window: int | None = None

    def __init__(
        self, body: nn.Module, num_channels: int, normalisation: dict[str, list[float]], stem: tuple[str, ...], stride: int
    ) -> None:
        super().__init__()
        self.stride = stride
        self.body = body
        self.num_channels = num_channels
        self.normalisation = normalisation
        self.stem = stem
        self.checkpointing = False

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` to features `[B, num_channels, h, w]`; ValueError for a size that the network cannot take."""
        try:
            features = (
                self._whole(images) if self.window is None else in_windows(self._whole, images, self.window, self._offset())
            )
        except AssertionError as error:  # timm's networks of a fixed input size
            raise ValueError(f"the backbone refuses images of {images.shape[-2]} x {images.shape[-1]} pixels: {error}") from None
        return features

    def _offset(self) -> tuple[int, int]:
        """In training the windows lie elsewhere at each step: a part is seen for certain by the cells on it alone."""
        assert self.window is not None
        steps = self.window // self.stride
        down, right = torch.randint(steps, (2,)).tolist() if self.training else (0, 0)
        return down * self.stride, right * self.stride

    def _whole(self, images: Tensor) -> Tensor:
        features = self._checkpointed(images) if self.checkpointing and self.training else self.body(images)
        if not isinstance(features, (list, tuple)):
            return features
        grid = features[0].shape[-2:]
        deeper = (F.interpolate(one, size=grid, mode="bilinear", align_corners=False) for one in features[1:])
        return torch.cat([features[0], *deeper], 1) if len(features) > 1 else features[0]

    def checkpoint_gradients(self) -> None:
        """Keep only the inputs of blocks for the backward pass, and compute the rest again there.

        Raises:
            ValueError: the network cannot do this, or (timm's) has learned batch norms, which would count each batch twice.
        """
        if isinstance(self.body, nn.Sequential):
            self.checkpointing = True
            return
        learned = any(isinstance(module, nn.BatchNorm2d) and module.track_running_stats for module in self.body.modules())
        if learned:
            raise ValueError("--grad_checkpointing: a timm model with learned batch norms cannot: use --backbone_norm frozen")
        try:
            self.body.model.set_grad_checkpointing()  # type: ignore[operator, union-attr]
        except (AttributeError, AssertionError) as error:
            raise ValueError(f"--grad_checkpointing is not possible with this backbone: {error}") from None

    def _checkpointed(self, x: Tensor) -> Tensor | list[Tensor]:
        # The stem as one piece: its ReLU works in place on what a piece of its own would have to keep.
        stages = list(self.body.children())
        first = next(i for i, stage in enumerate(stages) if isinstance(stage, nn.Sequential))
        x = self._again(nn.Sequential(*stages[:first]), x)
        outputs = []
        for stage in stages[first:]:
            for block in stage.children():
                x = self._again(block, x)
            outputs.append(x)
        return outputs[-getattr(self.body, "num_outputs", 1) :]

    def _again(self, piece: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(piece, x, use_reentrant=False, context_fn=lambda: (nullcontext(), uncounted(self.body)))

    def freeze(self, all_of_it: bool) -> None:
        """Exclude the stem, or everything, from training."""
        for name, parameter in self.body.named_parameters():
            parameter.requires_grad_(not (all_of_it or name.startswith(self.stem)))


class Stages(nn.Sequential):
    """A network as the sequence of its stages, under their own names, that returns what the last `num_outputs` of them give."""

    num_outputs = 1

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for index, stage in enumerate(self):
            x = stage(x)
            if index >= len(self) - self.num_outputs:
                found.append(x)
        return found


@contextmanager
def uncounted(network: nn.Module) -> Iterator[None]:
    """Within it, batch norms do not count what they see: their running statistics stay."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]
    kept: list[tuple[Any, float | None, int]] = [(norm, norm.momentum, int(norm.num_batches_tracked or 0)) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # the running statistics are multiplied by 1, to which 0 is added
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum = momentum
            norm.num_batches_tracked.fill_(count)


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
        name: a torchvision ResNet (`resnet50`), else a timm model name; `timm/resnet50` asks for timm's model of that name.
        dilation: the last stage keeps its input's resolution (DC5 in DETR).
        feature_stride: pixels per cell of the feature map that is used; None for the last one.
        fuse: beside that map those of all deeper stages, enlarged to its grid.
        norm: `frozen`: batch norms are fixed affine maps (DETR); `batch`: they learn, for training from scratch.
        window: side in pixels of the windows that the network sees each on its own; None for the whole picture.
        weights: `none`, or `default` for the library's ImageNet weights (from its cache or the network).

    Raises:
        ValueError: unknown name, a stride or a window that the model cannot have, weights that cannot be had.
    """
    if norm not in ("frozen", "batch"):
        raise ValueError(f"--backbone_norm {norm!r} is not known: choose frozen or batch")
    if name in RESNETS:
        backbone = _torchvision_resnet(name, dilation, feature_stride, fuse, norm, weights)
    else:
        backbone = _timm_model(name.removeprefix("timm/"), dilation, feature_stride, fuse, norm, weights)
    if window is not None and (window < 1 or window % backbone.stride):
        raise ValueError(f"--window {window} must be a multiple of the {backbone.stride} pixels of a cell")
    backbone.window = window
    return backbone


def _torchvision_resnet(name: str, dilation: bool, feature_stride: int | None, fuse: bool, norm: str, weights: str) -> Backbone:
    last = 16 if dilation else 32
    strides = {s: stage for s, stage in RESNET_STAGES.items() if s < last} | {last: "layer4"}
    stride = last if feature_stride is None else feature_stride
    if stride not in strides:
        raise ValueError(_no_such_stride(name, stride, strides, dilation))
    norm_layer = FrozenBatchNorm2d if norm == "frozen" else nn.BatchNorm2d
    try:
        net = torchvision.models.get_model(
            name, weights=None, norm_layer=norm_layer, replace_stride_with_dilation=[False, False, dilation]
        )
    except NotImplementedError as error:
        raise ValueError(f"--dilation is not possible with --backbone {name}: {error}") from None
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
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise ValueError(
            f"--backbone {name!r} is neither a torchvision ResNet ({', '.join(RESNETS[:5])}, ...) nor a timm model"
            + (f"; near: {near}" if near else "")
        )
    options: dict[str, Any] = {"features_only": True, "feature_cls": "getter"}
    if dilation:
        options["output_stride"] = 16
    offered = _timm_create(name, options).feature_info
    strides: list[int] = offered.reduction()
    if feature_stride is not None and feature_stride not in strides:
        raise ValueError(_no_such_stride(name, feature_stride, strides, dilation))
    # The deepest of the maps that have the stride asked for.
    last = max(i for i, stride in enumerate(strides) if feature_stride in (None, stride))
    # The deepest of each deeper stride, if they are fused.
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
    """Load a torchvision or timm state dict of the whole classifier; what lies behind the feature map is left out.

    Raises:
        ValueError: tensors are missing or of another shape; names `source`.
    """
    body: Any = backbone.body.model if hasattr(backbone.body, "model") else backbone.body
    own = body.state_dict()
    optional = {key for key in own if key.endswith("num_batches_tracked")}
    missing = [key for key in own if key not in state and key not in optional]
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    if missing or reshaped:
        wrong = [f"{key} is missing" for key in missing] + [
            f"{key} is {tuple(state[key].shape)} where {tuple(own[key].shape)} is needed" for key in reshaped
        ]
        raise ValueError(
            f"{source} does not fit the backbone: {len(wrong)} of {len(own)} tensors differ ({'; '.join(wrong[:3])}"
            + ("; ...)" if len(wrong) > 3 else ")")
        )
    body.load_state_dict({key: state[key] for key in own if key in state}, strict=False)


def _timm_create(name: str, options: dict[str, Any]) -> Any:
    """timm's feature extractor, which ends where the features are taken; ValueError where timm cannot make one."""
    try:
        return timm.create_model(name, **options)
    except (RuntimeError, TypeError, NotImplementedError, AttributeError, AssertionError) as error:
        with_dilation = " with --dilation" if "output_stride" in options else ""
        raise ValueError(f"--backbone {name} cannot give its features{with_dilation}: {error}") from None


def _channels_of(stage: nn.Module) -> int:
    last_block = list(stage.children())[-1]
    convolutions = [module for module in last_block.modules() if isinstance(module, nn.Conv2d)]
    return convolutions[-1].out_channels


def _no_such_stride(name: str, stride: int, strides: Iterable[int], dilation: bool) -> str:
    known = ", ".join(str(s) for s in sorted(set(strides)))
    return f"--feature_stride {stride}: {name}{' with --dilation' * dilation} has feature maps of stride {known}"


def _fetch(get: Callable[[], Any], name: str) -> Any:
    try:
        return get()
    except Exception as error:  # whatever the network and the hub's client may raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"--backbone_weights default: the ImageNet weights of {name} cannot be had ({reason}); "
            "give a state-dict file, or none to start from scratch"
        ) from None
