"""Metrics of a model: on models of which reliance and locality are known, and that randomisation leaves nothing as it was."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model
from patches import batch, patch_model

from attribution.methods.hooks import logits_with_attention
from attribution.metrics.model import (
    MAX_CORRELATION,
    STAGES,
    agreement,
    cascade,
    derangement,
    diversity,
    learned,
    locality,
    passes_sanity_check,
    reliance,
    stage_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ["detr", "additive"]


@pytest.mark.parametrize("kind", KINDS)
def test_attention_replaced_by_itself_changes_nothing_and_is_put_back(kind: str) -> None:
    model = patch_model(kind=kind)
    images, _, mask = batch()
    with torch.no_grad():
        before = model(images, mask).logits
        same = logits_with_attention(model, images, mask, replacement=lambda weights, valid: weights)
        torch.testing.assert_close(same, before, atol=1e-5, rtol=1e-5)
        rolled = logits_with_attention(model, images, mask, replacement=lambda weights, valid: weights.roll(1, 2))
        assert (rolled - before).abs().max() > 1e-3
        torch.testing.assert_close(model(images, mask).logits, before)
        torch.testing.assert_close(model(images, mask, attention=-1).logits, before, atol=1e-5, rtol=1e-5)


def test_uniform_attention_of_an_additive_decoder_is_the_mean_of_its_cells() -> None:
    """Over the cells of the picture alone."""
    model = patch_model(kind="additive", encoder=0)
    images, classes, mask = batch()
    with torch.no_grad():
        memory = model(images, mask).features  # [B, D, h, w]
        decoder = model.transformer.decoder
        values = decoder.value(decoder.norm(memory.flatten(2).transpose(1, 2)))  # [B, S, D]
        cells = ~torch.nn.functional.interpolate(mask[:, None].float(), size=memory.shape[-2:])[:, 0].bool().flatten(1)
        mean = (values * cells[..., None]).sum(1) / cells.sum(1, keepdim=True)  # [B, D]
        right = mean @ model.presence_vector.weight.T + model.presence_vector.bias
        found = reliance(model, images, right.argmax(1), padding_mask=mask)
    assert found["uniform"].tolist() == [1, 1, 1] and set(found) == {"clean", "uniform", "other_image", "other_class"}


@pytest.mark.parametrize("kind", KINDS)
def test_reliance_counts_right_answers(kind: str) -> None:
    model = patch_model(kind=kind)
    images, _, mask = batch()
    labels = model(images, mask).logits.argmax(1)
    found = reliance(model, images, labels, padding_mask=mask)
    assert found["clean"].tolist() == [1, 1, 1]
    assert all(set(values.tolist()) <= {0, 1} for values in found.values())
    assert reliance(model, images[:1], labels[:1], padding_mask=mask[:1])["other_image"].isnan().all()
    with pytest.raises(ValueError, match="--decoder average"):
        reliance(patch_model(kind="none"), images, labels)


def test_derangement_moves_every_class() -> None:
    for count in (2, 3, 16, 81):
        order = derangement(count, seed=count)
        assert sorted(order.tolist()) == list(range(count)) and (order != torch.arange(count)).all()


def test_cells_of_patches_are_local_and_an_encoder_spreads_them() -> None:
    images = batch()[0]
    alone = locality(patch_model(encoder=0), images, cells=6)
    torch.testing.assert_close(alone["own"], torch.ones(3))
    torch.testing.assert_close(alone["ring"], torch.ones(3))
    torch.testing.assert_close(alone["own_area"], torch.full((3,), 1 / 20))
    mixed = locality(patch_model(encoder=1), images, cells=6)
    assert (mixed["own"] < 0.999).all() and (mixed["ring"] >= mixed["own"]).all()
    assert (mixed["ring_area"] > mixed["own_area"]).all()


def test_locality_leaves_the_model_as_it_was() -> None:
    model = patch_model()
    locality(model, batch()[0], cells=1)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_diversity_is_that_of_the_class_asked_for() -> None:
    model = patch_model()
    images, classes, mask = batch()
    found = diversity(model, images, classes, padding_mask=mask)
    assert found.shape == (3,) and (found > 0).all() and (found < 1).all()
    assert not torch.allclose(found, diversity(model, images, classes.roll(1), padding_mask=mask))


@pytest.mark.parametrize("model", [tiny_model(), patch_model(kind="additive"), patch_model(kind="none")], ids=str)
def test_randomisation_touches_every_parameter_and_the_fixed_norms(model) -> None:
    before = {name: tensor.clone() for stage in STAGES for name, tensor in learned(model, stage).items()}
    assert set(dict(model.named_parameters())) <= set(before)
    seen: set[str] = set()
    for stage, random in cascade(model):
        seen.add(stage)
        after = {name: tensor for one in STAGES for name, tensor in learned(random, one).items()}
        for name, tensor in before.items():
            changed = not torch.equal(after[name], tensor)
            assert changed == (stage_of(name) in seen), (stage, name)
    assert {"head", "queries", "backbone"} <= seen
    assert all(torch.equal(tensor, dict(model.state_dict())[name]) for name, tensor in before.items())


def test_fixed_norms_and_projections_are_among_what_was_learned() -> None:
    model = tiny_model()
    names = set(learned(model, "decoder"))
    assert "transformer.decoder.layers.0.multihead_attn.in_proj_weight" in names
    assert set(learned(model, "queries")) == {"query_embed.weight"}
    assert any(".bn1.weight" in name for name in learned(model, "backbone"))
    assert not any("running" in name for name in learned(model, "backbone"))


def test_verdict() -> None:
    maps = torch.rand(5, 4, 4, generator=torch.Generator().manual_seed(0))
    assert not passes_sanity_check(agreement(maps, maps)) and not passes_sanity_check(agreement(maps, -maps))
    assert passes_sanity_check(agreement(maps, torch.full_like(maps, torch.nan))) and 0 < MAX_CORRELATION < 1
    torch.testing.assert_close(agreement(maps, maps), torch.ones(5))
