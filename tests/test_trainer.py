"""One optimizer step, with each flag that changes its numbers; evaluation that knows no batches; compiled graphs."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import COLOURS, make_images, tiny_flags, tiny_model
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader

import main
from datasets import EvalSampler, ImageBatch, collate, eval_shapes, eval_transform, open_split
from datasets.grouping import FewShapes
from datasets.size_schedule import SizeSchedule, training_scales
from engine import evaluate, train_one_epoch
from models import ICN, Criterion, for_inference
from trainer import Trainer
from util.ema import make_ema
from util.metrics import Sums
from util.optimizer import make_optimizer
from util.precision import PRECISIONS, select_precision
from util.train_state import Epoch

NORMALISATION = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
CPU = torch.device("cpu")


def make_batch(images: int, seed: int = 0, size: int = 64) -> ImageBatch:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(256, (images, size, size, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    labels = torch.randint(3, (images,), generator=generator)
    return ImageBatch(pictures, None, labels, torch.arange(images))


def make_trainer(model: ICN, precision: str = "fp32", **more: object) -> Trainer:
    optimizer = torch.optim.SGD([{"params": list(model.parameters()), "lr": 0.1, "base_lr": 0.1}])
    return Trainer(
        model, optimizer, lambda base, step: base / (1 + step), select_precision(precision, CPU), NORMALISATION, **more
    )


def calm_model(**changes: object) -> ICN:
    """Without dropout, so that two computations can be compared."""
    return tiny_model(3, dropout=0.0, **changes)


def moved(trainer: Trainer, batches: list[ImageBatch]) -> torch.Tensor:
    """What a step of rate 0.1 subtracts from the weights: the gradient, as one vector."""
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.step(batches)
    return torch.cat([(a - b).flatten() for a, b in zip(before, trainer.model.parameters(), strict=True)]).detach() / 0.1


def gradient(model: ICN, batch: ImageBatch, **options: float) -> torch.Tensor:
    loss = F.cross_entropy(model.train()(batch.normalise(**NORMALISATION)).logits, batch.labels, **options)
    return flat_gradient(loss, model)


def flat_gradient(loss: torch.Tensor, model: ICN) -> torch.Tensor:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in found])


def join(batches: list[ImageBatch]) -> ImageBatch:
    columns = [torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "labels", "indices")]
    return ImageBatch(columns[0], None, columns[1], columns[2])


def unfrozen(model: ICN) -> ICN:
    return model.requires_grad_(True)


def test_a_step_is_the_gradient_of_the_mean_loss() -> None:
    model = unfrozen(calm_model())
    batch = make_batch(4)
    expected = gradient(model, batch)
    torch.testing.assert_close(moved(make_trainer(model), [batch]), expected, atol=1e-5, rtol=1e-3)


def test_label_smoothing() -> None:
    model = unfrozen(calm_model())
    batch = make_batch(4)
    log_p = model.train()(batch.normalise(**NORMALISATION)).logits.log_softmax(1)
    target = torch.full((4, 3), 0.2 / 3).scatter(1, batch.labels[:, None], 0.8 + 0.2 / 3)  # Szegedy et al. 2016, section 7
    found = torch.autograd.grad(
        -(target * log_p).sum(1).mean(), list(model.parameters()), allow_unused=True, materialize_grads=True
    )
    expected = torch.cat([g.flatten() for g in found])
    assert (expected - gradient(model, batch)).norm() > 0.1 * expected.norm()
    torch.testing.assert_close(
        moved(make_trainer(model, criterion=Criterion(label_smoothing=0.2)), [batch]), expected, atol=1e-5, rtol=1e-3
    )


def test_accumulation_equals_one_large_batch_also_when_the_last_is_short() -> None:
    batches = [make_batch(4, 1), make_batch(4, 2), make_batch(1, 3)]
    models = [unfrozen(calm_model()) for _ in range(2)]
    steps = [moved(make_trainer(models[0]), batches), moved(make_trainer(models[1]), [join(batches)])]
    torch.testing.assert_close(steps[0], steps[1], atol=1e-5, rtol=1e-3)
    mean_of_means = sum(gradient(calm := unfrozen(calm_model()), batch) for batch in batches) / 3
    assert calm is not None and (mean_of_means - steps[0]).norm() > 0.05 * steps[0].norm()


def test_windows_of_accumulation() -> None:
    trainer = make_trainer(tiny_model(3))
    seen: list[int] = []
    update = trainer.step
    trainer.step = lambda batches: seen.append(len(batches)) or update(batches)  # type: ignore[method-assign]
    epoch = Epoch(0, 1, Sums(CPU, 3))
    train_one_epoch(trainer, [make_batch(2, seed) for seed in range(5)], CPU, epoch, accumulate=2)
    assert seen == [2, 2, 1] and trainer.steps == 3 and epoch.batches == 5 and epoch.sums.images == 10


def test_clipping() -> None:
    model = unfrozen(calm_model())
    batch = make_batch(4)
    free = gradient(model, batch)
    limit = float(free.norm()) / 4
    clipped = moved(make_trainer(model, max_norm=limit), [batch])
    assert clipped.norm() == pytest.approx(limit, rel=1e-3)
    torch.testing.assert_close(clipped, free / 4, atol=1e-5, rtol=1e-2)
    other = unfrozen(calm_model())
    torch.testing.assert_close(moved(make_trainer(other, max_norm=10 * limit), [batch]), free, atol=1e-5, rtol=1e-3)


def test_the_rate_is_that_of_the_step() -> None:
    trainer = make_trainer(tiny_model(3))
    for step in range(3):
        assert trainer.steps == step
        trainer.step([make_batch(2)])
        assert trainer.lr == pytest.approx(0.1 / (1 + step))


def test_the_average_follows_the_steps() -> None:
    model = unfrozen(calm_model())
    trainer = make_trainer(model, ema=make_ema(model, 0.9))
    weights = []
    for _ in range(3):
        trainer.step([make_batch(2)])
        weights.append(model.query_embed.weight.detach().clone())
    average = weights[0]
    for n in (2, 3):
        average = average + (1 - min(0.9, 1 - n ** (-2 / 3))) * (weights[n - 1] - average)
    torch.testing.assert_close(trainer.ema.module.query_embed.weight.detach(), average)


def test_weights_that_are_not_finite_are_not_saved() -> None:
    trainer = make_trainer(unfrozen(tiny_model(3)))
    trainer.state_dict()
    with torch.no_grad():
        trainer.model.query_embed.weight[1, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite after step 0"):
        trainer.state_dict()


def test_precision_is_resolved_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert select_precision("fp32", CPU).dtype == torch.float32 and select_precision("bf16", CPU).dtype == torch.bfloat16
    for has, name in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("util.precision._supports_bf16", lambda device, has=has: has)
        assert select_precision("auto", CPU).name == name
    for name in ("tf32", "fp16"):
        with pytest.raises(ValueError, match=f"--precision {name}"):
            select_precision(name, CPU)
    with pytest.raises(ValueError, match=f"choose {', '.join(PRECISIONS)}"):
        select_precision("fp8", CPU)


def test_bf16_trains_to_nearly_the_same_step_with_weights_in_fp32() -> None:
    batch = make_batch(4)
    models = [unfrozen(calm_model(backbone="resnet18")) for _ in range(2)]
    exact, coarse = (moved(make_trainer(model, name), [batch]) for model, name in zip(models, ("fp32", "bf16"), strict=True))
    assert all(parameter.dtype == torch.float32 for parameter in models[1].parameters())
    assert F.cosine_similarity(exact, coarse, dim=0) > 0.98 and not torch.equal(exact, coarse)


def test_scores_do_not_depend_on_batches_workers_or_order(tmp_path: Path) -> None:
    """Pictures of many sizes, keeping their aspect ratio: nothing that is padded reaches a convolution."""
    for index, size in enumerate(((40, 48), (48, 40), (40, 64), (52, 40))):
        make_images(tmp_path / "mixed" / str(index), {"val": 2}, COLOURS, size)
    for index in range(4):
        for file in (tmp_path / "mixed" / str(index)).rglob("*.png"):
            target = tmp_path / "mixed" / "val" / file.parent.name / f"{index}_{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
    data = open_split(tmp_path, "mixed", "val", list(COLOURS), eval_transform(64))
    model = for_inference(tiny_model(3, feature_stride=16))

    def scores(batch_size: int, workers: int, grouped: bool = True, world_size: int = 1) -> torch.Tensor:
        kept: dict[int, torch.Tensor] = {}
        for rank in range(world_size):
            shapes = eval_shapes(data) if grouped else None
            sampler = EvalSampler(len(data), batch_size, rank, world_size, shapes=shapes)
            for batch in DataLoader(data, batch_sampler=sampler, collate_fn=collate, num_workers=workers):
                with torch.no_grad():
                    logits = model(batch.normalise(**NORMALISATION), batch.padding_mask).logits
                kept.update(zip(batch.indices.tolist(), logits, strict=True))
        return torch.stack([kept[index] for index in range(len(data))])

    alone = scores(1, 0)
    for found in (scores(5, 0), scores(24, 2), scores(3, 0, world_size=2)):
        torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(scores(24, 0, grouped=False), alone, atol=1e-3)  # what padding would do
    shapes = eval_shapes(data)
    stats = []
    for size in (1, 7):
        loader = DataLoader(data, batch_sampler=EvalSampler(len(data), size, shapes=shapes), collate_fn=collate)
        stats.append(evaluate(model, loader, CPU, NORMALISATION, 3))
    assert stats[0].stats["acc1"] == stats[1].stats["acc1"] and stats[0].stats["loss"] == pytest.approx(stats[1].stats["loss"])
    assert stats[0].labels.tolist() == data.labels == stats[1].labels.tolist()


@pytest.mark.parametrize("training", [True, False])
def test_compiled_graphs_have_no_breaks_and_few_shapes(training: bool) -> None:
    """One graph serves images of all shapes, another the padded batches of a training (not in torch 2.5, which has more)."""
    padded = training and not torch.__version__.startswith("2.5.")
    torch._dynamo.reset()
    counters.clear()
    graphs = CompileCounter()
    model = tiny_model(3).train() if training else for_inference(tiny_model(3))
    forward = torch.compile(model, backend=graphs, dynamic=True, fullgraph=True)
    for height, width in ((64, 96), (96, 64), (96, 96), (96, 128), (128, 160), (64, 96)):
        images = torch.randn(2, 3, height, width).to(memory_format=torch.channels_last)
        with torch.set_grad_enabled(training):
            compiled, plain = forward(images).logits, model(images).logits
        assert training or torch.allclose(compiled, plain, atol=1e-5)
    assert graphs.frame_count == 1
    round_up, scales = FewShapes.of(SizeSchedule("", 96, 1)), training_scales(96)
    shapes = {round_up(*size) for scale in scales for size in ((scale, scale + 9), (scale + 20, scale), (scale, scale))}
    for height, width in sorted(shapes, key=lambda shape: shape[0] == shape[1]) if padded else []:  # a square first: one more
        mask = torch.zeros(2, height, width, dtype=torch.bool)
        mask[0, -8:] = True
        forward(torch.randn(2, 3, height, width).to(memory_format=torch.channels_last), mask)
    assert len(shapes) > 12 and not counters["graph_break"]
    assert graphs.frame_count == 1 + padded
    torch._dynamo.reset()


def test_training_and_scoring_with_everything_on(colours: Path, tmp_path: Path) -> None:
    """All flags of the engine together, through the command line's own path; the averaged weights are what is scored."""
    where = ["--dataset_path", colours, "--dataset_name", "colours", "--output_dir", tmp_path, "--backbone", "resnet18"]
    words = "--square --image_size 48 --feature_stride 16 --batch_size 5 --accumulate 2 --lr 1e-3 --lr_backbone 1e-3 --epochs 2"
    more = "--lr_scheduler cosine --warmup_epochs 0.5 --label_smoothing 0.1 --ema 0.9 --no_norm_decay --layer_decay 0.9"
    rest = "--grad_checkpointing --precision bf16 --deterministic --color_jitter 0.2 --randaugment 3 --random_erasing 0.2"
    rest += " --adversarial 4"
    try:
        flags = [*words.split(), *more.split(), *rest.split(), *where, "--save_every_steps", 1, "--keep_last", 2]
        stats = main.main(tiny_flags(*flags))
    finally:
        torch.use_deterministic_algorithms(False)
    folder = tmp_path / "colours" / "output_sub"
    assert stats["step"] == 4 and {"checkpoint_step00000003.pth", "checkpoint_step00000004.pth"} <= {
        p.name for p in folder.iterdir()
    }
    saved = torch.load(folder / "checkpoint.pth", weights_only=True)
    assert saved["ema"].keys() == saved["model"].keys() and not any("_orig_mod" in key for key in saved["model"])
    assert any(not torch.equal(saved["ema"][key], saved["model"][key]) for key in saved["model"])
    scored = main.main(tiny_flags("--eval", "--resume", folder / "checkpoint.pth", "--precision", "bf16", *where))
    assert scored["acc1"] == stats["test_acc1"] and scored["loss"] == pytest.approx(stats["test_loss"], rel=1e-6)
    without = {**saved, "ema": None}
    torch.save(without, folder / "raw.pth")
    raw = main.main(tiny_flags("--eval", "--resume", folder / "raw.pth", "--precision", "bf16", *where))
    assert raw["loss"] != scored["loss"]


def test_flags_reach_the_optimizer() -> None:
    model = tiny_model(3)
    kept = copy.deepcopy(model)
    groups = make_optimizer(model, 1e-3, 1e-4, 0.1, norm_decay=False, layer_decay=0.5).param_groups
    assert {group["weight_decay"] for group in groups if group["params"]} == {0.0, 0.1}
    assert min(group["base_lr"] for group in groups if group["params"]) < 1e-4
    assert len(make_optimizer(kept, 1e-3, 1e-4, 0.1).param_groups) == 2


@pytest.mark.parametrize(
    "words, reason",
    [
        (
            "InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCH_LOGS",
            "InvalidCxxCompiler: No working C++ compiler found",
        ),
        ("C++ compile error\n\nOutput:\nx.h:1:10: fatal error: Python.h: No such file\n", "error: Python.h: No such file"),
    ],
)
def test_a_compiler_that_is_missing_is_said_before_data_is_read(monkeypatch: pytest.MonkeyPatch, words: str, reason: str) -> None:
    def broken(model: torch.nn.Module, **_: object) -> object:
        def fail(x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(words)

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ValueError, match=r"--compile does not work here \(.*\): install a C\+\+ compiler") as error:
        main.main(tiny_flags("--compile", "--dataset_path", "no such folder"))
    assert f"({reason})" in str(error.value) and "leave the flag out" in str(error.value)
