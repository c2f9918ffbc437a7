"""ICN as its own command line runs it: `engine.evaluate` on the model of `models.for_inference`, and `trainer.Trainer.step`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from datasets import ImageBatch
from engine import evaluate
from models import ICN, ICNOutput, build_model
from models.inference import for_inference
from tools.benchmark.cases import BACKBONE_ONLY, WITH_MAPS
from trainer import build_trainer, compile_model
from util.precision import Precision, select_precision


class LastMaps(nn.Module):
    """A model that returns the attention maps of its last decoder layer at every call."""

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, padding_mask: Tensor | None = None) -> ICNOutput:
        return self.model(images, padding_mask, attention=-1)


class Evaluation:
    """The evaluation, the evaluation with maps, and the backbone alone of the very same model."""

    def __init__(self, model: ICN, spec: Any, device: torch.device, precision: Precision) -> None:
        self.network = for_inference(model, precision.dtype)
        self.device, self.precision, self.classes = device, precision, spec["classes"]
        normalisation: Any = model.backbone[0].normalisation
        self.normalisation = normalisation
        self.batch = make_batch(spec, device)
        images = self.batch.to(device).normalise(**normalisation)
        self.images = images.to(memory_format=torch.channels_last)  # [B, 3, H, W]
        network: Callable[..., Any] = self.network
        backbone: Callable[..., Any] = self.network.backbone[0]  # type: ignore[assignment]
        if spec["compiled"]:
            frozen = device.type == "cpu"
            network = compile_model(self.network, True, frozen)
            backbone = compile_model(self.network.backbone[0], True, frozen)
        maps = LastMaps(network)
        self.variants: dict[str, Callable[[int], None]] = {
            "evaluation": lambda count: self.evaluate(network, count),
            WITH_MAPS: lambda count: self.evaluate(maps, count),
            BACKBONE_ONLY: lambda count: self.run_backbone(backbone, count),
        }

    def evaluate(self, model: Callable[..., Any], count: int) -> None:
        evaluate(model, [self.batch] * count, self.device, self.normalisation, self.classes, "evaluation", self.precision)

    @torch.inference_mode()
    def run_backbone(self, backbone: Callable[..., Any], count: int) -> None:
        with self.precision.autocast():
            for _ in range(count):
                backbone(self.images)


class Training:
    """The training step of the trainer that main.py makes from the same flags."""

    def __init__(self, model: ICN, spec: Any, device: torch.device, precision: Precision, args: argparse.Namespace) -> None:
        self.network = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch, self.device = make_batch(spec, device), device
        args = argparse.Namespace(**{**vars(args), "compile": spec["compiled"]})
        normalisation: Any = model.backbone[0].normalisation
        self.trainer = build_trainer(args, model, precision, normalisation, steps_per_epoch=1000)
        self.variants: dict[str, Callable[[int], None]] = {"training": self.train}

    def train(self, count: int) -> None:
        for _ in range(count):
            outputs = self.trainer.step([self.batch.to(self.device)])
        if not outputs[0].logits.isfinite().all():
            raise ValueError("the logits are no longer finite numbers")


def build(spec: Any, device: torch.device) -> Evaluation | Training:
    """Return the implementation for a `tools.benchmark.worker.Spec`. ValueError for flags that make no model."""
    flags = {**spec["flags"], "num_queries": spec["classes"], "backbone_norm": "frozen", "backbone_weights": "none"}
    args = argparse.Namespace(**flags)
    precision = select_precision(spec["precision"], device)
    torch.backends.cudnn.benchmark = True  # as main.py has it
    model = build_model(args)
    if spec["mode"] == "training":
        return Training(model, spec, device, precision, args)
    return Evaluation(model.to(device), spec, device, precision)


def make_batch(spec: Any, device: torch.device) -> ImageBatch:
    """Return a batch as the loader does: uint8 in channels_last memory on the CPU, pinned for a GPU, nothing padded."""
    generator = torch.Generator().manual_seed(0)
    shape = (spec["batch_size"], 3, spec["height"], spec["width"])
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(spec["batch_size"])
    batch = ImageBatch(images, None, labels % spec["classes"], labels)
    return batch.pin_memory() if device.type == "cuda" else batch
