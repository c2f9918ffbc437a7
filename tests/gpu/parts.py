"""The parts of `python -m tests.gpu`: a command of each, its time budget, and what is read from the files that it leaves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
GRACE = 10  # seconds between the interrupt of a part and its end: pytest writes its results in them


@dataclass(frozen=True)
class Settings:
    """What the parts share: device, folder of their files, the recipe and what it is measured on, folders of peers, time."""

    device: torch.device
    folder: Path
    recipe: str
    flags: str
    peers: list[str]
    pictures: int | None
    seconds: float  # for all of them

    @property
    def tiny(self) -> bool:
        """Return whether everything is small: a test of the command on a CPU."""
        return self.device.type == "cpu"


@dataclass(frozen=True)
class Part:
    """A process with a time budget; `results` reads its files, and returns a line and numbers, also of a part cut short."""

    name: str
    budget: float  # seconds
    command: list[str]  # of Python
    device: str
    log: Path
    results: Callable[[], tuple[str, Any]]

    def run(self, seconds: float) -> dict[str, Any]:
        """Run the part for at most `seconds`; return its row: status, seconds, summary, results."""
        start = time.monotonic()
        code = self._wait(seconds)
        status = {0: "passed", None: "out of time"}.get(code, f"failed (code {code})")
        try:
            summary, results = self.results()
        except (OSError, ValueError, KeyError, IndexError, ElementTree.ParseError) as error:
            summary, results = f"no results ({type(error).__name__}: {error})", None
            status = "failed (no results)" if status == "passed" else status
        if status != "passed" and (lines := self.log.read_text(errors="replace").strip().splitlines()):
            summary = f"{summary}; {lines[-1][:300]}"
        return {"status": status, "seconds": round(time.monotonic() - start, 1), "summary": summary, "results": results}

    def _wait(self, seconds: float) -> int | None:
        """Return the exit code; None where the time was over, and the process and its children were ended."""
        with self.log.open("w") as log:
            if seconds <= GRACE:
                log.write("there was no time left for this part\n")
                return None
            command, environment = [sys.executable, *self.command], {**os.environ, "ICN_GPU_DEVICE": self.device}
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
            try:
                return process.wait(seconds - GRACE)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    os.killpg(process.pid, signal.SIGINT)
                    process.wait(GRACE)
                return None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def make_parts(settings: Settings) -> list[Part]:
    """Return all parts in their order: what may tell most of an unknown machine comes first."""
    device, tiny, folder = str(settings.device), settings.tiny, settings.folder
    shutil.rmtree(folder, ignore_errors=True)  # the files of an earlier run are no results of this one
    folder.mkdir(parents=True)

    def part(name: str, share: float, command: list[str], results: Callable[[], tuple[str, Any]]) -> Part:
        return Part(name, share * settings.seconds, command, device, folder / f"{name}.log", results)

    junit = folder / "tests.xml"
    model = "--backbone resnet18 --hidden_dim 32 --enc_layers 1 --dec_layers 1 --nheads 4" if tiny else ""
    grid = "64 --batch_size 2 --classes 3 --rounds 1" if tiny else "448 --batch_size 16 --classes 100 --rounds 3"
    tests = f"-m pytest -p no:cacheprovider tests/gpu -rs --durations=10 --junitxml={junit}".split()
    benchmark = (
        f"-m tools.benchmark --modes evaluation training --patience 0 --device {device} --image_size {grid} {model}".split()
    )
    benchmark += ["--output_dir", str(folder / "benchmark"), *(["--peer", *settings.peers] if settings.peers else [])]
    recipe = ["-m", "tests.gpu.epochs", "--device", device, "--recipe", settings.recipe, "--folder", str(folder / "epochs")]
    recipe += ["--pictures", str(settings.pictures or (40 if tiny else 6667)), f"--flags={settings.flags} {model}"]
    large, small = (["64"], ["48", "56"]) if tiny else (["448"], ["160", "224"])
    return [
        part("tests", 0.42, tests, lambda: read_tests(junit)),
        part("training", 0.23, [*recipe, "--sizes", *large], lambda: read_training(folder / "epochs", large[0])),
        part("benchmark", 0.2, benchmark, lambda: read_benchmark(folder / "benchmark" / "benchmark.json")),
        part("recipe", 0.15, [*recipe, "--sizes", *small, *large], lambda: read_recipe(folder / "epochs", [*small, *large])),
    ]


def read_tests(junit: Path) -> tuple[str, dict[str, Any]]:
    """Return how many tests passed, and the names and reasons of the others."""
    found: dict[str, Any] = {"passed": 0, "failed": {}, "skipped": {}}
    for case in ElementTree.parse(junit).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        for kind, into in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
            if (problem := case.find(kind)) is not None:
                found[into][name] = (problem.get("message") or "").split("\n")[0][:300]
                break
        else:
            found["passed"] += 1
    if not found["passed"]:
        raise ValueError("no test passed")
    return f"{found['passed']} passed, {len(found['failed'])} failed, {len(found['skipped'])} skipped", found


def read_benchmark(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return the rows of the benchmark; the line has the speed against each other implementation."""
    rows = json.loads(path.read_text())["results"]
    rates = {(row["mode"], row["implementation"], row["precision"]): row["img_per_s"] for row in rows if is_whole(row)}
    against = [
        f"{mode} {precision} {rate / other:.2f}x {peer}"
        for (mode, name, precision), rate in rates.items()
        for (other_mode, peer, _), other in rates.items()
        if name == "ICN" != peer and mode == other_mode
    ]
    failed = [f"{row['implementation']} {row['mode']}: {row['failed']}" for row in rows if "failed" in row]
    return "; ".join([*against, *failed]), rows


def is_whole(row: dict[str, Any]) -> bool:
    """Return whether a row is a whole evaluation or training step that was measured."""
    return "failed" not in row and row["variant"] == row["mode"]


def read_training(folder: Path, size: str) -> tuple[str, dict[str, Any]]:
    """Return images per second of the loader, of the bare step, and of a training that has both."""
    row = json.loads((folder / f"{size}.json").read_text())
    share = row["training_img_per_s"] / row["bare_img_per_s"]
    rates = {name.removesuffix("_img_per_s"): f"{row[name]:.1f}" for name in row if name.endswith("_img_per_s")}
    line = ", ".join(f"{name} {rate}" for name, rate in rates.items())
    return f"images per second at {size} pixels: {line}: {share:.0%} of the bare step's", {**row, "share_of_bare_step": share}


def read_recipe(folder: Path, sizes: list[str], epochs: int = 60) -> tuple[str, dict[str, Any]]:
    """Return the time of `epochs`, extrapolated from measured ones: 40 % at the first size, 30 % at each of the others."""
    rows = {size: json.loads((folder / f"{size}.json").read_text()) for size in sizes}
    shares = dict(zip(sizes, (0.4, 0.3, 0.3), strict=True))
    scoring = rows[sizes[-1]]["epoch_seconds"] - rows[sizes[-1]]["train_seconds"]  # at the last size after each epoch, and saving
    seconds = {size: row["train_seconds"] + scoring for size, row in rows.items()}
    growing = epochs * sum(shares[size] * seconds[size] for size in sizes)
    constant = epochs * seconds[sizes[-1]]
    line = f"{epochs} epochs, extrapolated: {growing:.0f} s with growing pictures, {constant:.0f} s at {sizes[-1]} pixels alone"
    return line, {"epochs": epochs, "shares": shares, "growing_seconds": growing, "constant_seconds": constant, "sizes": rows}
