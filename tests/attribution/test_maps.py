"""The model's own maps are the rows of its attention that belong to the classes asked for."""

from __future__ import annotations

import argparse

import pytest
import torch

from attribution.maps import attention_map, class_maps
from models import ARCHITECTURE, ICN, build_model

TINY = {"backbone": "test_resnet", "hidden_dim": 16, "nheads": 2, "enc_layers": 1, "dec_layers": 2, "dim_feedforward": 16}


@pytest.fixture(scope="module")
def model() -> ICN:
    torch.manual_seed(0)
    flags = {**ARCHITECTURE, **TINY, "num_queries": 5, "dropout": 0.1, "lr_backbone": 1e-5, "backbone_weights": "none"}
    return build_model(argparse.Namespace(**flags)).eval()


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.zeros(3, 64, 96, dtype=torch.bool)
    mask[1, :, 64:] = True
    return torch.randn(3, 3, 64, 96), mask


def test_class_maps_are_rows_of_the_attention() -> None:
    attention = torch.rand(2, 3, 5, 4, 6)  # [B, heads, C, h, w]
    classes = torch.tensor([[4, 0], [2, 2]])
    maps = class_maps(attention, classes)
    assert maps.shape == (2, 2, 3, 4, 6)
    for b in range(2):
        for q in range(2):
            assert torch.equal(maps[b, q], attention[b, :, classes[b, q]])


def test_attention_map_is_a_distribution_over_the_valid_cells(model: ICN, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, mask = batch
    with torch.no_grad():
        maps = attention_map(model, images, torch.tensor([0, 4, 2]), padding_mask=mask)
    assert maps.shape[0] == 3 and (maps >= 0).all()
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3))
    width = maps.shape[2]
    assert (maps[1, :, 2 * width // 3 :] == 0).all() and (maps[0] > 0).all()


def test_mean_map_is_the_mean_of_the_heads_of_its_layer(model: ICN, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, mask = batch
    classes = torch.tensor([1, 1, 3])
    with torch.no_grad():
        for layer in (0, 1):
            heads = [attention_map(model, images, classes, padding_mask=mask, layer=layer, head=head) for head in (0, 1)]
            mean = attention_map(model, images, classes, padding_mask=mask, layer=layer)
            torch.testing.assert_close(mean, (heads[0] + heads[1]) / 2)
            assert not torch.equal(heads[0], heads[1])
        last = attention_map(model, images, classes, padding_mask=mask)
    torch.testing.assert_close(last, mean)


@pytest.mark.parametrize("wrong", [{"head": 2}, {"head": -1}, {"layer": 2}, {"layer": -3}])
def test_absent_heads_and_layers_are_named(model: ICN, batch: tuple[torch.Tensor, torch.Tensor], wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{'head' if 'head' in wrong else 'layer'} {next(iter(wrong.values()))} does not"):
        attention_map(model, batch[0], torch.zeros(3, dtype=torch.long), **wrong)
