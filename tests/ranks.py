"""Several processes of one run, as a launcher would start them, but in interpreters that have imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PATIENCE = 240.0  # seconds; only a run that hangs needs them
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["main", "conftest", "torch.distributed", "torch.nn.parallel", "tools.evaluate_attribution", "tools.visualization"]
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _be(rank: int, size: int, port: int, log: Path, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({key: str(value) for key, value in numbers.items()})
    torch.set_num_threads(1)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(log.with_name(f"{log.name}.{rank}.{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    log.with_name(f"{log.name}.{rank}.result").write_bytes(pickle.dumps(function(*args)))


class Launched:
    """`size` processes that call `function(*args)`; what they print is in `<log>.<rank>.out` and `.err`."""

    def __init__(self, size: int, log: Path, function: Callable[..., Any], *args: Any) -> None:
        self.log, port = log, free_port()
        self.children = [CONTEXT.Process(target=_be, args=(rank, size, port, log, function, args)) for rank in range(size)]
        for child in self.children:
            child.start()

    def end(self) -> list[int]:
        """The exit codes."""
        for child in self.children:
            child.join(PATIENCE)
        hanging = [rank for rank, child in enumerate(self.children) if child.exitcode is None]
        for rank in hanging:
            self.children[rank].kill()
        assert not hanging, f"ranks {hanging} hang: {self.err()}"
        return [child.exitcode for child in self.children]

    def err(self, rank: int | None = None) -> str:
        ranks = range(len(self.children)) if rank is None else [rank]
        return "".join(self.log.with_name(f"{self.log.name}.{rank}.err").read_text() for rank in ranks)

    def complaints(self) -> str:
        """What the processes print to stderr, without the progress of work that takes long on a busy machine."""
        return "".join(line for line in self.err().splitlines(keepends=True) if " elapsed" not in line)

    def out(self, rank: int = 0) -> str:
        return self.log.with_name(f"{self.log.name}.{rank}.out").read_text()

    def results(self) -> list[Any]:
        """What the processes returned, by rank."""
        assert not any(self.end()), self.err()
        files = [self.log.with_name(f"{self.log.name}.{rank}.result") for rank in range(len(self.children))]
        return [pickle.loads(file.read_bytes()) for file in files]


def until(condition: Callable[[], Any], what: str = "nothing happened") -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
