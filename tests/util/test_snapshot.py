"""A copy of a training's state: equal, of its own, and not made where memory is short."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from conftest import tiny_model

from util import snapshot as module
from util.snapshot import snapshot


def state() -> dict[str, Any]:
    """What a checkpoint has: state dicts, some of whose tensors are one, an optimizer with moments, and other data."""
    model = tiny_model().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    weights = model.state_dict()
    weights["again"] = weights["query_embed.weight"]
    return {
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "rng": [{"cpu": torch.get_rng_state(), "cuda": []}],
        "ema": None,
    }


def written(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_the_file_of_a_copy_is_that_of_the_state_to_the_byte() -> None:
    original = state()
    copied = snapshot(original)
    assert written(copied) == written(original)
    assert (
        copied["model"]._metadata == original["model"]._metadata
        and copied["model"]["again"] is copied["model"]["query_embed.weight"]
    )


def test_nothing_of_the_copy_changes_with_the_state() -> None:
    original = state()
    copied = snapshot(original)
    before = written(copied)
    for tensor in module._tensors(original):
        tensor.zero_()
    original["optimizer"]["param_groups"][0]["lr"] = 7
    original["optimizer"]["state"][0]["new"] = 1
    original["rng"][0]["cuda"].append(1)
    assert written(copied) == before


def test_a_copy_that_is_made_during_an_evaluation_can_be_used_outside() -> None:
    with torch.inference_mode():
        copied = snapshot({"a": torch.ones(2), "b": torch.ones(2)})
    assert not any(tensor.is_inference() for tensor in copied.values())


@pytest.mark.parametrize("cause", ["much", "refused"])
def test_short_memory_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, cause: str) -> None:
    content = {"a": torch.zeros(250_000)}  # 1 MB
    module._say_memory_is_short.cache_clear()
    if cause == "much":
        monkeypatch.setattr(module, "available", lambda: 1_900_000)
    else:

        def refuse(*_: object, **__: object) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

        monkeypatch.setattr(torch.Tensor, "to", refuse)
    assert snapshot(content) is None and snapshot(content) is None
    assert capsys.readouterr().out.startswith("memory is short for a copy of the state (1 MB): ")
    monkeypatch.undo()
    monkeypatch.setattr(module, "available", lambda: None)  # nobody says
    assert snapshot(content)["a"].equal(content["a"])
