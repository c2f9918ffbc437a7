"""Entry points of torch.hub: `torch.hub.load(<folder of the repository>, "icn", source="local", checkpoint="checkpoint.pth")`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

dependencies = ["torch", "torchvision", "timm", "numpy", "PIL", "cv2", "matplotlib"]
MODULES = {"attribution", "datasets", "flags", "models", "predictor", "util"}


def icn(checkpoint: str, device: str = "cpu") -> Any:
    """Load a checkpoint (a path or a URL); return a `predictor.Predictor`.

    Raises:
        ImportError: modules of the same names, such as Hugging Face's `datasets`, are loaded already.
    """
    for name in MODULES & sys.modules.keys():
        module = sys.modules[name]
        place = next(iter(getattr(module, "__path__", [])), None) or getattr(module, "__file__", None)
        own = Path(__file__).resolve().with_name(name)
        if place is None or Path(place).resolve() not in (own, own.with_suffix(".py")):
            problem = f"another module {name!r} is loaded ({place}), and ICN has one of that name"
            raise ImportError(f"{problem}: load ICN before it, or in a process of its own")
    from predictor import Predictor

    return Predictor.from_checkpoint(checkpoint, device)
