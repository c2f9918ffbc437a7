"""A model as a program without this repository: traced by torch.export, written as such or as ONNX, compared with the model."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import ICN, for_inference
from models.checkpoint_format import HEADER
from util.errors import RunFailed, first_line

INPUTS, OUTPUTS = ("images", "padding_mask"), ("logits", "maps")
AXES = {"images": ("B", "3", "H", "W"), "padding_mask": ("B", "H", "W"), "logits": ("B", "C"), "maps": ("B", "C", "h", "w")}
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4  # of logits and maps, relative to the largest of them where that is above 1

Inputs = tuple[Tensor, ...]  # images, and the padding mask of a program that has one
Run = Callable[[Inputs], list[Tensor]]


class LogitsAndMaps(nn.Module):
    """A model with tensors as its output: logits `[B, C]`, and a map per class `[B, C, h, w]`.

    The maps of a decoder whose logits are sums are its evidence; else the attention of the last layer, the mean of its heads.
    """

    def __init__(self, model: ICN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.model.decoder_spec.is_additive:
            return self.model.evidence(images, padding_mask)
        output = self.model(images, padding_mask, attention=-1)
        assert output.attention is not None
        return output.logits, output.attention[0].mean(1)


@torch.no_grad()
def trace(model: ICN, size: int, masked: bool, fixed: bool) -> tuple[Any, LogitsAndMaps]:
    """Return the program of a model (`torch.export.ExportedProgram`), and the module that it was traced from.

    The batch of its input varies, and unless `fixed` its height and width, as far as the network allows; fixed ones are `size`.

    Raises:
        RunFailed: torch.export cannot trace this network.
    """
    module = LogitsAndMaps(for_inference(model).to(memory_format=torch.contiguous_format)).eval()  # type: ignore[call-overload]
    auto = torch.export.Dim.AUTO
    shapes: tuple[dict[int, Any], ...] = (
        ({0: auto}, {0: auto}) if fixed else ({0: auto, 2: auto, 3: auto}, {0: auto, 1: auto, 2: auto})
    )
    inputs = make_inputs(2, size, size if fixed else size * 5 // 4, masked)
    try:
        with quiet():
            return torch.export.export(module, inputs, dynamic_shapes=shapes[: len(inputs)], strict=False), module
    except Exception as error:  # whatever a part of a network raises that torch cannot trace, or that is of one size
        raise RunFailed(f"torch.export of torch {torch.__version__} cannot trace this model ({first_line(error)})") from None


def save_torch(path: Path, program: Any, description: dict[str, Any]) -> Run:
    """Write a program for `torch.export.load`, with the description beside it; return what runs the file."""
    extra = {f"{HEADER}.json": json.dumps(description)}
    with quiet():
        with path.open("wb") as file:  # of a path, the name would be that of the folder in the archive
            torch.export.save(program, file, extra_files=extra)
        module = torch.export.load(path).module()
    return lambda inputs: list(module(*inputs))


def save_onnx(path: Path, program: Any, description: dict[str, Any]) -> Run:
    """Write a program as ONNX, with the description in its metadata; return what runs the file in onnxruntime."""
    with quiet():
        exported: Any = torch.onnx.export(
            program,
            input_names=INPUTS[: len(program.graph_signature.user_inputs)],
            output_names=OUTPUTS,
            dynamo=True,
            verbose=False,
        )
        name_axes(exported.model.graph)
        exported.model.metadata_props[HEADER] = json.dumps(description)
        exported.save(path)
    return onnx_runner(path)


def name_axes(graph: Any) -> None:
    """Name the axes of a program's inputs and outputs that vary by `AXES`, in place of torch's symbols."""
    for value in (*graph.inputs, *graph.outputs):
        sides = zip(value.shape, AXES[value.name], strict=True)
        value.shape = type(value.shape)([side if isinstance(side, int) else name for side, name in sides])


def onnx_runner(path: Path) -> Run:
    """Return what runs an ONNX file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are exceptions, too
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda inputs: [
        torch.from_numpy(output)
        for output in session.run(list(OUTPUTS), {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    ]


def check_onnx_packages() -> None:
    """Raise a ValueError where a package is missing that ONNX needs."""
    if missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]:
        raise ValueError(f"--to onnx needs the package {missing[0]}: pip install {' '.join(ONNX_PACKAGES)}")


@torch.no_grad()
def check(run: Run, program: Any, module: LogitsAndMaps, masked: bool) -> str:
    """Compare a written program with the model on batches of several sizes, padded ones too; return what was found.

    Raises:
        RunFailed: it gives other numbers, or fails.
    """
    sizes, said = check_sizes(program)
    largest = 0.0
    for size in sizes:
        inputs, where = make_inputs(*size, masked), f"on {size[0]} images of {size[1]} x {size[2]} pixels"
        try:
            found = run(inputs)
        except Exception as error:  # whatever torch and onnxruntime raise
            raise RunFailed(f"the exported program fails {where} ({first_line(error)})") from None
        for name, expected, value in zip(OUTPUTS, module(*inputs), found, strict=True):
            difference = float((expected - value).abs().max() / expected.abs().max().clamp(min=1))
            if not difference <= TOLERANCE:
                raise RunFailed(f"the exported program differs from the model by {difference:.1e} in its {name} {where}")
            largest = max(largest, difference)
    return f"{said}; differs from the model by at most {largest:.1e} on {len(sizes)} batches{' with padding' * masked}"


def check_sizes(program: Any) -> tuple[list[tuple[int, int, int]], str]:
    """Return other sizes `(B, H, W)` of a batch than the traced one, as far as they vary, and a phrase that says what does."""
    name = program.graph_signature.user_inputs[0]
    shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == name)
    _, _, height, width = program.example_inputs[0][0].shape
    wanted = [(1, height, height), (1, height + 5, width + 37), (3, height, width)]
    fixed = [side if isinstance(side, int) else None for side in (shape[0], *shape[2:])]  # else a symbol
    sizes = [tuple(side or other for side, other in zip(fixed, size, strict=True)) for size in wanted]
    words = [f"{what} {side}" for what, side in zip(("batch", "height", "width"), fixed, strict=True) if side]
    return list(dict.fromkeys(sizes)), f"fixed {', '.join(words)}" if words else "batch, height and width vary"  # type: ignore


def make_inputs(batch: int, height: int, width: int, masked: bool) -> Inputs:
    """Return random images, and if `masked` the padding mask, with padding to the right of and below the last image."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, height, width, generator=generator)
    if not masked:
        return (images,)
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    mask[-1, height * 3 // 4 :], mask[-1, :, width * 2 // 3 :] = True, True
    return images.masked_fill(mask[:, None], 0.0), mask


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what the exporters say about their own inner steps from the terminal."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
