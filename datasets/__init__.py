"""From image files to batches; knows no model. A name is imported from its module when it is first used."""
# ruff: noqa: F401 (the imports below are for type checkers)

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets.batch import ImageBatch, collate
    from datasets.decode import ImageError, decode_image, image_size
    from datasets.image_folder import ImageFolder, class_names, open_split
    from datasets.samplers import EvalSampler, TrainSampler
    from datasets.shapes import eval_shapes
    from datasets.transforms import eval_transform, train_transform, training_scales
    from datasets.verify import verify_images
    from datasets.workers import worker_init

_MODULES = {
    "EvalSampler": "samplers",
    "ImageBatch": "batch",
    "ImageError": "decode",
    "ImageFolder": "image_folder",
    "TrainSampler": "samplers",
    "class_names": "image_folder",
    "collate": "batch",
    "decode_image": "decode",
    "eval_shapes": "shapes",
    "eval_transform": "transforms",
    "image_size": "decode",
    "open_split": "image_folder",
    "train_transform": "transforms",
    "training_scales": "transforms",
    "verify_images": "verify",
    "worker_init": "workers",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    """Import an exported name (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
