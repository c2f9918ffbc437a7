"""Factorial planes: rendered aeroplanes whose evidence is known to the pixel."""

from datasets.planes.renderer import PARTS, SLOTS, Preset, get_preset, render

__all__ = ["PARTS", "SLOTS", "Preset", "get_preset", "render"]
