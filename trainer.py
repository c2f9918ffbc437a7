"""One optimizer step: model, optimizer, learning rate, loss and moving average."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from datasets import ImageBatch
from models import ICN
from models.adversarial import RAMP, REPLAYS, Adversary, Perturbation
from models.criterion import TERMS, Criterion
from models.icn import FromFeatures
from util.distributed import unused_parameters
from util.ema import make_ema, restore_ema
from util.errors import first_line
from util.optimizer import make_optimizer, restore_optimizer
from util.precision import Precision
from util.ranks import SINGLE_PROCESS, Ranks
from util.schedule import learning_rate


class BatchOutput(NamedTuple):
    """Logits `[B, C]` of a batch and the terms of its loss (scalars, means over the batch), without gradient."""

    logits: Tensor
    losses: dict[str, Tensor]


@dataclass
class Trainer:
    """A model, its optimizer and what else changes with an optimizer step.

    Attributes:
        model: maps normalised images and their padding mask to an output with `logits` `[B, C]`; holds the weights.
        optimizer: its groups have `base_lr`.
        schedule: `(base_lr, step) -> lr`, a pure function of the optimizer step.
        precision: of the forward pass.
        normalisation: mean and standard deviation of the input.
        criterion: the loss.
        max_norm: gradients of a larger total norm are scaled down to it; 0 leaves them.
        ema: the exponential moving average of the weights, or None.
        adversary: perturbs the images of each batch, on which several steps are then done; or None.
        forward: called instead of the model: its compiled form, one whose gradients are means over processes, or one that takes
            the features of a frozen backbone.
        ranks: this process and the others.
        steps: optimizer steps done so far; those that an adversary makes of one count as one.
    """

    model: ICN
    optimizer: torch.optim.Optimizer
    schedule: Callable[[float, int], float]
    precision: Precision
    normalisation: Mapping[str, list[float]]
    criterion: Criterion = field(default_factory=Criterion)
    max_norm: float = 0.0
    ema: ModelEmaV3 | None = None
    adversary: Adversary | None = None
    forward: Callable[..., Any] | None = None
    ranks: Ranks = SINGLE_PROCESS
    steps: int = 0
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = self.precision.scaler()
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
        self.running_statistics = [x for norm in norms for x in (norm.running_mean, norm.running_var) if x is not None]

    @property
    def lr(self) -> float:
        """Return the learning rate of the last step, of the first parameter group; the same before and after a resume."""
        return self.schedule(self.optimizer.param_groups[0]["base_lr"], max(0, self.steps - 1))

    def step(self, batches: Iterable[ImageBatch]) -> list[BatchOutput]:
        """Do one optimizer step on the mean loss over all images of `batches`, of all processes together.

        With an adversary these are several steps on the same batches, whose images are perturbed further each time.

        Returns:
            The outputs for each batch of this process, those of the last step.
        """
        batches = list(batches)
        images = self.ranks.sum(sum(map(len, batches)))
        weights = [len(batch) * self.ranks.size / images for batch in batches]  # DDP divides by the number of processes
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(group["base_lr"], self.steps)
        if self.adversary is None:
            outputs = self._update([partial(self._backward, *pair) for pair in zip(batches, weights, strict=True)])
        else:
            perturbations = [self.adversary.start(self._input(batch), batch.padding_mask, self.steps) for batch in batches]
            for _ in range(REPLAYS):
                outputs = self._update([partial(self._backward, *x) for x in zip(batches, weights, perturbations, strict=True)])
        self.steps += 1
        return outputs

    def _update(self, backwards: Sequence[Callable[[], BatchOutput]]) -> list[BatchOutput]:
        """Update the weights by the gradients that `backwards` add up; return what these return."""
        outputs = []
        for index, backward in enumerate(backwards, 1):
            with self._synchronise_gradients(index == len(backwards)):
                outputs.append(backward())
        if self.max_norm > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.ranks.average_(self.running_statistics)  # before the average of the weights, which has them, too
        if self.ema is not None:
            self.ema.update(self.model, step=self.steps + 1)
        return outputs

    def _backward(self, batch: ImageBatch, weight: float, perturbation: Perturbation | None = None) -> BatchOutput:
        """Add the gradient of a batch's loss times `weight`; perturb its images further."""
        with self.precision.autocast():
            images = self._input(batch) if perturbation is None else perturbation.perturbed()
            output = (self.model if self.forward is None else self.forward)(images, batch.padding_mask)
            losses = self.criterion(self.model, output, images.detach(), batch.labels)
            loss: Tensor = sum(losses.values())  # type: ignore[assignment]
        self.scaler.scale(loss if weight == 1 else loss * weight).backward()
        if perturbation is not None:
            assert images.grad is not None
            perturbation.ascend(images.grad)
        return BatchOutput(output.logits.detach(), {name: term.detach() for name, term in losses.items()})

    def _input(self, batch: ImageBatch) -> Tensor:
        return batch.normalise(**self.normalisation)

    def _synchronise_gradients(self, now: bool) -> Any:
        """Return a context in which DDP exchanges gradients, or only adds them up until the last batch of the step."""
        return nullcontext() if now or not isinstance(self.forward, DistributedDataParallel) else self.forward.no_sync()

    def state_dict(self) -> dict[str, Any]:
        """Return the entries of a checkpoint.

        Raises:
            FloatingPointError: a weight is not finite: such a model is not to be saved.
        """
        norms = torch.stack(torch._foreach_norm(self.parameters, torch.inf)) if self.parameters else torch.zeros(1)
        if not norms.isfinite().all():
            raise FloatingPointError(f"the weights are not finite after step {self.steps} (learning rate {self.lr:.2e})")
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else None,
            "step": self.steps,
            "normalisation": dict(self.normalisation),
        }

    def load_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Restore optimizer, average and gradient scaler; the model has its weights already.

        Raises:
            ValueError: they belong to another model.
        """
        if checkpoint.get("optimizer"):
            restore_optimizer(self.optimizer, checkpoint["optimizer"])
        if self.ema is not None:
            restore_ema(self.ema, self.model, checkpoint.get("ema"))
        if checkpoint.get("scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint["scaler"])


def build_trainer(
    args: argparse.Namespace,
    model: ICN,
    precision: Precision,
    normalisation: dict[str, list[float]],
    steps_per_epoch: int,
    ranks: Ranks = SINGLE_PROCESS,
) -> Trainer:
    """Build the optimizer, schedule and loss of a model from flags.

    Args:
        args: resolved flags.
        model: on its device.
        precision: of the forward pass.
        normalisation: mean and standard deviation of the input.
        steps_per_epoch: optimizer steps.
        ranks: this process and the others.
    """
    if args.grad_checkpointing:
        model.set_grad_checkpointing()
    optimizer = make_optimizer(
        model,
        args.lr,
        args.lr_backbone,
        args.weight_decay,
        norm_decay=not args.no_norm_decay,
        layer_decay=args.layer_decay,
        fused=True,
    )
    schedule = partial(
        learning_rate,
        scheduler=args.lr_scheduler,
        steps_per_epoch=steps_per_epoch,
        epochs=args.epochs,
        lr_drop=args.lr_drop,
        min_lr=args.min_lr,
        warmup_steps=round(args.warmup_epochs * steps_per_epoch),
    )
    ema = make_ema(model, args.ema) if args.ema else None
    forward: Callable[..., Any] | None = FromFeatures(model) if args.cache_features else None
    if args.compile:
        forward = compile_model(model if forward is None else forward, args.square)  # type: ignore[arg-type]
    if ranks.size > 1:
        unused = _has_unused_parameters(model, args.image_size)
        forward = ranks.ddp(model if forward is None else forward, unused)  # type: ignore[arg-type]
    adversary = None
    if args.adversarial:
        bound = args.adversarial / 255 / torch.tensor(normalisation["std"])[:, None, None]
        adversary = Adversary(bound, round(RAMP * args.epochs * steps_per_epoch))
    criterion = Criterion(args.label_smoothing, **{name: getattr(args, name) for name in TERMS})
    return Trainer(
        model, optimizer, schedule, precision, normalisation, criterion, args.clip_max_norm, ema, adversary, forward, ranks
    )


def _has_unused_parameters(model: ICN, image_size: int) -> bool:
    """Return whether there are parameters that no logit depends on, such as learned positions without an encoder."""
    weight, training = next(model.parameters()), model.training
    logits = model.eval()(weight.new_zeros(1, 3, image_size, image_size)).logits
    model.train(training)
    return bool(unused_parameters(model, logits))


def check_compiler(device: torch.device) -> None:
    """Raise ValueError unless torch.compile works here: a small function is compiled for `device`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile_model(nn.Sequential(nn.GELU(), nn.Tanh()), one_shape=True)(torch.zeros(8, device=device))
    except Exception as error:  # each part of the compiler has errors of its own
        found = re.search(r"error: .+", str(error))  # in the output of the C++ compiler
        reason = found[0] if found else first_line(error)
        needs = "a C++ compiler (g++, or the one that CXX names) and Python's headers (python3-dev)"
        raise ValueError(
            f"--compile does not work here ({reason[:200]}): install {needs}, give a folder for compiled code that can be "
            "written to and run from (TORCHINDUCTOR_CACHE_DIR, TMPDIR), or leave the flag out"
        ) from None


def compile_model(model: nn.Module, one_shape: bool, frozen: bool = False) -> Callable[..., Any]:
    """Compile `model` with torch.compile; the weights stay `model`'s.

    Args:
        model: in training or in evaluation mode.
        one_shape: all images have one size; else one graph serves all sizes.
        frozen: the weights will not change: on a CPU they are packed into the graph, and a convolution and what follows it become
            one kernel. Call the result without gradients, then.
    """
    return torch.compile(model, dynamic=None if one_shape else True, options={"freezing": True} if frozen else None)
