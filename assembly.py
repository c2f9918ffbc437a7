"""From flags to the parts of a run: model, trainer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from engine import Trainer
from flags import check_map_losses, explicit_flags
from models import ARCHITECTURE, ICN, build_model, load_checkpoint, load_finetune
from models.criterion import TERMS, Criterion
from models.decoders import find_decoder
from util.distributed import ALONE, Ranks, unused_parameters
from util.ema import make_ema, restore_ema
from util.optimizer import make_optimizer, restore_optimizer
from util.precision import Precision
from util.schedule import learning_rate


def make_model(args: argparse.Namespace, classes: list[str], checkpoint: dict[str, Any] | None) -> tuple[ICN, dict[str, Any]]:
    """The model to train, with `args` completed by its architecture, and the normalisation of its input."""
    if args.num_queries not in (None, len(classes)) and checkpoint is None:
        raise ValueError(
            f"--num_queries {args.num_queries}, but {args.dataset_path}/{args.dataset_name}/train has {len(classes)} classes: "
            "leave the flag out, or mend the folder"
        )
    if checkpoint is not None:
        model, meta = load_checkpoint(args.resume, "cpu", explicit_flags(args), checkpoint, averaged=False)
        if (meta.classes or classes) != classes or model.num_classes != len(classes):
            raise ValueError(
                f"--resume {args.resume} was trained on {model.num_classes} classes{named(meta.classes)}, the data set has "
                f"{len(classes)}{named(classes)}: they must be the same (other classes: --finetune)"
            )
        for key in ARCHITECTURE:
            setattr(args, key, meta.args[key])
        return model, meta.normalisation
    args.num_queries = len(classes)
    spec = find_decoder(args.decoder)
    if not spec.is_layered:
        args.dec_layers = 0
        if "enc_layers" not in args.explicit:
            args.enc_layers = 0
        if args.enc_layers and spec.is_additive:
            print(
                f"warning: --enc_layers {args.enc_layers} moves evidence away from where it came from: the map still sums "
                "to the logit, but its cells no longer mean their places (--enc_layers 0 keeps them)",
                file=sys.stderr,
            )
    from_scratch = not args.finetune and args.backbone_weights == "none"
    if args.backbone_norm is None:
        args.backbone_norm = "batch" if from_scratch else "frozen"
    if from_scratch and (args.backbone_norm == "frozen" or args.lr_backbone == 0):
        flag = "--backbone_norm frozen" if args.backbone_norm == "frozen" else "--lr_backbone 0"
        raise ValueError(f"{flag} would freeze random weights: give --backbone_weights or --finetune, or leave it out")
    if args.finetune:
        model, architecture, report = load_finetune(args.finetune, args, explicit_flags(args))
        for key, value in architecture.items():
            setattr(args, key, value)
        print(f"--finetune {report}")
    else:
        model = build_model(args)
    return model, model.backbone[0].normalisation


def make_trainer(
    args: argparse.Namespace,
    model: ICN,
    precision: Precision,
    normalisation: dict[str, list[float]],
    steps_per_epoch: int,
    checkpoint: dict[str, Any] | None,
    ranks: Ranks = ALONE,
) -> Trainer:
    """The model with all that moves while it learns, as the checkpoint left it.

    Args:
        model: on its device.
        steps_per_epoch: optimizer steps.

    Raises:
        ValueError: --mosaic or --locality does not go with the other flags.
    """
    check_map_losses(args)
    if args.grad_checkpointing:
        model.checkpoint_gradients()
    optimizer = make_optimizer(
        model,
        args.lr,
        args.lr_backbone,
        args.weight_decay,
        norm_decay=not args.no_norm_decay,
        layer_decay=args.layer_decay,
        fused=True,
    )

    def schedule(base: float, step: int) -> float:
        return learning_rate(
            base,
            step,
            args.lr_scheduler,
            steps_per_epoch=steps_per_epoch,
            epochs=args.epochs,
            lr_drop=args.lr_drop,
            min_lr=args.min_lr,
            warmup_steps=round(args.warmup_epochs * steps_per_epoch),
        )

    trainer = Trainer(
        model,
        optimizer,
        schedule,
        precision,
        normalisation,
        max_norm=args.clip_max_norm,
        criterion=Criterion(args.label_smoothing, **{name: getattr(args, name) for name in TERMS}),
        ema=make_ema(model, args.ema) if args.ema else None,
        adversarial=args.adversarial,
        forward=compiled(model, args.square) if args.compile else None,
        ranks=ranks,
    )
    if ranks.size > 1:
        trainer.forward = ranks.ddp(trainer.forward or model, unused=_leaves_some_out(args, model))
    if checkpoint is not None:
        if checkpoint.get("optimizer"):
            restore_optimizer(optimizer, checkpoint["optimizer"])
        if trainer.ema is not None:
            restore_ema(trainer.ema, model, checkpoint.get("ema"))
        if checkpoint.get("scaler") and trainer.scaler.is_enabled():
            trainer.scaler.load_state_dict(checkpoint["scaler"])
    return trainer


def _leaves_some_out(args: argparse.Namespace, model: ICN) -> bool:
    """Whether there are parameters that no logit depends on, such as learned positions without an encoder."""
    weight, training = next(model.parameters()), model.training
    logits = model.eval()(weight.new_zeros(1, 3, args.image_size, args.image_size)).logits
    model.train(training)
    return bool(unused_parameters(model, logits))


def compiled(model: nn.Module, one_shape: bool, frozen: bool = False) -> Callable[..., Any]:
    """`model` as --compile calls it; the weights stay `model`'s.

    Args:
        model: in training or in evaluation mode.
        one_shape: all pictures are of one size; else one graph serves all sizes.
        frozen: the weights will not change any more: on a CPU they are packed into the graph, convolutions and what follows
            them become one kernel. Call it without gradients, then.
    """
    return torch.compile(model, dynamic=None if one_shape else True, options={"freezing": True} if frozen else None)


def named(classes: Sequence[str] | None) -> str:
    return f" ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})" if classes else ""
