"""A training as it stands on disk: what is saved and when, how it is found again, and what is said when it ends early."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from datasets import ImageError
from engine import Epoch, Trainer, finite
from models.loading import VERSION, read_checkpoint
from util.checkpoint import BEST, LAST, milestone, newest_valid, rng_state, save_checkpoint, seed_from, set_rng_state
from util.distributed import Ranks, lost_peer
from util.errors import RunFailed
from util.metrics import Sums
from util.stopping import SIGNALS, Stopped, StopRequest


class Run:
    """The state of a training between its steps.

    Args:
        args: flags of the run, completed.
        folder: where checkpoints go; None saves nothing.
        trainer: what learns.
        classes: names in logit order.
        device: where the model is.
        train_images: size of the training split.

    Attributes:
        epoch: the epoch that is in progress.
        best: `{"acc1", "epoch"}` so far.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        folder: Path | None,
        trainer: Trainer,
        classes: list[str],
        device: torch.device,
        train_images: int,
    ) -> None:
        self.args, self.folder, self.trainer, self.classes, self.device = args, folder, trainer, classes, device
        self.train_images, self.ranks = train_images, trainer.ranks
        self.best: dict[str, Any] = {"acc1": None, "epoch": None}
        self.finished: int | None = args.start_epoch - 1 if args.start_epoch else None
        self.before, self.start = 0.0, time.monotonic()
        self.begin(args.start_epoch)

    def begin(self, index: int) -> None:
        """Start an epoch; one that is under way goes on."""
        if index == getattr(getattr(self, "epoch", None), "index", None):
            return
        self.epoch = Epoch(index, self.args.epochs, Sums(self.device, len(self.classes)))

    def finish(self, acc1: float) -> list[str]:
        """The epoch is trained and scored; returns the names under which its checkpoint is kept."""
        index = self.finished = self.epoch.index
        names = []
        if self.best["acc1"] is None or acc1 > self.best["acc1"]:
            self.best = {"acc1": acc1, "epoch": index}
            names.append(BEST)
        if (index + 1) % self.args.lr_drop == 0 or index + 1 == self.args.epochs:
            names.append(milestone(index))
        return names

    def elapsed(self) -> float:
        """Seconds of training so far, those before a resume included."""
        return self.before + time.monotonic() - self.start

    def save(self, names: list[str] | None = None) -> None:
        """Write the checkpoint, also under `names`. Every process is here, at the same step; the first one writes.

        Raises:
            FloatingPointError: the model is no longer one; nothing is written.
            RunFailed: the disk does not take it.
        """
        if self.folder is None:
            return
        epoch, trainer = self.epoch, self.trainer
        within = epoch.index != self.finished
        sums = epoch.sums.over(self.ranks)
        if within and epoch.batches:
            finite(sums, f" by step {trainer.steps} (learning rate {trainer.lr:.2e})")
        trainer.check()
        states = self.ranks.gather(rng_state())
        if not self.ranks.main:
            return
        in_epoch = {
            "epoch": epoch.index,
            "batches": epoch.batches,
            "batch_size": self.args.batch_size,
            "world_size": self.ranks.size,
            "accumulate": self.args.accumulate,
            "train_images": self.train_images,
            "images": sums.images,
            "sums": sums.values.cpu(),
        }
        state = {
            "model": trainer.model.state_dict(),
            "ema": trainer.ema.module.state_dict() if trainer.ema is not None else None,
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict() if trainer.scaler.is_enabled() else None,
            "epoch": self.finished,
            "in_epoch": in_epoch if within else None,
            "step": trainer.steps,
            "best": self.best,
            "elapsed": self.elapsed(),
            "rng": states,
            "args": {key: value for key, value in vars(self.args).items() if key != "explicit"},
            "classes": self.classes,
            "normalisation": dict(trainer.normalisation),
            "version": VERSION,
        }
        save_checkpoint(state, self.folder, names or [], self.args.keep_last)

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Go on where a checkpoint stands; the trainer has its weights and moments already.

        Raises:
            ValueError: it stands in the middle of an epoch that these flags cut into other batches.
        """
        args = self.args
        within = checkpoint.get("in_epoch")
        if isinstance(checkpoint.get("epoch"), int):
            args.start_epoch = checkpoint["epoch"] + 1
            self.finished = checkpoint["epoch"]
        if within:
            then_and_now = {
                "--batch_size": (within["batch_size"], args.batch_size),
                "number of processes": (within.get("world_size", 1), self.ranks.size),
                "--accumulate": (within["accumulate"], args.accumulate),
                "--seed": (checkpoint["args"].get("seed", args.seed), args.seed),
                "number of training images": (within["train_images"], self.train_images),
            }
            if within["batch_size"] * within.get("world_size", 1) == args.batch_size * self.ranks.size:
                del then_and_now["--batch_size"], then_and_now["number of processes"]
            for name, (then, now) in then_and_now.items():
                if then != now:
                    raise ValueError(
                        f"{args.resume} was saved in the middle of an epoch with {name} {then}, now it is {now}: "
                        "finish the epoch as it was begun, or resume from a checkpoint at its end"
                    )
            args.start_epoch = within["epoch"]
        self.begin(args.start_epoch)
        if within:
            self.epoch.batches = within["batches"]
            if self.ranks.main:  # they are those of all processes
                self.epoch.sums.images = within["images"]
                self.epoch.sums.values.copy_(within["sums"])
        # The best so far counts where its file is, and against accuracies on the same split.
        if is_same_run(args.resume, self.folder) and checkpoint["args"].get("test") == args.test:
            self.best = checkpoint.get("best") or self.best
        self.before = float(checkpoint.get("elapsed") or 0)
        states = checkpoint.get("rng") or []
        if self.ranks.rank < len(states):
            set_rng_state(states[self.ranks.rank])
        else:
            seed_from(args.seed, self.ranks.rank, checkpoint.get("step") or 0)

    def stop(self, request: StopRequest) -> None:
        """At a step boundary, in every process: if one of them was asked to stop, save, and stop."""
        number = SIGNALS[self.ranks.max(SIGNALS.index(request.number or 0))]
        if number:
            self.save()
            self.ranks.barrier()  # none leaves before the file has its name
            raise Stopped(number, f"stopped after step {self.trainer.steps}; {self.kept()}")

    def kept(self) -> str:
        """Where the last good checkpoint is."""
        if self.folder is None or not (self.folder / LAST).exists():
            return "no checkpoint was saved"
        return f"the last checkpoint is {self.folder / LAST} (go on with --resume auto)"

    @contextmanager
    def failures(self, request: StopRequest) -> Iterator[None]:
        """What happens to a run in its middle becomes one line that says where its last good checkpoint is.

        Raises:
            RunFailed, Stopped: in the place of what was raised.
        """
        try:
            try:
                yield
            except RuntimeError:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the loader's handler would raise once more for every other worker
                raise
        except RunFailed:
            raise
        except FloatingPointError as error:
            raise self._failed(f"{error}; {self.kept()}; try a smaller --lr") from None
        except (ImageError, OSError) as error:
            raise self._failed(f"{error}; {self.kept()}") from None
        except KeyboardInterrupt:
            raise Stopped(signal.SIGINT, f"interrupted in the middle of a step; {self.kept()}") from None
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0]
            if reason.startswith("DataLoader worker"):
                if self.ranks.size == 1:
                    self.stop(request)  # a signal to all processes ends the workers, too
                raise self._failed(f"a process that loads images died ({reason.rstrip('. ')}); {self.kept()}") from None
            if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in reason:
                advice = "--grad_checkpointing, --precision bf16, or a smaller --batch_size with --accumulate"
                raise self._failed(f"out of memory; {self.kept()}; try {advice}") from None
            if lost := lost_peer(error):
                raise self._failed(f"{lost}; {self.kept()}") from None
            raise

    def _failed(self, message: str) -> RunFailed:
        return RunFailed(f"epoch {self.epoch.index + 1}: {message}")


def output_folder(args: argparse.Namespace) -> Path:
    return Path(args.output_dir) / args.dataset_name / args.output_sub_dir


def find_checkpoint(args: argparse.Namespace, folder: Path | None) -> dict[str, Any] | None:
    """What --resume asks for. `auto` becomes the path of the newest whole checkpoint of the run, or nothing.

    Raises:
        ValueError: there is no such file, it is damaged, or this run would write over an earlier one.
    """
    checkpoint = None
    if args.resume == "auto":
        assert folder is not None
        found = newest_valid(folder, read_checkpoint)
        if found is None:
            args.resume = ""
            return None
        args.resume, checkpoint = str(found[0]), found[1]
        # The same command line starts a run and goes on with it: where it started from no longer counts.
        args.finetune = ""
        args.explicit = [name for name in args.explicit if name not in ("finetune", "backbone_weights")]
        return checkpoint
    if args.resume:
        checkpoint = read_checkpoint(args.resume)
    if folder is not None and (folder / LAST).exists():
        _refuse_to_overwrite(args.resume, checkpoint, folder)
    return checkpoint


def open_checkpoint(args: argparse.Namespace, folder: Path | None, ranks: Ranks) -> dict[str, Any] | None:
    """`find_checkpoint` by the first process; the others read the file that it found, whatever they see of the folder."""
    checkpoint = find_checkpoint(args, folder) if ranks.main else None
    args.resume, args.finetune, args.explicit = ranks.broadcast((args.resume, args.finetune, args.explicit))
    return checkpoint if ranks.main or not args.resume else read_checkpoint(args.resume)


def share_batch(args: argparse.Namespace, checkpoint: dict[str, Any], ranks: Ranks) -> None:
    """Cut the batches of a resumed run into as many parts as there are processes now, so that it goes on with the same ones.

    Raises:
        ValueError: they cannot be cut evenly.
    """
    then = checkpoint["args"].get("world_size")
    then = then if isinstance(then, int) and then > 0 else 1
    if "batch_size" in args.explicit or then == ranks.size:
        return
    images = args.batch_size * then
    if images % ranks.size:
        raise ValueError(
            f"{args.resume} was trained on {images} images a step by {then} processes, which {ranks.size} cannot share evenly: "
            "give --batch_size (at the end of an epoch), or another number of processes"
        )
    args.batch_size = images // ranks.size
    print(f"{then} processes took {images} images a step, {ranks.size} go on with {args.batch_size} each")


def is_same_run(resume: str, folder: Path | None) -> bool:
    """Whether the checkpoint that is resumed lies in the folder that is written to."""
    return bool(resume) and folder is not None and Path(resume).resolve().parent == folder.resolve()


def _refuse_to_overwrite(resume: str, checkpoint: dict[str, Any] | None, folder: Path) -> None:
    """A ValueError where this run would write over an earlier one, or over later steps of its own."""
    if checkpoint is None or not is_same_run(resume, folder):
        raise ValueError(
            f"{folder / LAST} is there already: go on from it with --resume auto, "
            "or choose another --output_sub_dir; nothing was overwritten"
        )
    if not os.path.samefile(resume, folder / LAST):
        last = read_checkpoint(folder / LAST)
        if (last.get("step") or 0) > (checkpoint.get("step") or 0):
            raise ValueError(
                f"--resume {resume} would write over the later epochs of {folder / LAST} (up to {(last.get('epoch') or 0) + 1}): "
                "choose another --output_sub_dir; nothing was overwritten"
            )
