"""The parameters of a model, and the error that names one. Imports nothing, so that a command line can read it quickly."""

from __future__ import annotations

from typing import Any

# The parameters that decide which tensors a model has and what its logits mean, with the values of a checkpoint that does not
# mention them.
ARCHITECTURE: dict[str, Any] = {
    "backbone": "resnet50", "dilation": False, "feature_stride": None, "fuse": False, "window": None, "backbone_norm": "frozen",
    "position_embedding": "sine", "enc_layers": 6, "dec_layers": 6, "dim_feedforward": 2048, "hidden_dim": 256, "nheads": 8,
    "pre_norm": False, "decoder": "detr", "num_queries": None, "loss": "ce",
}  # fmt: skip
TRAINING = {"dropout": 0.1, "lr_backbone": 1e-5}  # parameters that they do not depend on, likewise
LOSSES = {"ce": "softmax cross-entropy", "bce": "binary cross-entropy of each class, for absolute maps"}  # values of `loss`


class ParameterError(ValueError):
    """A value that no model can have; `parameter` is its name, as in `models.build.build_model` and among the flags."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(parameter, message)  # both: exceptions cross process borders by their arguments
        self.parameter = parameter

    def __str__(self) -> str:
        return self.args[1]
