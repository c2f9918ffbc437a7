"""Small data and small models that the tests share.

Functions import what is large: of several processes the first runs no test, and the others wait until it has read this file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from durations import pytest_addoption, pytest_collection_modifyitems, pytest_runtest_logreport, pytest_terminal_summary  # noqa: F401, hooks of pytest

if TYPE_CHECKING:
    import torch

    from models import ICN
    from util.cli import Flags

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: each has one
    os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = "--backbone test_resnet --hidden_dim 32 --dim_feedforward 64 --nheads 4 --enc_layers 1 --dec_layers 2"


def tiny_flags(*more: str) -> Flags:
    """Flags of a model that trains in seconds."""
    from flags import get_args_parser
    from util.cli import parse

    return parse(get_args_parser(), [*TINY.split(), "--device", "cpu", "--num_workers", "0", *map(str, more)])


def tiny_model(num_classes: int = 3, seed: int = 0, **changes: object) -> ICN:
    """An untrained small ICN on a frozen-norm ResNet of timm (`test_resnet`), in evaluation mode."""
    import torch

    from models import build_model

    torch.manual_seed(seed)
    args = tiny_flags().replace(**{"num_queries": num_classes, "backbone_norm": "frozen", **changes})
    model = build_model(args).eval()
    with torch.no_grad():  # biases start at zero, where mistakes in them would not show
        for parameter in model.transformer.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def as_detr(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An ICN's state dict in DETR's form: its detection heads in the place of the classifier."""
    import torch

    width = state["query_embed.weight"].shape[1]
    detr = {key: value for key, value in state.items() if not key.startswith("presence_vector.")}
    detr |= {"class_embed.weight": torch.zeros(92, width), "class_embed.bias": torch.zeros(92)}
    for layer, out in enumerate((width, width, 4)):
        detr[f"bbox_embed.layers.{layer}.weight"] = torch.zeros(out, width)
        detr[f"bbox_embed.layers.{layer}.bias"] = torch.zeros(out)
    return detr


def make_images(root: Path, splits: dict[str, int], classes: dict[str, tuple[int, int, int]], size: tuple[int, int]) -> Path:
    """A data set of coloured discs on grey noise, a class a colour: `splits` counts the images of each class."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for name, colour in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                image = np.clip(rng.normal(128, 30, (*size, 3)), 0, 255).astype(np.uint8)
                radius = min(size) // 4
                centre = [int(rng.integers(radius, side - radius)) for side in size[::-1]]
                cv2.circle(image, centre, radius, colour[::-1], -1)
                cv2.imwrite(str(folder / f"{index}.png"), image)
    return root


COLOURS = {"blue": (40, 60, 200), "green": (50, 180, 60), "red": (200, 50, 40)}


@pytest.fixture(scope="session", autouse=True)
def threads() -> None:
    """Two threads, or as many as there are for a process."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<root>/colours/{train,val}/<class>/*.png`: 8 and 4 images of each of three colours, 40 x 48 pixels; returns the root."""
    root = tmp_path_factory.mktemp("datasets")
    make_images(root / "colours", {"train": 8, "val": 4}, COLOURS, (40, 48))
    return root


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Compute on one thread: steps of a few milliseconds gain nothing from a second one and wait for it on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test remembers survives it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """A stand-in for the package wandb; returns the runs that are started: settings, environment, logged lines, exit codes."""
    from util.logging import WANDB_PRIVATE

    runs: list[SimpleNamespace] = []

    def init(**settings: Any) -> SimpleNamespace:
        run = SimpleNamespace(settings=settings, environment=dict(os.environ), lines=[], metrics=[], ends=[])
        run.log, run.finish = run.lines.append, lambda exit_code: run.ends.append(exit_code)
        run.define_metric = lambda name, **more: run.metrics.append((name, more.get("step_metric")))
        runs.append(run)
        return run

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in WANDB_PRIVATE:  # what a run sets is unset again after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return runs
