"""Training and evaluation on the device, through the command line: precisions, resume, memory layout, pinned memory, compiler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_flags
from test_resume import assert_same_run, life

import main
from datasets import EvalSampler, eval_transform, open_split
from datasets.loaders import build_loader
from models import load_checkpoint
from trainer import Trainer, build_trainer
from util.precision import select_precision

RECIPE = "--backbone resnet18 --image_size 64 --feature_stride 16 --batch_size 6 --lr 1e-3 --lr_backbone 1e-3 --clip_max_norm 1"


def run(colours: Path, out: Path, device: torch.device, *more: object) -> dict[str, Any]:
    words = [*RECIPE.split(), "--dataset_path", colours, "--dataset_name", "colours", "--output_dir", out]
    words += ["--device", device, *more]
    return main.main(tiny_flags(*words))


def folder(out: Path) -> Path:
    return out / "colours" / "output_sub"


@pytest.mark.parametrize("shapes", ["--square", "--num_workers=2"])
def test_training_learns_and_is_scored_alike_on_the_cpu(
    colours: Path, tmp_path: Path, device: torch.device, precision: str, shapes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    step = Trainer.step

    def watched(trainer: Trainer, batches: list[Any]) -> Any:
        seen.extend([next(trainer.model.parameters()), trainer.model.backbone[0].body.conv1.weight, batches[0].images])
        hook = trainer.model.backbone[0].register_forward_hook(lambda _, __, features: seen.append(features))
        outputs = step(trainer, batches)
        hook.remove()
        return outputs

    monkeypatch.setattr(Trainer, "step", watched)
    stats = run(colours, tmp_path, device, shapes, "--epochs", 8, "--lr_drop", 9, "--precision", precision)
    lines = [json.loads(line) for line in (folder(tmp_path) / "log.txt").read_text().splitlines()]
    assert lines[-1]["train_loss"] < 0.8 * lines[0]["train_loss"] and stats["test_acc1"] > 60
    assert {tensor.device.type for tensor in seen} == {device.type}
    assert seen[1].is_contiguous(memory_format=torch.channels_last) and seen[2].is_contiguous(memory_format=torch.channels_last)
    assert seen[3].dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    assert seen[3].is_contiguous(memory_format=torch.channels_last)
    saved = torch.load(folder(tmp_path) / "checkpoint.pth", weights_only=True)
    assert (saved["scaler"] is not None) == (precision == "fp16") and all(w.is_cpu for w in saved["model"].values())
    scores = [
        run(colours, tmp_path, where, shapes, "--eval", "--resume", folder(tmp_path) / "checkpoint.pth", "--precision", name)
        for where, name in ((device, precision), (torch.device("cpu"), "fp32"))
    ]
    assert scores[0]["acc1"] == pytest.approx(stats["test_acc1"], abs=9) and scores[0]["images"] == 12
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], abs={"fp32": 1e-3, "tf32": 1e-2}.get(precision, 5e-2))


@pytest.mark.parametrize("name, flags", [
    ("fp32", "--square --ema 0.8"), ("fp32", "--square --size_schedule 32:0.5,48"),
    ("bf16", "--accumulate 2 --ema 0.8"), ("fp32", "--cache gpu --color_jitter 0.3 --randaugment 5 --random_erasing 0.5"),
    ("fp16", "--square --grad_checkpointing --backbone resnet18"),
])  # fmt: skip
def test_resumed_equals_uninterrupted_bit_for_bit(
    colours: Path, tmp_path: Path, device: torch.device, name: str, flags: str
) -> None:
    """With --deterministic: weights, moments, average, gradient scaler, and the random state of the device."""
    if name == "fp16" and device.type == "cpu":
        pytest.skip("fp16 is for CUDA devices")
    words = ("--device", device, "--deterministic", "--precision", name)
    assert life(colours, tmp_path / "whole", flags, *words) is not None
    for steps in (3, None):
        life(colours, tmp_path / "parts", flags, *words, "--resume", "auto", "--num_workers", 2 * (steps == 3), steps=steps)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_loaded_batches_are_pinned_and_reach_the_device(colours: Path, device: torch.device) -> None:
    data = open_split(colours, "colours", "val", None, eval_transform(64, True))
    for workers in (0, 2):
        loader = build_loader(tiny_flags("--num_workers", workers), data, EvalSampler(len(data), 5), device)
        for batch in loader:
            assert batch.images.is_pinned() == (device.type == "cuda")
            moved = batch.to(device)
            assert moved.images.device.type == device.type and torch.equal(moved.images.cpu(), batch.images)


def steps(device: torch.device, *flags: object, count: int = 2, size: int = 64) -> tuple[Trainer, list[torch.Tensor]]:
    """A trainer after `count` steps on random images, and the logits of each step; no dropout."""
    from tools.benchmark.implementations.icn import make_batch

    args = tiny_flags("--backbone", "resnet18", "--dropout", 0, "--square", *flags).replace(num_queries=3, backbone_norm="frozen")
    torch.manual_seed(0)
    model = main.build_model(args).to(device, memory_format=torch.channels_last)
    precision = select_precision(args.precision, device)
    trainer = build_trainer(args, model, precision, model.backbone[0].normalisation, 10)
    batch = make_batch({"batch_size": 8, "height": size, "width": size, "classes": 3}, device)
    return trainer, [trainer.step([batch.to(device)])[0].logits.float().cpu() for _ in range(count)]


def test_gradient_checkpointing_gives_the_same_numbers_in_less_memory(device: torch.device) -> None:
    peaks, logits = [], []
    for flags in ([], ["--grad_checkpointing"]):
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        trainer, outputs = steps(device, *flags, size=256 if device.type == "cuda" else 64)
        logits.append(outputs[-1])
        peaks.append(torch.cuda.max_memory_allocated() if device.type == "cuda" else 0)
        del trainer
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
    assert device.type == "cpu" or peaks[1] < 0.8 * peaks[0]


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_compiled_equals_eager(device: torch.device, name: str) -> None:
    """The training step and the evaluation; of a model without dropout, whose masks the compiler draws otherwise."""
    (_, eager), (_, compiled) = (steps(device, "--precision", name, *flags) for flags in ([], ["--compile"]))
    for one, other in zip(eager, compiled, strict=True):
        torch.testing.assert_close(one, other, atol={"fp32": 2e-3, "bf16": 5e-2}[name], rtol=0)


def test_compiled_evaluation_equals_eager(colours: Path, tmp_path: Path, device: torch.device) -> None:
    run(colours, tmp_path, device, "--square", "--epochs", 1)
    checkpoint = folder(tmp_path) / "checkpoint.pth"
    losses = [run(colours, tmp_path, device, "--eval", "--resume", checkpoint, *more)["loss"] for more in ([], ["--compile"])]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_a_checkpoint_of_the_device_loads_on_the_cpu_and_back(colours: Path, tmp_path: Path, device: torch.device) -> None:
    run(colours, tmp_path, device, "--square", "--epochs", 1)
    images = torch.randn(2, 3, 64, 64)
    logits = []
    for place in (device, torch.device("cpu")):
        model, _ = load_checkpoint(folder(tmp_path) / "checkpoint.pth", place)
        with torch.no_grad():
            logits.append(model.eval()(images.to(place)).logits.cpu())
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
