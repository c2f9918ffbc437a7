"""Any repository with INTR's `build_model(args)`, evaluated and trained as INTR's own engine does it.

This module imports nothing of ICN: in the process of a peer, `models`, `util`, `datasets` and `tools` are the peer's.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MAX_NORM = 0.1


class NoWeights(dict[str, Tensor]):
    """An empty state dict that stands for a download: loading it leaves a model unchanged."""


class Padded(NamedTuple):
    """Images and their padding mask, for a peer without `util.misc.NestedTensor`."""

    tensors: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Padded:
        return Padded(self.tensors.to(device), self.mask.to(device))


def build(
    spec: dict[str, Any], device: torch.device, build_model: Callable[[argparse.Namespace], Any]
) -> tuple[nn.Module, dict[str, Callable[[int], None]]]:
    """Return a model of INTR's interface, in single precision, and INTR's evaluation or training step, `count` times."""
    args = argparse.Namespace(**{**spec["flags"], "num_queries": spec["classes"], "device": str(device)})
    built = build_model(args)  # a model, or a tuple of model and criterion
    network: nn.Module = (built[0] if isinstance(built, tuple) else built).to(device)
    samples, labels = _samples(spec), torch.arange(spec["batch_size"]) % spec["classes"]

    def forward() -> tuple[Any, Tensor]:
        outputs = network(samples.to(device))
        named = outputs[0] if isinstance(outputs, tuple) else outputs
        return outputs, F.cross_entropy(named["query_logits"], labels.to(device))

    @torch.no_grad()
    def evaluate(count: int) -> None:
        for _ in range(count):
            _, loss = forward()
        loss.item()

    def train(count: int) -> None:
        for _ in range(count):
            outputs, loss = forward()  # the outputs are in memory during the backward pass, as in INTR's loop
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP_MAX_NORM)
            optimizer.step()
            del outputs
        if not loss.isfinite():
            raise ValueError(f"the loss is {loss.item()}")

    if spec["mode"] == "evaluation":
        return network.eval(), {"evaluation": evaluate}
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "lr": args.lr_backbone}]
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups["backbone" in name]["params"].append(parameter)
    optimizer = torch.optim.AdamW(groups, lr=args.lr, weight_decay=args.weight_decay)
    return network.train(), {"training": train}


def import_build_model(folder: str) -> Callable[[argparse.Namespace], Any]:
    """Return `models.build_model` of the repository in `folder`, unable to download. ValueError if there is no such function.

    This repository is taken off the import path, and its modules out of `sys.modules`: the peer may have packages of the
    same names, `tools` among them, from which the worker itself was imported.
    """
    root = Path(__file__).resolve().parents[3]
    sys.path[:] = [folder, *(entry for entry in sys.path if Path(entry).resolve() != root)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tools", "util")]:
        del sys.modules[name]
    os.chdir(folder)
    warnings.filterwarnings("ignore")
    forbid_downloads()
    try:
        return import_module("models").build_model
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--peer {Path(folder).name}: models.build_model cannot be imported: {error}") from None


def forbid_downloads() -> None:
    """Replace downloads of pretrained weights by `NoWeights`: speed does not depend on them."""
    import torchvision.models._api as api

    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    load = nn.Module.load_state_dict

    def load_state_dict(module: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return load(module, {}, strict=False) if isinstance(state_dict, NoWeights) else load(module, state_dict, *args, **kwargs)

    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign, assignment]
    torch.hub.load_state_dict_from_url = lambda *_, **__: NoWeights()
    api.WeightsEnum.get_state_dict = lambda *_, **__: NoWeights()  # type: ignore[method-assign]


def _samples(spec: dict[str, Any]) -> Any:
    """Return a batch as INTR's loader does: normalised floats on the CPU, and a mask, though nothing is padded."""
    generator = torch.Generator().manual_seed(0)
    shape = (spec["batch_size"], 3, spec["height"], spec["width"])
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).float().div_(255)
    images.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))
    mask = torch.zeros(shape[0], *shape[2:], dtype=torch.bool)
    try:
        return import_module("util.misc").NestedTensor(images, mask)
    except (ImportError, AttributeError):
        return Padded(images, mask)
