"""Files to batches. Knows no model."""

from datasets.batching import EvalSampler, ImageBatch, TrainSampler, collate, worker_init
from datasets.decode import ImageError, check_image, decode_image, image_size
from datasets.image_folder import IMAGE_EXTENSIONS, ImageFolder, Sample, class_names, list_classes, open_split
from datasets.shapes import eval_shapes
from datasets.transforms import eval_transform, train_transform, training_scales
from datasets.verify import verify_images

__all__ = [
    "IMAGE_EXTENSIONS",
    "EvalSampler",
    "ImageBatch",
    "ImageError",
    "ImageFolder",
    "Sample",
    "TrainSampler",
    "check_image",
    "class_names",
    "collate",
    "decode_image",
    "eval_shapes",
    "eval_transform",
    "image_size",
    "list_classes",
    "open_split",
    "train_transform",
    "training_scales",
    "verify_images",
    "worker_init",
]
