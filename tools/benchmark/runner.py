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
from pathlib import Path
from types import TracebackType
from typing import Any

from tools.benchmark.cases import Case, Implementation, Series
from tools.benchmark.meters import Contention
from util.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
# A measurement with more contention than this is repeated; the one with the least counts.
MAX_CONTENTION, TRIES = 0.05, 3  # share of the processors, measurements at most
BUILD_TURNS = 1  # starting a process counts as so many turns in the estimate of the time that is left


class ImplementationFailed(Exception):
    """A process reported an error, or ended without a report; the message is one line."""


class Process:
    """One implementation in a process of its own: the parent's end of `tools.benchmark.worker`.

    Construction returns at once, so that several are built at the same time; `wait_until_built` waits.

    Args:
        settings: `device`, `threads`, `memory_gib` and `flags`, as in `tools.benchmark.worker.Spec`.
    """

    def __init__(self, case: Case, implementation: Implementation, settings: dict[str, Any]) -> None:
        self.case, self.implementation = case, implementation
        # A file, since a pipe that nobody reads would fill up.
        self.stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.benchmark.worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
        )
        chosen = {name: value for name, value in vars(implementation).items() if name != "name"}
        self._send({**settings, **vars(case), **chosen})

    def wait_until_built(self) -> list[str]:
        """Return the names of the variants that it can run. Raises ImplementationFailed."""
        return self._receive()["variants"]

    def request(self, do: str, variant: str, first: bool = False) -> dict[str, Any]:
        """Do `warm`, `run` or `shares`; return the result. `first`: another process ran before. Raises ImplementationFailed."""
        self._send({"do": do, "variant": variant, "first": first})
        return self._receive()

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: _receive reports that
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ImplementationFailed(self._exit_reason())
        message = json.loads(line)
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            for stream in (self.process.stdin, self.process.stdout):
                assert stream is not None
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=30)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.stderr.close()


class Estimate:
    """Progress in percent, in which turns of a larger case count for more."""

    def __init__(self, cases: Sequence[tuple[Case, Sequence[Implementation]]], rounds: int, line: Progress) -> None:
        self.line = line
        turns = rounds + 1 + BUILD_TURNS  # one to warm up
        self.total = sum(cost(case) * len(implementations) * turns for case, implementations in cases)
        self.done = 0.0

    def add(self, case: Case, share: float, note: str) -> None:
        """Count `share` of one implementation's turn as done."""
        self.done += cost(case) * share
        percent = int(100 * self.done / self.total) - self.line.done
        if percent > 0:
            self.line.step(percent, note)


def cost(case: Case) -> float:
    """Return roughly how long a step takes, in units of one megapixel of evaluation."""
    pixels = case.batch_size * case.height * case.width / 1e6
    return pixels * (3.5 if case.mode == "training" else 1.0) * (1 + case.classes / 2000)


@dataclass
class Runner:
    """Measurement of cases, in rounds.

    Attributes:
        rounds: how many times each variant is measured.
        settings: as for `Process`.
        variants: what to run, of those that an implementation offers; None for all.
        shares: also time the parts of the networks, once.
        patience: seconds to wait, at most, for the contention to end before a measurement is repeated, and before the next.
    """

    rounds: int
    settings: dict[str, Any]
    variants: frozenset[str] | None = None
    shares: bool = True
    patience: float = 10.0

    def __post_init__(self) -> None:
        self.contended = False  # whether the last measurement was

    def measure(
        self,
        cases: Sequence[tuple[Case, Sequence[Implementation]]],
        after_case: Callable[[list[Series]], object] = lambda series: None,
    ) -> list[Series]:
        """Run every case with its implementations.

        Args:
            cases: the grid; only the implementations of one case are in memory at a time.
            after_case: called with all series so far, so that a long run that is cut short leaves something.

        Returns:
            One series for each implementation and variant, in the order of the cases; one that failed says why.
        """
        results: list[Series] = []
        with Progress(100, "benchmark, percent") as line:
            estimate = Estimate(cases, self.rounds, line)
            for case, implementations in cases:
                results += self._measure_case(case, implementations, estimate)
                after_case(results)
        return results

    def _measure_case(self, case: Case, implementations: Sequence[Implementation], estimate: Estimate) -> list[Series]:
        with contextlib.ExitStack() as stack:
            started = [stack.enter_context(Process(case, each, self.settings)) for each in implementations]
            running = []
            for process in started:
                running.append((process, self._series(process)))
                estimate.add(case, BUILD_TURNS, f"{case}: {process.implementation.name}")
            for turn in range(self.rounds + 1):
                # The first of a round rotates: what runs after a long step runs on a warmer machine.
                start = turn % len(running)
                for process, variants in running[start:] + running[:start]:
                    for i, series in enumerate(variants):
                        self._take_turn(process, series, "warm" if turn == 0 else "run", first=i == 0)
                        estimate.add(case, 1 / len(variants), f"{case}: {process.implementation.name}")
            for process, variants in running if self.shares else ():
                for series in variants:
                    if series.variant == case.mode and not process.implementation.compiled:
                        self._take_turn(process, series, "shares", first=True)
        return [series for _, variants in running for series in variants]

    def _series(self, process: Process) -> list[Series]:
        """Return an empty series for each variant, once the process is built; a single failed one if it cannot be."""
        try:
            offered = process.wait_until_built()
        except ImplementationFailed as failure:
            return [Series(process.case, process.implementation, process.case.mode, failed=str(failure))]
        wanted = [name for name in offered if self.variants is None or name in self.variants]
        return [Series(process.case, process.implementation, name) for name in wanted]

    def _take_turn(self, process: Process, series: Series, do: str, first: bool) -> None:
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
        while len(results) < TRIES:
            if self.contended:
                wait_for_quiet(self.patience)
            results.append(process.request(do, variant, first or self.contended))
            self.contended = results[-1]["contention"] > MAX_CONTENTION
            if not self.contended:
                break
        return min(results, key=lambda result: result["contention"])


def wait_for_quiet(patience: float) -> None:
    """Return when other processes have been quiet for a second, or after `patience` seconds."""
    start = time.monotonic()
    while time.monotonic() - start < patience:
        contention = Contention()
        time.sleep(min(1.0, patience))
        if contention.share() <= MAX_CONTENTION:
            return
