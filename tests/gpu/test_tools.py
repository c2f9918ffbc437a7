"""The tools on the device: prediction, drawing, measurement of maps, report, export."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_flags

import main
from predictor import Predictor
from util.cli import parse


@pytest.fixture(scope="module")
def trained(colours: Path, tmp_path_factory: pytest.TempPathFactory, device: torch.device) -> Path:
    """A checkpoint of one epoch on the device."""
    out = tmp_path_factory.mktemp("trained")
    words = ["--image_size", "64", "--square", "--feature_stride", "16", "--epochs", "1", "--dataset_name", "colours"]
    words += ["--backbone", "resnet18"]
    main.main(tiny_flags(*words, "--dataset_path", colours, "--output_dir", out, "--device", device))
    return out / "colours" / "output_sub" / "checkpoint.pth"


def call(tool: str, *words: object) -> None:
    module = importlib.import_module(tool)
    module.main(parse(module.get_args_parser(), list(map(str, words))))


@pytest.mark.parametrize("tool, words, file", [
    ("tools.visualization", "--class_index red --limit 2 --output_dir {out}", "**/index.html"),
    ("tools.report", "--top_q 1 --out {out}/report", "report/index.html"),
    ("tools.evaluate_attribution", "--quick --images 4 --costly_images 2 --steps 4 --output_dir {out}", "attribution.json"),
])  # fmt: skip
def test_tools_that_read_a_data_set(
    colours: Path, trained: Path, tmp_path: Path, device: torch.device, tool: str, words: str, file: str
) -> None:
    data = ["--dataset_path", colours, "--dataset_name", "colours", "--num_workers", 0, "--batch_size", 4]
    call(tool, "--resume", trained, *data, "--device", device, *words.format(out=tmp_path).split())
    assert list(tmp_path.glob(file))
    if tool == "tools.evaluate_attribution":
        content = json.loads((tmp_path / file).read_text())
        assert device.type in json.dumps(content)


def test_prediction_of_photographs(colours: Path, trained: Path, tmp_path: Path, device: torch.device) -> None:
    photographs = colours / "colours" / "val" / "red"
    call("tools.predict", photographs, "--resume", trained, "--device", device, "--num_workers", 0, "--panels", tmp_path)
    assert len(list(tmp_path.glob("*.png"))) == 4
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    predictors = [Predictor.from_checkpoint(trained, str(place)) for place in (device, "cpu")]
    logits, maps = zip(*((each.logits(picture), each.explain(picture).map) for each in predictors), strict=True)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(*map(np.asarray, maps), atol=1e-4)


@pytest.mark.parametrize("to", ["safetensors", "torch"])
def test_exports_give_the_logits_of_the_device(trained: Path, tmp_path: Path, device: torch.device, to: str) -> None:
    if to == "torch" and torch.__version__ < "2.6":
        pytest.skip("torch 2.5 traces these models for one size only")
    path = tmp_path / {"safetensors": "m.safetensors", "torch": "m.pt2"}[to]
    call("tools.export.__main__", "--resume", trained, "--to", to, "--out", path)
    images = torch.randn(2, 3, 64, 64, device=device)
    expected = Predictor.from_checkpoint(trained, str(device)).model(images).logits
    if to == "safetensors":
        logits = Predictor.from_checkpoint(path, str(device)).model(images).logits
    else:
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(torch.export.load(path), str(device))
        logits = program.module()(images, torch.zeros(2, 64, 64, dtype=torch.bool, device=device))[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
