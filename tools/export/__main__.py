"""Write a checkpoint for others: `python -m tools.export --resume <checkpoint.pth> --to safetensors --out model.safetensors`

safetensors: the weights, and in the header what rebuilds and applies the model; dir: a folder with that file, config.json and a
model card; intr: a checkpoint of INTR; onnx, torch: a program, inputs images and padding_mask, outputs logits and maps.
What was written is read back, or run, and compared with the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that `python tools/export` works too

import torch

from datasets import class_names, eval_transform, open_split, verify_images
from datasets.decode import set_decoding
from datasets.loaders import Batches, build_eval_loader
from flags import fill_from_checkpoint
from flags import get_args_parser as main_flags
from models import ICN, load_checkpoint
from models.hub import SCHEME, check_repo, push_to_hub
from models.loading import CheckpointMeta
from models.saving import check_written, describe, intr_checkpoint, save_folder, save_weights
from tools.export import int8, programs
from tools.export.card import PICTURE, Results, measured, read_results
from tools.export.picture import write_picture
from util.atomic import atomic_write, new_folder, replacing
from util.cli import Flags, Parser, launch, parse
from util.errors import RunFailed
from util.number import COUNT, WORKERS
from util.output_files import check_output_file, writing_to

PROG = "python -m tools.export"
MIB = 2**20


class Source(NamedTuple):
    """What is exported: the model, its file's metadata, the description that travels with it, and results for the card."""

    model: ICN
    meta: CheckpointMeta
    description: dict[str, Any]
    results: Results


def get_args_parser() -> Parser:
    """Return the flags."""
    parser = Parser(PROG, description=__doc__)
    parser.add_argument("--resume", required=True, help="the checkpoint (ICN's or INTR's; path, URL or hf://owner/repo)")
    parser.add_argument("--to", required=True, choices=TARGETS, help="the format")
    parser.add_argument("--out", required=True, type=Path, help="file to write; of dir: the folder")
    parser.add_argument("--no_mask", action="store_true", help="onnx, torch: only images as input, for those of one shape")
    parser.add_argument("--int8", action="store_true", help="onnx: matrix products in 8 bits, measured on --dataset_name")
    parser.add_argument("--dataset_path", default="datasets", help="folder of data sets")
    parser.add_argument("--dataset_name", help="data set that --int8 is measured on; None: not measured")
    parser.add_argument("--test", default="val", choices=["val", "test"], help="its split")
    parser.add_argument("--batch_size", default=8, type=COUNT, help="images in a pass of the measurement")
    parser.add_argument("--num_workers", default=2, type=WORKERS, help="processes that load its images; 0: only the main process")
    parser.add_argument(
        "--results",
        nargs="+",
        default=[],
        type=Path,
        metavar="FOLDER",
        help="for the card of --to dir: results of main.py --eval, tools.report and tools.evaluate_attribution",
    )
    parser.add_argument("--no_picture", action="store_true", help="no photographs of the report of --results on the card")
    parser.add_argument("--push", metavar="OWNER/REPO", help="also upload the folder of --to dir to the Hugging Face hub")
    parser.add_argument("--private", action="store_true", help="a repository that --push creates is private")
    return parser


def main(args: Flags) -> None:
    """Export; raise a ValueError for a wrong flag or file, and a RunFailed where the result is another model."""
    target = TARGETS[args.to]
    check_flags(args, target)
    model, meta = load_checkpoint(args.resume)
    model.eval()
    results = read_results(args.results, model, meta)
    fill_from_checkpoint(parse(main_flags(), []), meta.args)  # refuses flags of the input that nobody could use
    with writing_to("--out", args.out):
        said = target.write(args, Source(model, meta, describe(meta), results))
    files = [args.out] if args.out.is_file() else sorted(args.out.iterdir())
    print(f"{args.out}: {said}, {sum(file.stat().st_size for file in files) / MIB:.1f} MiB")
    if args.push:
        print(f"uploaded: {push_to_hub(args.out, args.push, args.private)}")


def check_flags(args: Flags, target: Target) -> None:
    """Raise a ValueError for flags that the format does not have, and an output that exists or cannot be written."""
    for name in ("results", "push"):
        if getattr(args, name) and target.suffix:
            raise ValueError(f"--{name} is of --to dir, a folder with a model card: leave it out, or give --to dir")
    if args.no_mask and args.to not in ("onnx", "torch"):
        raise ValueError(f"--no_mask is of programs (--to onnx or torch), not of --to {args.to}: leave it out")
    if args.int8 and args.to != "onnx":
        raise ValueError(f"--int8 is of --to onnx, not of --to {args.to}: leave it out")
    if not args.int8 and (unused := {"dataset_path", "dataset_name", "test", "batch_size", "num_workers"} & args.explicit):
        raise ValueError(f"--{min(unused)} is of the measurement of --int8: leave it out, or give --int8")
    if args.no_picture and not args.results:
        raise ValueError("--no_picture is of the report of --results: leave it out, or give --results")
    if args.push:
        try:
            check_repo(args.push)
        except ValueError as error:
            raise ValueError(f"--push {error}") from None
    if args.private and not args.push:
        raise ValueError("--private is of a repository that --push creates: leave it out, or give --push")
    if args.out.is_file() or (not target.suffix and args.out.is_dir() and any(args.out.iterdir())):
        raise ValueError(f"--out {args.out} exists and is not overwritten: choose another name")
    if target.suffix:
        check_output_file("--out", args.out, [target.suffix])


def to_safetensors(args: Flags, source: Source) -> str:
    """Write the weights and their header."""
    with replacing(args.out) as temporary:
        save_weights(temporary, source.model, source.description)
        return compare(source, temporary)


def to_dir(args: Flags, source: Source) -> str:
    """Write a folder with the weights, their header as config.json, and the model card."""
    report, pictured = source.results.report, ""
    with new_folder(args.out) as folder:
        if report is not None and source.results.report_folder is not None and not args.no_picture:
            pictured = write_picture(folder / PICTURE, report, source.results.report_folder, source.model)
        address = f"{SCHEME}{args.push}" if args.push else args.out.name
        try:
            save_folder(folder, source.model, address, measured(source.results, pictured))
        except ValueError as error:
            raise RunFailed(str(error)) from None
    return f"{summary(source)}, a model card" + f" with photographs ({PICTURE})" * bool(pictured)


def to_intr(args: Flags, source: Source) -> str:
    """Write a checkpoint of INTR."""
    content = intr_checkpoint(source.model, source.meta, source.description["args"])
    with replacing(args.out) as temporary:
        with atomic_write(temporary, "wb") as file:  # an error of the disk stays an OSError
            torch.save(content, file)
        return compare(source, temporary)


def compare(source: Source, path: Path) -> str:
    """Read a file back and return what was found to be equal; RunFailed where the model is another."""
    try:
        check_written(source.model, path)
    except ValueError as error:
        raise RunFailed(str(error)) from None
    return summary(source)


def summary(source: Source) -> str:
    """Return what was written, read back and found to be equal."""
    names = "" if source.meta.classes else " without names"
    return f"{len(source.model.state_dict())} tensors, {source.model.num_classes} classes{names}, read back and equal"


def to_torch(args: Flags, source: Source) -> str:
    """Write a program for torch.export.load."""
    return export_program(args, source, args.out, programs.save_torch)


def to_onnx(args: Flags, source: Source) -> str:
    """Write a program for onnxruntime; with --int8 its 8-bit copy, measured on a split where one is given."""
    programs.check_onnx_packages()
    if not args.int8:
        return export_program(args, source, args.out, programs.save_onnx)
    batches = open_batches(args, source)
    with TemporaryDirectory(dir=args.out.parent, prefix=".export.") as folder, replacing(args.out) as temporary:
        full = Path(folder, "full.onnx")
        said = export_program(args, source, full, programs.save_onnx)
        said = f"{said}; then {int8.quantise(full, temporary)}"
        if batches is None:
            return f"{said}, whose cost was not measured (give --dataset_path and --dataset_name)"
        runs = (programs.onnx_runner(full), programs.onnx_runner(temporary))
        return f"{said}: {int8.measure(*runs, batches, source.meta.normalisation, not args.no_mask)}"


def open_batches(args: Flags, source: Source) -> Batches | None:
    """Return the batches of the split that int8 is measured on; None where the command line names no data set."""
    if "dataset_name" not in args.explicit:
        return None
    flags = fill_from_checkpoint(parse(main_flags(), []), source.meta.args)
    names = ("dataset_path", "dataset_name", "test", "batch_size", "num_workers")
    flags = flags.replace(**{name: getattr(args, name) for name in names})
    classes = source.meta.classes or class_names(args.dataset_path, args.dataset_name, args.test, source.model.num_classes)
    set_decoding(flags.bit_depth, flags.max_image_mb)
    split = open_split(args.dataset_path, args.dataset_name, args.test, classes, eval_transform(flags.image_size, flags.square))
    verify_images(split.paths)
    return build_eval_loader(flags, split, torch.device("cpu"))


def export_program(args: Flags, source: Source, out: Path, save: Callable[[Path, Any, dict[str, Any]], programs.Run]) -> str:
    """Trace the model, write the program and compare it with the model; the file is there only where they are equal."""
    flags = fill_from_checkpoint(parse(main_flags(), []), source.meta.args)
    masked = not args.no_mask

    def attempt(fixed: bool) -> str:
        program, module = programs.trace(source.model, flags.image_size, masked, fixed)
        with replacing(out) as temporary:
            return programs.check(save(temporary, program, source.description), program, module, masked)

    try:
        return attempt(fixed=False)
    except RunFailed:  # a network of one size, or one that is traced for some sizes only
        return attempt(fixed=True)


class Target(NamedTuple):
    """A format: what writes it and says what was written, and the ending of its files, '' for a folder."""

    write: Callable[[Flags, Source], str]
    suffix: str


TARGETS = {
    "safetensors": Target(to_safetensors, ".safetensors"),
    "dir": Target(to_dir, ""),
    "intr": Target(to_intr, ".pth"),
    "onnx": Target(to_onnx, ".onnx"),
    "torch": Target(to_torch, ".pt2"),
}


if __name__ == "__main__":
    launch(main, get_args_parser())
