from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.plot_logs import default_labels, draw, get_args_parser, main, read_log
from util.cli import launch, parse


def write_log(folder: Path, accuracies: list[float], **columns: list[float]) -> Path:
    """A run's folder; each further column has a number an epoch, None leaves it out."""
    folder.mkdir(parents=True)
    lines = []
    for epoch, accuracy in enumerate(accuracies):
        line = {"epoch": epoch, "test_acc1": accuracy} | {key: values[epoch] for key, values in columns.items()}
        lines.append(json.dumps({key: value for key, value in line.items() if value is not None}) + "\n")
    (folder / "log.txt").write_text("".join(lines))
    return folder


def test_times_are_the_elapsed_ones_and_the_best_is_found(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "a", [50.0, 80.0, 80.0, 70.0], elapsed=[60, 120, 180, 240], train_seconds=[1, 1, 1, 1])
    run = read_log(folder, "a run")
    assert run.minutes == [1, 2, 3, 4] and run.epochs == [1, 2, 3, 4] and run.evaluation_counted
    assert run.describe() == "a run: best 80.00 % in epoch 2, 2.0 min"
    assert read_log(folder / "log.txt", "a run") == run


def test_an_older_log_is_timed_by_its_training(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "a", [10.0, 20.0, 30.0], train_seconds=[600, 600, 60])
    run = read_log(folder, "old")
    assert run.minutes == [10, 20, 21] and run.describe() == "old: best 30.00 % in epoch 3, 21 min of training alone"
    # A run that an older version began and a newer one went on with, counting on.
    mixed = write_log(tmp_path / "b", [10.0, 20.0], train_seconds=[60, 60], elapsed=[None, 300])
    assert read_log(mixed, "").minutes == [1, 5]


def test_half_a_line_and_lines_without_an_accuracy_are_left_out(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "a", [10.0, 20.0], elapsed=[60, 120])
    with (folder / "log.txt").open("a") as log:
        log.write('{"epoch": 2, "elapsed": 180}\n[]\n\n{"epoch": 3, "test_a')
    assert read_log(folder, "").accuracies == [10, 20]
    with (folder / "log.txt").open("a") as log:  # --eval_every 2: epoch 5 was scored
        log.write('\n{"epoch": 4, "test_acc1": 30.0, "elapsed": 300}\n')
    assert (read_log(folder, "").epochs, read_log(folder, "").minutes) == ([1, 2, 5], [1, 2, 5])


def test_the_picture_shows_every_value_on_both_axes(tmp_path: Path) -> None:
    counts = (3, 40)
    runs = [
        read_log(
            write_log(tmp_path / str(n), [90 - abs(n / 2 - i) for i in range(n)], elapsed=[90 * (i + 1) for i in range(n)]), "$x"
        )
        for n in counts
    ]
    runs[1].label = "_hidden"  # matplotlib leaves such names out of a legend
    figure = draw(runs, "two runs")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [run.describe() for run in runs]
    left, right = figure.axes
    for axes, quantity in ((left, "minutes"), (right, "epochs")):
        curves, marks = axes.lines[::2], axes.lines[1::2]
        assert len(curves) == len(marks) == len(runs)
        for run, curve, mark in zip(runs, curves, marks, strict=True):
            x = getattr(run, quantity)
            assert list(curve.get_xdata()) == x and list(curve.get_ydata()) == run.accuracies
            assert mark.get_xdata()[0] == x[run.best] and mark.get_ydata()[0] == max(run.accuracies)
        assert len({curve.get_color() for curve in curves}) == len({curve.get_marker() for curve in curves}) == 2


def test_many_runs_keep_apart(tmp_path: Path) -> None:
    run = read_log(write_log(tmp_path / "a", [1.0], elapsed=[1]), "a")
    looks = {(line.get_color(), line.get_linestyle()) for line in draw([run] * 20).axes[0].lines[::2]}
    assert len(looks) == 20


def test_command_writes_the_picture_and_says_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("icn", "intr"):
        write_log(tmp_path / "runs" / name / "first", [40.0, 60.0], elapsed=[30, 60])
    folders = [tmp_path / "runs" / name / "first" for name in ("icn", "intr")]
    out = tmp_path / "new folder" / "curves.png"
    launch(main, get_args_parser(), [*map(str, folders), "--out", str(out)])
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "icn/first: best 60.00 % in epoch 2, 1.0 min" in capsys.readouterr().out
    launch(main, get_args_parser(), [str(folders[0]), "--labels", "a $\\foo$ of 5 %", "--out", str(tmp_path / "one.svg")])
    assert "<svg" in (tmp_path / "one.svg").read_text()


def test_labels_are_what_tells_the_folders_apart(tmp_path: Path) -> None:
    assert default_labels([tmp_path / "f16" / "intr", tmp_path / "f16" / "icn"]) == ["intr", "icn"]
    assert default_labels([tmp_path / "f16" / "icn", tmp_path / "fashion" / "icn"]) == ["f16/icn", "fashion/icn"]
    assert default_labels([tmp_path / "run"]) == ["run"]


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_log(tmp_path / "good", [1.0], elapsed=[1])
    empty = write_log(tmp_path / "empty", [])
    timeless = write_log(tmp_path / "timeless", [1.0])
    cases = [
        ([tmp_path / "none"], "none cannot be read: give the folder of a training run"),
        ([tmp_path], "log.txt cannot be read: give the folder of a training run"),
        ([good, empty], "empty/log.txt has no line with epoch, test_acc1 and elapsed"),
        ([timeless], "timeless/log.txt has no line with"),
        ([good, "--labels", "a", "b"], "--labels has 2 names for 1 runs"),
        ([good, "--out", tmp_path / "x.foo"], "x.foo cannot be written (Format 'foo' is not supported"),
        ([good, "--out", good / "log.txt" / "x.png"], "x.png cannot be written"),
    ]
    for words, message in cases:
        with pytest.raises(SystemExit, match="2"):
            launch(main, get_args_parser(), [str(word) for word in words])
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and error.startswith("plot_logs: error: ")
    assert parse(get_args_parser(), [str(good)]).out == Path("curves.png")
