"""`python -m tools.grid`: grids, settings and shares against what is known without the tool."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import tiny_model

from attribution.evaluation.grids import choose_images, connected_to, draw_grids, join
from attribution.methods.registry import METHODS
from attribution.metrics.grids import cell_shares
from tools.grid import get_args_parser, main
from util.cli import Flags, parse

pytestmark = pytest.mark.usefixtures("one_thread")
DECODERS = {"additive": {"dec_layers": 0, "decoder": "additive"}, "detr": {}, "average": {"dec_layers": 0, "decoder": "average"}}


def test_shares_are_areas() -> None:
    maps = torch.zeros(3, 4, 4)
    maps[0, 0, 3] = 2.0  # upper right image
    maps[0, 3, 0] = -9.0  # negative mass is none
    maps[1] = 1.0
    assert cell_shares(maps, 2).tolist() == [[0, 1, 0, 0], [0.25] * 4, [0] * 4]
    row = torch.zeros(1, 5, 5)
    row[0, 2, 0] = 1.0  # half of this cell is in the upper image, half in the lower
    assert cell_shares(row, 2).tolist() == [[0.5, 0, 0.5, 0]]
    assert torch.allclose(cell_shares(torch.full((1, 7, 5), 1e30), 3), torch.full((1, 9), 1 / 9, dtype=torch.float64))


def test_images_stand_row_by_row() -> None:
    images = torch.arange(9.0).view(1, 9, 1, 1, 1).expand(2, 9, 3, 2, 2)
    grid = join(images)
    assert grid.shape == (2, 3, 6, 6) and grid[0, 0, ::2, ::2].flatten().tolist() == list(range(9))


def test_right_and_confident_images_are_chosen() -> None:
    labels = [0] * 14 + [1] * 14 + [2, 3]
    predicted = torch.tensor([*labels[:28], 2, 0])
    predicted[3] = 1
    probabilities = torch.full((30,), 0.995)
    probabilities[14:26] = torch.linspace(0.7, 0.5, 12)  # of class 1 two are confident
    probabilities[28] = 0.6
    chosen = choose_images(probabilities, predicted, labels, 0.99, 3)
    assert chosen.by_class[0] == [*range(3), *range(4, 14)], "all confident ones, without the wrong one"
    assert chosen.by_class[1] == [26, 27, *range(14, 22)], "the most confident ones besides"
    assert chosen.by_class[2] == [28] and len(chosen.by_class) == 3
    assert chosen.below == 9 and chosen.lowest == pytest.approx(0.5727, abs=1e-4)
    with pytest.raises(ValueError, match="a grid needs 9 classes with an image that is classified right, and there are 3"):
        choose_images(probabilities, predicted, labels, 0.99, 9)


def test_grids_have_distinct_classes_and_use_all_images() -> None:
    labels = [0, 0, 0, 1, 1, 2, 2, 3, 4, 4]
    chosen = choose_images(torch.ones(10), torch.tensor(labels), labels, 0.9, 4)
    grids = draw_grids(chosen, 2, 40, seed=3)
    assert all(len({labels[place] for place in grid}) == 4 for grid in grids)
    counts = np.bincount(np.concatenate(grids), minlength=10)
    assert counts.min() >= 1 and np.ptp(counts[:3]) <= 1, "an image comes again only when all of its class have been used"
    assert draw_grids(chosen, 2, 40, seed=3) == grids != draw_grids(chosen, 2, 40, seed=4)


@pytest.mark.parametrize("decoder", DECODERS)
def test_disconnected_logits_are_those_of_the_image_alone(decoder: str) -> None:
    """DiFull by definition; in DiPart and GridPG other images change the logits or the features."""
    model = tiny_model(4, backbone="resnet18", feature_stride=16, **DECODERS[decoder])
    images = torch.randn(1, 4, 3, 48, 48)
    grid = join(images)
    alone = model(images[0]).logits
    shares = []
    for cell in range(4):
        with connected_to(model, cell, 2, 48, "difull") as connected:
            torch.testing.assert_close(connected(grid).logits[0], alone[cell], rtol=1e-4, atol=1e-4)
            maps = METHODS[model.decoder_spec.default_map].call(connected, grid, torch.tensor([cell]))
            shares.append(cell_shares(maps.detach(), 2)[0])
        with connected_to(model, cell, 2, 48, "dipart") as connected:
            other = images.clone()
            other[:, torch.arange(4) != cell] = 0
            assert (connected(join(other)).logits - connected(grid).logits).abs().max() > 0, "the backbone sees the neighbours"
    elsewhere = torch.stack(shares)[~torch.eye(4, dtype=torch.bool)]
    assert elsewhere.max() == 0 and torch.stack(shares).max() == pytest.approx(1)
    assert model.backbone[0].window is None and type(model).__name__ == "ICN"


def test_windows_that_do_not_divide_an_image_are_refused() -> None:
    model = tiny_model(4, feature_stride=16, window=32, dec_layers=0, decoder="additive")
    message = "images of 48 pixels are no multiple of the model's --window 32"
    with pytest.raises(ValueError, match=message), connected_to(model, 0, 2, 48, "difull"):
        pass


def arguments(command: list[str], out: Path, *more: object) -> Flags:
    words = [*command, "--output_dir", out, "--grids", 3, "--sizes", 2, "--confidence", 0, *more]
    return parse(get_args_parser(), [str(word) for word in words])


def test_all_methods_and_files(small_run: Path, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_right(*args: object) -> dict[str, torch.Tensor]:
        labels = torch.arange(4).repeat_interleave(3)
        return {"predicted": labels, "probability": torch.full((12,), 0.9), "siblings": torch.tensor([1, 2, 3, 0])}

    monkeypatch.setattr("tools.grid.score_split", all_right)
    flags = ["--settings", "gridpg,difull", "--methods", "attention,gradcam", "--batch_size", 8]
    content = main(arguments(command(), tmp_path, *flags))
    assert [(result["setting"], result["n"], result["grids"]) for result in content["results"]] == [
        ("gridpg", 2, 3),
        ("difull", 2, 3),
    ]
    gridpg, difull = (result["methods"] for result in content["results"])
    assert gridpg["attention"]["shares"].shape == (3, 4)
    assert difull["attention"]["mean"] == pytest.approx(1) and gridpg["attention"]["mean"] < 0.9
    assert json.loads((tmp_path / "grid.json").read_text())["settings"]["side"] == 64
    text = (tmp_path / "grid.md").read_text()
    assert "| uniform | control | 0.250 | 0.250 |" in text and "12 images that are classified right on their own" in text
    assert cv2.imread(str(tmp_path / "grid.png")) is not None and cv2.imread(str(tmp_path / "grid.jpg")) is not None


def test_errors_are_one_line(small_run: Path, command, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a grid needs 25 classes with an image that is classified right, and there are"):
        main(arguments(command(), tmp_path, "--sizes", 5))
    with pytest.raises(ValueError, match="--settings difuli is unknown: choose from gridpg, difull, dipart; did you mean difull"):
        main(arguments(command(), tmp_path, "--settings", "gridpg,difuli"))
    with pytest.raises(ValueError, match="--methods gradcan: there is no such map"):
        main(arguments(command(), tmp_path, "--methods", "gradcan"))
    assert not list(tmp_path.iterdir())
