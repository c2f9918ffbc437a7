"""CPU time that a command line needs to answer `--help` or to refuse a wrong flag."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (("main.py", "--help"), ("main.py", "--no_such_flag"))


def measure_startup(rounds: int, commands: Sequence[Sequence[str]] = COMMANDS) -> list[dict[str, Any]]:
    """Run each command line in a process of its own, in turn.

    Returns:
        A row for each: `command`, `exit_code`, `cpu_seconds` (user and system, one a round) and their `median`.
    """
    rows: list[dict[str, Any]] = [{"command": " ".join(words), "exit_code": 0, "cpu_seconds": []} for words in commands]
    for _ in range(rounds):
        for row, words in zip(rows, commands, strict=True):
            before = _cpu_seconds_of_children()
            done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True)
            row["cpu_seconds"].append(_cpu_seconds_of_children() - before)
            row["exit_code"] = done.returncode
    return [{**row, "median": statistics.median(row["cpu_seconds"])} for row in rows]


def _cpu_seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
