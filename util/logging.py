"""Log of a run: log.txt, one JSON object per epoch, TensorBoard's event files, and a run of Weights & Biases."""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .atomic import atomic_write
from .errors import first_line

WANDB_ID = "wandb_id.txt"  # in the run's folder: a resumed run continues under this id
# What wandb would send besides: the command line with its paths, names of machine, user and repository, the terminal's output.
# Unset what is wanted nevertheless: WANDB_CONSOLE=auto in the environment takes precedence.
WANDB_PRIVATE = {
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB__DISABLE_META": "true",
    "WANDB__DISABLE_MACHINE_INFO": "true",
    "WANDB__SAVE_REQUIREMENTS": "false",
}


class RunLog:
    """Writer of log.txt and, if asked for, of TensorBoard and Weights & Biases; a context manager, which closes them.

    Lines of `start_epoch` and later epochs are removed: a resumed run writes them again.

    Args:
        folder: of the run, which exists; None writes nothing.
        tensorboard: write event files into it.
        start_epoch: the first epoch that is logged.
        wandb: flags that Weights & Biases shows with the run; None: not used.
        resumed: a checkpoint of the folder is continued, and its run of Weights & Biases, too.

    Raises:
        ValueError: a package is not installed, there is no folder, or Weights & Biases cannot be reached.
    """

    def __init__(
        self, folder: Path | None, tensorboard: bool = False, start_epoch: int = 0, wandb: Mapping[str, Any] | None = None,
        resumed: bool = False,
    ) -> None:  # fmt: skip
        self.path = None if folder is None else folder / "log.txt"
        self.writer: Any = None
        self.run: Any = None
        if self.path is not None and self.path.exists():
            _truncate(self.path, start_epoch)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ValueError("--tensorboard: the package tensorboard is not installed (pip install tensorboard)") from None
            self.writer = SummaryWriter(str(_needed(folder, "--tensorboard") / "tensorboard"), purge_step=start_epoch)
        if wandb is not None:
            self.run = _start_wandb(_needed(folder, "--wandb"), wandb, resumed)

    def epoch(self, stats: dict[str, Any]) -> None:
        """Write the numbers of one epoch; `stats["epoch"]` counts from 0."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(stats) + "\n")
        numbers = {key.replace("_", "/", 1): value for key, value in stats.items() if isinstance(value, (int, float))}
        if self.writer is not None:
            for key, value in numbers.items():
                if key != "epoch":
                    self.writer.add_scalar(key, value, stats["epoch"])
            self.writer.flush()
        if self.run is not None:
            self.run.log(numbers)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()
        if self.run is not None:
            self.run.finish(exit_code=0 if kind is None else 1)


def _needed(folder: Path | None, flag: str) -> Path:
    if folder is None:
        raise ValueError(f"{flag} needs an --output_dir to write to")
    return folder


def _start_wandb(folder: Path, config: Mapping[str, Any], resumed: bool) -> Any:
    """Start a run of Weights & Biases, or continue the one of `folder` if `resumed`; its id is kept in `WANDB_ID`."""
    try:
        import wandb
    except ImportError:
        raise ValueError("--wandb: the package wandb is not installed (pip install wandb)") from None
    file = folder / WANDB_ID
    identity = file.read_text(encoding="utf-8", errors="replace").strip() if resumed and file.exists() else uuid.uuid4().hex[:8]
    if not re.fullmatch(r"[\w-]{1,64}", identity):
        raise ValueError(f"--wandb: {file} holds no id of a run: remove it to log as a new one")
    for name, value in WANDB_PRIVATE.items():
        os.environ.setdefault(name, value)
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "icn"),
            name=os.environ.get("WANDB_NAME", "/".join(folder.parts[-2:])),
            id=identity,
            resume="allow" if resumed else None,
            dir=str(folder),
            config=dict(config),
            allow_val_change=True,
        )
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
    except Exception as error:  # wandb has classes of errors of its own, which differ between its versions
        raise ValueError(
            f"--wandb: {first_line(error)} (wandb login; or WANDB_MODE=offline in the environment, and wandb sync afterwards)"
        ) from None
    with atomic_write(file) as text:
        text.write(f"{identity}\n")
    return run


def _truncate(path: Path, start_epoch: int) -> None:
    """Remove the lines of `start_epoch` and later epochs, and those that a kill cut short."""
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError, AttributeError):
            if json.loads(line).get("epoch", -1) < start_epoch:
                kept.append(line + "\n")
    with atomic_write(path) as file:
        file.writelines(kept)
