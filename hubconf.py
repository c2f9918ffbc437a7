"""Entry points of torch.hub: `torch.hub.load(<folder of the repository>, "icn", source="local", checkpoint="checkpoint.pth")`."""

from __future__ import annotations

from typing import Any

dependencies = ["torch", "torchvision", "timm", "numpy", "PIL", "cv2", "matplotlib"]


def icn(checkpoint: str, device: str = "cpu") -> Any:
    """Load a checkpoint (a path or a URL); return a `predictor.Predictor`."""
    from predictor import Predictor

    return Predictor.from_checkpoint(checkpoint, device)
