"""Log of a run: log.txt, one JSON object per epoch, and TensorBoard's event files."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from .atomic import atomic_write


class RunLog:
    """Writer of log.txt and, with `tensorboard`, of event files into the run's `folder`, which exists; None writes nothing.

    Lines of `start_epoch` and later epochs are removed: a resumed run writes them again. ValueError where TensorBoard is not
    installed.
    """

    def __init__(self, folder: Path | None, tensorboard: bool = False, start_epoch: int = 0) -> None:
        self.path = None if folder is None else folder / "log.txt"
        self.writer: Any = None
        if self.path is not None and self.path.exists():
            _truncate(self.path, start_epoch)
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


def _truncate(path: Path, start_epoch: int) -> None:
    """Remove the lines of `start_epoch` and later epochs, and those that a kill cut short."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError, AttributeError):
            if json.loads(line).get("epoch", -1) < start_epoch:
                kept.append(line + "\n")
    with atomic_write(path) as file:
        file.writelines(kept)
