"""Attention on the device: each fused kernel equals the explicit softmax, and maps are float32 whatever the precision is."""

from __future__ import annotations

import pytest
import torch
from patches import batch, patch_model
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.attention import MultiheadAttention
from models.icn import resize_mask
from util.precision import select_precision

# One of 16 bits rounds queries, keys and sums once each: relative to values of about 1.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 6e-3}
KERNELS = {
    "flash": (SDPBackend.FLASH_ATTENTION, (torch.bfloat16, torch.float16), False),
    "memory-efficient": (SDPBackend.EFFICIENT_ATTENTION, (torch.float32, torch.bfloat16, torch.float16), True),
    "math": (SDPBackend.MATH, (torch.float32, torch.bfloat16, torch.float16), True),
}
CASES = [(kernel, dtype) for kernel, (_, dtypes, _) in KERNELS.items() for dtype in dtypes]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kernel, dtype", CASES, ids=lambda value: str(value).removeprefix("torch."))
def test_each_fused_kernel_equals_the_explicit_softmax(
    device: torch.device, kernel: str, dtype: torch.dtype, masked: bool
) -> None:
    """Outputs and gradients, at the sizes of a feature map of 448 pixels and a hundred classes."""
    backend, _, takes_masks = KERNELS[kernel]
    if masked and not takes_masks:
        pytest.skip("flash attention takes no mask")
    if device.type == "cpu" and (kernel == "memory-efficient" or dtype == torch.float16):
        pytest.skip("the CPU has no such kernel")
    torch.manual_seed(0)
    layer = MultiheadAttention(64, 4).to(device)
    query, memory = torch.randn(2, 100, 64, device=device), torch.randn(2, 196, 64, device=device)
    mask = torch.zeros(2, 196, dtype=torch.bool, device=device)
    mask[0, 150:] = masked
    results = []
    for fused in (True, False):
        inputs = [x.clone().requires_grad_() for x in (query, memory)]
        with torch.autocast(device.type, dtype, enabled=fused and dtype != torch.float32), sdpa_kernel(backend):
            out, _ = layer(inputs[0], inputs[1], inputs[1], mask if masked else None, need_weights=not fused)
        results.append([out.float(), *torch.autograd.grad(out.float().square().mean(), inputs)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one / other.abs().max(), other / other.abs().max(), atol=TOLERANCE[dtype], rtol=0)


def test_maps_are_float32_distributions_in_every_precision(device: torch.device, precision: str) -> None:
    model = patch_model().to(device)
    images, _, mask = (tensor.to(device) for tensor in batch())
    with torch.no_grad(), select_precision(precision, device).autocast():
        output = model(images, mask, attention="all")
    assert output.attention is not None and output.attention.dtype == torch.float32 and output.attention.device == images.device
    sums = output.attention.sum((-2, -1))
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)
    cells = resize_mask(mask, output.features)
    assert (output.attention * cells[None, :, None, None]).abs().max() == 0


def test_fused_logits_equal_those_that_come_with_maps(device: torch.device, precision: str) -> None:
    model = patch_model().to(device)
    images, _, mask = (tensor.to(device) for tensor in batch())
    with torch.no_grad(), select_precision(precision, device).autocast():
        fused, explicit = (model(images, mask, attention=layer).logits.float() for layer in (None, "all"))
    tolerance = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 5e-2, "fp16": 1e-2}[precision]
    torch.testing.assert_close(fused, explicit, atol=tolerance * float(explicit.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", ["detr", "additive", "none"])
def test_padded_equals_alone(device: torch.device, kind: str) -> None:
    model = patch_model(kind=kind).to(device)
    images, _, mask = (tensor.to(device) for tensor in batch())
    with torch.no_grad():
        logits = model(images, mask).logits
        for index, padding in enumerate(mask):
            height, width = (int((~padding).any(axis).sum()) for axis in (1, 0))
            alone = model(images[index : index + 1, :, :height, :width]).logits[0]
            torch.testing.assert_close(logits[index], alone, atol=1e-4, rtol=1e-4)
