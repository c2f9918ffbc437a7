"""An ONNX program with 8-bit matrix products, and what they cost on a split: accuracy, and the likeness of the maps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from datasets import ImageBatch
from tools.export.programs import Run, quiet
from util.errors import RunFailed, first_line


class Cost(NamedTuple):
    """Accuracies in percent before and after, and the mean correlation of the maps of the class predicted before."""

    images: int
    acc1: float
    acc1_int8: float
    correlation: float

    def __str__(self) -> str:
        accuracy = f"acc@1 {self.acc1_int8:.2f} % instead of {self.acc1:.2f} %"
        return f"int8 on {self.images} images: {accuracy}, correlation of the maps {self.correlation:.4f}"


def quantise(path: Path, out: Path) -> None:
    """Write a copy of an ONNX program whose weights of matrix products have 8 bits, as their inputs get while it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():  # convolutions stay: onnxruntime has no fast ones with dynamic scales
        quantize_dynamic(path, out, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])


def measure(full: Run, int8: Run, batches: Iterable[ImageBatch], normalisation: dict[str, list[float]], masked: bool) -> Cost:
    """Return what 8 bits cost on the images of a split; RunFailed where the program does not take their sizes."""
    images = hits = hits_int8 = 0
    correlations: list[Tensor] = []
    for batch in batches:
        values = batch.normalise(**normalisation)  # [B, 3, H, W]
        mask = batch.padding_mask
        if mask is None:
            mask = torch.zeros(len(values), *values.shape[-2:], dtype=torch.bool)
        inputs = (values.contiguous(), mask)[: 1 + masked]
        try:
            (logits, maps), (logits_int8, maps_int8) = full(inputs), int8(inputs)
        except Exception as error:  # whatever onnxruntime raises
            raise RunFailed(
                f"the program fails on images of {values.shape[-2]} x {values.shape[-1]} ({first_line(error)})"
            ) from None
        predicted, rows = logits.argmax(1), torch.arange(len(logits))
        images += len(logits)
        hits += int((predicted == batch.labels).sum())
        hits_int8 += int((logits_int8.argmax(1) == batch.labels).sum())
        correlations.append(correlation(maps[rows, predicted], maps_int8[rows, predicted]))
    return Cost(images, 100 * hits / images, 100 * hits_int8 / images, float(torch.cat(correlations).nanmean()))


def correlation(maps: Tensor, others: Tensor) -> Tensor:
    """Return the correlation (Pearson's) of pairs of maps `[B, h, w]` over their cells, `[B]`; NaN where one is constant."""
    a, b = (x.flatten(1).double() - x.flatten(1).double().mean(1, keepdim=True) for x in (maps, others))
    return (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
