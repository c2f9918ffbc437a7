from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, tiny_flags, tiny_model
from torch.utils.data import DataLoader

import engine
import main
from datasets import EvalSampler, collate, eval_transform, open_split
from datasets.size_schedule import SizeSchedule
from engine import evaluate, train_one_epoch
from models import ICN
from trainer import Trainer
from util.errors import RunFailed
from util.metrics import Sums, format_stats
from util.optimizer import make_optimizer, restore_optimizer
from util.precision import select_precision
from util.results import write_results
from util.train_state import Epoch

NORMALISATION = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
CPU = torch.device("cpu")
RECIPE = "--square --image_size 48 --feature_stride 16 --batch_size 6 --lr 1e-3 --lr_backbone 1e-3 --clip_max_norm 1"


def test_random_weights_on_few_images_are_warned_of(capsys: pytest.CaptureFixture) -> None:
    flags = tiny_flags("--backbone", "resnet50")
    main.warn_from_scratch(flags, 41_000_000, 192)
    said = capsys.readouterr().out
    assert said.startswith("warning: 41.0 M random weights are trained on 192 images") and said.count("\n") == 1
    assert "--backbone_weights default" in said and "--finetune https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth" in said
    for changes, images in (({}, 41_000), ({"finetune": "a"}, 192), ({"resume": "a"}, 192), ({"backbone_weights": "a"}, 192)):
        main.warn_from_scratch(flags.replace(**changes), 41_000_000, images)
    assert capsys.readouterr().out == ""


def run_main(colours: Path, out: Path, *more: object) -> dict:
    words = [*RECIPE.split(), "--dataset_path", colours, "--dataset_name", "colours", "--output_dir", out, *more]
    return main.main(tiny_flags(*words))


def loader(colours: Path, batch_size: int) -> DataLoader:
    data = open_split(colours, "colours", "val", None, eval_transform(64, True))
    return DataLoader(data, batch_sampler=EvalSampler(len(data), batch_size), collate_fn=collate)


def make_trainer(model: ICN, lr: float = 1e-3, weight_decay: float = 0.1, **more: object) -> Trainer:
    optimizer = make_optimizer(model, lr, lr, weight_decay)
    return Trainer(model, optimizer, lambda base, step: base, select_precision("fp32", CPU), NORMALISATION, **more)


def test_training_learns_and_writes_everything(colours: Path, tmp_path: Path) -> None:
    stats = run_main(colours, tmp_path, "--epochs", 10, "--lr_drop", 8, "--tensorboard")
    folder = tmp_path / "colours" / "output_sub"
    lines = [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(10)) and lines[-1] == stats
    losses = [line["train_loss"] for line in lines]
    assert losses[-1] < 0.6 * losses[0] and stats["test_acc1"] > 90
    assert stats["test_acc5"] is None and stats["train_data_wait"] <= 1 and stats["train_img_per_s"] > 0
    names = {"checkpoint.pth", "checkpoint_best.pth", "checkpoint0007.pth", "checkpoint0009.pth", "log.txt", "tensorboard"}
    assert {path.name for path in folder.iterdir()} == names and list((folder / "tensorboard").iterdir())
    last = torch.load(folder / "checkpoint.pth", weights_only=True)
    best = torch.load(folder / "checkpoint_best.pth", weights_only=True)
    assert last["classes"] == ["blue", "green", "red"] and last["epoch"] == 9 and last["step"] == 40 and last["version"] == 1
    assert best["epoch"] == last["best"]["epoch"] and last["best"]["acc1"] == max(line["test_acc1"] for line in lines)
    json.dumps(last["args"])


def test_resumed_equals_uninterrupted(colours: Path, tmp_path: Path) -> None:
    run_main(colours, tmp_path / "whole", "--epochs", 4, "--lr_drop", 2)
    run_main(colours, tmp_path / "parts", "--epochs", 2, "--lr_drop", 2)
    part = tmp_path / "parts" / "colours" / "output_sub"
    with (part / "log.txt").open("a") as log:  # a line of an epoch that was killed before its checkpoint, and half a line
        log.write('{"epoch": 2}\n{"epoch": 3, "tr')
    # The recipe comes from the file: batch size, rates and seed are not typed again.
    words = f"--resume {part}/checkpoint.pth --epochs 4 --num_workers 2 --dataset_path {colours} --dataset_name colours"
    main.main(tiny_flags(*words.split(), "--output_dir", tmp_path / "parts"))
    whole, resumed = (
        torch.load(tmp_path / name / "colours" / "output_sub" / "checkpoint.pth", weights_only=True)
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole["model"][key], resumed["model"][key]) for key in whole["model"])
    assert whole["best"] == resumed["best"] and whole["step"] == resumed["step"]
    states = zip(whole["optimizer"]["state"].values(), resumed["optimizer"]["state"].values(), strict=True)
    assert all(torch.equal(a[key], b[key]) for a, b in states for key in a)
    logs = [(tmp_path / name / "colours" / "output_sub" / "log.txt").read_text().splitlines() for name in ("whole", "parts")]
    losses = [[json.loads(line)["train_loss"] for line in lines] for lines in logs]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_an_earlier_run_is_not_overwritten(colours: Path, tmp_path: Path) -> None:
    run_main(colours, tmp_path, "--epochs", 1)
    file = tmp_path / "colours" / "output_sub" / "checkpoint.pth"
    before = file.read_bytes()
    with pytest.raises(ValueError, match="checkpoint.pth exists already.*--resume auto.*--output_sub_dir"):
        run_main(colours, tmp_path, "--epochs", 1)
    assert run_main(colours, tmp_path, "--epochs", 1, "--resume", file)["epoch"] == 0  # it is done already
    assert file.read_bytes() == before


def test_later_epochs_of_the_same_run_are_not_overwritten(colours: Path, tmp_path: Path) -> None:
    run_main(colours, tmp_path, "--epochs", 2, "--lr_drop", 1)
    folder = tmp_path / "colours" / "output_sub"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="checkpoint0000.pth would overwrite the later epochs .*up to 2"):
        run_main(colours, tmp_path, "--epochs", 3, "--resume", folder / "checkpoint0000.pth")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert run_main(colours, tmp_path, "--epochs", 3, "--resume", folder / "checkpoint0001.pth")["epoch"] == 2


@pytest.mark.parametrize(
    "flag, value", [("lr", "x"), ("square", "no"), ("lr_scheduler", "foo"), ("batch_size", 2.5), ("lr", -1.0)]
)
def test_a_damaged_recipe_is_refused(colours: Path, tmp_path: Path, flag: str, value: object) -> None:
    run_main(colours, tmp_path, "--epochs", 1)
    file = tmp_path / "colours" / "output_sub" / "checkpoint.pth"
    state = torch.load(file, weights_only=True)
    state["args"][flag] = value
    torch.save(state, file)
    words = f"--resume {file} --epochs 2 --dataset_path {colours} --dataset_name colours --output_dir {tmp_path}"
    with pytest.raises(ValueError, match=flag):
        main.main(tiny_flags(*words.split()))


def test_no_output_folder_without_output_dir(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_main(colours, "", "--epochs", 1)
    assert not list(tmp_path.iterdir())


def test_a_set_smaller_than_a_batch_trains(colours: Path) -> None:
    assert run_main(colours, "", "--epochs", 1, "--batch_size", 100)["step"] == 1


def test_nan_stops_with_one_line_and_keeps_the_last_good_checkpoint(colours: Path, tmp_path: Path) -> None:
    run_main(colours, tmp_path, "--epochs", 1)
    file = tmp_path / "colours" / "output_sub" / "checkpoint.pth"
    before = file.read_bytes()
    with pytest.raises(RunFailed, match="epoch 2: the loss is nan .*the last checkpoint is .*checkpoint.pth"):
        run_main(colours, tmp_path, "--epochs", 2, "--resume", file, "--lr", 1e38)
    assert file.read_bytes() == before


def test_a_model_that_blew_up_in_the_last_step_is_not_saved(colours: Path, tmp_path: Path) -> None:
    """The training loss is measured before the last update; the score after it is what tells."""
    with pytest.raises(RunFailed, match="epoch 1: the loss is nan on val; no checkpoint was saved"):
        run_main(colours, tmp_path, "--epochs", 1, "--batch_size", 24, "--lr", 1e30)
    assert not list(tmp_path.iterdir())  # nor does an empty folder stay


def test_the_best_so_far_counts_where_its_file_is(colours: Path, tmp_path: Path) -> None:
    run_main(colours, tmp_path / "a", "--epochs", 1)
    file = tmp_path / "a" / "colours" / "output_sub" / "checkpoint.pth"
    state = torch.load(file, weights_only=True)
    torch.save({**state, "best": {"acc1": 100.0, "epoch": 0}}, file)
    run_main(colours, tmp_path / "b", "--epochs", 2, "--resume", file)
    best = torch.load(tmp_path / "b" / "colours" / "output_sub" / "checkpoint_best.pth", weights_only=True)
    assert best["best"]["epoch"] == 1 and best["best"]["acc1"] <= 100
    assert run_main(colours, tmp_path / "a", "--epochs", 2, "--resume", file)["best_acc1"] == 100.0


def test_a_resumed_run_takes_the_flags_that_are_given(colours: Path, tmp_path: Path) -> None:
    run_main(colours, tmp_path, "--epochs", 1)
    file = tmp_path / "colours" / "output_sub" / "checkpoint.pth"
    assert run_main(colours, tmp_path, "--resume", file, "--epochs", 2, "--lr", 2e-4)["train_lr"] == 2e-4
    with pytest.raises(ValueError, match="optimizer state .* does not fit"):  # other parameters would be trained
        run_main(colours, tmp_path, "--resume", file, "--epochs", 3, "--lr_backbone", 0)


def test_evaluation_sums_over_images_whatever_the_batches(colours: Path) -> None:
    model = tiny_model()
    found = [evaluate(model, loader(colours, size), CPU, NORMALISATION, 3) for size in (1, 5, 12)]
    with torch.no_grad():
        batch = next(iter(loader(colours, 12)))
        logits = model(batch.normalise(**NORMALISATION)).logits
    assert found[0].stats["loss"] == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    assert found[0].stats["acc1"] == pytest.approx(100 * (logits.argmax(1) == batch.labels).float().mean().item())
    for other in found[1:]:
        assert other.stats["loss"] == pytest.approx(found[0].stats["loss"], rel=1e-5)
        assert np.array_equal(other.predictions, found[0].predictions) and np.array_equal(other.labels, found[0].labels)
    assert found[0].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and found[0].stats["images"] == 12


def test_frozen_parameters_stay_and_get_no_gradient(colours: Path) -> None:
    model = tiny_model(backbone="resnet18")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = make_trainer(model, max_norm=0.1)
    train_one_epoch(trainer, loader(colours, 6), CPU, Epoch(0, 1, Sums(CPU, 3)))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    stem = {key for key in before if ".body.conv1." in key or ".body.layer1." in key or ".bn" in key or "downsample.1" in key}
    assert not changed & stem and changed | stem == set(before)
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    assert all(key in dict(model.named_parameters()) for key in changed)


def test_top_k_metrics() -> None:
    logits = torch.tensor([[9.0, 8, 7, 6, 5, 4], [4, 5, 6, 7, 8, 9], [0, 0, 0, 0, 1, 0]])
    sums = Sums(CPU, 6)
    sums.add(logits, torch.tensor([0, 0, 4]), {"class": torch.zeros(())})
    means = sums.means()
    assert means["acc1"] == pytest.approx(200 / 3) and means["acc5"] == pytest.approx(200 / 3)
    few = Sums(CPU, 3)
    few.add(logits[:, :3], torch.tensor([0, 2, 0]), {"class": torch.zeros(())})
    assert few.means()["acc5"] is None and "n/a (fewer than 5 classes)" in format_stats(few.means())


def test_optimizer_state_of_intr_is_taken_over() -> None:
    """INTR groups the parameters alike, in the same order, and writes torch's own group entries only."""
    model = tiny_model()
    theirs = torch.optim.AdamW(
        [
            {"params": [p for n, p in model.named_parameters() if "backbone" not in n and p.requires_grad]},
            {"params": [p for n, p in model.named_parameters() if "backbone" in n and p.requires_grad], "lr": 1e-5},
        ],
        lr=5e-6,
    )
    model(torch.randn(1, 3, 64, 64)).logits.sum().backward()
    theirs.step()
    ours = make_optimizer(model, 5e-5, 1e-5, 1e-6)
    restore_optimizer(ours, theirs.state_dict())
    assert [group["lr"] for group in ours.param_groups] == [5e-5, 1e-5] and ours.param_groups[0]["weight_decay"] == 1e-6
    for parameter in model.parameters():
        if parameter.grad is not None:
            assert torch.equal(ours.state[parameter]["exp_avg"], theirs.state[parameter]["exp_avg"])
    # With --lr_backbone 0 INTR writes a group without parameters.
    frozen = make_optimizer(tiny_model(lr_backbone=0.0), 5e-5, 0.0, 1e-6)
    restore_optimizer(frozen, frozen.state_dict())
    assert len(frozen.param_groups) == 2 and not frozen.param_groups[1]["params"]
    with pytest.raises(ValueError, match="does not fit"):
        restore_optimizer(make_optimizer(tiny_model(enc_layers=2), 1, 1, 1), theirs.state_dict())


def test_backbone_alone_is_scratch_with_learned_norms(colours: Path, tmp_path: Path) -> None:
    run_main(colours, tmp_path, "--epochs", 1)
    saved = torch.load(tmp_path / "colours" / "output_sub" / "checkpoint.pth", weights_only=True)
    assert saved["args"]["backbone_norm"] == "batch" and saved["args"]["backbone"] == TINY.split()[1]
    assert any(key.startswith("backbone.") and key.endswith("num_batches_tracked") for key in saved["model"])


def test_class_names_are_no_formulas(tmp_path: Path) -> None:
    """Neither of TeX in the picture, nor of a spreadsheet in the tables; letters without a font are no warning."""
    names = ["a $\\foo$", "b$", "=1+1", "猫"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_results(tmp_path, names, np.array([0, 1, 1, 2]), np.array([0, 0, 1, 3]), {})
    assert (tmp_path / "confusion_matrix.png").stat().st_size > 0
    rows = (tmp_path / "per_class.csv").read_text(encoding="utf-8").splitlines()
    assert rows[2:4] == ["1,b$,2,1,50.00,100.00,a $\\foo$,1", "2,'=1+1,1,0,0.00,,猫,1"]
    assert (tmp_path / "confusion_matrix.csv").read_text(encoding="utf-8").splitlines()[3] == "'=1+1,0,0,0,1"


def test_the_remaining_time_allows_for_what_later_epochs_cost() -> None:
    epoch = Epoch(0, 2, Sums(CPU, 3), batches=5)
    assert engine._eta(epoch, 10.0, 5, 10, lambda start, end: end - start) == "ETA 0:10, all epochs 0:30"
    schedule = SizeSchedule("32:0.5,64", 64, 2)
    assert engine._eta(epoch, 10.0, 5, 10, schedule.cost) == "ETA 0:10, all epochs 1:30"
