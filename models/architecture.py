"""The parameters that decide which tensors a model has. Imports nothing, so that a command line can read it quickly."""

from __future__ import annotations

from typing import Any

# With the values of a checkpoint that does not mention them.
ARCHITECTURE: dict[str, Any] = {
    "backbone": "resnet50",
    "dilation": False,
    "feature_stride": None,
    "fuse": False,
    "window": None,
    "backbone_norm": "frozen",
    "position_embedding": "sine",
    "enc_layers": 6,
    "dec_layers": 6,
    "dim_feedforward": 2048,
    "hidden_dim": 256,
    "nheads": 8,
    "pre_norm": False,
    "decoder": "detr",
    "num_queries": None,
}
# Parameters in which a fine-tuned model may differ from the file that it starts from.
FREE = ("num_queries", "window")
