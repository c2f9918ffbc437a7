import pytest
import torch

from models.attention import MultiheadAttention


def make(dropout: float = 0.0) -> MultiheadAttention:
    torch.manual_seed(0)
    layer = MultiheadAttention(32, 4, dropout)
    torch.nn.init.normal_(layer.in_proj_bias)
    torch.nn.init.normal_(layer.out_proj.bias)
    return layer


def padding(batch: int, keys: int) -> torch.Tensor:
    mask = torch.zeros(batch, keys, dtype=torch.bool)
    mask[0, keys // 2 :] = True
    return mask


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shared", ["none", "query_key", "key_value"])
def test_fused_equals_explicit_and_torch(masked: bool, shared: str) -> None:
    layer = make()
    query, key, value = (torch.randn(3, n, 32) for n in (7, 11, 11))
    if shared == "query_key":
        query = key
    elif shared == "key_value":
        value = key
    mask = padding(3, 11) if masked else None
    fused, nothing = layer(query, key, value, mask)
    explicit, weights = layer(query, key, value, mask, need_weights=True)
    reference = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    reference.load_state_dict(layer.state_dict())
    expected, expected_weights = reference(query, key, value, key_padding_mask=mask, average_attn_weights=False)
    assert nothing is None
    torch.testing.assert_close(fused, explicit, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(explicit, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights, expected_weights, atol=1e-6, rtol=1e-5)


def test_weights_are_a_distribution_over_the_valid_keys_in_training_too() -> None:
    layer = make(dropout=0.5).train()
    mask = padding(2, 10)
    _, weights = layer(torch.randn(2, 5, 32), torch.randn(2, 10, 32), torch.randn(2, 10, 32), mask, need_weights=True)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5))
    assert (weights[0, :, :, 5:] == 0).all() and (weights[0, :, :, :5] > 0).all()


def test_gradients_reach_the_returned_weights() -> None:
    layer = make()
    out, weights = layer(torch.randn(2, 5, 32), torch.randn(2, 10, 32), torch.randn(2, 10, 32), need_weights=True)
    (gradient,) = torch.autograd.grad(out.square().sum(), weights)
    assert gradient.shape == weights.shape and gradient.abs().min() > 0


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="num_heads 5 must divide hidden_dim 32"):
        MultiheadAttention(32, 5)


def test_dropout_on_the_cpu_holds_one_image_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = MultiheadAttention(8, 2, dropout=0.3).double()
    query, memory = (torch.randn(3, n, 8, dtype=torch.float64, requires_grad=True) for n in (4, 5))
    mask = padding(3, 5)

    def run(query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return layer(query, memory, memory, mask)[0]

    def held() -> int:
        """The largest tensor that is kept for the backward pass."""
        sizes = [0]
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            run(query, memory)
        return max(sizes)

    query, memory = (x.detach().repeat(1, 100, 1).requires_grad_() for x in (query, memory))
    mask = padding(3, 500)
    whole = held()
    monkeypatch.setattr("models.attention.CPU_WEIGHTS", 0)
    assert whole >= 3 * 2 * 400 * 500 and held() < whole / 10
    # The second computation draws the masks of the first: else the gradient would be that of another function.
    query, memory = (x.detach()[:, :4].requires_grad_() for x in (query, memory))
    mask = padding(3, 4)
    assert torch.autograd.gradcheck(run, (query, memory), nondet_tol=0)
    layer.dropout = 1e-12
    dropped = run(query, memory)
    torch.testing.assert_close(dropped, layer.eval()(query, memory, memory, mask)[0])
