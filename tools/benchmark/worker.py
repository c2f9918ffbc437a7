"""The process of one implementation: `python -m tools.benchmark.worker`. It reads requests as lines of JSON and answers each.

The first line says what to build (see `Spec`); the others are `{"do": "warm" | "run" | "shares", "variant": ...}`, with
`"first": true` when another process ran before, until the end of the input. A process of its own gives every implementation
clean memory and its own module `models`.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TypedDict

import torch

from tools.benchmark.meters import Contention, PeakMemory, limit_memory, time_parts

MIN_SECONDS = 0.3  # of a measurement: shorter steps are repeated
# The first step after another process's turn runs on cold caches, which matters for a step shorter than this.
SETTLE_BELOW = 2.0  # seconds


class Spec(TypedDict):
    """What to build: `flags` are ICN's, which include INTR's."""

    mode: str
    height: int
    width: int
    batch_size: int
    classes: int
    folder: str | None
    precision: str
    compiled: bool
    device: str
    threads: int
    memory_gib: float | None
    flags: dict[str, Any]


class Implementation(Protocol):
    """A model that is ready to run: `variants[name](n)` runs n steps; `network` is timed by part."""

    @property
    def variants(self) -> dict[str, Callable[[int], None]]: ...

    @property
    def network(self) -> torch.nn.Module: ...


def build(spec: Spec, device: torch.device) -> tuple[Implementation, PeakMemory]:
    """Return the implementation, and a memory meter whose zero is after the imports and before the model."""
    if spec["folder"] is None:
        from tools.benchmark.implementations import icn

        memory = PeakMemory(device)
        return icn.build(spec, device), memory
    from tools.benchmark.implementations import peer

    build_model = peer.import_build_model(spec["folder"])
    memory = PeakMemory(device)
    return peer.Peer(spec, device, build_model), memory


class Server:
    """Answers to the requests that follow the first line."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.device = spec, torch.device(spec["device"])
        self.implementation, self.memory = build(spec, self.device)
        self.expected: dict[str, float] = {}  # seconds of a step, by variant

    def answer(self, do: str, variant: str, first: bool = False) -> dict[str, Any]:
        """Do `warm`, `run` or `shares`."""
        step = self.implementation.variants[variant]
        if do == "warm":
            self.expected[variant], compile_seconds = self.warm_up(step)
            return {"compile_seconds": compile_seconds}
        if first and self.expected[variant] < SETTLE_BELOW:
            step(1)
        self.memory.reset()
        contention = Contention()
        if do == "shares":
            shares = time_parts(self.implementation.network, lambda: self.time_steps(step, 1), self.synchronise)
            return {"shares": shares, "contention": contention.share()}
        seconds = self.time_steps(step, max(1, math.ceil(MIN_SECONDS / self.expected[variant])))
        return {"seconds": seconds, "contention": contention.share(), "peak_memory": self.memory.read()}

    def warm_up(self, step: Callable[[int], None]) -> tuple[float, float | None]:
        """Return the seconds of a step in a steady state, and those of compiling (None where nothing is compiled)."""
        compiled = self.spec["compiled"]
        seconds = [self.time_steps(step, 1) for _ in range(3 if self.device.type == "cuda" or compiled else 1)]
        return seconds[-1], max(0.0, seconds[0] - seconds[-1]) if compiled else None

    def time_steps(self, step: Callable[[int], None], count: int) -> float:
        """Return the seconds of one step, the mean of `count`."""
        self.synchronise()
        start = time.perf_counter()
        step(count)
        self.synchronise()
        return (time.perf_counter() - start) / count

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def serve(spec: Spec, reply: Callable[[dict[str, Any]], None]) -> None:
    """Build, then answer requests until the input ends."""
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    if spec["memory_gib"] is not None:
        limit_memory(spec["memory_gib"])
    server = Server(spec)
    reply({"variants": list(server.implementation.variants), "threads": torch.get_num_threads()})
    for line in sys.stdin:
        try:
            answer = server.answer(**json.loads(line))
        except RuntimeError as error:  # one variant that needs too much memory does not end the others
            answer = {"failed": _reason(error)}
        reply(answer)


def main() -> None:
    """Serve the parent at the other end of stdin and stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes the input
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an implementation prints must not get between the answers

    def reply(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        serve(json.loads(sys.stdin.readline()), reply)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if os.environ.get("ICN_DEBUG") == "1":
            raise
        reply({"failed": _reason(error)})
        sys.exit(1)


def _reason(error: Exception) -> str:
    """Return one line; `out of memory` whichever library ran out of it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in text:
        return "out of memory"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    main()
