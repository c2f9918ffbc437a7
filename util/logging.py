"""Log of a run (log.txt, one JSON object per epoch; TensorBoard's event files), and the table of several runs."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from .atomic import atomic_write

SEED = re.compile(r"_seed\d+$")


class RunLog:
    """Writer of log.txt and, with `tensorboard`, of event files into the run's `folder`; None writes nothing.

    Lines of `start_epoch` and later epochs are removed: a resumed run writes them again. ValueError where the folder cannot be
    written to, or TensorBoard is not installed.
    """

    def __init__(self, folder: Path | None, tensorboard: bool = False, start_epoch: int = 0) -> None:
        self.path = None if folder is None else folder / "log.txt"
        self.writer: Any = None
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                if self.path.exists():
                    _truncate(self.path, start_epoch)
            except OSError as error:
                raise ValueError(f"--output_dir: {self.path.parent} cannot be written to ({error.strerror})") from None
        if tensorboard:
            if folder is None:
                raise ValueError("--tensorboard needs an --output_dir to write to")
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError("--tensorboard: the package tensorboard is not installed (pip install tensorboard)") from None
            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start_epoch)

    def epoch(self, stats: dict[str, Any]) -> None:
        """Write the numbers of one epoch; `stats["epoch"]` counts from 0."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(stats) + "\n")
        if self.writer is not None:
            for key, value in stats.items():
                if isinstance(value, (int, float)) and key != "epoch":
                    self.writer.add_scalar(key.replace("_", "/", 1), value, stats["epoch"])
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def run_table(folders: Sequence[Path]) -> str:
    """Return a table of the epochs, the last and the best accuracy (percent) of each run, read from its log.txt.

    Runs whose names differ only in a final `_seed<n>` are a group; without such names all runs are one group. A group of several
    runs has a row of means and sample standard deviations (n - 1). ValueError for a folder without a finished epoch.
    """
    groups: dict[tuple[Path, str], list[Path]] = {}
    seeded = any(SEED.search(folder.name) for folder in folders)
    for folder in folders:
        groups.setdefault((folder.parent, SEED.sub("", folder.name)) if seeded else (Path(), ""), []).append(folder)
    rows = []
    for (_, group), members in groups.items():
        results = [_read_last_epoch(folder) for folder in members]
        for folder, (epochs, last, best) in zip(members, results, strict=True):
            rows.append([folder.name, str(epochs), f"{last:.2f}", f"{best:.2f}"])
        if len(members) > 1:
            prefix = f"{group}: " if len(groups) > 1 else ""
            spread = [f"{mean(values):.2f} +- {stdev(values):.2f}" for values in list(zip(*results, strict=True))[1:]]
            rows.append([f"{prefix}mean +- sd of {len(members)}", "", *spread])
    cells = [["run", "epochs", "last acc@1", "best acc@1"], *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _truncate(path: Path, start_epoch: int) -> None:
    """Remove the lines of `start_epoch` and later epochs, and those that a kill cut short."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError, AttributeError):
            if json.loads(line).get("epoch", -1) < start_epoch:
                kept.append(line + "\n")
    with atomic_write(path) as file:
        file.writelines(kept)


def _read_last_epoch(folder: Path) -> tuple[int, float, float]:
    """Return the number of epochs, the last and the best accuracy of a run."""
    try:
        last = json.loads((folder / "log.txt").read_text(encoding="utf-8").splitlines()[-1])
        return last["epoch"] + 1, float(last["test_acc1"]), float(last["best_acc1"])
    except (OSError, ValueError, LookupError, TypeError):
        raise ValueError(f"{folder / 'log.txt'} has no finished epoch: give the folder of a training") from None
