"""The architecture written down plainly, with INTR's interface: what the engine is measured against.

It does what INTR does at the cost at which INTR does it: single precision, contiguous memory, frozen batch norms as an
affine map of their own, `nn.MultiheadAttention` with its weights in every decoder layer, and a second cross-attention for
their average. Nothing outside the benchmark imports it.
"""

from __future__ import annotations

from .classifier import PlainClassifier, build_model

__all__ = ["PlainClassifier", "build_model"]
