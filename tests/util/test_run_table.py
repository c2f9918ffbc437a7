"""The table of several runs: what is averaged, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flags import compared_flags
from util.run_table import run_table


def make_run(folder: Path, accuracy: float, epochs: int = 5, **flags: object) -> Path:
    """A finished run of five epochs, or less; without `flags` it has no checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    line = f'{{"epoch": {epochs - 1}, "test_acc1": {accuracy - 1}, "best_acc1": {accuracy}}}\n'
    (folder / "log.txt").write_text('{"epoch": 3}\n' + line * (epochs > 0) + '{"epoch": 7, "test_')  # the last one was cut short
    if flags:
        torch.save({"args": {"epochs": 5, "batch_size": 8, **flags}}, folder / "checkpoint.pth")
    return folder


def table(*folders: Path) -> list[list[str]]:
    """The cells of the rows, without the head."""
    return [row.split() for row in run_table(folders, compared_flags()).splitlines()[1:]]


def test_seeds_are_averaged_by_recipe(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"run_seed{number}", 90 + 2 * number) for number in range(3)]
    rows = table(*runs, runs[0] / ".." / runs[0].name)  # the same one twice
    assert rows[:3] == [[f"run_seed{n}", "5", f"{89 + 2 * n}.00", f"{90 + 2 * n}.00"] for n in range(3)]
    assert rows[3:] == [["mean", "+-", "sd", "of", "3", "91.00", "+-", "2.00", "92.00", "+-", "2.00"]]
    runs = [make_run(tmp_path / f"run_{recipe}_seed{number}", 90 + number) for number in range(2) for recipe in "ab"]
    names = ["run_a_seed0", "run_a_seed1", "run_a:", "run_b_seed0", "run_b_seed1", "run_b:"]
    assert [row[0] for row in table(*runs)] == names
    assert run_table(runs, compared_flags()).splitlines()[3] == "run_a: mean +- sd of 2          89.50 +- 0.71  90.50 +- 0.71"


@pytest.mark.parametrize(
    "name, values", [("decoder", "da"), ("dataset_name", ["cub", "cars"]), ("test", ["val", "test"]), ("lr", [1, 2])]
)
def test_different_models_data_or_recipes_are_not_averaged(tmp_path: Path, name: str, values: list[object]) -> None:
    runs = [make_run(tmp_path / f"x{n}", 90 + n, **{name: value, "seed": n, "device": n}) for n, value in enumerate(values)]
    assert [row[4:] for row in table(*runs)] == [[name, str(value)] for value in values]
    runs.append(make_run(tmp_path / "again", 92, **{name: values[0], "seed": 3}))
    assert [row[0] for row in table(*runs)] == ["x0", "again", "mean", "x1"]
    runs = [make_run(tmp_path / f"one_seed{n}", 90 + n, **{name: value, "seed": n}) for n, value in enumerate(values)]
    assert [row[0] for row in table(*runs)] == ["one_seed0", "one_seed1"]


def test_epochs_that_are_not_scored_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 90, 2, lr=1)
    with (run / "log.txt").open("a") as log:
        log.write('\n{"epoch": 2, "train_loss": 1.0, "best_acc1": 90.0}\n')
    assert table(run) == [["run", "3", "of", "5,", "unfinished", "89.00", "90.00"]]
    (run / "log.txt").write_text('{"epoch": 0, "train_loss": 1.0, "best_acc1": null}\n')
    assert table(run) == [["run", "1", "of", "5,", "unfinished"]]


def test_processes_count_by_the_images_of_a_step(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "1", 90, batch_size=8), make_run(tmp_path / "2", 91, batch_size=4, world_size=2)
    assert [row[0] for row in table(one, two)] == ["1", "2", "mean"]


def test_unfinished_and_missing_runs(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"{n}", 90 + n, epochs, lr=1) for n, epochs in enumerate((5, 5, 2, 0))]
    rows = run_table(runs, compared_flags()).splitlines()[1:]
    assert "2 of 5, unfinished" in rows[2] and "0 of 5, unfinished" in rows[3]
    assert rows[4].startswith("mean +- sd of 2 finished") and rows[4].endswith("90.50 +- 0.71")
    with pytest.raises(ValueError, match="nothing: there is no such folder"):
        table(tmp_path / "nothing")
    with pytest.raises(ValueError, match="has no log.txt: give the folder of a training, <output_dir>/"):
        table(tmp_path)
