"""A training in many lives is, bit for bit, the training that was never interrupted."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_flags, tiny_model

import engine
import main
from datasets import TrainSampler
from trainer import Trainer
from util.stopping import Stopped

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = (
    "--backbone test_resnet --image_size 48 --feature_stride 16 --batch_size 6 --epochs 2 --lr_drop 1 --lr 1e-3 "
    "--lr_backbone 1e-3 --clip_max_norm 1 --dropout 0.2 --dataset_name colours"
)
RECIPES = {
    "step_lr": "--square --layer_decay 0.7 --no_norm_decay",
    # Three batches an epoch: the second step has one batch only.
    "accumulated": "--square --batch_size 7 --accumulate 2 --ema 0.8 --lr_scheduler cosine --warmup_epochs 1.5 "
    "--size_schedule 32:0.2,48",  # the first step has a batch of each size
    "random_scales": "--lr_scheduler CosineAnnealingLR --color_jitter 0.3 --randaugment 5 --random_erasing 0.5 --ema 0.5 "
    "--size_schedule 32:0.3,40:0.6,48 --eval_every 2",
    "fixed_norms": "--square --finetune {weights} --backbone resnet18 --grad_checkpointing --save_every_steps 3",
}
RESNET = ("--backbone", "resnet18")  # whose norms can be fixed, and whose stem is
CLOCKS = {"train_img_per_s", "train_data_wait", "train_seconds", "elapsed"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with fixed batch norms to start from."""
    args = {key: value for key, value in vars(tiny_flags("--feature_stride", 16, *RESNET)).items() if key != "explicit"}
    path = tmp_path_factory.mktemp("weights") / "icn.pth"
    model = tiny_model(feature_stride=16, backbone=RESNET[1])
    torch.save({"model": model.state_dict(), "args": {**args, "num_queries": 3, "backbone_norm": "frozen"}}, path)
    return path


def life(colours: Path, out: Path, flags: str, *more: object, steps: int | None = None, evaluated: bool = True) -> dict | None:
    """One life of a training: what main returns, or None if it was stopped after `steps` of its steps, or in its evaluation."""
    words = f"{RECIPE} {flags}".split()
    update, evaluate, done = Trainer.step, engine.evaluate, 0

    def counted(trainer: Trainer, batches: Any) -> Any:
        nonlocal done
        logits = update(trainer, batches)
        done += 1
        if done == steps:
            signal.raise_signal(signal.SIGTERM)
        return logits

    def disturbed(*args: Any) -> Any:
        if not evaluated:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", counted)
        patch.setattr(engine, "evaluate", disturbed)
        try:
            return main.main(tiny_flags(*words, "--dataset_path", colours, "--output_dir", out, *more))
        except Stopped as stop:
            assert stop.exit_code == 128 + signal.SIGTERM and "resume with --resume auto" in str(stop)
            return None
        finally:
            life.steps = done  # type: ignore[attr-defined]


def load(out: Path, name: str = "checkpoint.pth") -> dict[str, Any]:
    return torch.load(out / "colours" / "output_sub" / name, weights_only=True)


def log_of(out: Path) -> list[dict[str, Any]]:
    lines = (out / "colours" / "output_sub" / "log.txt").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCKS} for line in lines]


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    """Bit for bit, however deep."""
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{index}]")
    else:
        assert one == other, where


def assert_same_run(whole: Path, parts: Path, epochs: int = 2) -> None:
    for name in ("checkpoint.pth", "checkpoint_best.pth"):
        one, other = load(whole, name), load(parts, name)
        assert_equal(one["optimizer"]["state"], other["optimizer"]["state"], "optimizer")
        for entry in ("model", "ema", "scaler", "epoch", "in_epoch", "step", "best", "rng", "classes", "normalisation"):
            assert_equal(one[entry], other[entry], entry)
    assert log_of(whole) == log_of(parts) and [line["epoch"] for line in log_of(parts)] == list(range(epochs))
    folders = [{path.name for path in (out / "colours" / "output_sub").iterdir()} for out in (whole, parts)]
    assert folders[0] == folders[1]


@pytest.mark.parametrize("name", RECIPES)
def test_stopped_after_every_single_step(colours: Path, tmp_path: Path, weights: Path, name: str) -> None:
    """The same command line again and again, with 0 and 2 workers in turns."""
    flags = RECIPES[name].format(weights=weights)
    whole = life(colours, tmp_path / "whole", flags)
    assert whole is not None
    lives = 0
    while lives < 20:
        workers = 2 if lives in (1, 4) else 0
        result = life(colours, tmp_path / "parts", flags, "--resume", "auto", "--num_workers", workers, steps=1)
        if result is not None:
            break
        lives += 1
        assert load(tmp_path / "parts")["step"] == lives
    assert lives == whole["step"] == {"accumulated": 4}.get(name, 8)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_was_stopped_while_it_was_scored_is_not_trained_again(colours: Path, tmp_path: Path, workers: int) -> None:
    flags = RECIPES["accumulated"]
    life(colours, tmp_path / "whole", flags)
    trained = []
    for evaluated in (False, False, True):
        life(colours, tmp_path / "parts", flags, "--resume", "auto", "--num_workers", workers, evaluated=evaluated)
        trained.append(life.steps)  # type: ignore[attr-defined]
    assert trained == [2, 0, 2]
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_scoring_fewer_epochs_changes_nothing_else(colours: Path, tmp_path: Path) -> None:
    """Of three epochs the second and the last are scored: the weights are those of a run that scores all of them."""
    flags = f"{RECIPES['step_lr']} --epochs 3 --tensorboard"
    assert life(colours, tmp_path / "all", flags) and life(colours, tmp_path / "some", flags, "--eval_every", 2, steps=5) is None
    assert load(tmp_path / "some")["thresholds"] is None and load(tmp_path / "some")["best"]["acc1"] is None
    assert not (tmp_path / "some" / "colours" / "output_sub" / "checkpoint_best.pth").exists()
    line = life(colours, tmp_path / "some", flags, "--eval_every", 2, "--resume", "auto")
    every, some = log_of(tmp_path / "all"), log_of(tmp_path / "some")
    assert [[key for key in each if key.startswith("test_")] != [] for each in some] == [False, True, True]
    best = [{"best_acc1": each.pop("best_acc1")}["best_acc1"] for each in some]
    assert best[0] is None and best[1] == some[1]["test_acc1"] and best[2] == max(best[1], some[2]["test_acc1"])
    assert all(each.items() <= full.items() for each, full in zip(some, every, strict=True)) and line is not None
    assert_equal(load(tmp_path / "all")["model"], load(tmp_path / "some")["model"])
    first = load(tmp_path / "some", "checkpoint0000.pth")  # --lr_drop 1
    assert (first["epoch"], first["in_epoch"], first["thresholds"]) == (0, None, None)
    assert load(tmp_path / "some")["thresholds"] == load(tmp_path / "all")["thresholds"] is not None


def test_going_on_from_a_save_within_the_epoch(colours: Path, tmp_path: Path) -> None:
    """--save_every_steps and --keep_last leave a file of every step; each of them leads to the same end."""
    flags = f"{RECIPES['step_lr']} --save_every_steps 1 --keep_last 8"
    life(colours, tmp_path / "whole", flags)
    # What stands in the middle of epoch 2, taken into another folder.
    step = tmp_path / "whole" / "colours" / "output_sub" / "checkpoint_step00000007.pth"
    middle = torch.load(step, weights_only=True)
    assert middle["epoch"] == 0 and middle["in_epoch"]["epoch"] == 1 and middle["in_epoch"]["batches"] == 3
    assert life(colours, tmp_path / "parts", "--square", "--resume", step, "--save_every_steps", 1)
    assert life.steps == 1  # type: ignore[attr-defined]
    assert_equal(load(tmp_path / "whole")["model"], load(tmp_path / "parts")["model"])
    assert log_of(tmp_path / "parts")[0]["train_loss"] == log_of(tmp_path / "whole")[1]["train_loss"]


def test_auto_starts_in_an_empty_folder_and_goes_on_in_a_used_one(
    colours: Path, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    """With the flags that a first start needs and a second one must ignore."""
    prefix = "backbone.0.body."
    model = torch.load(weights, weights_only=True)["model"]
    torch.save({key.removeprefix(prefix): model[key] for key in model if key.startswith(prefix)}, tmp_path / "backbone.pth")
    for start in (f"--finetune {weights}", f"--backbone_weights {tmp_path / 'backbone.pth'}"):
        out = tmp_path / start.split()[0]
        words = f"--square --backbone resnet18 {start} --resume auto"
        assert life(colours, out, words, steps=5) is None
        said = capsys.readouterr().out
        assert f"weights: {start.split()[0]} {start.split()[1]}" in said and "warning" not in said
        assert "resuming" not in said and ("kept 130 tensors" in said or "--backbone_weights" in start)
        assert load(out)["step"] == 5
        assert life(colours, out, words) is not None
        said = capsys.readouterr().out
        assert f"weights: --resume {out}" in said
        assert "checkpoint.pth at epoch 2 of 2, after batch 1 of 4" in said and "kept 130 tensors" not in said
        assert life.steps == 3  # type: ignore[attr-defined]
        assert life(colours, out, words) is not None
        assert "nothing left to train" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flag, value, message",
    [
        ("--batch_size", 4, "--batch_size 6, now it is 4"),
        ("--accumulate", 2, "--accumulate 1, now it is 2"),
        ("--seed", 7, "--seed 42, now it is 7"),
        ("--dataset_name", "more", "number of training images 24, now it is 25"),
    ],
)
def test_an_epoch_goes_on_only_as_it_was_begun(colours: Path, tmp_path: Path, flag: str, value: object, message: str) -> None:
    """Other batches would leave pictures out, and show others twice."""
    more = tmp_path / "more"
    for split in ("train", "val"):
        for folder in (colours / "colours" / split).iterdir():
            (more / split / folder.name).mkdir(parents=True)
            for image in folder.iterdir():
                (more / split / folder.name / image.name).symlink_to(image)
    (more / "train" / "red" / "again.png").symlink_to(colours / "colours" / "train" / "red" / "0.png")
    assert life(colours, tmp_path / "a", "--square", steps=2) is None
    file = tmp_path / "a" / "colours" / "output_sub" / "checkpoint.pth"
    before = file.read_bytes()
    data = tmp_path if flag == "--dataset_name" else colours
    with pytest.raises(ValueError, match=message) as refused:
        life(data, tmp_path / "b", "--square", "--resume", file, flag, value)
    assert "\n" not in str(refused.value) and str(file) in str(refused.value)
    assert file.read_bytes() == before and not (tmp_path / "b").exists()
    # At the end of an epoch all of that may change.
    assert life(colours, tmp_path / "c", "--square", evaluated=True)
    end = tmp_path / "c" / "colours" / "output_sub" / "checkpoint0000.pth"
    assert life(data, tmp_path / "d", "--square", "--resume", end, flag, value)


def test_files_without_the_newer_entries_resume(colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """As an earlier version of this format wrote them: after whole epochs, with fewer entries and fewer flags."""
    flags = RECIPES["step_lr"]
    life(colours, tmp_path / "whole", flags)
    life(colours, tmp_path / "old", flags, "--epochs", 1)
    state = load(tmp_path / "old")
    for entry in ("in_epoch", "elapsed", "ema", "scaler", "val_files"):
        del state[entry]
    for flag in ("ema", "accumulate", "warmup_epochs", "label_smoothing", "precision", "keep_last", "save_every_steps"):
        del state["args"][flag]
    assert state["version"] == 1
    torch.save(state, tmp_path / "old" / "colours" / "output_sub" / "checkpoint.pth")
    assert life(colours, tmp_path / "old", flags, "--resume", "auto")
    assert_equal(load(tmp_path / "whole")["model"], load(tmp_path / "old")["model"])
    assert_equal(load(tmp_path / "whole")["optimizer"]["state"], load(tmp_path / "old")["optimizer"]["state"])
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "old")
    assert "weights alone" not in capsys.readouterr().out
    weights = {key: value for key, value in state.items() if key not in ("optimizer", "rng", "lr_scheduler")}
    torch.save(weights, tmp_path / "weights.pth")
    assert life(colours, tmp_path / "alone", flags, "--resume", tmp_path / "weights.pth")
    assert "at epoch 2 of 2 (it has weights alone: optimizer and random state start anew)" in capsys.readouterr().out


def test_an_epoch_begun_by_a_version_without_groups_has_each_picture_once(
    colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its remaining batches are those of that version; the next epoch is grouped by aspect ratio."""
    flags, seen = RECIPES["random_scales"], []
    update = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, batches: (seen.append(batches), update(self, batches))[1])
    assert life(colours, tmp_path, flags, steps=2) is None
    file = tmp_path / "colours" / "output_sub" / "checkpoint.pth"
    state = torch.load(file, weights_only=True)
    del state["in_epoch"]["grouping"]
    torch.save(state, file)
    seen.clear()
    assert life(colours, tmp_path, flags, "--resume", "auto")
    found = [batch.indices.tolist() for (batch,) in seen]
    plain = TrainSampler(24, 6, seed=42)
    expected = [[sample.index for sample in batch] for batch in plain]
    assert found[:2] == expected[2:]
    plain.set_epoch(1)
    assert sorted(sum(found[2:], [])) == list(range(24)) and found[2:] != [[x.index for x in batch] for batch in plain]


def test_the_best_accuracy_is_that_of_the_present_validation_images(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(colours / "colours", tmp_path / "colours")
    life(tmp_path, tmp_path / "out", "--square", "--epochs", 1)
    saved = load(tmp_path / "out")
    saved["best"] |= {"acc1": 100.0}  # which no later epoch exceeds
    torch.save(saved, tmp_path / "out" / "colours" / "output_sub" / "checkpoint.pth")
    image = tmp_path / "colours" / "val" / "red" / "0.png"
    image.rename(image.with_name("new.png"))
    assert life(tmp_path, tmp_path / "out", "--square", "--resume", "auto")
    assert "scored on other images than" in capsys.readouterr().out
    assert load(tmp_path / "out")["best"]["epoch"] == 1


def test_log_lines_of_epochs_without_a_checkpoint_are_dropped(colours: Path, tmp_path: Path) -> None:
    flags = RECIPES["step_lr"]
    life(colours, tmp_path / "whole", flags)
    life(colours, tmp_path / "parts", flags, "--epochs", 1)
    with (tmp_path / "parts" / "colours" / "output_sub" / "log.txt").open("ab") as log:
        log.write(b'{"epoch": 1}\n{"epoch": 1, "tr\xff')  # killed between line and checkpoint, and within a line
    assert life(colours, tmp_path / "parts", flags, "--resume", "auto")
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
