"""The tests of this folder run on a CUDA device; elsewhere they are skipped, or with ICN_GPU_DEVICE=cpu tried on a CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from util.device import select_device

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder `cuda`: `-m cuda` runs them alone."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cuda)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The device of the tests of this folder."""
    name = os.environ.get("ICN_GPU_DEVICE", "cuda")
    if name != "cpu" and not torch.cuda.is_available():
        pytest.skip("no CUDA device (ICN_GPU_DEVICE=cpu tries the tests on a CPU)")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # of --deterministic: before the first product
    return select_device(name)


@pytest.fixture(autouse=True)
def switches(device: torch.device) -> Iterator[None]:
    """Float32 products without TF32 before each test, and torch's global switches as they were after it."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark
    products.allow_tf32 = convolutions.allow_tf32 = False
    yield
    products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark = before
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["fp32", "tf32", "bf16", "fp16"])
def precision(request: pytest.FixtureRequest, device: torch.device) -> str:
    """Each precision that the device has."""
    if request.param in ("tf32", "fp16") and device.type == "cpu":
        pytest.skip(f"{request.param} is for CUDA devices")
    return request.param
