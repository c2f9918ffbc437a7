"""Maps from gradients: relevance against the rules written out, contribution against what the logit does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from patches import CLASSES, HEADS, WIDTH, alone, batch, patch_model
from torch import Tensor, nn

from attribution.methods.attention import additive, attention, contribution, relevance
from models import ICN
from models.attention import MultiheadAttention

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("encoder", [0, 2])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("index", [0, 2])
def test_relevance_is_that_of_the_rules_written_out(
    encoder: int, layers: int, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = patch_model(encoder, layers)
    images, classes, mask = batch()
    maps = relevance(model, images, classes, padding_mask=mask)
    with monkeypatch.context() as patched:
        expected = by_the_rules(model, *alone(index), patched)
    assert expected.max() > 0
    h, w = expected.shape
    torch.testing.assert_close(maps[index, :h, :w], expected, rtol=2e-3, atol=1e-4 * float(expected.max()))


def by_the_rules(model: ICN, image: Tensor, label: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Chefer et al., ICCV 2021, one image, head by head and row by row."""
    seen: dict[nn.Module, list[Tensor]] = {}

    def textbook(self: MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor, None]:
        width = WIDTH // HEADS
        q, k, v = (
            x[0] @ self.in_proj_weight[i * WIDTH : (i + 1) * WIDTH].T + self.in_proj_bias[i * WIDTH : (i + 1) * WIDTH]
            for i, x in enumerate((query, key, value))
        )
        seen[self], found = [], []
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            weights = (q[:, part] @ k[:, part].T / width**0.5).softmax(1)
            weights.retain_grad()
            seen[self].append(weights)
            found.append(weights @ v[:, part])
        return self.out_proj(torch.cat(found, 1))[None], None

    monkeypatch.setattr(MultiheadAttention, "forward", textbook)
    output = model(image)
    output.logits[0, int(label)].backward()
    model.zero_grad()

    def bar(module: nn.Module) -> Tensor:
        return sum((weights.grad * weights).clamp(min=0) for weights in seen[module]).detach() / HEADS

    h, w = output.features.shape[-2:]
    image_image = torch.eye(h * w)
    for layer in model.transformer.encoder.layers:
        image_image = image_image + bar(layer.self_attn) @ image_image
    query_query, query_image = torch.eye(CLASSES), torch.zeros(CLASSES, h * w)
    for layer in model.transformer.decoder.layers:
        own = bar(layer.self_attn)
        query_image, query_query = query_image + own @ query_image, query_query + own @ query_query
        search = bar(layer.multihead_attn)
        query_image = query_image + rows_to_one(query_query).T @ search @ rows_to_one(image_image)
    return query_image[int(label)].view(h, w)


def rows_to_one(relevance: Tensor) -> Tensor:
    result = torch.eye(len(relevance))
    for row, beside in enumerate(relevance - torch.eye(len(relevance))):
        if beside.sum() > 0:
            result[row] += beside / beside.sum()
    return result


@pytest.mark.parametrize("encoder", [0, 1])
def test_relevance_of_an_additive_decoder_is_the_part_of_its_map_that_speaks_for_the_class(encoder: int) -> None:
    """Per head the gradient is the value's score, so that without an encoder the rules come to mean (additive of a head)+."""
    model = patch_model(encoder, kind="additive")
    images, classes, mask = batch()
    maps = relevance(model, images, classes, padding_mask=mask)
    assert maps.shape == (3, 4, 5) and (maps >= 0).all() and maps.max() > 0 and (maps[1, :, 3:] == 0).all()
    if encoder == 0:
        assert (maps * HEADS >= additive(model, images, classes, padding_mask=mask) - 1e-5).all()


@pytest.mark.parametrize("encoder", [0, 1])
@pytest.mark.parametrize("layer", [None, 0, -1])
@pytest.mark.parametrize("own_query", [False, True])
def test_contribution_is_what_a_little_more_of_a_place_does_to_the_logit(
    encoder: int, layer: int | None, own_query: bool
) -> None:
    model = patch_model(encoder, layers=2).double()
    image, label = alone(2)
    image = image.double()
    maps = contribution(model, image, label, layer=layer, own_query=own_query)[0]
    assert maps.shape == (2, 5) and (maps > 0).any() and (maps < 0).any()
    layers = model.transformer.decoder.layers
    modules = [one.multihead_attn for one in (layers if layer is None else [layers[layer]])]
    pieces = [(module, values_in_place(model, module, image)) for module in modules]
    step = 1e-2
    steps = torch.cat([step * torch.eye(10), -step * torch.eye(10)]).double()  # each place a little more, then a little less
    with torch.no_grad(), more_of(pieces, steps, int(label) if own_query else None):
        more, less = model(image.expand(20, -1, -1, -1)).logits[:, int(label)].view(2, 10)
    slope = (more - less) / (2 * step)
    torch.testing.assert_close(maps.flatten().double(), slope, rtol=5e-3, atol=1e-3 * float(maps.abs().max()))


def values_in_place(model: ICN, module: MultiheadAttention, image: Tensor) -> Tensor:
    """`A[h, n, p] V[h, p]` of one cross-attention, `[C, S, D]`, the heads side by side."""
    index = [layer.multihead_attn for layer in model.transformer.decoder.layers].index(module)
    with torch.no_grad():
        output = model(image, attention=index)
        weights = output.attention[0, 0].flatten(-2).double()  # [heads, C, S]
        memory = output.features[0].flatten(1).T  # [S, D]
        values = memory @ module.in_proj_weight[2 * WIDTH :].T + module.in_proj_bias[2 * WIDTH :]  # [S, D]
    return torch.cat([weights[h, :, :, None] * values.view(-1, HEADS, WIDTH // HEADS)[:, h] for h in range(HEADS)], -1)


@contextmanager
def more_of(pieces: list[tuple[MultiheadAttention, Tensor]], shares: Tensor, query: int | None) -> Iterator[None]:
    """Add to what is found, image by image, `shares` `[B, S]` of what each place has in it."""
    hooks = []
    for module, piece in pieces:
        extra = torch.einsum("bp,npd->bnd", shares, piece)  # [B, C, D]
        if query is not None:
            extra = extra * (torch.arange(CLASSES) == query)[:, None]
        hooks.append(module.out_proj.register_forward_pre_hook(lambda _, args, extra=extra: (args[0] + extra,)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def test_contribution_of_all_layers_is_the_sum_of_each() -> None:
    model = patch_model(layers=3)
    images, classes, mask = batch()
    parts = [contribution(model, images, classes, padding_mask=mask, layer=layer) for layer in range(3)]
    torch.testing.assert_close(contribution(model, images, classes, padding_mask=mask), sum(parts))


def test_frozen_models_have_the_same_maps() -> None:
    """Copies for inference have no parameter that takes a gradient."""
    model = patch_model()
    images, classes, mask = batch()
    expected = [method(model, images, classes, padding_mask=mask) for method in (relevance, contribution)]
    model.requires_grad_(False)
    for method, map_ in zip((relevance, contribution), expected, strict=True):
        torch.testing.assert_close(method(model, images, classes, padding_mask=mask), map_)


def test_contribution_says_which_decoder_and_layer_it_takes() -> None:
    images, classes, _ = batch()
    with pytest.raises(ValueError, match="with --decoder additive use additive"):
        contribution(patch_model(kind="additive"), images, classes)
    with pytest.raises(ValueError, match="layer 2 does not exist: this model has 2"):
        contribution(patch_model(), images, classes, layer=2)
    with pytest.raises(ValueError, match="the average decoder has no attention"):
        attention(patch_model(kind="none"), images, classes)
