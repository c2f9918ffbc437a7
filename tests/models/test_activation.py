"""ReLU6 in place: the numbers of torch's, from less memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.activation import ReLU6
from models.build_backbone import build_backbone

EDGES = [-7.0, -1e-30, -0.0, 0.0, 1e-30, 3.0, 5.999999, 6.0, 6.000001, 1e30, float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_values_and_gradients_are_those_of_torch(dtype: torch.dtype) -> None:
    results = []
    for activation in (nn.ReLU6(), ReLU6()):
        x = torch.tensor(EDGES, dtype=dtype, requires_grad=True)
        y = activation(x * 1)  # in place on what is no leaf, as behind a convolution
        (gradient,) = torch.autograd.grad(y, x, torch.arange(1.0, 1 + len(EDGES), dtype=dtype))
        results.append((y.detach(), gradient))
    for own, torchs in zip(*results, strict=True):
        torch.testing.assert_close(own, torchs, rtol=0, atol=0, equal_nan=True)


def test_the_gradient_has_a_gradient() -> None:
    x = torch.tensor([-3.0, -2.0, 0.7, 1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: ReLU6()(x * x), x)


def test_one_tensor_is_kept_for_the_backward_pass_of_convolution_activation_convolution() -> None:
    kept: set[int] = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() == 4 * 8 * 8:
            kept.add(tensor.data_ptr())
        return tensor

    def network(activation: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 1), activation, nn.Conv2d(4, 2, 1))

    numbers = []
    for activation in (nn.ReLU6(inplace=True), ReLU6()):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = network(activation)(torch.ones(1, 3, 8, 8))
        numbers.append(len(kept))
        output.sum().backward()
    assert numbers == [2, 1]


def test_a_backbone_has_them_and_can_be_compiled_and_exported() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), ReLU6(), nn.Conv2d(4, 4, 1), ReLU6())
    image = torch.rand(1, 3, 8, 8)
    expected = network(image)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)(image)
    torch.testing.assert_close(compiled, expected)
    exported = torch.export.export(network, (image,)).module()(image)
    torch.testing.assert_close(exported, expected)
    for norm in ("frozen", "batch"):
        kinds = {type(module) for module in build_backbone("tf_efficientnet_lite0", norm=norm).modules()}
        assert ReLU6 in kinds and nn.ReLU6 not in kinds
