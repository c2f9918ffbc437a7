"""The small world in which wrong inputs are tried: a data set, photographs, a checkpoint, pairs and masks, all in one folder."""

from __future__ import annotations

import importlib
import io
import json
import shlex
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import main as icn
from flags import get_args_parser
from models import build_model
from util.cli import Parser, launch, parse

CLASSES = ("finch", "robin", "wren")
MODEL = "--backbone test_resnet --hidden_dim 16 --nheads 2 --enc_layers 0 --dec_layers 1 --dim_feedforward 16"
DATA = "--device cpu --num_workers 0 --dataset_path datasets --dataset_name birds"
TRAINING = f"{MODEL} --square --image_size 64 --batch_size 2 --epochs 1 --output_dir output {DATA}"

# Flags of each command that the page leaves out: sizes and places of the small world.
HIDDEN = {
    "main.py": TRAINING,
    "main.py --eval": DATA,
    "run_with_submitit.py": TRAINING,
    "tools.calibrate": DATA,
    "tools.evaluate_attribution": DATA,
    "tools.evaluate_unknown": DATA,
    "tools.figure": DATA,
    "tools.predict": "--device cpu --num_workers 0",
    "tools.report": DATA,
    "tools.traits": DATA,
    "tools.visualization": DATA,
    "tools.whatif": "--device cpu",
}
SHARED = ("main.py", "tools.evaluate_attribution", "tools.prepare_dataset", "tools.visualization")  # their processes share work


class Case(NamedTuple):
    """A wrong input.

    given: what is wrong, for the reader.
    command: the command line, without the flags of `HIDDEN`.
    message: what follows `<program>: error: `, with the placeholders of `page.PLACEHOLDERS`.
    make: makes the input in the current folder, a copy of the small world.
    environment: variables of the process.
    code: the exit code.
    """

    given: str
    command: str
    message: str
    make: Callable[[], Any] | None = None
    environment: Mapping[str, str] = {}
    code: int = 2


def make_world() -> None:
    """Make the small world in the current folder."""
    rng = np.random.default_rng(0)
    colours = rng.integers(60, 200, (64, 3))

    def noise(path: Path, colour: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(np.clip(rng.normal(colour, 40, (6, 8, 3)), 0, 255).astype(np.uint8))
        small.resize((48, 40), Image.Resampling.BICUBIC).save(path)

    for split, count in (("train", 2), ("val", 1)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                noise(Path("datasets/birds", split, name, f"{number}.png"), colours[label])
    for number in range(8):
        noise(Path(f"photos/{number}.jpg"), colours[number])
    noise(Path("pairs/street.png"), colours[9])
    for side, columns in (("A", slice(0, 10)), ("B", slice(20, 40))):
        mask = np.zeros((40, 48), np.uint8)
        mask[:, columns] = 255
        Image.fromarray(mask).save(f"pairs/street.{side}.png")
    save_model()


def save_model(path: str = "model.pth", entries: Mapping[str, Any] | None = None, **flags: object) -> None:
    """Write a checkpoint of a small untrained model, with other entries and flags."""
    torch.manual_seed(0)
    args = parse(get_args_parser(), [*MODEL.split(), "--square", "--image_size", "64"])
    args = args.replace(num_queries=3, backbone_norm="frozen")
    content = {"model": build_model(args).state_dict(), "classes": list(CLASSES), "epoch": 0, "version": 1}
    kept = {key: value for key, value in vars(args).items() if key != "explicit"} | flags
    torch.save({**content, "args": kept, **(entries or {})}, path)


def write(path: str, content: bytes | str) -> Path:
    """Write a file, its folders included."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def writes(path: str, content: bytes | str) -> Callable[[], object]:
    """Return a function that writes a file."""
    return lambda: write(path, content)


def picture(content: bytes | str | Image.Image, name: str = "bad.jpg", split: str = "train") -> Callable[[], object]:
    """Return a function that puts a picture, or what has the name of one, into the data set."""

    def put() -> None:
        path = Path("datasets/birds", split, "wren", name)
        content.save(path) if isinstance(content, Image.Image) else write(str(path), content)

    return put


def pairs(*entries: object, **more: object) -> Callable[[], object]:
    """Return a function that writes pairs.json, by default of the one right entry with `more` in it."""
    right = {"file": "street.png", "A": "finch", "B": "wren", **more}
    return writes("pairs/pairs.json", json.dumps(list(entries) or [right]))


def listed(rows: str, name: str = "list.csv") -> Callable[[], object]:
    """Return a function that puts a list among the photographs."""
    return writes(f"photos/{name}", rows)


def zipped(**files: bytes | str) -> bytes:
    """Return a zip archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def run(case: Case) -> None:
    """Run the command of a case in this process, as its program would; SystemExit where it fails."""
    program, *words = shlex.split(case.command)
    hidden = HIDDEN.get("main.py --eval" if program == "main.py" and "--eval" in words else program, "").split()
    if program == "main.py":
        entry, parser = icn.main, Parser("main.py", parents=[get_args_parser()])
    else:
        module = importlib.import_module(program.removesuffix(".py"))
        module = importlib.import_module(f"{program}.__main__") if hasattr(module, "__path__") else module
        entry, parser = module.main, module.get_args_parser()
    launch(entry, parser, [*hidden, *words], shared=program in SHARED)
