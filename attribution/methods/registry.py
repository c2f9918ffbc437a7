"""Every method of making a map by its name: what it applies to, what it needs, what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

from torch import Tensor

from attribution.methods import controls, posthoc
from attribution.methods.attention import additive, attention
from attribution.methods.contrast import STEPS as CONTRAST_STEPS
from attribution.methods.contrast import WAY_STEPS, contrast
from attribution.methods.contribution import contribution
from attribution.methods.pixel_gradients import STEPS as PIXEL_STEPS
from attribution.methods.pixel_gradients import additive_pixels
from attribution.methods.relevance import relevance
from attribution.methods.rollout import rollout
from models import ICN

SIZE = (224, 224)
STEPS, MASKS = 32, 1000


class Passes(NamedTuple):
    """Passes through the network that one map of one picture costs.

    A backward pass counts as one, though those of the model's own maps end at the attention and Grad-CAM's at the feature
    map, before the backbone: time says more.
    """

    forward: int
    backward: int = 0

    def __str__(self) -> str:
        return f"{self.forward} forward" + f" + {self.backward} backward" * (self.backward > 0)


def _any(model: ICN) -> bool:
    return True


@dataclass(frozen=True)
class Method:
    """A way to make maps.

    Attributes:
        name: as in tables and flags.
        family: `own`: made of what the model computes on its way to the logit; `posthoc`: of inputs, outputs and gradients
            of any classifier; `control`: of no class, of the picture alone, or of the answer.
        call: `(model, images [B, 3, H, W], classes [B], *, padding_mask, **needs) -> [B, h, w]` or `[B, H, W]`.
        applies: whether this model can have such a map.
        needs: further arguments of `call`, one value per image: `siblings` class indices `[B]`, `masks` bool `[B, H, W]`.
        cost: of a picture of size `(H, W)`.
        signed: whether values below zero speak against the class.
    """

    name: str
    family: Literal["own", "posthoc", "control"]
    call: Callable[..., Tensor]
    applies: Callable[[ICN], bool] = _any
    needs: tuple[str, ...] = ()
    cost: Callable[[tuple[int, int]], Passes] = field(default=lambda size: Passes(0))
    signed: bool = False

    def passes(self, model: ICN, size: tuple[int, int] = SIZE) -> Passes:
        """Passes per map of a picture of `size` `(H, W)`; none of these methods costs one model more than another."""
        return self.cost(size)


def methods_of(model: ICN, names: list[str] | None = None) -> list[Method]:
    """The methods that a model can have, or those that were asked for.

    Raises:
        ValueError: a name that nobody has, or a method that does not apply to the model.
    """
    if names is None:
        return [method for method in METHODS.values() if method.applies(model)]
    for name in names:
        if name not in METHODS:
            raise ValueError(f"--methods {name}: there is no such map; choose from {', '.join(METHODS)}")
        if not METHODS[name].applies(model):
            possible = ", ".join(method.name for method in methods_of(model))
            raise ValueError(f"--methods {name} is no map of --decoder {model.decoder_kind}: choose from {possible}")
    return [METHODS[name] for name in names]


def _detr(model: ICN) -> bool:
    return model.decoder_kind == "detr"


def _adds(model: ICN) -> bool:
    return model.decoder_kind in ("additive", "none")


def _looks(model: ICN) -> bool:
    return model.decoder_kind in ("detr", "additive")


def _constant(forward: int, backward: int = 0) -> Callable[[tuple[int, int]], Passes]:
    return lambda size: Passes(forward, backward)


def _occlusion(size: tuple[int, int]) -> Passes:
    """One pass for each occluder, one for the picture as it is."""
    sides, steps = posthoc.occluders(size)
    rows, columns = (-((window - side) // step) + 1 for side, window, step in zip(size, sides, steps, strict=True))
    return Passes(rows * columns + 1)


def _own(name: str, call: Callable[..., Tensor], applies: Callable[[ICN], bool], backward: int = 0, **more: Any) -> Method:
    return Method(name, "own", call, applies, cost=_constant(1, backward), **more)


_ALL = [
    _own("attention", attention, _looks),
    _own("rollout", rollout, _looks),
    _own("relevance", relevance, _looks, 1),
    _own("contribution", contribution, _detr, 1, signed=True),
    _own("contribution_own_query", partial(contribution, own_query=True), _detr, 1, signed=True),
    _own("additive", additive, _adds, signed=True),
    Method(
        "additive_pixels",
        "own",
        additive_pixels,
        _adds,
        needs=("siblings",),
        cost=_constant(2 * PIXEL_STEPS, 4 * PIXEL_STEPS),
        signed=True,
    ),
    Method("gradcam", "posthoc", posthoc.gradcam, cost=_constant(1, 1)),
    Method("finercam", "posthoc", posthoc.finercam, needs=("siblings",), cost=_constant(1, 1)),
    Method("contrast", "posthoc", contrast, needs=("siblings",), cost=_constant(*2 * (2 * (CONTRAST_STEPS + WAY_STEPS),))),
    *(
        Method(
            f"integrated_gradients_{baseline}",
            "posthoc",
            partial(posthoc.integrated_gradients, steps=STEPS, baseline=baseline),
            cost=_constant(STEPS, STEPS),
            signed=True,
        )
        for baseline in ("blur", "mean")
    ),
    Method("occlusion", "posthoc", posthoc.occlusion, cost=_occlusion, signed=True),
    Method("rise", "posthoc", partial(posthoc.rise, n=MASKS), cost=_constant(MASKS)),
    Method("rollout_every_class", "control", partial(rollout, every_class=True), _looks, cost=_constant(1)),
    Method("random", "control", controls.random),
    Method("centre", "control", controls.centre),
    Method("edges", "control", controls.edges),
    Method("oracle", "control", controls.oracle, needs=("masks",)),
]
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
