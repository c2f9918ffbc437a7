"""The network: backbone, transformer, class queries and the training loss. A name is imported from its module when first used."""
# ruff: noqa: F401 (the imports below are for type checkers)

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.architecture import ARCHITECTURE, ParameterError
    from models.build import build_model, load_checkpoint, load_finetune
    from models.criterion import Criterion
    from models.decoders import DECODERS
    from models.folding import for_inference
    from models.icn import ICN, ICNOutput

_MODULES = {
    "ARCHITECTURE": "architecture", "ParameterError": "architecture", "build_model": "build", "load_checkpoint": "build",
    "load_finetune": "build", "Criterion": "criterion", "DECODERS": "decoders", "for_inference": "folding", "ICN": "icn",
    "ICNOutput": "icn",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name (PEP 562): the flags of a model cost no import of torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
