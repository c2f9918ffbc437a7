"""What the tools that read a data set start from: the model of --resume, and the flags and names of classes that come with it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from datasets import class_names
from flags import explicit_flags, fill_from_checkpoint
from models import ICN, load_checkpoint
from models.loading import CheckpointMeta
from util.cli import Flags
from util.results_folder import is_typed, results_beside_checkpoint


class Opened(NamedTuple):
    """The model of a checkpoint, in evaluation mode and channels last.

    args: with the flags of the input as the checkpoint has them, unless they were typed.
    classes: name of each logit; where the checkpoint has none, those of the data set.
    """

    args: Flags
    model: ICN
    meta: CheckpointMeta
    classes: list[str]

    def results(self, kind: str) -> Path:
        """Return the folder of the results: --output_dir where it was typed, else `<kind>_<split>` beside the checkpoint."""
        return Path(self.args.output_dir) if is_typed(self.args) else results_beside_checkpoint(self.args, kind, self.meta.args)


def open_checkpoint(args: Flags, device: torch.device, split: str | None = None) -> Opened:
    """Load --resume; `split` (None: --test) names the classes of a checkpoint that has no names.

    Raises:
        ValueError: the file cannot be used, or a typed flag contradicts it.
    """
    model, meta = load_checkpoint(args.resume, device, explicit_flags(args))
    model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    args = fill_from_checkpoint(args, meta.args)
    classes = meta.classes or class_names(args.dataset_path, args.dataset_name, split or args.test, model.num_classes)
    return Opened(args, model, meta, classes)
