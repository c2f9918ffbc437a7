"""The command line is an interface: a flag that changes its name or default changes somebody's script."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import main
import run_with_submitit
from flags import get_args_parser
from tools.visualization import get_args_parser as visualization_parser
from util.cli import parse
from util.number import Number

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
    "bit_depth": 16, "max_image_mb": 1200,
    "crop_min": 0.08, "hflip": 0.5, "tensorboard": False, "precision": "fp32", "compile": False, "deterministic": False,
    "accumulate": 1, "grad_checkpointing": False, "save_every_steps": 0, "keep_last": 1, "warmup_epochs": 0.0,
    "label_smoothing": 0.0, "ema": 0.0, "no_norm_decay": False, "layer_decay": 1.0, "color_jitter": 0.0, "randaugment": 0,
    "random_erasing": 0.0, "adversarial": 0.0, "mosaic": 0.0, "locality": 0.0, "decoder": "detr", "window": None, "fuse": False,
    "loss": "ce", "dist_minutes": 10.0, "wandb": False, "size_schedule": "", "cache": "", "cache_features": 0, "query_init": None,
    "eval_every": 1,
}  # fmt: skip
DRAWING = {"class_index": ["0"], "dec_layer_index": None, "top_q": 5, "gt_query_heads": 1, "sim_query_heads": 1, "batch_size": 1}


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


def flags_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            yield from (flag for command in action.choices.values() for flag in flags_of(command))


ROOT = Path(main.__file__).parent
FILES = [path for path in (ROOT / "tools").rglob("*.py") if "def get_args_parser" in path.read_text()]
TOOLS = sorted(path.relative_to(ROOT / "tools").with_suffix("").as_posix().replace("/", ".") for path in FILES)
PROGRAMS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "main": get_args_parser,
    "main in a job": run_with_submitit.get_args_parser,
    "evaluate_attribution in a job": partial(run_with_submitit.get_args_parser, "evaluate_attribution"),
    **{name: importlib.import_module(f"tools.{name}").get_args_parser for name in TOOLS},
}
NO_NUMBERS = ["", " ", "nan", "inf", "-inf", "1e400", "many", "0x10", "1,5", "10" * 3000, "-1e-3", "1" + "0" * 30, "--"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_number_on_a_command_line_has_bounds(program: str) -> None:
    for flag in flags_of(PROGRAMS[program]()):
        assert flag.type not in (int, float), f"{flag.dest}: declare it with a type of util.number"
        if not isinstance(flag.type, Number):
            continue
        assert flag.default is None or all(map(flag.type.allows, flag.default if flag.nargs else [flag.default])), flag.dest
        for word in NO_NUMBERS:
            is_whole = flag.type.kind is int or word != "1" + "0" * 30
            if word == "-1e-3" and flag.type.low < 0 or not is_whole:
                continue
            with pytest.raises(argparse.ArgumentTypeError) as error:
                flag.type(word)
            assert str(error.value).endswith(f" must be {flag.type}") and len(str(error.value)) < 150


@pytest.mark.parametrize(
    "words, message",
    [
        (["--epochs", "0"], "argument --epochs: '0' must be a whole number of at least 1 and at most 1,000,000,000"),
        (["--epochs", "1.5"], "argument --epochs: '1.5' must be a whole number of at least 1 and at most 1,000,000,000"),
        (["--lr", "-1e-3"], "argument --lr: '-1e-3' must be a number of at least 0 ("),
        (["--ema", "1"], "argument --ema: '1' must be a number of at least 0 and below 1"),
        (["--crop_min=0"], "argument --crop_min: '0' must be a number above 0 and at most 1"),
        (
            ["--seed", "9223372036854775808"],
            "argument --seed: '9223372036854775808' must be a whole number of at least 0 and below",
        ),
    ],
)
def test_numbers_out_of_bounds(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(get_args_parser(), words)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith(f"main.py: error: {message}")


def test_numbers_as_people_write_them() -> None:
    args = parse(get_args_parser(), ["--epochs", "1_000", "--lr", " 1E-3 ", "--seed", "9223372036854775807", "--crop_min", "1"])
    assert (args.epochs, args.lr, args.seed, args.crop_min) == (1000, 1e-3, 2**63 - 1, 1)
