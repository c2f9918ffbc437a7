"""`python -m tools.calibrate`: thresholds in the checkpoint, all else as it was; training and evaluation have the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_flags

import main as icn
from flags import get_args_parser as main_flags
from models import load_checkpoint
from models.saving import describe, save_folder, save_weights
from models.unknown import Mahalanobis
from predictor import Predictor
from tools.calibrate import get_args_parser, main
from util.cli import parse

pytestmark = pytest.mark.usefixtures("one_thread")
RECIPE = "--backbone test_resnet --image_size 48 --feature_stride 16 --batch_size 8 --dataset_name colours --square "
RECIPE += "--epochs 1 --ema 0.5 --save_every_steps 1"


def calibrate(small_run: Path, checkpoint: Path, *more: object) -> None:
    words = [
        "--resume",
        checkpoint,
        "--dataset_path",
        small_run,
        "--dataset_name",
        "d",
        "--device",
        "cpu",
        "--num_workers",
        0,
        *more,
    ]
    main(parse(get_args_parser(), list(map(str, words))))


def test_a_file_gets_thresholds_and_keeps_all_else(small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shutil.copy(small_run / "checkpoint.pth", tmp_path)
    before = torch.load(path, weights_only=True) | {"version": 1, "optimizer": {"state": {}, "param_groups": []}}
    torch.save(before, path)
    calibrate(small_run, path, "--score", "energy")
    after = torch.load(path, weights_only=True)
    assert after.keys() == {*before, "thresholds"} and after["optimizer"] == before["optimizer"]
    assert all(torch.equal(after["model"][name], tensor) for name, tensor in before["model"].items())
    assert after["thresholds"]["images"] == 12 and after["thresholds"]["score"] == "energy"
    predictor = Predictor.from_checkpoint(path)
    logits = predictor.logits([small_run / "d" / "val" / name / f"{i}.png" for name in predictor.classes for i in range(3)])
    torch.testing.assert_close(
        torch.tensor(after["thresholds"]["known"]), logits.logsumexp(1).sort().values, rtol=1e-4, atol=1e-4
    )
    labels = torch.arange(12) // 3
    true = logits.softmax(1)[torch.arange(12), labels].masked_fill(logits.argmax(1) == labels, 1.0)
    torch.testing.assert_close(torch.tensor(after["thresholds"]["true"]), true.sort().values, rtol=1e-4, atol=1e-5)
    out = capsys.readouterr().out
    assert f"thresholds written into {path}" in out and "calibrated on one half of the images" in out
    calibrate(small_run, path)  # again, by another score
    assert torch.load(path, weights_only=True)["thresholds"]["score"] == "max_probability"


def test_exports_get_them_too(small_run: Path, tmp_path: Path) -> None:
    model, meta = load_checkpoint(small_run / "checkpoint.pth")
    save_folder(tmp_path / "birds", model, "birds")
    (tmp_path / "birds" / "README.md").write_text("mine")
    save_weights(tmp_path / "birds.safetensors", model, describe(meta))
    for target in (tmp_path / "birds", tmp_path / "birds.safetensors"):
        calibrate(small_run, target)
        again, meta = load_checkpoint(target)
        assert meta.thresholds is not None and meta.thresholds["images"] == 12
        assert all(torch.equal(x, y) for x, y in zip(model.parameters(), again.parameters(), strict=True))
    assert (tmp_path / "birds" / "README.md").read_text() == "mine"
    assert json.loads((tmp_path / "birds" / "config.json").read_text())["thresholds"] == meta.thresholds
    assert describe(replace(meta, thresholds=None)).keys() == describe(meta).keys() - {"thresholds"}


def test_what_is_not_rewritten(small_run: Path, tmp_path: Path, save_checkpoint: Callable[..., Path]) -> None:
    path = shutil.copy(small_run / "checkpoint.pth", tmp_path)  # has no version, as INTR's
    content = Path(path).read_bytes()
    with pytest.raises(ValueError, match="was not written by ICN and stays as it is: calibrate a copy .python -m tools.export"):
        calibrate(small_run, path)
    with pytest.raises(ValueError, match="give a file here, not an address"):
        calibrate(small_run, "hf://a/b")
    torch.save(torch.load(path, weights_only=True) | {"version": 1}, path)
    content = Path(path).read_bytes()
    with pytest.raises(ValueError, match="--image_size 96: predictions are made with 64: leave the flag out"):
        calibrate(small_run, path, "--image_size", 96)
    assert Path(path).read_bytes() == content


def test_training_calibrates_and_evaluation_measures(colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RECIPE.split(), "--dataset_path", colours, "--output_dir", tmp_path]
    with pytest.MonkeyPatch.context() as patch:
        within: list[object] = []
        save = icn.Checkpointer.save

        def spied(checkpointer: icn.Checkpointer, *names: object) -> None:
            save(checkpointer, *names)
            checkpointer.finish()  # the thread has written it
            within.append(torch.load(tmp_path / "colours/output_sub/checkpoint.pth", weights_only=True)["thresholds"])

        patch.setattr(icn.Checkpointer, "save", spied)
        icn.main(tiny_flags(*words))
    assert within[:-1] == [None] * 3 and within[-1]  # three steps: only the weights that were scored have thresholds
    path = tmp_path / "colours/output_sub/checkpoint.pth"
    model, meta = load_checkpoint(path)
    assert meta.averaged and meta.thresholds is not None and meta.thresholds["images"] == 12
    capsys.readouterr()
    icn.main(
        tiny_flags(
            "--eval", "--backbone", "test_resnet", "--resume", path, "--dataset_path", colours, "--dataset_name", "colours"
        )
    )
    out = capsys.readouterr().out
    assert "none of the known classes: " in out and "too few images" in out  # six of twelve
    kept = json.loads((path.parent / "eval_val/results.json").read_text())["thresholds"]
    assert kept["halved"] and kept["images"] == 6 and kept["coverage"].keys() == {"0.8"}
    torch.save(torch.load(path, weights_only=True) | {"thresholds": None}, path)
    icn.main(
        tiny_flags(
            "--eval",
            "--backbone",
            "test_resnet",
            "--resume",
            path,
            "--dataset_path",
            colours,
            "--dataset_name",
            "colours",
            "--output_dir",
            "",
        )
    )
    assert "no threshold is known, the checkpoint has none (calibrate it: python -m tools.calibrate" in capsys.readouterr().out


def test_gaussians_of_training_images_are_kept(small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d").mkdir()
    for split in ("train", "val"):
        (tmp_path / "d" / split).symlink_to(small_run / "d" / "val")
    path = tmp_path / "checkpoint.pth"
    torch.save(torch.load(small_run / "checkpoint.pth", weights_only=True) | {"version": 1}, path)
    calibrate(tmp_path, path, "--score", "relative_mahalanobis")
    entry = torch.load(path, weights_only=True)["thresholds"]
    predictor = Predictor.from_checkpoint(path)
    pictures = [small_run / "d" / "val" / name / f"{i}.png" for name in predictor.classes for i in range(3)]
    features = predictor._outputs(pictures)[1]
    fitted = Mahalanobis.fit(features, torch.arange(12) // 3, 4)
    torch.testing.assert_close(entry["gaussians"]["means"], fitted.means, rtol=1e-3, atol=1e-4)
    scores = Mahalanobis(**entry["gaussians"]).relative_score(features)
    torch.testing.assert_close(torch.tensor(entry["known"]), scores.float().sort().values, rtol=1e-2, atol=1e-2)
    known = [said.known for said in predictor.predict(pictures, refused=0.5)]
    assert known.count(False) in (5, 6)  # six are below the threshold, or five where the sixth is the threshold itself
    capsys.readouterr()
    words = ["--eval", "--resume", path, "--dataset_path", tmp_path, "--dataset_name", "d", "--output_dir", "", "--device", "cpu"]
    icn.main(parse(main_flags(), list(map(str, [*words, "--num_workers", 0]))))
    assert "none of the known classes: " in capsys.readouterr().out
    model, meta = load_checkpoint(path)
    assert "thresholds" not in describe(meta) and "gaussians" in (meta.thresholds or {})
    with pytest.raises(ValueError, match="--score relative_mahalanobis needs Gaussians, which are kept in .pth files alone"):
        save_folder(tmp_path / "birds", model, "birds")
        calibrate(tmp_path, tmp_path / "birds", "--score", "relative_mahalanobis")
