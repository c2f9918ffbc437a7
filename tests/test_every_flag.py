"""Every flag of main.py in a training and in an evaluation of its result; a flag without an example here is an error."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_flags, tiny_model

import main
from flags import get_args_parser
from util.cli import parse

pytestmark = pytest.mark.usefixtures("one_thread", "fake_wandb")

BASE: dict[str, Any] = {
    "backbone": "test_resnet", "feature_stride": 16, "hidden_dim": 32, "dim_feedforward": 64, "nheads": 4, "enc_layers": 1,
    "dec_layers": 1, "square": True, "image_size": 48, "batch_size": 12, "epochs": 1, "lr": 1e-3, "lr_backbone": 1e-3,
    "device": "cpu", "num_workers": 0, "dataset_path": "{data}", "dataset_name": "colours",
}  # fmt: skip
ADDITIVE = {"decoder": "additive", "dec_layers": None}
FINETUNED = {"finetune": "{weights}", "backbone": "resnet18", "enc_layers": None, **ADDITIVE}
# The value of a flag, and the other flags that it needs (None: leave one of BASE out).
EXAMPLES: dict[str, tuple[Any, dict[str, Any]]] = {
    # model
    "backbone": ("resnet18", {}), "backbone_norm": ("frozen", {"backbone_weights": "{backbone}", "backbone": "resnet18"}),
    "dilation": (True, {"feature_stride": None}), "feature_stride": (8, {}), "fuse": (True, {}), "window": (16, {}),
    "position_embedding": ("learned", {}), "decoder": ("none", {"dec_layers": None}), "enc_layers": (2, {}),
    "dec_layers": (2, {}), "dim_feedforward": (32, {}), "hidden_dim": (16, {}), "nheads": (2, {}), "num_queries": (3, {}),
    "pre_norm": (True, {}), "loss": ("bce", {}),
    # training
    "lr_backbone": (0.0, {"backbone_weights": "{backbone}", "backbone": "resnet18"}), "dropout": (0.4, {}),
    "batch_size": (8, {}), "precision": ("bf16", {}), "lr": (1e-4, {}), "min_lr": (1e-4, {"lr_scheduler": "cosine"}),
    "layer_decay": (0.5, {}), "weight_decay": (0.1, {}), "no_norm_decay": (True, {"weight_decay": 0.1}), "epochs": (2, {}),
    "lr_drop": (1, {"epochs": 2}), "lr_scheduler": ("cosine", {}), "warmup_epochs": (1.0, {}), "clip_max_norm": (0.0, {}),
    "accumulate": (2, {}), "ema": (0.5, {}), "seed": (7, {}), "label_smoothing": (0.2, {}), "adversarial": (2.0, {}),
    "mosaic": (0.5, ADDITIVE), "locality": (0.5, FINETUNED), "size_schedule": ("32:0.5,48", {}),
    # augmentation
    "crop_min": (0.5, {}), "hflip": (0.0, {}), "color_jitter": (0.5, {}), "randaugment": (5, {}), "random_erasing": (1.0, {}),
    "cache_features": (2, {"lr_backbone": 0.0, "backbone_weights": "{backbone}", "backbone": "resnet18"}),
    # input
    "image_size": (64, {}), "square": (True, {"square": None}), "bit_depth": (12, {}),
    # start
    "finetune": ("{weights}", {**FINETUNED, "finetune": None}),
    "backbone_weights": ("{backbone}", {"backbone": "resnet18"}),
    "noise_frac": (0.5, FINETUNED), "query_init": ("means", {}), "start_epoch": (1, {"epochs": 2}),
    # data
    "dataset_path": ("{data}", {}), "dataset_name": ("same", {}), "test": ("test", {}), "num_workers": (1, {}),
    "max_image_mb": (10, {}), "cache": ("{out}/cache", {}),
    "output_dir": ("{out}/elsewhere", {}), "device": ("cpu", {}), "world_size": (1, {}), "dist_url": ("env://", {}),
    "dist_minutes": (1.0, {}),
    # run
    "eval": (True, {}), "resume": ("auto", {}), "save_every_steps": (1, {}), "keep_last": (2, {}),
    "eval_every": (2, {}),
    "compile": (True, {"dropout": 0.0}), "deterministic": (True, {}), "grad_checkpointing": (True, {"backbone": "resnet18"}),
    "output_sub_dir": ("sub", {}), "tensorboard": (True, {}), "wandb": (True, {}),
}  # fmt: skip
# Of the flags of model, training, augmentation and input those whose example is what a run has without them.
AS_WITHOUT = {"backbone_norm", "num_queries", "bit_depth"}  # no file of the data set has 16 bits
REFUSED_BY_EVAL = {"finetune": "give one of them", "backbone_weights": "leave it out"}
ONLY_IN_TRAINING = ("finetune", "backbone_weights", "resume", "eval")


Trained = tuple[dict[str, Any], dict[str, Any]]


def groups() -> dict[str, str]:
    """The argument group of each flag."""
    parser = get_args_parser()
    return {action.dest: str(group.title) for group in parser._action_groups for action in group._group_actions}


def run(flags: dict[str, Any]) -> dict[str, Any]:
    words: list[str] = []
    for name, value in flags.items():
        if value is not None:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return main.main(parse(get_args_parser(), words))


def folder(flags: dict[str, Any]) -> Path:
    return Path(flags["output_dir"], flags["dataset_name"], flags.get("output_sub_dir") or "output_sub")


def last_line(files: Path) -> dict[str, Any]:
    return json.loads((files / "log.txt").read_text().splitlines()[-1])


@pytest.fixture(autouse=True)
def no_code_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled graphs are captured and differentiated as ever, but run by torch's own kernels: generating code takes minutes."""
    compiler = torch.compile

    def captured(model: torch.nn.Module, dynamic: bool | None, options: dict[str, bool] | None) -> Any:
        return compiler(model, dynamic=dynamic, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", captured)


@pytest.fixture(scope="module")
def places(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data set with three splits under two names, and files to start from: of a model with two classes, of a backbone."""
    root = tmp_path_factory.mktemp("every_flag")
    for name in ("colours", "same"):
        (root / "data" / name).mkdir(parents=True)
        for split, source in (("train", "train"), ("val", "val"), ("test", "val")):
            (root / "data" / name / split).symlink_to(colours / "colours" / source)
    model = tiny_model(2, decoder="additive", feature_stride=16, enc_layers=0, backbone="resnet18")
    args = {key: value for key, value in vars(tiny_flags()).items() if key != "explicit"} | {"backbone": "resnet18"}
    args |= {"decoder": "additive", "feature_stride": 16, "enc_layers": 0, "num_queries": 2, "backbone_norm": "frozen"}
    torch.save({"model": model.state_dict(), "args": args}, root / "weights.pth")
    torch.save(model.backbone[0].body.state_dict(), root / "backbone.pth")
    return {"data": root / "data", "weights": root / "weights.pth", "backbone": root / "backbone.pth", "out": root}


@pytest.fixture(scope="module")
def without(places: dict[str, Path]) -> Callable[[dict[str, Any]], Trained]:
    """The checkpoint and the log of a training with BASE and the flags that an example needs, each trained once."""
    done: dict[str, Trained] = {}

    def trained(needed: dict[str, Any]) -> Trained:
        key = json.dumps(needed, sort_keys=True, default=str)
        if key not in done:
            flags = {**filled({**BASE, **needed}, places), "output_dir": places["out"] / f"without{len(done)}"}
            run(flags)
            done[key] = torch.load(folder(flags) / "checkpoint.pth", weights_only=True), last_line(folder(flags))
        return done[key]

    return trained


def filled(flags: dict[str, Any], places: dict[str, Path]) -> dict[str, Any]:
    return {name: value.format(**places) if isinstance(value, str) else value for name, value in flags.items()}


def differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two checkpoints have other weights, or other averages of them."""
    for entry in ("model", "ema"):
        a, b = one[entry] or {}, other[entry] or {}
        if a.keys() != b.keys() or any(a[key].shape != b[key].shape or not torch.equal(a[key], b[key]) for key in a):
            return True
    return False


def test_every_flag_has_an_example() -> None:
    assert set(EXAMPLES) == set(groups())
    assert AS_WITHOUT | set(REFUSED_BY_EVAL) | set(ONLY_IN_TRAINING) <= set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_flag_in_training_and_in_evaluation(
    name: str, places: dict[str, Path], without: Callable[[dict[str, Any]], Trained], tmp_path: Path
) -> None:
    value, needed = EXAMPLES[name]
    flags = filled({**BASE, "output_dir": str(tmp_path), **needed, name: value}, {**places, "out": tmp_path})
    training = {**flags, "eval": None}
    run(training)
    files = folder(flags)
    checkpoint = torch.load(files / "checkpoint.pth", weights_only=True)
    line = last_line(files)
    if name not in ("eval", "resume"):
        saved = checkpoint["args"][name]
        assert (saved, type(saved)) == ({"none": "average"}.get(value, flags[name]), type(value))

    if groups()[name] in ("data", "run"):  # these say how and where, and change no number
        expected, expected_line = without(needed)
        assert line["train_loss"] == pytest.approx(expected_line["train_loss"], rel=1e-4)
        assert name == "compile" or not differ(checkpoint, expected)
    elif groups()[name] != "start" and value != {**BASE, **needed}.get(name) and name not in AS_WITHOUT:
        assert differ(checkpoint, without(needed)[0]), f"--{name} changes nothing"

    evaluation = {**flags, "eval": True, "resume": files / "checkpoint.pth"}
    if name in REFUSED_BY_EVAL:
        with pytest.raises(ValueError, match=REFUSED_BY_EVAL[name]):
            run(evaluation)
    evaluation |= dict.fromkeys(("finetune", "backbone_weights"))
    stats = run(evaluation)
    assert (files / f"eval_{flags.get('test', 'val')}" / "results.json").is_file() and stats["images"] == 12
    assert stats["loss"] == pytest.approx(line["test_loss"], rel=1e-3) and stats["acc1"] == line["test_acc1"]
