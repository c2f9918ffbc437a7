"""Plot the accuracy of training runs against wall time and against epochs.

    python -m tools.plot_logs <run folder> ... --out curves.png [--labels <name> ...]

A run folder is `<output_dir>/<dataset_name>/<output_sub_dir>` of a training, which holds its log.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/plot_logs.py` works too

from util.cli import Parser, launch
from util.plotting import Axes, Figure, set_texts

# Okabe and Ito's palette, which is safe for colour blindness; the markers differ in grey scale too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, STYLES = "osD^vPX", ("-", "--", ":", "-.")


@dataclass
class Run:
    """The log of a training run, with one value per scored epoch in each list."""

    label: str
    epochs: list[int]  # counted from 1
    minutes: list[float]  # since the start of the run
    accuracies: list[float]  # acc@1 on the scored split, percent
    evaluation_counted: bool  # whether `minutes` includes the evaluations; older logs have the seconds of training only

    @property
    def best(self) -> int:
        """Index of the best accuracy, the first of equals."""
        return self.accuracies.index(max(self.accuracies))

    def describe(self) -> str:
        """Return the best accuracy with its epoch and time, in one line."""
        accuracy, epoch, minutes = self.accuracies[self.best], self.epochs[self.best], self.minutes[self.best]
        time = f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}"
        only = "" if self.evaluation_counted else " of training alone"
        return f"{self.label}: best {accuracy:.2f} % in epoch {epoch}, {time} min{only}"


def get_args_parser() -> argparse.ArgumentParser:
    parser = Parser("plot_logs", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="run", help="folder of a training run, which holds its log.txt")
    parser.add_argument("--out", default="curves.png", type=Path, help="image file to write (.png, .svg, .pdf)")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="a name for each run; None: from the names of the folders")
    parser.add_argument("--title", default="", help="title of the plot")
    return parser


def main(args: argparse.Namespace) -> None:
    """Read the logs, print the best accuracy of each, write the plot. ValueError for files and labels that do not serve."""
    labels = args.labels or default_labels(args.runs)
    if len(labels) != len(args.runs):
        raise ValueError(f"--labels has {len(labels)} names for {len(args.runs)} runs: give one for each")
    runs = [read_log(folder, label) for folder, label in zip(args.runs, labels, strict=True)]
    figure = draw(runs, args.title)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(args.out, dpi=150)
    except (OSError, ValueError) as error:  # the folder, or an unknown image format
        raise ValueError(f"--out {args.out} cannot be written ({error})") from None
    for run in runs:
        print(run.describe())
    print(f"written: {args.out}")


def default_labels(folders: Sequence[Path]) -> list[str]:
    """Return the paths of the folders relative to their deepest common folder."""
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < 2:
        return [path.name for path in paths]
    shared = os.path.commonpath(paths)
    return [os.path.relpath(path, shared) if str(path) != shared else path.name for path in paths]


def read_log(folder: Path, label: str) -> Run:
    """Read the log.txt of a run's folder, or the log file; an incomplete line and an epoch that was not scored are skipped.

    Raises:
        ValueError: the file cannot be read, or has no scored epoch.
    """
    path = folder / "log.txt" if folder.is_dir() else folder
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"{path} cannot be read: give the folder of a training run, which holds its log.txt") from None
    run = Run(label, [], [], [], True)
    seconds = 0.0
    for entry in filter(None, map(_parse_epoch, lines)):
        run.evaluation_counted &= "elapsed" in entry
        seconds = entry["elapsed"] if "elapsed" in entry else seconds + entry["train_seconds"]
        run.epochs.append(entry["epoch"] + 1)
        run.minutes.append(seconds / 60)
        run.accuracies.append(entry["test_acc1"])
    if not run.epochs:
        keys = "epoch, test_acc1 and elapsed (or train_seconds)"
        raise ValueError(f"{path} has no line with {keys}: give the folder of a run that has scored an epoch")
    return run


def _parse_epoch(line: str) -> dict[str, Any] | None:
    """Return the numbers of an epoch, or None for a line without them."""
    try:
        entry = json.loads(line)
        numbers = {key for key, value in entry.items() if isinstance(value, (int, float))}
    except (json.JSONDecodeError, AttributeError):
        return None
    return entry if {"epoch", "test_acc1"} <= numbers and numbers & {"elapsed", "train_seconds"} else None


def draw(runs: Sequence[Run], title: str = "") -> Figure:
    """Plot one line for each run, against minutes on the left and epochs on the right, and mark its best value."""
    figure = Figure(figsize=(9, 3.6 + 0.24 * len(runs) + (0.3 if title else 0)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    time_axis = "minutes, evaluation included" if all(run.evaluation_counted for run in runs) else "minutes"
    for axes, quantity, name in zip(panels, ("minutes", "epochs"), (time_axis, "epochs"), strict=True):
        for index, run in enumerate(runs):
            _draw_run(axes, run, getattr(run, quantity), index)
        axes.set_xlabel(name)
        axes.set_xlim(left=0)
        axes.grid(True, alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy on the scored split, %")
    panels[1].xaxis.get_major_locator().set_params(integer=True)
    if title:
        set_texts([figure.suptitle("")], [title])
    legend = figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
    set_texts(legend.get_texts(), [run.describe() for run in runs])
    return figure


def _draw_run(axes: Axes, run: Run, x: Sequence[float], index: int) -> None:
    """Plot a run's accuracies at `x` in the colour, marker and line style of `index`."""
    style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
    line, every = STYLES[index // len(COLOURS) % len(STYLES)], max(1, len(x) // 12)
    axes.plot(x, run.accuracies, line, **style, linewidth=1.8, markersize=4, markevery=every, label=f"run {index}")
    axes.plot(x[run.best], max(run.accuracies), **style, linestyle="none", markersize=9, markeredgecolor="white", zorder=3)


if __name__ == "__main__":
    launch(main, get_args_parser())
