"""Measuring the engine: what `python -m tools.benchmark` runs. Nothing outside this package and that tool imports it."""
