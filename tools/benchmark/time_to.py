"""Time to accuracy: whole trainings of recipes, one after the other, and their accuracy against seconds and energy."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.benchmark.energy import Energy
from tools.benchmark.meters import ROOT, describe
from tools.plot_logs import Run, draw, read_log
from util.atomic import atomic_write, replacing
from util.errors import RunFailed
from util.progress import Progress
from util.tables import markdown_table


@dataclass
class Training:
    """One training of a recipe.

    Attributes:
        recipe: its name.
        seed: of the run.
        seconds: from its start to the end of each epoch that was scored, training and scoring.
        accuracies: of these epochs, percent.
        total: seconds of the whole process, start-up and saving included.
        joules: that the machine used meanwhile, whatever for; None where it does not say.
    """

    recipe: str
    seed: int
    seconds: list[float]
    accuracies: list[float]
    total: float
    joules: float | None

    def time_to(self, accuracy: float) -> float | None:
        """Return the seconds after which an accuracy in percent was first scored; None: never."""
        return next((s for s, acc in zip(self.seconds, self.accuracies, strict=True) if acc >= accuracy), None)


def measure_recipes(
    recipes: Sequence[str], words: Sequence[str], target: float, seeds: Sequence[int], threads: int, folder: Path,
    machine: Mapping[str, Any],
) -> str:  # fmt: skip
    """Train every recipe with every seed, in turn; rewrite time_to.{json,md,png} in `folder` after each; return the table.

    Args:
        recipes: files of flags.
        words: further flags of every training.
        target: accuracy in percent.
        seeds, threads: of the trainings.
        folder: of the results; the logs are kept in it, the checkpoints are not.
        machine: as of `tools.benchmark.meters.machine`.

    Raises:
        ValueError: a training refuses its flags; RunFailed: it fails.
    """
    names = recipe_names(recipes)
    trainings: list[Training] = []
    curves: list[Run] = []
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with Progress(len(recipes) * len(seeds), "trainings") as progress:
        for seed in seeds:
            for name, recipe in zip(names, recipes, strict=True):
                log = folder / "logs" / f"{name}_seed{seed}.txt"
                total, joules = train([f"@{recipe}", *words, "--seed", str(seed)], name, threads, log)
                curves.append(read_log(log, f"{name}, seed {seed}"))
                seconds = [60 * minutes for minutes in curves[-1].minutes]
                trainings.append(Training(name, seed, seconds, curves[-1].accuracies, total, joules))
                text = f"{describe(machine)}.\n\n{table(trainings, target)}\n"
                numbers = {"machine": machine, "target": target, "flags": list(words), "trainings": list(map(asdict, trainings))}
                for file, content in (("time_to.json", json.dumps(numbers, indent=1) + "\n"), ("time_to.md", text)):
                    with atomic_write(folder / file) as out:
                        out.write(content)
                draw(curves).savefig(folder / "time_to.png", dpi=150)
                progress.step(note=name)
    return text


def train(words: Sequence[str], name: str, threads: int, log: Path) -> tuple[float, float | None]:
    """Train in a process of its own, keep its log.txt as `log`; return seconds, and joules where the machine tells them."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory(dir=log.parent, prefix=".run-") as folder:
        command = [sys.executable, str(ROOT / "main.py"), *words, "--output_dir", folder]
        start = time.monotonic()
        with Energy() as energy:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        seconds = time.monotonic() - start
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"ended with exit code {done.returncode}"]
            message = f"--recipe {name}: {lines[-1].removeprefix('main.py: error: ')}"
            raise ValueError(message) if done.returncode == 2 else RunFailed(message)
        (written,) = Path(folder).rglob("log.txt")
        with replacing(log) as temporary:
            shutil.copyfile(written, temporary)
    return seconds, energy.joules


def recipe_names(recipes: Sequence[str]) -> list[str]:
    """Return the names of the files without their endings; a ValueError for one that is missing, or two of one name."""
    if missing := [recipe for recipe in recipes if not Path(recipe).is_file()]:
        raise ValueError(f"--recipe {missing[0]}: there is no such file; recipes/*.args are ICN's own")
    names = [Path(recipe).stem for recipe in recipes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--recipe: two files have the name {twice[0]}: rename one")
    return names


def table(trainings: Sequence[Training], target: float) -> str:
    """Return a row for each recipe: medians over its seeds of the seconds to the accuracy, of all seconds, and of the energy."""
    rows = []
    for name in dict.fromkeys(training.recipe for training in trainings):
        own = [training for training in trainings if training.recipe == name]
        joules = [training.joules for training in own if training.joules is not None]
        best = statistics.median(max(training.accuracies) for training in own)
        energy = f"{statistics.median(joules) / 1000:.1f}" if len(joules) == len(own) else "-"
        total = statistics.median(training.total for training in own)
        rows.append([name, str(len(own)), _reached(own, target), f"{best:.2f}", f"{total:.0f}", energy])
    return markdown_table(["recipe", "seeds", f"seconds to {target:g} %", "best, %", "seconds in all", "energy, kJ"], rows, 1)


def _reached(trainings: Sequence[Training], target: float) -> str:
    times = [training.time_to(target) for training in trainings]
    found = sorted(seconds for seconds in times if seconds is not None)
    if len(found) == len(times):
        return f"{statistics.median(found):.0f}"
    best = max(trainings, key=lambda training: max(training.accuracies))
    share = f" by {len(times) - len(found)} of {len(times)}" * (len(times) > 1)
    return f"not reached{share}: best {max(best.accuracies):.2f} % after {best.seconds[-1]:.0f} s"


def main_words(args: argparse.Namespace, main_flags: Mapping[str, Any], own: set[str]) -> list[str]:
    """Return the flags of main.py that were given to the benchmark, as words of a command line."""
    words: list[str] = []
    for name in sorted(set(main_flags) & args.explicit - own):
        value = getattr(args, name)
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words
