"""The measurement: one process for each implementation, and rounds in which each is measured once.

Since rounds alternate between the implementations, whatever slows the machine down slows all of them down.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tools.benchmark.cases import Case, Implementation, Series
from tools.benchmark.meters import ROOT, Contention
from util.progress import Progress

# A measurement with more contention than this is repeated; the one with the least counts.
MAX_CONTENTION, TRIES = 0.05, 3  # share of the processors, measurements at most


class ImplementationFailed(Exception):
    """A process reported an error, or ended without a report; the message is one line."""


class Process:
    """One implementation in a process of its own: the parent's end of `tools.benchmark.worker`.

    Construction returns at once, so that several are built at the same time; `receive` waits. `settings` are the `device`,
    `threads`, `memory_gib` and `flags` of its specification.
    """

    def __init__(self, case: Case, implementation: Implementation, settings: dict[str, Any]) -> None:
        self.case, self.implementation = case, implementation
        # A file, since a pipe that nobody reads would fill up.
        self.stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        command, pipe = [sys.executable, "-m", "tools.benchmark.worker"], subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=self.stderr, text=True)
        self._send({**settings, **vars(case), **vars(implementation)})

    def request(self, do: str, variant: str, first: bool = False) -> dict[str, Any]:
        """Do `warm`, `run` or `shares`; return the result. `first`: another process ran before. Raises ImplementationFailed."""
        self._send({"do": do, "variant": variant, "first": first})
        return self.receive()

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: receive reports that
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for a message and return it: first the names of the `variants` that it can run. Raises ImplementationFailed."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        message = json.loads(line) if line else {"failed": self._exit_reason()}
        if "failed" in message:
            raise ImplementationFailed(message["failed"])
        return message

    def _exit_reason(self) -> str:
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return "killed, as happens when memory runs out"
        self.stderr.seek(0)
        lines = [line.strip() for line in self.stderr if line.strip()]
        ended = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"{ended}: {lines[-1]}" if lines else ended

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=30)  # closes its input, at which it ends
        self.process.kill()
        self.process.wait()
        self.stderr.close()


@dataclass
class Runner:
    """Measurement of cases, in rounds."""

    rounds: int  # how many times each variant is measured
    settings: dict[str, Any]  # as for `Process`
    evaluation_only: bool = False  # neither further variants nor the parts of the networks
    patience: float = 10.0  # seconds to wait, at most, for contention to end before a repetition, and before what follows it
    contended: bool = False  # whether the last measurement was

    def measure(
        self, cases: Sequence[Case], implementations: Sequence[Implementation], after_case: Callable[[list[Series]], object]
    ) -> list[Series]:
        """Run every case with every implementation, and `after_case` with all series so far.

        Returns:
            One series for each implementation and variant, in the order of the cases; one that failed says why.
        """
        results: list[Series] = []
        with Progress(len(cases) * len(implementations) * (self.rounds + 1), "benchmark, turns") as progress:
            for case in cases:
                results += self._measure_case(case, implementations, progress)
                after_case(results)
        return results

    def _measure_case(self, case: Case, implementations: Sequence[Implementation], progress: Progress) -> list[Series]:
        """Build all implementations of a case, warm them up, and measure them in rounds."""
        with contextlib.ExitStack() as stack:
            started = [stack.enter_context(Process(case, each, self.settings)) for each in implementations]
            running = [(process, self._series(process)) for process in started]
            for turn in range(self.rounds + 1):
                # The first of a round rotates: what runs after a long step runs on a warmer machine.
                start = turn % len(running)
                for process, variants in running[start:] + running[:start]:
                    for i, series in enumerate(variants):
                        self._take_turn(process, series, "run" if turn else "warm", first=i == 0)
                    progress.step(note=f"{case}: {process.implementation.name}")
            for process, variants in running:
                for series in variants:
                    if series.variant == case.mode and not process.implementation.compiled and not self.evaluation_only:
                        self._take_turn(process, series, "shares", first=True)
        return [series for _, variants in running for series in variants]

    def _series(self, process: Process) -> list[Series]:
        """Return an empty series for each variant, once the process is built; a single failed one if it cannot be."""
        try:
            offered = process.receive()["variants"]
        except ImplementationFailed as failure:
            return [Series(process.case, process.implementation, process.case.mode, failed=str(failure))]
        wanted = ["evaluation"] if self.evaluation_only else offered
        return [Series(process.case, process.implementation, name) for name in wanted]

    def _take_turn(self, process: Process, series: Series, do: str, first: bool) -> None:
        """Send a request to a process, and add what it answers to the series."""
        if series.failed:
            return
        try:
            result = self._request(process, series.variant, do, first)
        except ImplementationFailed as failure:
            series.failed = str(failure)
            return
        if do == "warm":
            series.compile_seconds = result["compile_seconds"]
        elif do == "shares":
            series.shares = result["shares"]
        else:
            series.seconds.append(result["seconds"])
            series.contention.append(result["contention"])
            series.peak_memory = max(series.peak_memory or 0, result["peak_memory"])

    def _request(self, process: Process, variant: str, do: str, first: bool) -> dict[str, Any]:
        """Return the result with the least contention of up to `TRIES`; the first below `MAX_CONTENTION` ends the search."""
        if do == "warm":
            return process.request(do, variant, first)
        results: list[dict[str, Any]] = []
        while not results or (self.contended and len(results) < TRIES):
            if self.contended:
                wait_for_quiet(self.patience)
            results.append(process.request(do, variant, first or self.contended))
            self.contended = results[-1]["contention"] > MAX_CONTENTION
        return min(results, key=lambda result: result["contention"])


def wait_for_quiet(patience: float) -> None:
    """Return when other processes have been quiet for a second, or after `patience` seconds."""
    start = time.monotonic()
    while time.monotonic() - start < patience:
        contention = Contention()
        time.sleep(min(1.0, patience))
        if contention.share() <= MAX_CONTENTION:
            return
