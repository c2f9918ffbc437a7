from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tools.benchmark.loading import RECIPES, STD, collate_pil, icn_batches, measure_loading, pil_batches, write_photographs


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.endswith("evaluation")])
def test_both_pipelines_give_the_same_pictures_in_evaluation(tmp_path, recipe):
    write_photographs(tmp_path / "a", 100, 75, 3)
    ours, theirs = (next(batches(tmp_path, recipe, 3)) for batches in (icn_batches, pil_batches))
    assert ours.shape == theirs.shape == ((3, 3, 800, 1066) if "aspect" in recipe else (3, 3, 448, 448))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2.1 / 255 / min(STD))  # two grey levels, of both resizings


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe.endswith("training")])
def test_both_pipelines_give_endless_batches_of_training(tmp_path, recipe):
    write_photographs(tmp_path / "a", 100, 75, 5)
    for batches in (icn_batches, pil_batches):
        it = batches(tmp_path, recipe, 2)
        for _ in range(4):
            images = next(it)
            assert images.dtype == torch.float32
            assert 1 <= len(images) <= 2
            assert max(images.shape[2:]) <= (1333 if "aspect" in recipe else 448)


def test_photographs_differ_and_are_repeatable(tmp_path):
    for folder in "ab":
        write_photographs(tmp_path / folder, 64, 48, 4)
    files = [[path.read_bytes() for path in sorted((tmp_path / folder).iterdir())] for folder in "ab"]
    assert files[0] == files[1]
    assert len(set(files[0])) == 4
    with Image.open(tmp_path / "a/000.jpg") as image:
        assert image.size == (64, 48)
        assert np.asarray(image).std() > 20


def test_the_batch_of_the_opponent_is_padded_as_intr_does():
    images, mask = collate_pil([torch.ones(3, 4, 6), torch.ones(3, 5, 2)])
    assert images.shape == (2, 3, 5, 6)
    assert torch.equal(images[:, 0] == 0, mask)
    assert mask.sum() == 6 + 20


def test_rows():
    threads = torch.get_num_threads()
    rows = measure_loading(seconds=0, sizes=[(60, 40)], batch_size=1)
    assert torch.get_num_threads() == threads
    assert [row["recipe"] for row in rows] == list(RECIPES)
    for row in rows:
        assert (row["width"], row["height"], row["batch_size"], row["rounds"]) == (60, 40, 1, 3)
        for name in ("icn", "pil"):
            assert 0 < row[name]["low"] <= row[name]["median"] <= row[name]["high"]
        assert row["ratio"] == pytest.approx(row["icn"]["median"] / row["pil"]["median"], rel=0.02)
