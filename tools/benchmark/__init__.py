"""Benchmark of the engine: `python -m tools.benchmark`. Nothing outside this package imports it."""
