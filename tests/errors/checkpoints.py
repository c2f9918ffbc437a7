"""Wrong checkpoints."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path
from typing import Any

import torch

from flags import get_args_parser
from models import build_model
from tests.errors.world import MODEL, Case, save_model, write, writes, zipped
from util.cli import parse

EVAL = "main.py --eval --resume bad.pth"


class Hostile:
    """A value that makes a folder where it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("owned",)


def cut() -> None:
    """Write a checkpoint without its end."""
    Path("bad.pth").write_bytes(Path("model.pth").read_bytes()[:-5000])


def detr() -> None:
    """Write a file of DETR, as far as it is read."""
    torch.save({"model": {"query_embed.weight": torch.zeros(100, 16), "class_embed.weight": torch.zeros(92, 16)}}, "bad.pth")


def diverged(name: str, value: float) -> None:
    """Write a checkpoint whose training diverged: all values of a tensor are this one."""
    content = torch.load("model.pth", weights_only=True)
    content["model"][name].fill_(value)
    torch.save(content, "bad.pth")


def saves(content: object) -> Any:
    """Return a function that saves a checkpoint."""
    return lambda: torch.save(content, "bad.pth")


def flags(**changes: object) -> Any:
    """Return a function that saves a checkpoint with other flags."""
    return lambda: save_model("bad.pth", **changes)


def entries(**changes: object) -> Any:
    """Return a function that saves a checkpoint with other entries."""
    return lambda: save_model("bad.pth", changes)


def safetensors() -> None:
    """Write a file of safetensors without its end."""
    from safetensors.torch import save_file

    save_file({"query_embed.weight": torch.ones(3, 4)}, "bad.safetensors")
    write("bad.safetensors", Path("bad.safetensors").read_bytes()[:-5])


def average() -> None:
    """Write a checkpoint of the decoder without attention."""
    words = MODEL.replace("--dec_layers 1", "--decoder average")
    args = parse(get_args_parser(), [*words.split(), "--image_size", "64"]).replace(num_queries=3, backbone_norm="frozen")
    kept = {key: value for key, value in vars(args).items() if key != "explicit"}
    torch.save({"model": build_model(args).state_dict(), "args": kept, "classes": ["finch", "robin", "wren"]}, "bad.pth")


TENSOR = {"w": torch.zeros(1)}
CHECKPOINTS = [
    Case("a checkpoint that does not exist", EVAL, "checkpoint bad.pth does not exist: give the path of a .pth file"),
    Case(
        "a file of DETR that is not there yet",
        "main.py --finetune detr-r50-e632da11.pth",
        "checkpoint detr-r50-e632da11.pth does not exist: give the path of a .pth file; it can be had "
        "from https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth",
    ),
    Case(
        "a folder without a checkpoint",
        "main.py --eval --resume photos",
        "checkpoint photos is a folder that has no model.safetensors: give a folder of tools.export, or a .pth file",
    ),
    Case("an empty file", EVAL, "checkpoint bad.pth is empty; a file of torch.save is needed", writes("bad.pth", "")),
    Case(
        "a text",
        EVAL,
        "checkpoint bad.pth is a text file ('# ICN'); a file of torch.save is needed",
        writes("bad.pth", "# ICN\n\nText of README.md\n"),
    ),
    Case(
        "a pointer of Git LFS",
        EVAL,
        "checkpoint bad.pth is a pointer of Git LFS in place of the file: run git lfs pull; a file of torch.save is needed",
        writes("bad.pth", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
    ),
    Case(
        "a web page",
        EVAL,
        "checkpoint bad.pth is a web page: download the file itself; a file of torch.save is needed",
        writes("bad.pth", "<!DOCTYPE html><html>"),
    ),
    Case(
        "a compressed file",
        EVAL,
        "checkpoint bad.pth is compressed by gzip: unpack it; a file of torch.save is needed",
        writes("bad.pth", gzip.compress(b"x")),
    ),
    Case(
        "an archive of other files",
        EVAL,
        "checkpoint bad.pth is a zip archive of other files (a/x.txt, b): unpack it",
        writes("bad.pth", zipped(**{"a/x.txt": "1", "b": "2"})),
    ),
    Case(
        "an exported program of torch",
        EVAL,
        "checkpoint bad.pth is a program (torch.export): give a checkpoint or safetensors",
        writes("bad.pth", zipped(**{"m/models/model.json": "{}"})),
    ),
    Case(
        "an exported program of ONNX",
        EVAL,
        "checkpoint bad.pth is a program (ONNX): give a checkpoint or safetensors",
        writes("bad.pth", b"\x08\x0a\x12\x07pytorch\x1a\x032.9"),
    ),
    Case(
        "a picture",
        "main.py --eval --resume photos/0.jpg",
        "checkpoint photos/0.jpg is a JPEG image; a file of torch.save is needed",
    ),
    Case(
        "zeros, from a disk that was full",
        EVAL,
        "checkpoint bad.pth is zeros where its data should be: copy or download it again; a file of torch.save is needed",
        writes("bad.pth", bytes(5000)),
    ),
    Case(
        "a loss that there is not",
        EVAL,
        "bad.pth has flags that no model can have: loss 'mse' is not known: choose ce or bce",
        flags(loss="mse"),
    ),
    Case(
        "another loss than the checkpoint's, to go on with",
        "main.py --resume model.pth --loss bce",
        "--loss: bce contradicts model.pth, which has ce: leave it out",
    ),
    Case("a checkpoint that was cut off", EVAL, "checkpoint bad.pth is truncated or no checkpoint at all ({reason})", cut),
    Case(
        "a checkpoint that was cut off, to start from",
        "main.py --finetune bad.pth",
        "checkpoint bad.pth is truncated or no checkpoint at all ({reason})",
        cut,
    ),
    Case(
        "weights of safetensors that were cut off",
        "main.py --eval --resume bad.safetensors",
        "checkpoint bad.safetensors is truncated or no checkpoint at all ({reason})",
        safetensors,
    ),
    Case(
        "a pickle that would run a program",
        EVAL,
        "checkpoint bad.pth is refused, nothing in it was run: it holds more than plain values (global posix.mkdir)",
        saves({"model": {}, "args": Hostile()}),
    ),
    Case(
        "no weights",
        EVAL,
        "checkpoint bad.pth holds no state dict (names of tensors to tensors) but the entries epoch (int), net (str)",
        saves({"epoch": 3, "net": "x"}),
    ),
    Case(
        "two networks",
        EVAL,
        "checkpoint bad.pth holds several state dicts (student, teacher): save the one that is meant as {'model': state_dict}",
        saves({"student": TENSOR, "teacher": TENSOR}),
    ),
    Case("a file of DETR, to be evaluated", EVAL, "bad.pth is a DETR detector, not a classifier: train from it (finetune)", detr),
    Case(
        "a file of a newer version",
        EVAL,
        "checkpoint bad.pth has format 99, this ICN reads up to 1: update ICN",
        entries(version=99),
    ),
    Case(
        "a damaged entry",
        EVAL,
        "checkpoint bad.pth: the entry 'classes' is damaged, a list of names, all different is needed",
        entries(classes=[1, 2]),
    ),
    Case(
        "weights that are not finite",
        EVAL,
        "bad.pth has values that are not finite numbers (presence_vector.bias): it is damaged, or its training diverged",
        lambda: diverged("presence_vector.bias", math.nan),
    ),
    Case(
        "weights that overflow",
        EVAL,
        "--resume bad.pth: the loss is nan on val: the file is damaged, or its training diverged",
        lambda: diverged("presence_vector.weight", 3e38),
    ),
    Case(
        "another architecture than its flags say",
        EVAL,
        "bad.pth is of another architecture: its flags say dec_layers = 2, its tensors 1",
        flags(dec_layers=2),
    ),
    Case(
        "flags that no model can have",
        EVAL,
        "bad.pth has flags that no model can have: nheads num_heads 0 must divide hidden_dim 16",
        flags(nheads=0),
    ),
    Case(
        "an image size that no command line takes",
        EVAL,
        "the checkpoint has image_size = -5 among its flags: give --image_size, or another file",
        flags(image_size=-5),
    ),
    Case(
        "a flag that contradicts the checkpoint",
        "main.py --eval --resume model.pth --nheads 8",
        "--nheads: 8 contradicts model.pth, which has 2: leave it out",
    ),
    Case(
        "other classes than the checkpoint has, in number",
        "main.py --eval --resume model.pth --num_queries 7",
        "--num_queries: 7 contradicts model.pth, which has 3: leave it out",
    ),
    Case(
        "a model without attention",
        "tools.figure --resume bad.pth --out figure.pdf --classes wren --columns heads",
        "--columns heads: the average decoder has no attention; choose classes or methods",
        average,
    ),
    Case(
        "an address of another kind",
        "main.py --eval --resume s3://bucket/model.pth",
        "checkpoint s3://bucket/model.pth cannot be fetched: give a path, or an address of http, https, file or hf",
    ),
    Case(
        "a server that does not answer",
        "main.py --eval --resume http://127.0.0.1:1/model.pth",
        "checkpoint http://127.0.0.1:1/model.pth cannot be fetched ({reason})",
    ),
]
