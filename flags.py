"""The command line of training and evaluation: INTR's names and defaults, and what may stand beside what."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from typing import Any

from models.architecture import ARCHITECTURE
from models.decoders import ALIASES, DECODERS, additive_decoders, canonical_decoder, find_decoder
from util.cli import Parser
from util.launcher import read_launcher_env
from util.precision import PRECISIONS
from util.schedule import SCHEDULERS

# How large images are: a checkpoint says it, unless the flag is given.
INPUT = ("image_size", "square")
# How to train, not where things are: a resumed run takes these from its checkpoint unless they are given.
RECIPE = (
    "lr",
    "lr_backbone",
    "min_lr",
    "weight_decay",
    "batch_size",
    "epochs",
    "lr_drop",
    "lr_scheduler",
    "warmup_epochs",
    "clip_max_norm",
    "label_smoothing",
    "ema",
    "no_norm_decay",
    "layer_decay",
    "accumulate",
    "precision",
    "dropout",
    "seed",
    "crop_min",
    "hflip",
    "color_jitter",
    "randaugment",
    "random_erasing",
    "adversarial",
    "mosaic",
    "locality",
    *INPUT,
)


def get_args_parser() -> argparse.ArgumentParser:
    """All flags of training and evaluation, with INTR's names and defaults; no help flag, to be a parent parser."""
    parser = Parser("main.py", add_help=False)
    add_model_flags(parser)
    add_data_flags(parser)

    group = parser.add_argument_group("training")
    group.add_argument("--lr", default=5e-5, type=float, help="learning rate of everything but the backbone")
    group.add_argument("--min_lr", default=1e-6, type=float, help="last learning rate of the cosines")
    group.add_argument("--layer_decay", default=1.0, type=float, help="factor on the backbone's rate per stage before the last")
    group.add_argument("--weight_decay", default=1e-6, type=float, help="weight decay of AdamW")
    group.add_argument("--no_norm_decay", action="store_true", help="no weight decay of norms, biases and queries")
    group.add_argument("--epochs", default=140, type=int, help="epochs in all, those before a resume included")
    group.add_argument("--lr_drop", default=80, type=int, help="StepLR: a tenth of the rate after so many epochs")
    group.add_argument("--lr_scheduler", default="StepLR", choices=SCHEDULERS, help="course of the rate; cosine: step by step")
    group.add_argument("--warmup_epochs", default=0.0, type=float, help="the rate grows from 0 over so many epochs")
    group.add_argument("--clip_max_norm", default=0.1, type=float, help="largest norm of the gradients; 0 does not clip")
    group.add_argument("--label_smoothing", default=0.0, type=float, help="share of the target spread over all classes")
    group.add_argument("--ema", default=0.0, type=float, help="score the average of the weights, of this decay; 0: none")
    group.add_argument("--accumulate", default=1, type=int, help="batches per optimizer step")
    group.add_argument("--noise_frac", default=0.1, type=float, help="noise in queries that repeat those of --finetune")
    group.add_argument("--backbone_weights", default="none", metavar="none|default|FILE", help="the backbone's first weights")
    group.add_argument("--finetune", default="", help="start from the weights of a DETR, INTR or ICN file (path or URL)")
    group.add_argument("--start_epoch", default=0, type=int, metavar="N", help="first epoch; --resume sets it")
    group.add_argument("--seed", default=42, type=int, help="of weights, data order, augmentation and dropout")
    group.add_argument("--crop_min", default=0.08, type=float, help="--square: smallest random crop, as a share of the area")
    group.add_argument("--hflip", default=0.5, type=float, help="probability of a random horizontal flip")
    group.add_argument("--color_jitter", default=0.0, type=float, help="strength of random changes of colour")
    group.add_argument("--randaugment", default=0, type=int, help="magnitude of RandAugment, up to 10; 0: none")
    group.add_argument("--random_erasing", default=0.0, type=float, help="probability that a random box is erased")
    group.add_argument("--adversarial", default=0.0, type=float, help="train on the worst pictures within so many grey levels")
    group.add_argument("--mosaic", default=0.0, type=float, help="mosaics per picture, and the weight of their loss")
    group.add_argument("--locality", default=0.0, type=float, help="weight against evidence that hangs on what is elsewhere")
    group.add_argument("--grad_checkpointing", action="store_true", help="less memory, more time: compute twice, keep less")

    group = parser.add_argument_group("run")
    group.add_argument("--eval", action="store_true", help="score the checkpoint of --resume and stop")
    group.add_argument("--resume", default="", help="checkpoint to go on from or to score (path, URL); auto: the run's newest")
    group.add_argument("--save_every_steps", default=0, type=int, help="save also within epochs; 0: after each epoch only")
    group.add_argument("--keep_last", default=1, type=int, help="how many of the latest checkpoints are kept")
    group.add_argument("--compile", action="store_true", help="compile the model (torch.compile): slow to start, fast to run")
    group.add_argument("--deterministic", action="store_true", help="on CUDA, too, the same numbers every time; slower")
    group.add_argument("--output_sub_dir", default="output_sub", help="results: <output_dir>/<dataset_name>/<output_sub_dir>")
    group.add_argument("--tensorboard", action="store_true", help="also write TensorBoard's files")
    return parser


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of the architecture. A checkpoint knows them: next to --resume they may only agree with it."""
    group = parser.add_argument_group("model")
    group.add_argument("--backbone", default=ARCHITECTURE["backbone"], help="a torchvision ResNet or a timm model, by name")
    group.add_argument(
        "--backbone_norm",
        choices=["frozen", "batch"],
        help="batch norms: fixed as in DETR, or learned; None: learned when training from scratch, else fixed",
    )
    group.add_argument("--lr_backbone", default=1e-5, type=float, help="learning rate of the backbone; 0 freezes it")
    group.add_argument("--dilation", action="store_true", help="the last stage keeps its resolution (DC5)")
    group.add_argument("--feature_stride", type=int, help="pixels per cell of the map; None: that of the last stage")
    group.add_argument("--fuse", action="store_true", help="beside the map of --feature_stride those of deeper stages, enlarged")
    group.add_argument(
        "--window", type=int, help="side of the windows that the backbone sees alone, in pixels; None: all at once"
    )
    group.add_argument(
        "--position_embedding", default=ARCHITECTURE["position_embedding"], choices=["sine", "learned"], help="of the encoder"
    )
    group.add_argument(
        "--decoder",
        default=ARCHITECTURE["decoder"],
        type=canonical_decoder,
        choices=[*DECODERS, *ALIASES],
        help="; ".join(f"{name}: {spec.help}" for name, spec in DECODERS.items())
        + "".join(f"; {alias}: another name of {name}" for alias, name in ALIASES.items()),
    )
    group.add_argument("--enc_layers", default=ARCHITECTURE["enc_layers"], type=int, help="encoder layers (other decoders: 0)")
    group.add_argument("--dec_layers", default=ARCHITECTURE["dec_layers"], type=int, help="decoder layers")
    group.add_argument("--dim_feedforward", default=ARCHITECTURE["dim_feedforward"], type=int, help="width of the feed-forward")
    group.add_argument("--hidden_dim", default=ARCHITECTURE["hidden_dim"], type=int, help="width of the transformer")
    group.add_argument("--dropout", default=0.1, type=float, help="dropout in the transformer")
    group.add_argument("--nheads", default=ARCHITECTURE["nheads"], type=int, help="attention heads")
    group.add_argument("--num_queries", type=int, help="number of classes; None: that of the data or the checkpoint")
    group.add_argument("--pre_norm", action="store_true", help="normalise before each step, not after it")


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which images are read, how large, and where the results go."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset_path", default="datasets", help="folder of data sets")
    group.add_argument("--dataset_name", default="cub", help="<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>")
    group.add_argument("--test", default="val", choices=["val", "test"], help="the split that is scored")
    group.add_argument("--batch_size", default=12, type=int, help="images per step, of each process")
    group.add_argument("--num_workers", default=2, type=int, help="processes that load images; 0: none but this one")
    group.add_argument("--image_size", default=800, type=int, help="short side in pixels (the long one: up to 5/3 of it)")
    group.add_argument("--square", action="store_true", help="images of image_size x image_size")
    group.add_argument("--output_dir", default="output", help="folder of the results; '' writes nothing")
    group.add_argument("--device", default="cuda", help="cuda (falls back to cpu), cuda:<index> or cpu")
    group.add_argument("--precision", default="fp32", choices=PRECISIONS, help="auto: bf16 where the hardware has it, else fp32")
    group.add_argument("--world_size", default=1, type=int, help="number of processes; their launcher says it")
    group.add_argument("--dist_url", default="env://", help="where processes meet; env://: their launcher says it")


def check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other or that nothing can be done with."""
    if args.resume and args.resume != "auto" and args.finetune:
        raise ValueError("--resume goes on with a run, --finetune starts one from other weights: give one of them")
    if args.eval and not args.resume:
        raise ValueError("--eval needs --resume <checkpoint>: there is nothing to score")
    if (args.resume not in ("", "auto") or args.finetune) and "backbone_weights" in args.explicit:
        raise ValueError("--backbone_weights: the file of --resume or --finetune brings the backbone's weights; leave it out")
    if not find_decoder(args.decoder).is_layered and "dec_layers" in args.explicit:
        raise ValueError(f"--decoder {args.decoder} has no layers: leave --dec_layers out")
    if "world_size" in args.explicit and args.world_size != read_launcher_env().size:
        raise ValueError(
            f"--world_size {args.world_size}, but there are {read_launcher_env().size} processes: a launcher starts them "
            "(torchrun --nproc_per_node=N main.py ...); leave the flag out"
        )
    for name in ("epochs", "lr_drop", "batch_size", "accumulate", "keep_last", "dim_feedforward", "hidden_dim", "nheads"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)} must be at least 1")
    rates = ("lr", "lr_backbone", "min_lr", "weight_decay", "clip_max_norm", "noise_frac", "warmup_epochs")
    for name in (*rates, "adversarial", "mosaic", "locality", "num_workers", "start_epoch", "save_every_steps"):
        if not (getattr(args, name) >= 0 and math.isfinite(getattr(args, name))):
            raise ValueError(f"--{name} {getattr(args, name)} must be a number that is not negative")
    for name in ("ema", "label_smoothing"):
        if not 0 <= getattr(args, name) < 1:
            raise ValueError(f"--{name} {getattr(args, name)} must be at least 0 and below 1")
    if not args.resume:  # else the file may bring what they need
        check_map_losses(args)
    if args.warmup_epochs > args.epochs:
        raise ValueError(f"--warmup_epochs {args.warmup_epochs} is longer than the training (--epochs {args.epochs})")
    if args.resume == "auto" and args.eval:
        raise ValueError("--resume auto goes on with a training: give --eval the file to score")
    if (args.resume == "auto" or args.save_every_steps or args.keep_last > 1) and not args.output_dir:
        raise ValueError("--output_dir '' writes nothing: --resume auto, --save_every_steps and --keep_last need a folder")
    if not 0 <= args.seed < 2**63:
        raise ValueError(f"--seed {args.seed} must be at least 0 and below 2^63")


def check_map_losses(args: argparse.Namespace) -> None:
    """Refuse losses on the map where there is no such map."""
    for name in ("mosaic", "locality"):
        value = getattr(args, name)
        if value and not find_decoder(args.decoder).is_additive:
            raise ValueError(f"--{name} {value} needs logits that are sums over cells: give --decoder {additive_decoders()}")
        if value and not args.square:
            raise ValueError(f"--{name} {value} needs pictures of one shape: give --square")
    if args.locality and args.window is not None:
        raise ValueError(f"--locality {args.locality}: --window {args.window} makes evidence local already; leave one out")
    if args.locality and args.backbone_norm == "batch":
        raise ValueError(
            f"--locality {args.locality}: batch norms mix the pictures of a batch; start from a trained model (--finetune), "
            "whose norms are frozen"
        )


def explicit_flags(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that the user typed."""
    return {key: getattr(args, key) for key in args.explicit}


def fill_from_checkpoint(args: argparse.Namespace, source: dict[str, Any], names: Iterable[str]) -> None:
    """Take the flags `names` from a checkpoint's, unless the user typed them.

    Raises:
        ValueError: the file has a value there that the command line would not take.
    """
    actions = {action.dest: action for action in get_args_parser()._actions}
    for name in names:
        value = source.get(name)
        if name in args.explicit or value is None:
            continue
        action = actions[name]
        kinds = {bool: (bool,), int: (int,), float: (int, float)}.get(type(action.default), (str,))
        wrong_kind = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong_kind or (action.choices and value not in action.choices):
            raise ValueError(f"the checkpoint has {name} = {value!r} among its flags: give --{name}, or another file")
        setattr(args, name, value)
