"""ICN as its own command line runs it: `engine.evaluate` on the model of `models.for_inference`, and `trainer.Trainer.step`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from datasets import ImageBatch
from engine import evaluate
from models import ICN, build_model, for_inference
from tools.benchmark.cases import BACKBONE_ONLY, WITH_MAPS
from trainer import build_trainer, compile_model
from util.precision import Precision, select_precision

Variants = dict[str, Callable[[int], None]]  # each runs a number of steps


def build(spec: dict[str, Any], device: torch.device) -> tuple[nn.Module, Variants]:
    """Return a network and what it can run, for a specification of `worker`. ValueError for flags that make no model."""
    changes = {"num_queries": spec["classes"], "backbone_norm": "frozen", "backbone_weights": "none", "compile": spec["compiled"]}
    args = argparse.Namespace(**{**spec["flags"], **changes})
    precision = select_precision(spec["precision"], device)
    torch.backends.cudnn.benchmark = True  # as main.py has it
    model = build_model(args).to(device)
    batch = make_batch(spec, device)
    if spec["mode"] == "training":
        return model, training_variants(model, batch, precision, args)
    network = for_inference(model, precision.dtype)
    return network, evaluation_variants(network, batch, precision, spec)


def evaluation_variants(model: ICN, batch: ImageBatch, precision: Precision, spec: dict[str, Any]) -> Variants:
    """Return the evaluation, the evaluation with the maps of the last layer, and the backbone alone of the very same model."""
    normalisation: Any = model.backbone[0].normalisation
    images = batch.to(precision.device).normalise(**normalisation).to(memory_format=torch.channels_last)  # [B, 3, H, W]
    forward: Callable[..., Any] = model
    backbone: Callable[..., Any] = model.backbone[0]
    if spec["compiled"]:
        forward, backbone = (compile_model(each, True, precision.device.type == "cpu") for each in (model, model.backbone[0]))

    def score(forward: Callable[..., Any], count: int) -> None:
        evaluate(forward, [batch] * count, precision.device, normalisation, spec["classes"], precision=precision)

    @torch.inference_mode()
    def run_backbone(count: int) -> None:
        with precision.autocast():
            for _ in range(count):
                backbone(images)

    with_maps = partial(score, partial(forward, attention=-1))
    return {"evaluation": partial(score, forward), WITH_MAPS: with_maps, BACKBONE_ONLY: run_backbone}


def training_variants(model: ICN, batch: ImageBatch, precision: Precision, args: argparse.Namespace) -> Variants:
    """Return the training step of the trainer that main.py makes from the same flags."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalisation: Any = model.backbone[0].normalisation
    trainer = build_trainer(args, model, precision, normalisation, steps_per_epoch=1000)

    def train(count: int) -> None:
        for _ in range(count):
            outputs = trainer.step([batch.to(precision.device)])
        if not outputs[0].logits.isfinite().all():
            raise ValueError("the logits are no longer finite numbers")

    return {"training": train}


def make_batch(spec: dict[str, Any], device: torch.device) -> ImageBatch:
    """Return a batch as the loader does: uint8 in channels_last memory on the CPU, pinned for a GPU, nothing padded."""
    generator = torch.Generator().manual_seed(0)
    shape = (spec["batch_size"], 3, spec["height"], spec["width"])
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(spec["batch_size"])
    batch = ImageBatch(images, None, labels % spec["classes"], labels)
    return batch.pin_memory() if device.type == "cuda" else batch
