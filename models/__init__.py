"""The network: backbone, transformer, class queries and the training loss. Tensors in, tensors out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.architecture import ARCHITECTURE as ARCHITECTURE
    from models.build import build_model as build_model
    from models.build import load_checkpoint as load_checkpoint
    from models.build import load_finetune as load_finetune
    from models.criterion import Criterion as Criterion
    from models.decoders import DECODERS as DECODERS
    from models.errors import ParameterError as ParameterError
    from models.icn import ICN as ICN
    from models.icn import ICNOutput as ICNOutput
    from models.inference import for_inference as for_inference
    from models.loading import CheckpointMeta as CheckpointMeta

_MODULES = {
    "ARCHITECTURE": "architecture",
    "DECODERS": "decoders",
    "ICN": "icn",
    "CheckpointMeta": "loading",
    "Criterion": "criterion",
    "ICNOutput": "icn",
    "ParameterError": "errors",
    "build_model": "build",
    "for_inference": "inference",
    "load_checkpoint": "build",
    "load_finetune": "build",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): the flags of a model cost no import of torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
