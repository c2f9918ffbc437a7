"""The parent's end of a contestant's process."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from tools.benchmark.cases import Case, Contestant

ROOT = Path(__file__).resolve().parents[2]


class ContestantFailed(Exception):
    """The process said why it cannot go on, or ended without a word; the message is one line."""


class Process:
    """One contestant in a process of its own; building goes on while others are started, `wait_until_built` ends it.

    Args:
        case: what it is to run.
        contestant: who it is.
        settings: `device`, `threads`, `memory_gib` and `flags`, as `tools.benchmark.worker.Spec` has them.
    """

    def __init__(self, case: Case, contestant: Contestant, settings: dict[str, Any]) -> None:
        self.case, self.contestant = case, contestant
        # A pipe that nobody reads would fill up.
        self.words = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.benchmark.worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.words,
            text=True,
        )
        spec = {
            **settings,
            "mode": case.mode,
            "height": case.height,
            "width": case.width,
            "batch_size": case.batch_size,
            "classes": case.classes,
            "folder": contestant.folder,
            "precision": contestant.precision,
            "compiled": contestant.compiled,
        }
        self._send(spec)

    def wait_until_built(self) -> list[str]:
        """The names of what it can run. Raises ContestantFailed."""
        return self._answer()["variants"]

    def ask(self, do: str, variant: str, first: bool = False) -> dict[str, Any]:
        """`warm`, `run` or `shares`, and the answer; `first`: after another's turn. Raises ContestantFailed."""
        self._send({"do": do, "variant": variant, "first": first})
        return self._answer()

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: the answer that is missing tells so
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ContestantFailed(self._last_words())
        message = json.loads(line)
        if "failed" in message:
            raise ContestantFailed(message["failed"])
        return message

    def _last_words(self) -> str:
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return "killed, as happens when memory runs out"
        self.words.seek(0)
        said = [line.strip() for line in self.words if line.strip()]
        ended = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"{ended}: {said[-1]}" if said else ended

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
        self.words.close()
