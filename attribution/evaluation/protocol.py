"""The sizes of a measurement, `--quick` and `--full`; they are stated with every result."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from attribution.methods.registry import METHODS, Method, Passes

COSTLY = 40  # passes a map from which on a method is spared what needs many maps of a picture


@dataclass(frozen=True)
class Budget:
    """Sizes of a measurement. `None` is all.

    Attributes:
        images: pictures, with an equal number of each class as far as it goes.
        steps: of a perturbation curve.
        options: arguments of single methods.
        left_out: methods that are measured only when they are named: variants of others.
        costly_images: pictures on which costly methods are asked for the maps of many classes (planes, pairs).
        sensitivity_images, sensitivity_samples: pictures, and noisy copies of each; not of costly methods.
        randomised_images: pictures whose maps are made again with random weights; not of costly methods.
        locality_images, locality_cells: pictures, and cells of each.
        reliance_images: pictures of the split that are classified with other attention.
    """

    name: str
    images: int | None
    steps: int
    options: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    costly_images: int | None = None
    sensitivity_images: int = 32
    sensitivity_samples: int = 10
    randomised_images: int = 64
    locality_images: int = 64
    locality_cells: int = 8
    reliance_images: int | None = None

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    def passes(self, method: Method, size: tuple[int, int]) -> Passes:
        """Return the passes through the network of one map of a picture `(H, W)`, with these options."""
        return method.passes(size, self.options.get(method.name))

    def costly(self, method: Method, size: tuple[int, int]) -> bool:
        return sum(self.passes(method, size)) >= COSTLY


QUICK = Budget(
    "quick",
    images=64,
    steps=28,
    options={method.name: dict(method.quick) for method in METHODS.values() if method.quick},
    left_out=tuple(method.name for method in METHODS.values() if method.variant_of),
    costly_images=8,
    sensitivity_images=8,
    sensitivity_samples=4,
    randomised_images=16,
    locality_images=16,
    locality_cells=4,
    reliance_images=512,
)
FULL = Budget("full", images=None, steps=224)
