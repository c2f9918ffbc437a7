"""The process of one implementation: `python -m tools.benchmark.worker`. It reads requests as lines of JSON and answers each.

The first line is the specification: the fields of `Case` and `Implementation`, `device`, `threads`, `memory_gib` (or null) and
`flags`, which are ICN's and include INTR's. The others are `{"do": "warm" | "run" | "shares", "variant": ..., "first": whether
another process ran before}`. A process of its own gives every implementation clean memory and its own module `models`.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from tools.benchmark.meters import Contention, PeakMemory, limit_memory, time_parts

MIN_SECONDS = 0.3  # of a measurement: shorter steps are repeated
# The first step after another process's turn runs on cold caches, which matters for a step shorter than this.
SETTLE_BELOW = 2.0  # seconds


class Server:
    """A model that answers requests: `variants[name](n)` runs n steps, `network` is timed by part.

    The zero of its memory meter is after the imports and before the model.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        torch.set_num_threads(spec["threads"])
        torch.manual_seed(0)
        if spec["memory_gib"] is not None:
            limit_memory(spec["memory_gib"])
        self.device = torch.device(spec["device"])
        if spec["folder"] is None:
            from tools.benchmark.implementations import icn

            self.memory = PeakMemory(self.device)
            self.network, self.variants = icn.build(spec, self.device)
        else:
            from tools.benchmark.implementations import peer

            build_model = peer.import_build_model(spec["folder"])
            self.memory = PeakMemory(self.device)
            self.network, self.variants = peer.build(spec, self.device, build_model)
        self.compiled = spec["compiled"]
        self.expected: dict[str, float] = {}  # seconds of a step, by variant

    def answer(self, do: str, variant: str, first: bool) -> dict[str, Any]:
        """Do `warm`, `run` or `shares`."""
        step = self.variants[variant]
        if do == "warm":
            seconds = [self.time_steps(step, 1) for _ in range(3 if self.device.type == "cuda" or self.compiled else 1)]
            self.expected[variant] = seconds[-1]
            return {"compile_seconds": max(0.0, seconds[0] - seconds[-1]) if self.compiled else None}
        if first and self.expected[variant] < SETTLE_BELOW:
            step(1)
        self.memory.reset()
        contention = Contention()
        if do == "shares":
            shares = time_parts(self.network, lambda: self.time_steps(step, 1), self.synchronise)
            return {"shares": shares, "contention": contention.share()}
        mean = self.time_steps(step, max(1, math.ceil(MIN_SECONDS / self.expected[variant])))
        return {"seconds": mean, "contention": contention.share(), "peak_memory": self.memory.read()}

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


def main() -> None:
    """Build what the parent asks for on stdin, then answer its requests on stdout until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes the input
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an implementation prints must not get between the answers

    def reply(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        server = Server(json.loads(sys.stdin.readline()))
        reply({"variants": list(server.variants)})
        for line in sys.stdin:
            try:
                reply(server.answer(**json.loads(line)))
            except RuntimeError as error:  # one variant that needs too much memory does not end the others
                reply({"failed": _reason(error)})
    except Exception as error:
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
