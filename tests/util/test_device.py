"""The device that a name means, and that of each of several processes; what mps, which has no float64, is spared."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from datasets import ImageBatch
from flags import get_args_parser
from util.cli import parse
from util.device import memory_format, select_device
from util.launcher import ProcessInfo
from util.metrics import Sums
from util.precision import PRECISIONS, select_precision

MPS, CPU = torch.device("mps"), torch.device("cpu")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine of `gpus` CUDA devices, with or without `mps`; `taken` are the CUDA devices that were chosen."""
    found = SimpleNamespace(gpus=0, mps=False, taken=[])
    monkeypatch.setattr("torch.cuda.is_available", lambda: found.gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: found.gpus)
    monkeypatch.setattr("torch.cuda.set_device", found.taken.append)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: found.mps)
    return found


def test_cuda_is_the_default_and_falls_back_with_a_warning(machine: SimpleNamespace, capsys: pytest.CaptureFixture) -> None:
    assert select_device(parse(get_args_parser(), []).device) == CPU and "no CUDA device" in capsys.readouterr().err
    assert select_device("cpu") == CPU and capsys.readouterr().err == ""


@pytest.mark.parametrize("gpus, mps, float64, chosen", [
    (1, True, False, "cuda"), (1, False, True, "cuda"), (0, True, False, "mps"), (0, True, True, "cpu"), (0, False, False, "cpu"),
])  # fmt: skip
def test_auto_is_the_first_device_that_is_there(
    machine: SimpleNamespace, gpus: int, mps: bool, float64: bool, chosen: str, capsys: pytest.CaptureFixture
) -> None:
    machine.gpus, machine.mps = gpus, mps
    assert select_device("auto", float64=float64) == torch.device(chosen)
    err = capsys.readouterr().err
    assert err.count("\n") == (chosen == "mps") and ("never tried on mps" in err) == (chosen == "mps")


def test_auto_of_several_processes_is_no_mps(machine: SimpleNamespace) -> None:
    machine.mps = True
    assert select_device("auto", ProcessInfo(1, 2, 1)) == CPU
    machine.gpus = 2
    assert select_device("auto", ProcessInfo(1, 2, 1)) == torch.device("cuda", 1)


@pytest.mark.parametrize("name, there, process, float64, message", [
    ("gpu", False, None, False, "'gpu' is not a device: choose auto, cuda, cuda:<index>, mps or cpu"),
    ("meta", False, None, False, "'meta' is not supported: choose auto, cuda, cuda:<index>, mps or cpu"),
    ("mps", False, None, False, "mps: there is no GPU of Apple here, or torch cannot use it: choose auto, cuda or cpu"),
    ("mps", True, ProcessInfo(1, 2, 1), False, "mps is for one process: several of them need cuda or cpu"),
    ("mps", True, None, True, "mps has no numbers of 64 bits, which are computed with here: choose auto or cpu"),
    ("mps:1", True, None, False, "mps:1: there is one MPS device, mps"),
])  # fmt: skip
def test_devices_that_cannot_be_used(
    machine: SimpleNamespace, name: str, there: bool, process: ProcessInfo | None, float64: bool, message: str
) -> None:
    machine.mps = there
    with pytest.raises(ValueError) as error:
        select_device(name, process, float64)
    assert str(error.value) == f"--device {message}"


@pytest.mark.parametrize(
    "visible, process, index",
    [(2, ProcessInfo(), None), (8, ProcessInfo(9, 16, 1), 1), (1, ProcessInfo(9, 16, 1), 0), (2, ProcessInfo(1, 2, 1), 1)],
)
def test_device_of_a_rank(machine: SimpleNamespace, visible: int, process: ProcessInfo, index: int | None) -> None:
    machine.gpus = visible
    assert select_device("cuda", process) == (torch.device("cuda") if index is None else torch.device("cuda", index))
    assert select_device("cpu", process).type == "cpu" and len(machine.taken) == 1
    if process.size > 1:
        with pytest.raises(ValueError, match="each of .* processes takes a GPU of its own"):
            select_device("cuda:0", process)
        machine.gpus = 2
        with pytest.raises(ValueError, match="process 4 of this machine has only 2 GPUs: start as many"):
            select_device("cuda", ProcessInfo(11, 16, 3))


def test_mps_computes_in_float32_alone() -> None:
    assert select_precision("auto", MPS).name == "fp32" and not select_precision("auto", MPS).scaler().is_enabled()
    for name in set(PRECISIONS) - {"auto", "fp32"}:
        with pytest.raises(ValueError, match=f"--precision {name} .*(fp32, or auto)"):
            select_precision(name, MPS)
    assert memory_format(MPS) == torch.contiguous_format and memory_format(CPU) == torch.channels_last


def test_sums_of_mps_are_on_the_cpu_in_float64() -> None:
    sums = Sums(MPS, 2)
    sums.add(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), {"class": torch.tensor(0.5)})
    assert sums.values.device == CPU and sums.values.dtype == torch.float64 and sums.means()["acc1"] == 100


def test_only_copies_to_cuda_do_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def to(tensor: torch.Tensor, device: torch.device, non_blocking: bool) -> torch.Tensor:
        asked.append(non_blocking)
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    batch = ImageBatch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), None, torch.zeros(1), torch.zeros(1))
    for device in ("cuda", "mps", "cpu"):
        batch.to(device)
    assert asked == [True] * 3 + [False] * 6
