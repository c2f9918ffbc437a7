"""The measurement: everybody's turn comes once a round, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.cases import Case, Contestant, Series
from benchmarks.processes import ContestantFailed, Process
from util.progress import Progress

# A measurement in which other processes had more of the processors than this is repeated; the least disturbed one counts.
QUIET, TRIES, WAIT = 0.05, 3, 1.0  # share, measurements at most, seconds in between
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


def measure(
    cases: Sequence[tuple[Case, Sequence[Contestant]]],
    rounds: int,
    settings: dict[str, Any],
    variants: Iterable[str] | None = None,
    shares: bool = True,
    after_case: Callable[[list[Series]], None] = lambda found: None,
) -> list[Series]:
    """Run every case with its contestants.

    Args:
        cases: the grid; the contestants of one case take turns, and only they are held in memory.
        rounds: how many times each is measured.
        settings: as for `Process`.
        variants: what to run, of those that a contestant offers; None for all.
        shares: also time the parts of the networks, once.
        after_case: called with all that is known so far: a long run that is cut short leaves something.

    Returns:
        One series for each contestant and variant, in the order of the cases; one that failed says why.
    """
    found: list[Series] = []
    with Progress(100, "benchmark, percent") as line:
        estimate = Estimate(cases, rounds, line)
        for case, contestants in cases:
            found += _measure_case(
                case, contestants, rounds, settings, None if variants is None else set(variants), shares, estimate
            )
            after_case(found)
    return found


def _measure_case(
    case: Case,
    contestants: Sequence[Contestant],
    rounds: int,
    settings: dict[str, Any],
    variants: set[str] | None,
    shares: bool,
    estimate: Estimate,
) -> list[Series]:
    found: list[Series] = []
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(Process(case, contestant, settings)) for contestant in contestants]
        running: list[tuple[Process, list[Series]]] = []
        for process in started:
            try:
                offered = [name for name in process.wait_until_built() if variants is None or name in variants]
                series = [Series(case, process.contestant, name) for name in offered]
            except ContestantFailed as failure:
                series = [Series(case, process.contestant, case.mode, failed=str(failure))]
            found += series
            running.append((process, series))
            estimate.add(case, BUILD_TURNS, f"{case}: {process.contestant.name}")
        for turn in range(rounds + 1):
            # Everyone goes first in turn: what runs after a long step finds a warmer machine.
            start = turn % len(running)
            for process, series in running[start:] + running[:start]:
                for i, one in enumerate(series):
                    _take_turn(process, one, "warm" if turn == 0 else "run", first=i == 0)
                    estimate.add(case, 1 / len(series), f"{case}: {process.contestant.name}")
        for process, series in running if shares else ():
            for one in series:
                if one.variant == case.mode and not process.contestant.compiled:
                    _take_turn(process, one, "shares")
    return found


def _take_turn(process: Process, series: Series, do: str, first: bool = False) -> None:
    if series.failed:
        return
    try:
        answer = process.ask(do, series.variant, first)
        for _ in range(TRIES - 1 if do == "run" else 0):
            if answer["disturbance"] <= QUIET:
                break
            time.sleep(WAIT)
            again = process.ask(do, series.variant, True)
            answer = min(answer, again, key=lambda one: one["disturbance"])
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
