"""From image files to batches, independent of the model. A name is imported from its module when it is first used."""
# ruff: noqa: F401 (the imports below are for type checkers)

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets.batch import ImageBatch, collate
    from datasets.decode import ImageError, decode_image, image_size, set_decoding
    from datasets.image_folder import ImageFolder, class_names, open_split
    from datasets.samplers import EvalSampler, TrainSampler
    from datasets.scan import eval_shapes, verify_images
    from datasets.size_schedule import training_scales
    from datasets.transforms import eval_transform, train_transform
    from datasets.workers import Loader

_NAMES = {
    "batch": ("ImageBatch", "collate"),
    "decode": ("ImageError", "decode_image", "image_size", "set_decoding"),
    "image_folder": ("ImageFolder", "class_names", "open_split"),
    "samplers": ("EvalSampler", "TrainSampler"),
    "scan": ("eval_shapes", "verify_images"),
    "size_schedule": ("training_scales",),
    "transforms": ("eval_transform", "train_transform"),
    "workers": ("Loader",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    """Import an exported name (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
