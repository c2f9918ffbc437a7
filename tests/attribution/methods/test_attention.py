"""The model's own maps: rows of its attention, its sums, and rollout against a product of whole matrices."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from patches import CLASSES, SIZES, alone, batch, patch_model

from attribution.methods.attention import additive, additive_softmax, attention, contribution, relevance, rollout
from attribution.methods.hooks import class_attention, class_maps, frozen, gradients_of, record

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = {
    "attention": attention,
    "rollout": rollout,
    "relevance": relevance,
    "contribution": contribution,
    "own query": partial(contribution, own_query=True),
}


def test_class_maps_are_rows_of_the_attention() -> None:
    weights = torch.rand(2, 3, 5, 4, 6)  # [B, heads, C, h, w]
    classes = torch.tensor([[4, 0], [2, 2]])
    maps = class_maps(weights, classes)
    assert maps.shape == (2, 2, 3, 4, 6)
    for b in range(2):
        for q in range(2):
            assert torch.equal(maps[b, q], weights[b, :, classes[b, q]])


@pytest.mark.parametrize("kind", ["detr", "additive"])
@pytest.mark.parametrize("layer", [0, -1])
def test_attention_of_some_classes_is_that_of_all(kind: str, layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.transformer.QUERIES_AT_ONCE", 2)  # several chunks
    model, (images, _, mask) = patch_model(kind=kind), batch()
    asked: list[int] = []
    if kind == "detr":  # the weights of all classes are never computed
        attend = model.transformer.decoder.layers[layer].multihead_attn
        attend.register_forward_hook(lambda module, args, output: asked.append(0 if output[1] is None else output[1].shape[2]))
    with torch.no_grad():
        logits, maps = class_attention(model, images, mask, lambda logits: logits.topk(2).indices, layer)
        assert max(asked, default=0) <= 2
        expected = model(images, mask, attention=layer)
    torch.testing.assert_close(logits, expected.logits)
    torch.testing.assert_close(maps, class_maps(expected.attention[0], expected.logits.topk(2).indices))


@pytest.mark.parametrize("name", ["attention", "rollout"])
@pytest.mark.parametrize("kind", ["detr", "additive"])
def test_looking_is_a_distribution_over_the_valid_cells(name: str, kind: str) -> None:
    images, classes, mask = batch()
    maps = OWN[name](patch_model(kind=kind), images, classes, padding_mask=mask)
    assert maps.shape == (3, 4, 5) and (maps >= 0).all() and not maps.requires_grad
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3))
    assert (maps[0] > 0).all()


def test_mean_map_is_the_mean_of_the_heads_of_its_layer() -> None:
    model = patch_model()
    images, classes, mask = batch()
    for layer in (0, 1):
        heads = [attention(model, images, classes, padding_mask=mask, layer=layer, head=head) for head in (0, 1)]
        mean = attention(model, images, classes, padding_mask=mask, layer=layer)
        torch.testing.assert_close(mean, (heads[0] + heads[1]) / 2)
        assert not torch.equal(heads[0], heads[1])
    torch.testing.assert_close(attention(model, images, classes, padding_mask=mask), mean)


@pytest.mark.parametrize("wrong", [{"head": 2}, {"head": -1}, {"layer": 2}, {"layer": -3}])
def test_absent_heads_and_layers_are_named(wrong: dict[str, int]) -> None:
    images, classes, _ = batch()
    with pytest.raises(ValueError, match=f"{'head' if 'head' in wrong else 'layer'} {next(iter(wrong.values()))} does not"):
        attention(patch_model(), images, classes, **wrong)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("encoder", [0, 2])
def test_a_picture_alone_has_the_map_that_it_has_in_a_padded_batch(name: str, encoder: int) -> None:
    model = patch_model(encoder)
    images, classes, mask = batch()
    maps = OWN[name](model, images, classes, padding_mask=mask)
    assert maps.dtype == torch.float32 and not maps.requires_grad
    for index, (height, width) in enumerate(SIZES):
        h, w = height // 8, width // 8
        single = OWN[name](model, *alone(index))[0]
        assert single.abs().max() > 1e-5
        torch.testing.assert_close(maps[index, :h, :w], single, rtol=1e-3, atol=1e-5 * float(single.abs().max()))
        assert (maps[index, h:] == 0).all() and (maps[index, :, w:] == 0).all()


@pytest.mark.parametrize("kind", ["additive", "none"])
def test_additive_maps_sum_to_the_logit(kind: str) -> None:
    model = patch_model(kind=kind)
    images, classes, mask = batch()
    maps = additive(model, images, classes, padding_mask=mask)
    with torch.no_grad():
        logits = model(images, mask).logits.gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(maps.sum((1, 2)) + model.presence_vector.bias.detach(), logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="no map of --decoder detr: use contribution"):
        additive(patch_model(), images, classes)


@pytest.mark.parametrize("kind", ["additive", "none"])
def test_a_cell_counts_for_the_class_that_leads_there(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = patch_model(kind=kind)
    images, classes, mask = batch()
    maps = additive_softmax(model, images, classes, padding_mask=mask)
    evidence = model.evidence(images, mask)[1].detach()  # [B, C, h, w]
    assert (maps >= 0).all() and (maps > 0).any() and (maps[evidence[torch.arange(len(maps)), classes] <= 0] == 0).all()
    for index, (height, width) in enumerate(SIZES):  # padding has no part in it
        single = additive_softmax(model, *alone(index))[0]
        torch.testing.assert_close(maps[index, : height // 8, : width // 8], single, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="additive_softmax is no map of --decoder detr: use contribution"):
        additive_softmax(patch_model(), images, classes)

    given = torch.zeros(1, model.num_classes, 1, 3)
    given[0, :, 0, 0] = 1  # says the same of all classes
    given[0, 1, 0, 1] = 1  # of class 1 alone
    given[0, 0, 0, 2] = -1  # against class 0
    monkeypatch.setattr(model, "evidence", lambda *_: (None, given))
    found = additive_softmax(model, images[:1], torch.tensor([1]))[0, 0]
    share = float((given[0, :, 0, 1] / given.std(correction=0)).softmax(0)[1])
    assert found.tolist() == pytest.approx([0, share - 1 / model.num_classes, 0], abs=1e-6)


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_recording_changes_no_logit_and_leaves_no_trace(pre_norm: bool, gradients: bool) -> None:
    model = patch_model(pre_norm=pre_norm)
    model.backbone[0].requires_grad_(False)
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    images, _, mask = batch()
    with torch.no_grad():
        plain = model(images, mask, attention="all")
        recorded = record(model, images, mask, gradients=gradients)
    torch.testing.assert_close(recorded.logits, plain.logits, atol=1e-5, rtol=1e-5)
    assert recorded.logits.requires_grad is gradients
    assert len(recorded.encoder) == 1 and len(recorded.queries) == len(recorded.cross) == 2
    for look, weights in zip(recorded.cross, plain.attention.flatten(-2), strict=True):
        torch.testing.assert_close(look.weights, weights, atol=1e-6, rtol=1e-4)
        z = (look.weights @ look.values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(look.head_outputs, z, atol=1e-5, rtol=1e-5)
    assert recorded.queries[0].weights.shape == (3, 2, CLASSES, CLASSES)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == asked
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_gradients_of_one_image_do_not_reach_another() -> None:
    """Also in the first self-attention of the queries, which the model computes once for the whole batch."""
    model = patch_model()
    images, classes, mask = batch()
    recorded = record(model, images, mask)
    both = gradients_of(recorded, classes, [look.tracked for look in recorded.queries])
    for index in range(3):
        single = record(model, *alone(index)[:1])
        own = gradients_of(single, classes[index : index + 1], [look.tracked for look in single.queries])
        for one, all_ in zip(own, both, strict=True):
            assert one.abs().max() > 1e-6
            torch.testing.assert_close(all_[index], one[0], rtol=1e-3, atol=1e-4 * float(one.abs().max()))


@pytest.mark.parametrize("name", ["rollout", "relevance", "contribution"])
def test_many_classes_are_taken_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = patch_model()
    images, classes, mask = batch()
    expected = OWN[name](model, images, classes, padding_mask=mask)
    at_once: list[int] = []
    model.backbone[0].register_forward_hook(lambda _, args, __: at_once.append(len(args[0])))
    for held, pieces in ((2**20, [3]), (500, [2, 1]), (1, [1, 1, 1])):
        monkeypatch.setattr("attribution.methods.hooks.MAX_WEIGHTS", held)
        torch.testing.assert_close(OWN[name](model, images, classes, padding_mask=mask), expected)
        assert at_once == pieces
        at_once.clear()


@pytest.mark.parametrize("name", OWN)
def test_maps_under_autocast_are_float32_and_nearly_the_same(name: str) -> None:
    model = patch_model()
    images, classes, mask = batch()
    expected = OWN[name](model, images, classes, padding_mask=mask)
    with torch.autocast("cpu", torch.bfloat16):
        maps = OWN[name](model, images, classes, padding_mask=mask)
    assert maps.dtype == torch.float32
    assert torch.corrcoef(torch.stack([maps.flatten(), expected.flatten()]))[0, 1] > 0.99
    if name == "rollout":
        torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_maps_can_be_asked_for_where_gradients_are_off(mode: type) -> None:
    model = patch_model()
    images, classes, mask = batch()
    expected = contribution(model, images, classes, padding_mask=mask)
    with mode():
        torch.testing.assert_close(contribution(model, images * 1, classes, padding_mask=mask), expected)
        assert relevance(model, images * 1, classes, padding_mask=mask).max() > 0


def test_an_error_within_leaves_the_parameters_as_they_were() -> None:
    model = patch_model()
    with pytest.raises(RuntimeError, match="within"), frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise RuntimeError("within")
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("encoder", [0, 2])
def test_rollout_is_the_product_of_the_layers_as_matrices_over_all_tokens(encoder: int) -> None:
    """Tokens are the cells, then the queries; each attention is one matrix 0.5 (A + I) over them all."""
    model = patch_model(encoder, layers=2)
    image, label = alone(0)
    looks = record(model, image, gradients=False)
    cells = looks.grid[0] * looks.grid[1]
    total = torch.eye(cells + CLASSES)
    halves = [(look, slice(0, cells), slice(0, cells)) for look in looks.encoder]
    for queries, cross in zip(looks.queries, looks.cross, strict=True):
        halves += [(queries, slice(cells, None), slice(cells, None)), (cross, slice(cells, None), slice(0, cells))]
    for look, rows, columns in halves:
        layer = torch.eye(cells + CLASSES)
        layer[rows] *= 0.5
        layer[rows, columns] += 0.5 * look.weights[0].mean(0)
        torch.testing.assert_close(layer.sum(1), torch.ones(len(layer)))
        total = layer @ total
    shares = total[cells:, :cells] / total[cells:, :cells].sum(1, keepdim=True)
    torch.testing.assert_close(rollout(model, image, label)[0].flatten(), shares[int(label)])
    torch.testing.assert_close(rollout(model, image, label, every_class=True)[0].flatten(), shares.mean(0))


@pytest.mark.parametrize("kind", ["detr", "additive"])
def test_rollout_through_one_layer_is_its_attention(kind: str) -> None:
    model = patch_model(encoder=0, layers=1, kind=kind)
    images, classes, mask = batch()
    torch.testing.assert_close(
        rollout(model, images, classes, padding_mask=mask), attention(model, images, classes, padding_mask=mask)
    )
