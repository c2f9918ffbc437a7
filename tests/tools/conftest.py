"""A data set, checkpoints and a browser that the tests of the tools share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flags import get_args_parser
from models import build_model
from util.cli import parse

TINY = "--backbone test_resnet --hidden_dim 16 --nheads 2 --enc_layers 0 --dim_feedforward 16 --image_size 64"
SaveCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def save_checkpoint() -> SaveCheckpoint:
    """A function that writes the checkpoint of a tiny untrained model: path, names of the classes (or how many), flags."""

    def save(path: Path, classes: Sequence[str] | int, flags: str = "--dec_layers 1") -> Path:
        torch.manual_seed(0)
        count = classes if isinstance(classes, int) else len(classes)
        words = [*TINY.split(), "--num_queries", str(count), "--backbone_norm", "frozen", *flags.split()]
        chosen = parse(get_args_parser(), words)
        model = build_model(chosen)
        args = {key: value for key, value in vars(chosen).items() if key != "explicit"}
        content = {"model": model.state_dict(), "args": args, "normalisation": model.backbone[0].normalisation, "epoch": 1}
        torch.save(content | ({} if isinstance(classes, int) else {"classes": list(classes)}), path)
        return path

    return save


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, save_checkpoint: SaveCheckpoint) -> Path:
    """A folder with `d/val/<class>/<0 to 2>.png`, pictures of three shapes of a, b, c and plain, a checkpoint and its log."""
    folder = tmp_path_factory.mktemp("small_run")
    names = ["a", "b", "c", "plain"]
    rng = np.random.default_rng(0)
    for label, name in enumerate(names):
        (folder / "d" / "val" / name).mkdir(parents=True)
        for number, size in enumerate([(64, 96, 3), (96, 64, 3), (200, 600, 3)]):
            colours = rng.integers(40 * label, 40 * label + 90, size, dtype=np.uint8)
            Image.fromarray(colours).save(folder / "d" / "val" / name / f"{number}.png")
    save_checkpoint(folder / "checkpoint.pth", names)
    lines = [{"epoch": e, "train_loss": 2 - e / 2, "test_loss": 2.0, "test_acc1": 25.0 * e} for e in range(3)]
    (folder / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="session")
def command(small_run: Path) -> Callable[..., list[str]]:
    """A function that returns the flags of `small_run`'s checkpoint and data, and more."""
    flags = ["--resume", small_run / "checkpoint.pth", "--dataset_path", small_run, "--dataset_name", "d", "--device", "cpu"]
    return lambda *more: [str(word) for word in (*flags, "--num_workers", 0, *more)]


@pytest.fixture(scope="module")  # not longer: its event loop runs in the main thread
def browser() -> Iterator[Any]:
    """Debian's chromium without a window, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements-dev.txt)")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()
