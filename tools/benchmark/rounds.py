"""The measurement: everybody's turn comes once a round, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tools.benchmark.cases import Case, Contestant, Series
from tools.benchmark.machine import Disturbance
from tools.benchmark.processes import ContestantFailed, Process
from util.progress import Progress

# A measurement in which other processes had more of the processors than this is repeated; the least disturbed one counts.
QUIET, TRIES = 0.05, 3  # share, measurements at most
BUILD_TURNS = 1  # starting a process counts as so many turns in the estimate of the time that is left


class Estimate:
    """Progress in percent: turns of a larger case count for more."""

    def __init__(self, cases: Sequence[tuple[Case, Sequence[Contestant]]], rounds: int, line: Progress) -> None:
        self.line = line
        self.rounds = rounds
        self.total = sum(cost(case) * len(contestants) * self._turns() for case, contestants in cases)
        self.done = 0.0

    def _turns(self) -> int:
        return self.rounds + 1 + BUILD_TURNS  # one to warm up

    def add(self, case: Case, share: float, note: str) -> None:
        """`share` of one contestant's turn is over."""
        self.done += cost(case) * share
        percent = int(100 * self.done / self.total) - self.line.done
        if percent > 0:
            self.line.step(percent, note)


def cost(case: Case) -> float:
    """Roughly how long a step takes, in steps of one megapixel of evaluation."""
    pixels = case.batch_size * case.height * case.width / 1e6
    return pixels * (3.5 if case.mode == "training" else 1.0) * (1 + case.classes / 2000)


@dataclass
class Rounds:
    """How to measure.

    Attributes:
        rounds: how many times each is measured.
        settings: as for `Process`.
        variants: what to run, of those that a contestant offers; None for all.
        shares: also time the parts of the networks, once.
        patience: seconds to wait, at most, for other processes to be quiet, before a measurement that they have disturbed is
            repeated, and before the next.
    """

    rounds: int
    settings: dict[str, Any]
    variants: frozenset[str] | None = None
    shares: bool = True
    patience: float = 10.0

    def __post_init__(self) -> None:
        self.disturbed = False  # whether the last measurement was

    def measure(
        self,
        cases: Sequence[tuple[Case, Sequence[Contestant]]],
        after_case: Callable[[list[Series]], None] = lambda found: None,
    ) -> list[Series]:
        """Run every case with its contestants.

        Args:
            cases: the grid; the contestants of one case take turns, and only they are held in memory.
            after_case: called with all that is known so far: a long run that is cut short leaves something.

        Returns:
            One series for each contestant and variant, in the order of the cases; one that failed says why.
        """
        found: list[Series] = []
        with Progress(100, "benchmark, percent") as line:
            estimate = Estimate(cases, self.rounds, line)
            for case, contestants in cases:
                found += self._measure_case(case, contestants, estimate)
                after_case(found)
        return found

    def _measure_case(self, case: Case, contestants: Sequence[Contestant], estimate: Estimate) -> list[Series]:
        with contextlib.ExitStack() as stack:
            started = [stack.enter_context(Process(case, contestant, self.settings)) for contestant in contestants]
            running = []
            for process in started:
                running.append((process, self._series(process)))
                estimate.add(case, BUILD_TURNS, f"{case}: {process.contestant.name}")
            for turn in range(self.rounds + 1):
                # Everyone goes first in turn: what runs after a long step finds a warmer machine.
                start = turn % len(running)
                for process, series in running[start:] + running[:start]:
                    for i, one in enumerate(series):
                        self._take_turn(process, one, "warm" if turn == 0 else "run", first=i == 0)
                        estimate.add(case, 1 / len(series), f"{case}: {process.contestant.name}")
            for process, series in running if self.shares else ():
                for one in series:
                    if one.variant == case.mode and not process.contestant.compiled:
                        self._take_turn(process, one, "shares", first=True)
        return [one for _, series in running for one in series]

    def _series(self, process: Process) -> list[Series]:
        """What the process can run, once it is built; a single failed series if it cannot be."""
        try:
            offered = process.wait_until_built()
        except ContestantFailed as failure:
            return [Series(process.case, process.contestant, process.case.mode, failed=str(failure))]
        wanted = [name for name in offered if self.variants is None or name in self.variants]
        return [Series(process.case, process.contestant, name) for name in wanted]

    def _take_turn(self, process: Process, series: Series, do: str, first: bool) -> None:
        if series.failed:
            return
        try:
            answer = self._ask(process, series.variant, do, first)
        except ContestantFailed as failure:
            series.failed = str(failure)
            return
        if do == "warm":
            series.compile_seconds = answer["compile_seconds"]
        elif do == "shares":
            series.shares = answer["shares"]
        else:
            series.seconds.append(answer["seconds"])
            series.disturbance.append(answer["disturbance"])
            series.peak_memory = max(series.peak_memory or 0, answer["peak_memory"])

    def _ask(self, process: Process, variant: str, do: str, first: bool) -> dict[str, Any]:
        """The least disturbed of a few answers; the first, if nobody disturbed it."""
        if do == "warm":
            return process.ask(do, variant, first)
        answers: list[dict[str, Any]] = []
        while len(answers) < TRIES:
            if self.disturbed:
                wait_for_quiet(self.patience)
            answers.append(process.ask(do, variant, first or self.disturbed))
            self.disturbed = answers[-1]["disturbance"] > QUIET
            if not self.disturbed:
                break
        return min(answers, key=lambda answer: answer["disturbance"])


def wait_for_quiet(patience: float) -> None:
    """Return when other processes have been quiet for a second, or after `patience` seconds."""
    start = time.monotonic()
    while time.monotonic() - start < patience:
        disturbance = Disturbance()
        time.sleep(min(1.0, patience))
        if disturbance.share() <= QUIET:
            return
