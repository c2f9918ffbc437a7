"""The CUDA device of each of several processes."""

from __future__ import annotations

import pytest
import torch

from util.device import select_device
from util.launcher import ProcessInfo


@pytest.mark.parametrize(
    "visible, process, index",
    [(2, ProcessInfo(), None), (8, ProcessInfo(9, 16, 1), 1), (1, ProcessInfo(9, 16, 1), 0), (2, ProcessInfo(1, 2, 1), 1)],
)
def test_device_of_a_rank(monkeypatch: pytest.MonkeyPatch, visible: int, process: ProcessInfo, index: int | None) -> None:
    taken = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    assert select_device("cuda", process) == (torch.device("cuda") if index is None else torch.device("cuda", index))
    assert select_device("cpu", process).type == "cpu" and len(taken) == 1
    if process.size > 1:
        with pytest.raises(ValueError, match="each of .* processes takes a GPU of its own"):
            select_device("cuda:0", process)
        with pytest.raises(ValueError, match="process 4 of this machine has only 2 GPUs: start as many"):
            monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
            select_device("cuda", ProcessInfo(11, 16, 3))
