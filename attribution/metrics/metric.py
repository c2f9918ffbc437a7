"""One row of the registry of metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from models import ICN

ARROWS = {1: " ↑", -1: " ↓", 0: ""}


@dataclass(frozen=True)
class Metric:
    """One row of the registry.

    Attributes:
        name: column of attribution.json.
        family: metrics of a family are measured together; the value of `--metrics`.
        compute: of a `MapBatch`, `[B]`, or a column for each metric that shares the function; empty where it does not apply. A
            metric of models: of a `ModelBatch`, named groups of columns `[n]`.
        label: title in tables and plots.
        meaning: one line for the legend and the documentation.
        better: 1 more, -1 less, 0 neither.
        section: title of the table in attribution.md; empty: in attribution.json alone.
        native: also of maps at the method's own resolution, as `<name>_native`: in attribution.json alone (`json`), or also in
            the table, after its twin (`beside`) or as the last columns (`last`).
        bar: among the headline plots. paired: in the table of paired differences.
        scope: measured of the maps of single objects, of images with two objects, or of the model.
        images: field of the budget that limits the images, of a metric of models.
        labelled: a metric of models that takes images of the split with their true classes.
        applies: whether a metric of models is defined for the model.
    """

    name: str
    family: str
    compute: Callable[[Any], Any]
    label: str
    meaning: str
    better: Literal[1, -1, 0] = 0
    section: str = ""
    native: Literal["", "json", "beside", "last"] = ""
    bar: bool = False
    paired: bool = False
    scope: Literal["maps", "pairs", "model"] = "maps"
    images: str = ""
    labelled: bool = False
    applies: Callable[[ICN], bool] = lambda model: True

    @property
    def title(self) -> str:
        """The label with an arrow in the better direction."""
        return self.label + ARROWS[self.better]
