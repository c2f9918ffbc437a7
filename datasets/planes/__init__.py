"""Factorial planes: rendered aeroplanes whose ground truth of attribution is known to the pixel."""

from datasets.planes.parts import PARTS, SLOTS
from datasets.planes.presets import get_preset
from datasets.planes.renderer import counterfactual, render

__all__ = ["PARTS", "SLOTS", "counterfactual", "get_preset", "render"]
