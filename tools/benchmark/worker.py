"""One process that runs one contestant: `python -m tools.benchmark.worker`. It obeys lines of JSON and answers each with one.

The first line says what to build (see `Spec`); then `{"do": "warm" | "run" | "shares", "variant": ...}`, with `"first": true`
where the turn before was another process's, until the end of the input. A process of its own gives every contestant clean
memory and its own module `models`.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TypedDict

import torch

from tools.benchmark.machine import Disturbance
from tools.benchmark.memory import PeakMemory, limit_memory
from tools.benchmark.shares import time_parts

AT_LEAST = 0.3  # seconds that a measurement lasts, steps are repeated if need be
# The first step after another process's turn finds cold caches; a step that is long enough does not feel it.
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


class Job:
    """What a contestant can do: `variants[name](n)` runs n steps; `network` is looked into for the shares."""

    variants: dict[str, Callable[[int], None]]
    network: torch.nn.Module


def build(spec: Spec, device: torch.device) -> tuple[Job, PeakMemory]:
    """The contestant, and the memory meter that was set up after its imports."""
    if spec["folder"] is None:
        from tools.benchmark import product

        memory = PeakMemory(device)
        return product.build(spec, device), memory
    from tools.benchmark import peer

    build_model = peer.import_build_model(spec["folder"])
    memory = PeakMemory(device)
    return peer.build(spec, device, build_model), memory


def warm(step: Callable[[int], None], device: torch.device, compiled: bool) -> tuple[float, float | None]:
    """Run until nothing is new; returns the seconds of a step, and those of compiling."""
    seconds = [_timed(step, 1, device) for _ in range(3 if device.type == "cuda" or compiled else 1)]
    return seconds[-1], max(0.0, seconds[0] - seconds[-1]) if compiled else None


def _timed(step: Callable[[int], None], count: int, device: torch.device) -> float:
    _synchronise(device)
    start = time.perf_counter()
    step(count)
    _synchronise(device)
    return (time.perf_counter() - start) / count


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def serve(spec: Spec, reply: Callable[[dict[str, Any]], None]) -> None:
    """Build, then obey until the input ends."""
    device = torch.device(spec["device"])
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    if spec["memory_gib"] is not None:
        limit_memory(spec["memory_gib"])
    job, memory = build(spec, device)
    reply({"variants": list(job.variants), "threads": torch.get_num_threads()})
    expected: dict[str, float] = {}

    def obey(do: str, variant: str, first: bool = False) -> dict[str, Any]:
        step = job.variants[variant]
        if do == "warm":
            expected[variant], compile_seconds = warm(step, device, spec["compiled"])
            return {"compile_seconds": compile_seconds}
        if first and expected[variant] < SETTLE_BELOW:
            step(1)
        memory.reset()
        disturbance = Disturbance()
        if do == "shares":
            shares = time_parts(job.network, lambda: _timed(step, 1, device), lambda: _synchronise(device))
            return {"shares": shares, "disturbance": disturbance.share()}
        seconds = _timed(step, max(1, math.ceil(AT_LEAST / expected[variant])), device)
        return {"seconds": seconds, "disturbance": disturbance.share(), "peak_memory": memory.read()}

    for line in sys.stdin:
        try:
            answer = obey(**json.loads(line))
        except RuntimeError as error:  # one variant that needs too much memory does not end the others
            answer = {"failed": _reason(error)}
        reply(answer)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes the input
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a contestant may print

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
    """One line; that memory ran out is said in the same words whoever found it out."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or "can't allocate memory" in text:
        return "out of memory"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    main()
