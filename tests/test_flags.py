"""The command line is an interface: a flag that changes its name or default changes somebody's script."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import tiny_flags

import main
from flags import get_args_parser
from tools.visualization import get_args_parser as visualization_parser
from util.cli import Parser, parse
from util.device import select_device

# INTR's flags with INTR's defaults; where ours differs, the difference is on purpose and stands in the README.
INTR = {
    "lr": 5e-5, "lr_backbone": 1e-5, "min_lr": 1e-6, "weight_decay": 1e-6, "batch_size": 12, "epochs": 140, "lr_drop": 80,
    "lr_scheduler": "StepLR", "clip_max_norm": 0.1, "backbone": "resnet50", "dilation": False, "position_embedding": "sine",
    "enc_layers": 6, "dec_layers": 6, "dim_feedforward": 2048, "hidden_dim": 256, "dropout": 0.1, "nheads": 8,
    "num_queries": None, "pre_norm": False, "dataset_name": "cub", "dataset_path": "datasets", "output_dir": "output",
    "output_sub_dir": "output_sub", "noise_frac": 0.1, "test": "val", "resume": "", "finetune": "", "device": "cuda",
    "seed": 42, "start_epoch": 0, "eval": False, "num_workers": 2, "world_size": 1, "dist_url": "env://",
}  # fmt: skip
OURS = {
    "backbone_weights": "none", "backbone_norm": None, "feature_stride": None, "image_size": 800, "square": False,
    "crop_min": 0.08, "hflip": 0.5, "tensorboard": False, "precision": "fp32", "compile": False, "deterministic": False,
    "accumulate": 1, "grad_checkpointing": False, "save_every_steps": 0, "keep_last": 1, "warmup_epochs": 0.0,
    "label_smoothing": 0.0, "ema": 0.0, "no_norm_decay": False, "layer_decay": 1.0, "color_jitter": 0.0, "randaugment": 0,
    "random_erasing": 0.0, "adversarial": 0.0, "mosaic": 0.0, "locality": 0.0, "decoder": "detr", "window": None, "fuse": False,
}  # fmt: skip
DRAWING = {"class_index": 0, "dec_layer_index": None, "top_q": 5, "gt_query_heads": 1, "sim_query_heads": 1, "batch_size": 1}


def test_main_has_exactly_these_flags_and_defaults() -> None:
    values = vars(get_args_parser().parse_args([]))
    assert values == {**INTR, **OURS}


@pytest.mark.parametrize("flag", sorted(INTR))
def test_every_flag_of_intr_is_accepted(flag: str) -> None:
    value = INTR[flag]
    words = [f"--{flag}"] if isinstance(value, bool) else [f"--{flag}", str(3 if value is None else value)]
    args = parse(get_args_parser(), words)
    assert args.explicit == {flag} and getattr(args, flag) == (True if value is False else 3 if value is None else value)


def test_visualization_has_the_flags_of_intr() -> None:
    values = vars(visualization_parser().parse_args([]))
    assert {key: values[key] for key in DRAWING} == DRAWING
    model = "backbone dilation position_embedding enc_layers dec_layers dim_feedforward hidden_dim dropout nheads num_queries"
    others = "pre_norm lr_backbone test resume dataset_name dataset_path output_dir device eval num_workers world_size dist_url"
    for name in f"{model} {others}".split():
        assert values[name] == INTR[name], name


def test_given_holds_what_was_typed_and_nothing_else() -> None:
    parser = get_args_parser()
    parser.set_defaults(batch_size=1)
    assert parse(parser, ["--nheads", "8", "--dilation"]).explicit == {"dilation", "nheads"}
    assert parse(parser, []).explicit == frozenset() and parse(parser, []).batch_size == 1


def test_flags_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "recipe.args").write_text("# what it is for\n--lr 1e-3 --square\n\n--epochs 5 --output_dir 'my results'  # few\n")
    args = parse(get_args_parser(), [f"@{tmp_path / 'recipe.args'}", "--epochs", "6"])
    assert (args.lr, args.square, args.epochs, args.output_dir) == (1e-3, True, 6, "my results")


@pytest.mark.parametrize("words", [["--epochs", "many"], ["--no_such_flag"], ["--lr_scheduler", "linear"], ["--epoch", "3"]])
def test_parser_errors_are_one_line(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(Parser("main.py", parents=[get_args_parser()]), words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("main.py: error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "words, message",
    [
        (["--resume", "a", "--finetune", "b"], "give one of them"),
        (["--eval"], "--eval needs --resume"),
        (["--resume", "a", "--backbone_weights", "default"], "leave it out"),
        (["--world_size", "2"], "--world_size 2, but there are 1 processes"),
        (["--epochs", "0"], "--epochs 0 must be at least 1"),
        (["--batch_size", "-1"], "--batch_size -1 must be at least 1"),
        (["--lr", "-1"], "--lr -1.0 must be a number that is not negative"),
        (["--adversarial", "-1"], "--adversarial -1.0 must be a number that is not negative"),
        (["--lr", "nan"], "--lr nan must be a number"),
        (["--weight_decay", "inf"], "--weight_decay inf must be a number"),
        (["--num_workers", "-2"], "--num_workers -2"),
        (["--dim_feedforward", "0"], "--dim_feedforward 0 must be at least 1"),
        (["--hidden_dim", "-32"], "--hidden_dim -32 must be at least 1"),
        (["--seed", "99999999999999999999"], "--seed 99999999999999999999"),
        (["--device", "meta"], "--device 'meta' is not supported"),
    ],
)
def test_flags_that_make_no_sense(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main.main(tiny_flags(*words))


def test_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert select_device("cuda").type == "cpu" and "no CUDA device" in capsys.readouterr().err
    assert select_device("cpu").type == "cpu" and capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="--device 'gpu' is not a device"):
        select_device("gpu")
