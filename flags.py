"""The command line of training and evaluation: flags, allowed combinations, and what a resumed run restores.

Flags are parsed and resolved once (command line, checkpoint, data); afterwards they are read-only. Imports no torch, so that
--help and a wrong flag answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datasets.cache_place import cache_place
from datasets.size_schedule import SizeSchedule, size_schedule
from models.architecture import ARCHITECTURE, LOSSES
from models.decoders import ALIASES, DECODERS, additive_decoders, canonical_decoder, find_decoder
from util.cli import Flags, Parser
from util.launcher import read_launcher_env
from util.number import AMOUNT, COUNT, PART, SEED, SHARE, WHOLE, WORKERS, Number
from util.precision import PRECISIONS
from util.schedule import SCHEDULERS

# Argument groups that a resumed run takes from its checkpoint unless a flag is explicit. Those of "model" may only agree with
# it; those of the other groups ("start", "data", "run") say where things are, and are never restored.
RESTORED = ("training", "augmentation", "input")
DEVICES = "cuda (falls back to cpu), cuda:<index>, mps (untried), cpu, or auto: the first that there is of cuda, mps, cpu"
LAYERS, WIDTH, BITS = Number(int, 0, 1000), Number(int, 1, 2**16), Number(int, 9, 16)


def get_args_parser() -> Parser:
    """Build the parser of training and evaluation, with INTR's names and defaults; no help flag, to be a parent parser."""
    parser = Parser("main.py", add_help=False)
    add_model_flags(parser)
    add_data_flags(parser)
    add_training_flags(parser)
    add_augmentation_flags(parser)

    group = parser.group("start")
    group.add_argument(
        "--finetune", default="", help="start from the weights of a DETR, INTR or ICN file (path, URL, hf://owner/repo)"
    )
    group.add_argument("--backbone_weights", default="none", metavar="none|default|FILE", help="the backbone's initial weights")
    group.add_argument("--noise_frac", default=0.1, type=AMOUNT, help="noise in queries that repeat those of --finetune")
    group.add_argument("--query_init", choices=["means"], help="means: class queries start from the features of each class")
    group.add_argument("--start_epoch", default=0, type=WHOLE, metavar="N", help="first epoch; --resume sets it")

    group = parser.group("run")
    group.add_argument("--eval", action="store_true", help="evaluate the checkpoint of --resume and stop")
    group.add_argument(
        "--resume", default="", help="checkpoint to continue or to evaluate (path, URL, hf://...); auto: the run's newest"
    )
    group.add_argument("--save_every_steps", default=0, type=WHOLE, help="save also within epochs; 0: after each epoch only")
    group.add_argument("--keep_last", default=1, type=COUNT, help="how many of the latest checkpoints are kept")
    group.add_argument("--eval_every", default=1, type=COUNT, metavar="N", help="score every N-th epoch, and the last one")
    group.add_argument("--compile", action="store_true", help="compile the model (torch.compile): slow to start, fast to run")
    group.add_argument("--deterministic", action="store_true", help="bit-identical results on CUDA, too; slower")
    group.add_argument("--grad_checkpointing", action="store_true", help="less memory, more time: recompute activations")
    group.add_argument("--output_sub_dir", default="output_sub", help="results: <output_dir>/<dataset_name>/<output_sub_dir>")
    group.add_argument("--tensorboard", action="store_true", help="also write TensorBoard's files")
    group.add_argument("--wandb", action="store_true", help="also log to Weights & Biases (WANDB_MODE=offline: to files)")
    return parser


def add_model_flags(parser: Parser) -> None:
    """Add the flags of the architecture. A checkpoint contains them: with --resume, explicit ones must agree with it."""
    group, default = parser.group("model"), ARCHITECTURE
    group.add_argument("--backbone", default=default["backbone"], help="a torchvision ResNet or a timm model, by name")
    group.add_argument(
        "--backbone_norm",
        choices=["frozen", "batch"],
        help="batch norms: fixed as in DETR, or learned; None: learned when training from scratch, else fixed",
    )
    group.add_argument("--dilation", action="store_true", help="the last stage keeps its resolution (DC5)")
    group.add_argument("--feature_stride", type=COUNT, help="pixels per cell of the feature map; None: that of the last stage")
    group.add_argument("--fuse", action="store_true", help="add the enlarged maps of deeper stages to that of --feature_stride")
    group.add_argument("--window", type=COUNT, help="side in pixels of windows that are embedded separately; None: none")
    group.add_argument(
        "--position_embedding", default=default["position_embedding"], choices=["sine", "learned"], help="of the encoder"
    )
    group.add_argument(
        "--decoder",
        default=default["decoder"],
        type=canonical_decoder,
        choices=[*DECODERS, *ALIASES],
        help="; ".join(f"{name}: {spec.help}" for name, spec in DECODERS.items())
        + "".join(f"; {alias}: another name of {name}" for alias, name in ALIASES.items()),
    )
    group.add_argument(
        "--enc_layers", default=default["enc_layers"], type=LAYERS, help="encoder layers (0 for decoders without layers)"
    )
    group.add_argument("--dec_layers", default=default["dec_layers"], type=LAYERS, help="decoder layers")
    group.add_argument(
        "--dim_feedforward", default=default["dim_feedforward"], type=WIDTH, help="width of the feed-forward layers"
    )
    group.add_argument("--hidden_dim", default=default["hidden_dim"], type=WIDTH, help="width of the transformer")
    group.add_argument("--nheads", default=default["nheads"], type=WIDTH, help="attention heads")
    group.add_argument("--num_queries", type=COUNT, help="number of classes; None: that of the data or the checkpoint")
    group.add_argument("--pre_norm", action="store_true", help="normalise before each sublayer, not after it")
    group.add_argument(
        "--loss", default=default["loss"], choices=[*LOSSES], help="; ".join(f"{name}: {said}" for name, said in LOSSES.items())
    )
    group = parser.group("training")
    group.add_argument("--lr_backbone", default=1e-5, type=AMOUNT, help="learning rate of the backbone; 0 freezes it")
    group.add_argument("--dropout", default=0.1, type=PART, help="dropout in the transformer")


def add_data_flags(parser: Parser) -> None:
    """Add the flags that say which images are read, at what size, how they are computed, and where the results go."""
    group = parser.group("input")
    group.add_argument("--image_size", default=800, type=COUNT, help="short side in pixels (the long one: up to 5/3 of it)")
    group.add_argument("--square", action="store_true", help="images of image_size x image_size")
    group.add_argument(
        "--bit_depth", default=16, type=BITS, help="bits of the values in files of 16 bits: 12 if they are up to 4095"
    )
    group = parser.group("training")
    group.add_argument("--batch_size", default=12, type=COUNT, help="images per step, of each process")
    group.add_argument(
        "--size_schedule", default="", type=size_schedule, help="growing pictures: size:share of the training,...,image_size"
    )
    group.add_argument("--precision", default="fp32", choices=PRECISIONS, help="auto: bf16 where the hardware has it, else fp32")
    group = parser.group("data")
    group.add_argument("--dataset_path", default="datasets", help="folder of data sets")
    group.add_argument("--dataset_name", default="cub", help="<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>")
    group.add_argument("--test", default="val", choices=["val", "test"], help="the split that is evaluated")
    group.add_argument("--max_image_mb", default=1200, type=COUNT, help="memory in MB that an image may take to decode")
    group.add_argument(
        "--cache",
        default="",
        type=cache_place,
        metavar="ram|gpu|DIR",
        help="keep decoded pictures: in memory, on --device (which crops and flips them), or in a folder of this data set alone",
    )
    group.add_argument("--num_workers", default=2, type=WORKERS, help="processes that load images; 0: only the main process")
    group.add_argument(
        "--output_dir", default="output", help="folder of the results; '' writes none; those of a checkpoint: beside it"
    )
    group.add_argument("--device", default="cuda", help=DEVICES)
    group.add_argument("--world_size", default=1, type=COUNT, help="number of processes; set by their launcher")
    group.add_argument("--dist_url", default="env://", help="rendezvous of the processes; env://: set by their launcher")
    group.add_argument("--dist_minutes", default=10.0, type=AMOUNT, help="how long the processes wait for each other to start")


def add_training_flags(parser: Parser) -> None:
    """Add the flags of optimizer, schedule and loss. The weight of a loss term has the term's name."""
    group = parser.group("training")
    group.add_argument("--lr", default=5e-5, type=AMOUNT, help="learning rate of all but the backbone")
    group.add_argument("--min_lr", default=1e-6, type=AMOUNT, help="final learning rate of the cosine schedules")
    group.add_argument("--layer_decay", default=1.0, type=AMOUNT, help="factor on the backbone's rate per stage before the last")
    group.add_argument("--weight_decay", default=1e-6, type=AMOUNT, help="weight decay of AdamW")
    group.add_argument("--no_norm_decay", action="store_true", help="no weight decay of norms, biases and queries")
    group.add_argument("--epochs", default=140, type=COUNT, help="epochs in all, those before a resume included")
    group.add_argument("--lr_drop", default=80, type=COUNT, help="StepLR: a tenth of the rate after so many epochs")
    group.add_argument("--lr_scheduler", default="StepLR", choices=SCHEDULERS, help="learning rate schedule; cosine: per step")
    group.add_argument("--warmup_epochs", default=0.0, type=AMOUNT, help="linear warm-up over so many epochs")
    group.add_argument("--clip_max_norm", default=0.1, type=AMOUNT, help="largest norm of the gradients; 0 does not clip")
    group.add_argument("--accumulate", default=1, type=COUNT, help="batches per optimizer step (gradient accumulation)")
    group.add_argument("--ema", default=0.0, type=PART, help="decay of the moving average of the weights that is scored; 0: off")
    group.add_argument("--seed", default=42, type=SEED, help="of weights, data order, augmentation and dropout")
    group.add_argument("--label_smoothing", default=0.0, type=PART, help="share of the target spread over all classes")
    group.add_argument(
        "--adversarial", default=0.0, type=AMOUNT, help="adversarial training: bound in grey levels of 255; 0: off"
    )
    group.add_argument("--mosaic", default=0.0, type=AMOUNT, help="mosaics per image, and the weight of their loss")
    group.add_argument("--locality", default=0.0, type=AMOUNT, help="weight of the loss on evidence that depends on far pixels")


def add_augmentation_flags(parser: Parser) -> None:
    """Add the flags of random augmentation."""
    group = parser.group("augmentation")
    group.add_argument(
        "--crop_min",
        default=0.08,
        type=Number(float, 0, 1, above=True),
        help="--square: smallest random crop, as a share of the area",
    )
    group.add_argument("--hflip", default=0.5, type=SHARE, help="probability of a random horizontal flip")
    group.add_argument("--color_jitter", default=0.0, type=SHARE, help="strength of random changes of colour")
    group.add_argument("--randaugment", default=0, type=Number(int, 0, 10), help="magnitude of RandAugment, up to 10; 0: none")
    group.add_argument("--random_erasing", default=0.0, type=SHARE, help="probability that a random box is erased")
    group.add_argument(
        "--cache_features", default=0, type=WHOLE, metavar="N", help="frozen backbone: keep features of N views of a picture"
    )


def check_flags(args: Flags) -> None:
    """Refuse flags that contradict each other or have impossible values.

    Raises:
        ValueError: names the flag, its value and what is allowed.
    """
    if args.resume and args.resume != "auto" and args.finetune:
        raise ValueError("--resume continues a run, --finetune starts one from other weights: give one of them")
    if args.eval and not args.resume:
        raise ValueError("--eval needs --resume <checkpoint>: there is nothing to evaluate")
    if (args.resume not in ("", "auto") or args.finetune) and "backbone_weights" in args.explicit:
        raise ValueError("--backbone_weights: the file of --resume or --finetune has the backbone's weights; leave it out")
    if args.query_init and not find_decoder(args.decoder).uses_queries:
        raise ValueError(f"--query_init: --decoder {args.decoder} has no class queries: leave it out, or choose another decoder")
    if not find_decoder(args.decoder).is_layered and "dec_layers" in args.explicit:
        names = [args.decoder, *(alias for alias, name in ALIASES.items() if name == args.decoder)]
        raise ValueError(f"--decoder {' or '.join(names)} has no layers: leave --dec_layers out")
    if "world_size" in args.explicit and args.world_size != read_launcher_env().size:
        raise ValueError(
            f"--world_size {args.world_size}, but there are {read_launcher_env().size} processes: a launcher starts them "
            "(torchrun --nproc_per_node=N main.py ...); leave the flag out"
        )
    if not args.resume:  # else the file may have what they need
        check_map_losses(args)
        SizeSchedule(args.size_schedule, args.image_size, args.epochs)
    if args.warmup_epochs > args.epochs:
        raise ValueError(f"--warmup_epochs {args.warmup_epochs} is longer than the training (--epochs {args.epochs})")
    if args.resume == "auto" and args.eval:
        raise ValueError("--resume auto continues a training: give --eval the file to evaluate")
    if (args.resume == "auto" or args.save_every_steps or args.keep_last > 1) and not args.output_dir:
        raise ValueError("--output_dir '' writes nothing: --resume auto, --save_every_steps and --keep_last need a folder")


def check_map_losses(args: Flags) -> None:
    """Refuse loss terms on the evidence map where the decoder has none, or where images have several shapes."""
    for name in ("mosaic", "locality"):
        value = getattr(args, name)
        if value and not find_decoder(args.decoder).is_additive:
            raise ValueError(f"--{name} {value} needs logits that are sums over cells: give --decoder {additive_decoders()}")
        if value and not args.square:
            raise ValueError(f"--{name} {value} needs images of one shape: give --square")
    if args.locality and args.window is not None:
        raise ValueError(f"--locality {args.locality}: --window {args.window} makes evidence local already; leave one out")
    if args.locality and args.backbone_norm == "batch":
        raise ValueError(
            f"--locality {args.locality}: batch norms mix the images of a batch; start from a trained model (--finetune), "
            "whose norms are frozen"
        )


def output_folder(args: Flags) -> Path:
    """Return the folder of a run's results."""
    return Path(args.output_dir) / args.dataset_name / args.output_sub_dir


def compared_flags() -> list[str]:
    """Return the flags that make runs comparable: all but the seed, and those that say where and how a run is computed."""
    actions = get_args_parser().flags_of("model", "start", *RESTORED)
    names = [action.dest for action in actions if action.dest not in ("seed", "start_epoch")]
    return ["dataset_name", "test", *names]


def logged_flags(args: Flags) -> dict[str, Any]:
    """Return the flags that may be shown to others: those that say what is computed; of a path or URL only the file's name."""
    flags = {name: getattr(args, name) for name in (*compared_flags(), "seed", "world_size")}
    files = {name: Path(urlsplit(flags[name]).path).name for name in ("finetune", "backbone_weights")}
    return {**flags, **files}


def explicit_flags(args: Flags) -> dict[str, Any]:
    """Return the flags that the user typed, with their values."""
    return {key: getattr(args, key) for key in args.explicit}


def fill_from_checkpoint(args: Flags, saved: Mapping[str, Any], groups: Iterable[str] = ("input",)) -> Flags:
    """Take the flags of argument groups from a checkpoint's, unless the user typed them.

    Raises:
        ValueError: the checkpoint has a value that the command line would refuse, or an explicit flag of the model contradicts
            it.
    """
    parser, changes = get_args_parser(), {}
    for name in {action.dest for action in parser.flags_of("model")} & args.explicit - ARCHITECTURE.keys():
        if saved.get(name, getattr(args, name)) != getattr(args, name):
            raise ValueError(f"--{name} {getattr(args, name)} contradicts {args.resume}, which has {saved[name]}: leave it out")
    for action in parser.flags_of(*groups):
        name, value = action.dest, saved.get(action.dest)
        if name in args.explicit or value is None or name not in args:
            continue
        kinds = {bool: (bool,), int: (int,), float: (int, float)}.get(type(action.default), (str,))
        wrong_kind = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        outside = isinstance(action.type, Number) and not action.type.allows(value)
        if wrong_kind or outside or (action.choices and value not in action.choices):
            raise ValueError(f"the checkpoint has {name} = {value!r} among its flags: give --{name}, or another file")
        changes[name] = value
    return args.replace(**changes)


def resolve(
    args: Flags,
    classes: Sequence[str],
    resumed: Mapping[str, Any] | None = None,
    finetuned: Mapping[str, Any] | None = None,
    world_size: int = 1,
) -> Flags:
    """Complete the flags of a training by its data, the checkpoint that it starts from and its processes.

    Args:
        args: parsed flags.
        classes: of the training split.
        resumed: content of the checkpoint of --resume.
        finetuned: content of the file of --finetune.
        world_size: number of processes.

    Returns:
        The flags as the run is trained with and as its checkpoints keep them.

    Raises:
        ValueError: the checkpoint or the data contradict explicit flags.
    """
    if args.num_queries not in (None, len(classes)) and resumed is None:
        raise ValueError(
            f"--num_queries {args.num_queries}, but {args.dataset_path}/{args.dataset_name}/train has {len(classes)} classes: "
            "leave the flag out, or correct the folder"
        )
    if resumed is not None:
        args = fill_from_checkpoint(args, resumed["args"], RESTORED)
        args = _resolve_batch_size(args, resumed["args"].get("world_size"), world_size)
        args = _resolve_resumed_model(args, classes, resumed)
    else:
        args = _resolve_new_model(args, finetuned)
    args = args.replace(num_queries=len(classes), world_size=world_size)
    check_flags(args)
    check_map_losses(args)
    SizeSchedule(args.size_schedule, args.image_size, args.epochs)
    return args


def _resolve_batch_size(args: Flags, world_size_before: Any, world_size: int) -> Flags:
    """Divide the batches of a resumed run among as many processes as there are now, so that a step has the same images."""
    before = world_size_before if isinstance(world_size_before, int) and world_size_before > 0 else 1
    if "batch_size" in args.explicit or before == world_size:
        return args
    images = args.batch_size * before
    if images % world_size:
        raise ValueError(
            f"{args.resume} was trained on {images} images a step by {before} processes, which {world_size} cannot share evenly: "
            "give --batch_size (at the end of an epoch), or another number of processes"
        )
    print(f"{before} processes had {images} images a step, {world_size} continue with {images // world_size} each")
    return args.replace(batch_size=images // world_size)


def _resolve_resumed_model(args: Flags, classes: Sequence[str], resumed: Mapping[str, Any]) -> Flags:
    from models.build import resolve_architecture
    from util.train_state import next_epoch

    known = resolve_architecture(resumed, args.resume, explicit_flags(args))
    saved = resumed.get("classes")
    if (saved or classes) != classes or known["num_queries"] != len(classes):
        raise ValueError(
            f"--resume {args.resume} was trained on {known['num_queries']} classes{_names(saved)}, the data set has "
            f"{len(classes)}{_names(classes)}: they must be the same (other classes: --finetune)"
        )
    model = {action.dest for action in get_args_parser().flags_of("model") if action.dest in args}
    start_epoch = next_epoch(dict(resumed), args.start_epoch)
    return args.replace(start_epoch=start_epoch, **{name: known[name] for name in model if name in known})


def _resolve_new_model(args: Flags, finetuned: Mapping[str, Any] | None) -> Flags:
    architecture: dict[str, Any] = {}
    if finetuned is not None:
        from models.build import finetune_architecture

        architecture = finetune_architecture(finetuned, args.finetune, explicit_flags(args))
        args = args.replace(**architecture)
    spec = find_decoder(args.decoder)
    if not spec.is_layered:
        args = args.replace(dec_layers=0, enc_layers=args.enc_layers if "enc_layers" in {*args.explicit, *architecture} else 0)
        if args.enc_layers and spec.is_additive:
            print(
                f"warning: --enc_layers {args.enc_layers} mixes the cells: the map still sums to the logit, but the evidence of "
                "a cell no longer comes from its place (--enc_layers 0 keeps it there)",
                file=sys.stderr,
            )
    from_scratch = not args.finetune and args.backbone_weights == "none"
    if args.backbone_norm is None:
        args = args.replace(backbone_norm="batch" if from_scratch else "frozen")
    if from_scratch and (args.backbone_norm == "frozen" or args.lr_backbone == 0):
        flag = "--backbone_norm frozen" if args.backbone_norm == "frozen" else "--lr_backbone 0"
        raise ValueError(f"{flag} would freeze random weights: give --backbone_weights or --finetune, or leave it out")
    return args


def _names(classes: Sequence[str] | None) -> str:
    return f" ({', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''})" if classes else ""
