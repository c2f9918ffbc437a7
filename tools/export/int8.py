"""An ONNX program with 8-bit matrix products, and what they cost on a split: accuracy, and the likeness of the maps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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
        return f"on {self.images} images {accuracy}, correlation of the maps {self.correlation:.4f}"


def quantise(path: Path, out: Path) -> str:
    """Write a copy of an ONNX program whose weights of matrix products have 8 bits, as their inputs get while it runs.

    Returns:
        How many of the products were quantised; those of two computed factors have no weights and stay.

    Raises:
        RunFailed: there was none.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kinds = ["MatMul", "Gemm"]
    model = onnx.load(path)
    products = sum(node.op_type in kinds for node in model.graph.node)
    fold_transposed(model.graph)
    with quiet():  # convolutions stay: onnxruntime has no fast ones with dynamic scales
        quantize_dynamic(model, out, weight_type=QuantType.QInt8, op_types_to_quantize=kinds)
    quantised = sum(node.op_type == "MatMulInteger" for node in onnx.load(out).graph.node)
    if not quantised:
        raise RunFailed(f"--int8: 0 of {products} matrix products have weights, nothing was quantised: leave --int8 out")
    return f"int8 weights in {quantised} of {products} matrix products"


def fold_transposed(graph: Any) -> None:
    """Store the weights transposed that an ONNX graph transposes as it runs: only products with stored ones are quantised."""
    from onnx import numpy_helper

    weights = {weight.name: weight for weight in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        weight = weights[node.input[0]]
        order = next((attribute.ints for attribute in node.attribute if attribute.name == "perm"), None)
        turned = np.ascontiguousarray(numpy_helper.to_array(weight).transpose(order))
        graph.initializer.append(numpy_helper.from_array(turned, node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for weight in weights.values():
        if weight.name not in used:
            graph.initializer.remove(weight)


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
