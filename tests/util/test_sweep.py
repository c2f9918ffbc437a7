"""Expansion of --seeds and --recipes to the flags of each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_flags

from flags import get_args_parser
from util.cli import Flags
from util.sweep import expand_runs, parse_seeds


def sweep(*words: str, seeds: str = "", recipes: tuple[Path, ...] = (), tool: str = "main") -> Flags:
    values = vars(tiny_flags(*words))
    return Flags(**values, seeds=seeds, recipes=[str(file) for file in recipes], tool=tool)


def summary(args: Flags, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(run, name) for name in names) for run in expand_runs(args, get_args_parser)]


def test_seeds() -> None:
    assert parse_seeds("0-4") == [0, 1, 2, 3, 4] and parse_seeds("7, 3,3-4") == [3, 4, 7]
    for wrong in ("4-0", "a", "1,,2", "-1", "0-99999", "9223372036854775808"):
        with pytest.raises(ValueError, match="--seeds .* is no list of seeds: give it as 0-4 or 0,3,7"):
            parse_seeds(wrong)


def test_without_a_sweep_there_is_one_run() -> None:
    args = sweep("--seed", "3")
    assert expand_runs(args, get_args_parser) == [args]


def test_every_recipe_runs_with_every_seed_and_typed_flags_win(tmp_path: Path) -> None:
    recipes = tmp_path / "a.args", tmp_path / "b.args"
    recipes[0].write_text("--lr 0.5 --epochs 7  # a comment\n")
    recipes[1].write_text("--lr 0.25\n--output_sub_dir other\n")
    args = sweep("--lr", "0.125", seeds="0-1", recipes=recipes)
    epochs = args.epochs
    runs = summary(args, "output_sub_dir", "seed", "lr", "epochs")
    assert runs == [
        ("output_sub_a_seed0", 0, 0.125, 7),
        ("output_sub_a_seed1", 1, 0.125, 7),
        ("other_b_seed0", 0, 0.125, epochs),
        ("other_b_seed1", 1, 0.125, epochs),
    ]
    assert all({"seed", "lr"} <= run.explicit for run in expand_runs(args, get_args_parser))
    assert (args.lr, args.output_sub_dir) == (0.125, "output_sub")  # unchanged


def test_a_sweep_that_is_none_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "a.args"
    recipe.write_text("--learning_rate 1\n")
    (tmp_path / "other").mkdir()
    for args, message in (
        (sweep(recipes=(recipe,)), r"--recipes \S*a.args:1: unrecognized arguments: --learning_rate 1"),
        (sweep(recipes=(recipe, tmp_path / "other" / "a.args")), "two have one name"),
        (sweep("--eval", recipes=(recipe,)), "--recipes is for trainings: leave it out with --eval"),
        (
            sweep(seeds="0-1", tool="evaluate_attribution"),
            "--seeds is for trainings: leave it out with --tool evaluate_attribution",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            expand_runs(args, get_args_parser)
