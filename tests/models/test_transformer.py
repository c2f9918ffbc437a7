"""The transformer against an oracle written naively from torch's own attention, under the same weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architecture import ParameterError
from models.transformer import Decoder, Encoder, Transformer

D, HEADS, CLASSES = 32, 4, 5


def attend(weights: dict[str, Tensor], name: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    layer = nn.MultiheadAttention(D, HEADS, batch_first=True)
    layer.load_state_dict({key: weights[f"{name}.{key}"] for key in layer.state_dict()})
    return layer(q, k, v, key_padding_mask=mask, average_attn_weights=False)


def norm(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (D,), weights[f"{name}.weight"], weights[f"{name}.bias"])


def feed_forward(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    hidden = F.relu(F.linear(x, weights[f"{name}.linear1.weight"], weights[f"{name}.linear1.bias"]))
    return F.linear(hidden, weights[f"{name}.linear2.weight"], weights[f"{name}.linear2.bias"])


def oracle(
    w: dict[str, Tensor], depth: tuple[int, int], pre_norm: bool, src: Tensor, pos: Tensor, query: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Batch `[B, S, D]`; step by step as the architecture is described, keeping all weights."""
    for i in range(depth[0]):
        n = f"encoder.layers.{i}"
        x = norm(w, f"{n}.norm1", src) if pre_norm else src
        src = src + attend(w, f"{n}.self_attn", x + pos, x + pos, x, mask)[0]
        src = src if pre_norm else norm(w, f"{n}.norm1", src)
        x = norm(w, f"{n}.norm2", src) if pre_norm else src
        src = src + feed_forward(w, n, x)
        src = src if pre_norm else norm(w, f"{n}.norm2", src)
    memory = norm(w, "encoder.norm", src) if pre_norm else src
    query = query.expand(len(src), -1, -1)
    tgt, maps = torch.zeros_like(query), []
    for i in range(depth[1]):
        n = f"decoder.layers.{i}"
        x = norm(w, f"{n}.norm1", tgt) if pre_norm else tgt
        tgt = tgt + attend(w, f"{n}.self_attn", x + query, x + query, x, None)[0]
        tgt = tgt if pre_norm else norm(w, f"{n}.norm1", tgt)
        x = norm(w, f"{n}.norm2", tgt) if pre_norm else tgt
        found, weights = attend(w, f"{n}.multihead_attn", x + query, memory, memory, mask)
        maps.append(weights)
        tgt = tgt + found
        tgt = tgt if pre_norm else norm(w, f"{n}.norm2", tgt)
        x = norm(w, f"{n}.norm3", tgt) if pre_norm else tgt
        tgt = tgt + feed_forward(w, n, x)
        tgt = tgt if pre_norm else norm(w, f"{n}.norm3", tgt)
    return norm(w, "decoder.norm", tgt), memory, maps


def make(pre_norm: bool, depth: tuple[int, int]) -> Transformer:
    torch.manual_seed(0)
    shape = (D, HEADS, 48, 0.1, pre_norm)
    model = Transformer(Encoder(depth[0], *shape), Decoder(depth[1], *shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("depth", [(2, 3), (0, 1)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_agrees_with_the_oracle(pre_norm: bool, masked: bool, depth: tuple[int, int]) -> None:
    model = make(pre_norm, depth)
    src, pos, query = torch.randn(2, D, 3, 4), torch.randn(2, D, 3, 4), torch.randn(CLASSES, D)
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[1, 2:], mask[1, :, 3:] = True, True
    answers, memory, maps = model(src, pos, query, mask if masked else None, attention_layers=range(depth[1]))
    flat = [x.flatten(2).transpose(1, 2) for x in (src, pos)]
    expected = oracle(model.state_dict(), depth, pre_norm, *flat, query, mask.flatten(1) if masked else None)
    torch.testing.assert_close(answers, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(memory.flatten(2).transpose(1, 2), expected[1], atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(maps, expected[2], strict=True):
        torch.testing.assert_close(ours[0].flatten(-2), theirs, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(model(src, pos, query, mask if masked else None)[0], answers, atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing() -> None:
    model = make(False, (2, 2))
    src, pos, query = torch.randn(1, D, 3, 4), torch.randn(1, D, 3, 4), torch.randn(CLASSES, D)
    alone, memory, maps = model(src, pos, query, attention_layers=[1])
    padded = [F.pad(x, (0, 3, 0, 2), value=7.0) for x in (src, pos)]
    mask = F.pad(torch.zeros(1, 3, 4, dtype=torch.bool), (0, 3, 0, 2), value=True)
    answers, padded_memory, padded_maps = model(*padded, query, mask, attention_layers=[1])
    torch.testing.assert_close(answers, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded_memory[..., :3, :4], memory, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded_maps[0][..., :3, :4], maps[0], atol=1e-6, rtol=1e-5)
    assert (padded_maps[0] * mask).sum() == 0


def test_first_self_attention_is_shared_only_where_that_is_exact() -> None:
    """With dropout in training the images of a batch must not share one draw."""
    model = make(False, (0, 1)).train()
    src, pos, query = torch.randn(1, D, 3, 4).expand(2, -1, -1, -1), torch.zeros(1, D, 3, 4), torch.randn(CLASSES, D)
    seen = []
    model.decoder.layers[0].self_attn.register_forward_hook(lambda module, inputs, output: seen.append(len(output[0])))
    model(src, pos, query)
    model.eval()
    model(src, pos, query)
    assert seen == [2, 1]


def test_depth_is_checked() -> None:
    with pytest.raises(ParameterError, match="-1 must be 0 or more") as error:
        Encoder(-1, D, HEADS, 48, 0.1, False)
    assert error.value.parameter == "enc_layers"
    with pytest.raises(ParameterError, match="0 must be 1 or more") as error:
        Decoder(0, D, HEADS, 48, 0.1, False)
    assert error.value.parameter == "dec_layers"


def test_queries_in_pieces_give_the_same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    for pre_norm in (False, True):
        shape = (32, 4, 64, 0.1, pre_norm)
        transformer = Transformer(Encoder(1, *shape), Decoder(2, *shape)).eval()
        src, pos, query = torch.randn(2, 32, 4, 5), torch.randn(1, 32, 4, 5), torch.randn(7, 32)
        with torch.no_grad():
            whole = transformer(src, pos, query)[0]
            monkeypatch.setattr("models.transformer.QUERIES_AT_ONCE", 3)
            pieces = transformer(src, pos, query)[0]
            monkeypatch.undo()
        torch.testing.assert_close(pieces, whole, atol=1e-6, rtol=1e-6)
