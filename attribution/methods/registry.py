"""The methods of making an attribution map: a registry of what each applies to, needs and costs.

A map is made by `method.call(model, images, classes, *, padding_mask=None, **options)`. To add a method, write such a function
and give it a row in `METHODS`; the evaluation, its tables and its plots follow from the row.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor

from attribution.methods import controls, pixel_gradients, posthoc
from attribution.methods.attention import additive, additive_softmax, attention, contribution, relevance, rollout
from models import ICN

Size = tuple[int, int]  # height and width of an image
GROUND_TRUTH = ("masks", "removal_effects")  # needs that are ground truth: where the object is, and the effect of each part


class Passes(NamedTuple):
    """Passes through the network that one map of one image costs.

    A backward pass counts as one, though those of the model's own maps end at the attention and Grad-CAM's at the feature
    map: the measured time is fairer.
    """

    forward: int
    backward: int = 0

    def __str__(self) -> str:
        return f"{self.forward} forward" + f" + {self.backward} backward" * (self.backward > 0)


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
        name: as in tables and flags.
        family: `own`: made of what the model computes on its way to the logit; `posthoc`: of inputs, outputs and gradients
            of any classifier; `control`: of no class, of the image alone, or of the ground truth.
        call: `(model, images [B, 3, H, W], classes [B], *, padding_mask, **options) -> [B, h, w]` or `[B, H, W]`.
        applies: whether this model can have such a map.
        needs: options of `call` that hold a value per image: `siblings`, class indices `[B]`; `masks` of the object, bool
            `[B, H, W]`; `removal_effects`, float `[B, H, W]`, which has on each part the drop of the logit without the part.
        needs_grid: `call` takes `grid`, the height and width that the map should have.
        seeded: `call` takes a `seed`.
        signed: whether values below zero are evidence against the class.
        cost: of an image of size `(H, W)` under options of `call`.
        requires: package that the method needs, as pip takes it.
        quick: options of `call` under `--quick`.
        class_weights: attention weights between classes that it holds for one image, `C * C` for each head and layer.
        variant_of: a method that differs only in an option; the variant is left out under `--quick` unless it is named.
        label: name in tables and plots, in plain words; empty: that of flags.
    """

    name: str
    family: Literal["own", "posthoc", "control"]
    call: Callable[..., Tensor]
    applies: Callable[[ICN], bool] = lambda model: True
    needs: tuple[str, ...] = ()
    needs_grid: bool = False
    seeded: bool = False
    signed: bool = False
    cost: Callable[..., Passes] = lambda size: Passes(0)
    requires: str = ""
    quick: Mapping[str, int] = field(default_factory=dict)
    class_weights: Callable[[ICN], int] = lambda model: 0
    variant_of: str = ""
    label: str = ""

    @property
    def title(self) -> str:
        """Return the name in tables and plots."""
        return self.label or self.name.replace("_", " ")

    def lacking(self, truth: Collection[str] = ()) -> tuple[str, ...]:
        """Return the ground truth that the map is made of and that is not among `truth`."""
        return tuple(need for need in self.needs if need in GROUND_TRUTH and need not in truth)

    @property
    def knows_ground_truth(self) -> bool:
        """Return whether the map is made of ground truth, not of the model."""
        return bool(self.lacking())

    @property
    def explains_pairs(self) -> bool:
        """Return whether it makes maps of images with two objects, which have masks, but no effects of removed parts."""
        return "removal_effects" not in self.needs

    @property
    def is_contrast(self) -> bool:
        """Return whether the map explains a class against a sibling."""
        return "siblings" in self.needs

    @property
    def is_installed(self) -> bool:
        """Return whether the package that the method requires is there."""
        return not self.requires or importlib.util.find_spec(self.requires.partition(">=")[0]) is not None

    def passes(self, size: Size = (224, 224), options: Mapping[str, Any] | None = None) -> Passes:
        """Return the passes through the network per map of an image of `size` `(H, W)` under options of `call`."""
        return self.cost(size, **(options or {}))


def methods_of(model: ICN, names: Sequence[str] | None = None, truth: Collection[str] = GROUND_TRUTH) -> list[Method]:
    """Return the methods that apply to a model, or those of `names`; `truth`: the ground truth that there is.

    Raises:
        ValueError: an unknown name, or a method that does not apply to the model or lacks its ground truth.
    """
    possible = {row.name: row for row in METHODS.values() if row.applies(model) and row.lacking(truth) == ()}
    for name in possible if names is None else names:
        if name not in METHODS:
            reason = "there is no such map"
        elif not METHODS[name].applies(model):
            reason = f"is no map of the {model.decoder_name} decoder" + " with one class" * (model.num_classes == 1)
        elif lacking := METHODS[name].lacking(truth):
            reason = f"is a map of the ground truth ({', '.join(lacking)}), which is missing"
        else:
            continue
        choice = ", ".join(row.name for row in possible.values() if row.is_installed)
        raise ValueError(f"{name}{':' * (name not in METHODS)} {reason}; choose from {choice}")
    return [METHODS[name] for name in (possible if names is None else names)]


def drawn_methods(flag: str, model: ICN, names: Sequence[str]) -> list[str]:
    """Return the names that `flag` gives, each once; a ValueError for one that is no map of this model."""
    try:
        return list(dict.fromkeys(method.name for method in methods_of(model, names, truth=())))
    except ValueError as error:
        raise ValueError(f"{flag} {error}") from None


def _occlusion_passes(size: Size, window: int | None = None, stride: int | None = None) -> Passes:
    """Count a pass for each occluder, and one for the image as it is."""
    sides, steps = posthoc.occluders(size, window, stride)
    rows, columns = (-((width - side) // step) + 1 for side, width, step in zip(size, sides, steps, strict=True))
    return Passes(rows * columns + 1)


def _pixel_passes(size: Size, steps: int = pixel_gradients.STEPS) -> Passes:
    return Passes(2 * steps, 4 * steps)


def _contrast_passes(size: Size, steps: tuple[int, int] = pixel_gradients.CONTRAST_STEPS) -> Passes:
    """Count a pass each way for each step, of the image and of its mirror."""
    return Passes(2 * sum(steps), 2 * sum(steps))


def _class_weights(model: ICN) -> int:
    decoder: Any = model.transformer.decoder
    layers = decoder.layers if model.decoder_spec.is_layered else ()
    return sum(layer.self_attn.num_heads for layer in layers) * model.num_classes**2


_FORWARD, _BOTH = (lambda size: Passes(1)), (lambda size: Passes(1, 1))
_control = partial(Method, family="control")
_posthoc = partial(Method, family="posthoc")
_integrated_gradients = partial(_posthoc, cost=lambda size, steps=posthoc.STEPS: Passes(steps, steps), signed=True)
_integrated_gradients = partial(_integrated_gradients, requires=posthoc.CAPTUM, quick={"steps": 20})
_additive = partial(Method, family="own", applies=lambda model: model.decoder_spec.is_additive, signed=True)
_of_attention = partial(Method, family="own", applies=lambda model: model.num_decoder_layers > 0, cost=_FORWARD)
_two_classes = partial(Method, family="posthoc", needs=("siblings",), applies=lambda model: model.num_classes > 1)
_contribution = partial(Method, family="own", applies=lambda model: model.decoder_spec.is_layered, cost=_BOTH, signed=True)

_ALL = [
    _of_attention("attention", call=attention),
    _of_attention("rollout", call=rollout, class_weights=_class_weights, label="attention rollout"),
    _of_attention("relevance", call=relevance, cost=_BOTH, class_weights=_class_weights, label="Chefer's relevance"),
    _contribution("contribution", call=contribution),
    _contribution(
        "contribution_own_query",
        call=partial(contribution, own_query=True),
        variant_of="contribution",
        label="contribution, own query alone",
    ),
    _additive("additive", call=additive, cost=_FORWARD, label="evidence of each cell"),
    _additive("additive_softmax", call=additive_softmax, cost=_FORWARD, signed=False, label="evidence, softmax over classes"),
    _additive(
        "additive_pixels",
        call=pixel_gradients.additive_pixels,
        needs=("siblings",),
        cost=_pixel_passes,
        label="evidence of each pixel",
    ),
    _posthoc("gradcam", call=posthoc.gradcam, cost=_BOTH, label="Grad-CAM"),
    _two_classes("finercam", call=posthoc.finercam, cost=_BOTH, label="Finer-CAM"),
    _two_classes("contrast", call=pixel_gradients.contrast, cost=_contrast_passes, label="contrast with the most similar class"),
    _integrated_gradients(
        "integrated_gradients_blur",
        call=partial(posthoc.integrated_gradients, baseline="blur"),
        label="integrated gradients (blur)",
    ),
    _integrated_gradients(
        "integrated_gradients_mean",
        call=partial(posthoc.integrated_gradients, baseline="mean"),
        variant_of="integrated_gradients_blur",
        label="integrated gradients (mean colour)",
    ),
    _posthoc("occlusion", call=posthoc.occlusion, cost=_occlusion_passes, signed=True, requires=posthoc.CAPTUM),
    _posthoc(
        "rise", call=posthoc.rise, cost=lambda size, n=posthoc.MASKS: Passes(n), seeded=True, quick={"n": 128}, label="RISE"
    ),
    _of_attention(
        "rollout_every_class",
        family="control",
        call=partial(rollout, every_class=True),
        class_weights=_class_weights,
        label="rollout of all classes",
    ),
    _control("random", call=controls.random, needs_grid=True, seeded=True),
    _control("centre", call=controls.centre, label="centre of the image"),
    _control("edges", call=controls.edges, label="edges in the image"),
    _control("oracle", call=controls.oracle, needs=("masks",), label="true mask of the object"),
    _control("evidence_oracle", call=controls.evidence_oracle, needs=("removal_effects",), label="true effect of each part"),
]
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
