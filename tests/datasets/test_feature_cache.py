"""Training on kept features is training on pictures, as long as no view is used twice; what does not fit is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_flags, tiny_model

import datasets.loaders
import main
from datasets import collate
from datasets.feature_cache import FeatureMaps, FrozenBackbone, write_maps
from datasets.loaders import check_features
from util.errors import CacheError
from util.precision import Precision

pytestmark = pytest.mark.usefixtures("one_thread")

Line = dict[str, Any]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "backbone.pth"
    torch.save(tiny_model().backbone[0].body.state_dict(), path)
    return path


@pytest.fixture
def train(colours: Path, weights: Path, tmp_path: Path) -> Callable[..., tuple[list[Line], dict[str, torch.Tensor]]]:
    """Train the head of a small model, dropout included; return the log and the weights."""

    def trained(name: str, *more: object) -> tuple[list[Line], dict[str, torch.Tensor]]:
        flags = ["--dataset_path", colours, "--dataset_name", "colours", "--backbone_weights", weights, "--lr_backbone", 0]
        flags += ["--image_size", 32, "--feature_stride", 16, "--batch_size", 8, "--lr", 1e-4, "--output_dir", tmp_path / name]
        main.main(tiny_flags(*flags, *more))
        folder = tmp_path / name / "colours" / "output_sub"
        lines = [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]
        return lines, torch.load(folder / "checkpoint.pth", weights_only=True)["model"]

    return trained


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the feature maps that are computed."""
    labels: list[str] = []
    compute = datasets.loaders.compute_maps

    def counted(backbone: Any, loader: Any, device: Any, label: str, after_batch: Any) -> Any:
        labels.append(label)
        return compute(backbone, loader, device, label, after_batch)

    monkeypatch.setattr(datasets.loaders, "compute_maps", counted)
    return labels


def test_as_many_views_as_epochs_are_live_augmentation(train: Any, capsys: pytest.CaptureFixture) -> None:
    """But for the rounding to float16."""
    live, _ = train("live", "--square", "--epochs", 2)
    kept, _ = train("kept", "--square", "--epochs", 2, "--cache_features", 5)
    for one, other in zip(live, kept, strict=True):
        for key in ("train_loss", "test_loss"):
            assert one[key] == pytest.approx(other[key], rel=1e-3)
    assert live[0]["train_loss"] != pytest.approx(live[1]["train_loss"], rel=1e-3)
    said = capsys.readouterr().out
    assert "features: 2 views of each training picture and the val pictures take about 0.1 MB in memory (float16)" in said
    assert said.splitlines()[-1].startswith("the backbone was frozen, 5 kept views stood for new ones in every epoch")


def test_a_resumed_run_and_features_of_an_earlier_one(train: Any, tmp_path: Path, computed: list[str]) -> None:
    """In pictures of several shapes; nothing is computed twice in a folder, and the weights are the same bit for bit."""
    flags = ["--cache_features", 2, "--cache"]
    _, whole = train("whole", "--epochs", 3, *flags, "ram")
    once = ["features, view 1 of 2", "features, val", "features, view 2 of 2"]
    assert computed == once
    computed.clear()
    train("parts", "--epochs", 2, *flags, tmp_path / "cache")
    _, resumed = train("parts", "--epochs", 3, *flags, tmp_path / "cache", "--resume", "auto")
    assert computed == once and len([*(tmp_path / "cache").glob("*.features")]) == 3
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    for file in (tmp_path / "cache").glob("*.features"):
        os.truncate(file, 100)
    with pytest.raises(ValueError, match=r"--cache: .*\.features is damaged \(it was cut short\): remove it"):
        train("again", "--epochs", 1, *flags, tmp_path / "cache")


def test_maps_are_those_that_were_written(tmp_path: Path) -> None:
    maps = [
        np.random.default_rng(i).normal(size=(h, w, 5)).astype(np.float16) for i, (h, w) in enumerate([(2, 3), (2, 3), (4, 1)])
    ]
    order = [2, 0, 1]
    with open(tmp_path / "maps", "w+b") as file:
        write_maps(file, maps)
        kept = FeatureMaps(file, "maps", order, 5)
        same = kept.batch([2, 0], [7, 8])
        assert same.padding_mask is None and same.labels.tolist() == [7, 8] and same.indices.tolist() == [2, 0]
        assert np.array_equal(same.images.permute(0, 2, 3, 1).numpy(), np.stack(maps[:2]))
        mixed = kept.batch([1, 2], [0, 0])
        assert mixed.normalise([0.0], [1.0]).shape == (2, 5, 4, 3) and mixed.padding_mask is not None
        assert mixed.padding_mask.logical_not().sum((1, 2)).tolist() == [4, 6] and not mixed.images[0, :, :, 1:].any()
        assert np.array_equal(mixed.to("cpu").images[0, :, :, :1].permute(1, 2, 0).numpy(), maps[2])
        file.truncate(20)
        with pytest.raises(CacheError, match="--cache: maps was cut short during the run: remove it"):
            kept.batch([1], [0])


def test_a_map_has_no_padding_and_no_value_beyond_float16() -> None:
    network = torch.nn.AvgPool2d(8, ceil_mode=True)
    backbone = FrozenBackbone(
        network, Precision("fp32", torch.float32, torch.device("cpu")), {"mean": [0.5] * 3, "std": [0.1] * 3}
    )
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in ((16, 24), (32, 8))]
    maps = backbone.maps(collate([(image, 0, i) for i, image in enumerate(images)]))
    for image, found in zip(images, maps, strict=True):
        assert found.shape[2] == 3 and np.array_equal(found, backbone.maps(collate([(image, 0, 0)]))[0])
    with pytest.raises(ValueError, match="values beyond float16"):
        backbone._replace(normalisation={"mean": [0.5] * 3, "std": [1e-9] * 3}).maps(collate([(images[0], 0, 0)]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lr_backbone", "1e-5"], r"--cache_features 4: the backbone is trained \(--lr_backbone 1e-05\): give --lr_backbone 0"),
        (["--backbone_norm", "batch"], "--backbone_norm batch computes features from a whole batch"),
        (["--adversarial", "2"], "--cache_features 4: --adversarial 2.0 needs the pictures in every epoch"),
        (["--mosaic", "1"], "--mosaic 1.0 needs the pictures"),
        (["--locality", "1"], "--locality 1.0 needs the pictures"),
        (["--window", "32"], "--window 32 needs the pictures"),
        (["--size_schedule", "64:0.5,800"], "--size_schedule 64:0.5,800 needs the pictures"),
        (["--world_size", "2"], "2 processes cannot share features"),
    ],
)
def test_what_changes_features_is_refused(more: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_features(tiny_flags("--cache_features", 4, "--lr_backbone", 0, *more))
    check_features(tiny_flags("--cache_features", 4, "--lr_backbone", 0))


def test_a_memory_that_is_too_small(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.feature_store.available", lambda: 10**5)
    with pytest.raises(ValueError, match=r"--cache_features: the features take .* GB, 0\.0 GB of memory are free: keep fewer"):
        train("none", "--epochs", 9, "--cache_features", 9)
