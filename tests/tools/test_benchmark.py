"""The benchmark's arithmetic, its processes, and one small run from flags to files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from tools.benchmark import runner
from tools.benchmark.__main__ import get_args_parser, main, make_implementations
from tools.benchmark.cases import BACKBONE_ONLY, ICN, WITH_MAPS, Case, Implementation, Series, parse_size, quartiles
from tools.benchmark.meters import BACKWARD, OPTIMIZER, REST, describe, machine, measure_startup, time_parts
from tools.benchmark.report import loading_table, over_backbone, scale_table, share_table, speed_table, speedup, time_ratio
from util.cli import parse

ROOT = Path(__file__).resolve().parents[2]
CASE = Case("evaluation", 800, 800, 1, 100)
PEER = """
import torch, torchvision
from datasets import NAME
from tools.shapes import CHANNELS
from torch import nn
from util.misc import NestedTensor

assert NAME == "the peer's"

class Peer(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.backbone = nn.Sequential(torchvision.models.resnet18(weights="DEFAULT"))
        self.presence_vector = nn.Linear(CHANNELS, classes)
        self.presence_vector.load_state_dict(torch.hub.load_state_dict_from_url("https://example.invalid/weights.pth"))

    def forward(self, samples):
        assert isinstance(samples, NestedTensor)
        images, mask = samples.tensors, samples.mask
        assert images.dtype == torch.float32 and not mask.any()
        print("a peer may print")
        return {"query_logits": self.presence_vector(self.backbone(images))}, None

def build_model(args):
    return Peer(args.num_queries), None
"""

PACKAGES = {
    "datasets/__init__.py": 'NAME = "the peer\'s"',
    "tools/__init__.py": "",
    "tools/shapes.py": "CHANNELS = 1000",
    "util/__init__.py": "",
    "util/misc.py": """
class NestedTensor:
    def __init__(self, tensors, mask):
        self.tensors, self.mask = tensors, mask

    def to(self, device):
        return NestedTensor(self.tensors.to(device), self.mask.to(device))
""",
}


def series(name: str, seconds: list[float], variant: str = "evaluation", **more: Any) -> Series:
    case = more.pop("case", CASE)
    precision = more.pop("precision", "fp32")
    implementation = Implementation(name, None if name == ICN else "folder", precision, more.pop("compiled", False))
    return Series(case, implementation, variant, seconds, **more)


def write_peer(folder: Path, code: str) -> str:
    """Write a repository whose packages have the names of this one's."""
    for name, text in {**PACKAGES, "models/__init__.py": code}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


def test_a_ratio_is_that_of_the_medians() -> None:
    assert time_ratio(series("plain", [2.0, 4.0, 9.0]), series(ICN, [1.0, 2.0, 3.0])) == "2.00"
    assert time_ratio(series("plain", [], failed="out of memory"), series(ICN, [1.0])) == ""
    assert quartiles([3.0]) == [3.0, 3.0, 3.0] and quartiles([1.0, 2.0, 3.0]) == [1.5, 2.0, 2.5]


def test_times_are_compared_with_those_of_the_same_backbone() -> None:
    results = [
        series(ICN, [1.2]),
        series(ICN, [1.26], WITH_MAPS),
        series(ICN, [1.0], BACKBONE_ONLY),
        series("plain", [2.4]),
        series("intr", [1.8]),
        series(ICN, [0.9], compiled=True),
        series(ICN, [0.8], BACKBONE_ONLY, compiled=True),
    ]
    assert [over_backbone(each, results) for each in results] == ["1.20", "1.26", "", "", "", "1.12", ""]
    assert [speedup(each, "plain", results) for each in results] == ["2.00", "1.90", "", "", "1.33", "2.67", ""]
    assert speedup(results[0], "intr", results) == "1.50" and speedup(results[0], "gone", results) == ""


def test_the_tables_hold_the_numbers_and_the_failures() -> None:
    found = [
        series(ICN, [0.5, 0.5], peak_memory=2**30, shares={"backbone": 0.3, REST: 0.1}),
        series("plain", [1.0, 2.0], peak_memory=2**31),
        series("intr", [], failed="killed, as happens when memory runs out"),
    ]
    speed = speed_table(found).splitlines()
    assert len({line.count("|") for line in speed}) == 1  # whole rows, the failed one too
    assert "| ICN, evaluation | fp32 | 800x800 | 1 | 100 | 2.00 | 0.5 | 0.5 - 0.5 | 1.00 GiB | 3.00 |" in speed[2]
    assert "failed: killed, as happens when memory runs out" in speed[4]
    assert "75.0%" in share_table(found) and share_table(found[1:]) == ""
    scale = scale_table(found, "classes").splitlines()
    assert scale[2].startswith("| 100 | 0.5 | 1.00 GiB | 1.5 | 2.00 GiB | killed") and scale[0].count("|") == scale[2].count("|")


def test_loading_says_how_many_workers_a_step_needs() -> None:
    rate = {"median": 50.0, "low": 45.0, "high": 55.0}
    row = {"recipe": "aspect 800 evaluation", "width": 500, "height": 375, "icn": rate, "pil": rate, "ratio": 1.0}
    assert loading_table([row], [series(ICN, [0.01])]).splitlines()[2].endswith("| 1.00 | 2.00 |")


def test_startup_is_measured_in_cpu_seconds() -> None:
    commands = [("-c", "pass"), ("-c", "sum(range(5 * 10**6)); raise SystemExit(2)")]
    quick, slow = measure_startup(2, commands)
    assert (quick["exit_code"], slow["exit_code"]) == (0, 2) and len(slow["cpu_seconds"]) == 2
    assert 0 < quick["median"] < slow["median"] < 10


def test_peak_memory_is_what_was_held_in_between() -> None:
    # In a process of its own: here, what an earlier test left to the garbage collector may go at any moment.
    script = """
import torch
from tools.benchmark.meters import PeakMemory
memory = PeakMemory(torch.device("cpu"))
kept = torch.ones(2**24)  # 64 MiB
memory.reset()
torch.ones(2**26).sum()  # 256 MiB, gone again
first = memory.read()
memory.reset()
print(first, memory.read())
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = (int(word) / 2**20 for word in done.stdout.split())
    assert 310 < first < 400
    if Path("/proc/self/clear_refs").exists():
        assert 60 < second < 150


def test_the_shares_are_those_of_named_parts() -> None:
    network = torch.nn.Sequential()
    network.add_module("input_proj", torch.nn.Linear(4, 4))
    network.add_module("presence_vector", torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(network.parameters())

    def run() -> float:
        network(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        return 1000.0

    found = time_parts(network, run, lambda: None)
    assert set(found) == {"input projection", "head", BACKWARD, OPTIMIZER, REST}
    assert sum(found.values()) == pytest.approx(1000.0) and 0 < found["head"] < 1000
    backward = torch.Tensor.backward
    with pytest.raises(RuntimeError, match="broken"):
        time_parts(network, lambda: (_ for _ in ()).throw(RuntimeError("broken")), lambda: None)
    assert torch.Tensor.backward is backward and not network.input_proj._forward_hooks


def test_sizes_are_one_number_or_two() -> None:
    assert parse_size("448") == (448, 448) and parse_size("800x1066") == (800, 1066)
    for wrong in ("0", "x", "1x2x3", "4e2", "800x"):
        with pytest.raises(ValueError, match="--image_size"):
            parse_size(wrong)


class Contended:
    """A process whose measurements other processes disturb, until they are gone."""

    def __init__(self, contention: list[float]) -> None:
        self.contention = contention
        self.requests: list[bool] = []

    def request(self, do: str, variant: str, first: bool) -> dict[str, Any]:
        self.requests.append(first)
        return {"seconds": self.contention[0], "contention": self.contention.pop(0), "peak_memory": 1}


def test_contended_measurements_are_repeated_and_the_quietest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(runner, "wait_for_quiet", waited.append)
    process, results = Contended([0.9, 0.4, 0.7, 0.3, 0.0, 0.0]), series(ICN, [])
    run = runner.Runner(3, {}, patience=5.0)
    for _ in range(3):
        run._take_turn(process, results, "run", first=False)  # type: ignore[arg-type]
    assert results.seconds == results.contention == [0.4, 0.0, 0.0]
    assert waited == [5.0] * 4  # before two repetitions, the turn after them and its repetition
    assert process.requests == [False, True, True, True, True, False]  # a step after a pause finds a cold cache


@pytest.mark.parametrize(
    ("flags", "message"), [("--num_queries 7", "--classes"), ("--peer /nowhere", "--peer /nowhere: no models/ there")]
)
def test_wrong_flags_are_named_before_anything_runs(flags: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main(parse(get_args_parser(), [*flags.split(), "--device", "cpu", "--output_dir", str(tmp_path)]))


def test_two_peers_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [write_peer(tmp_path / parent / "same", "") for parent in "ab"]
    with pytest.raises(ValueError, match="the same name"):
        make_implementations(parse(get_args_parser(), ["--peer", *folders]))


def test_the_machine_has_no_name() -> None:
    import socket

    words = describe(machine(torch.device("cpu"), 2))
    assert "2 threads" in words and torch.__version__ in words
    assert socket.gethostname() not in words.split() and "/" not in words


def run_benchmark(flags: str, peers: list[str], folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The lines of benchmark.json by implementation and variant."""
    flags = f"{TINY} --backbone resnet18 --image_size 64 --batch_size 2 --classes 3 --precision fp32 --device cpu {flags}"
    main(parse(get_args_parser(), [*flags.split(), *peers, "--output_dir", str(folder)]))
    numbers = json.loads((folder / "benchmark.json").read_text())
    return {(line["implementation"], line["variant"]): line for line in numbers["results"]}


def test_implementations_take_turns_and_those_that_fail_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "MAX_CONTENTION", 1.0)
    peers = [
        write_peer(tmp_path / "downloads", PEER),
        write_peer(tmp_path / "dies", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
        write_peer(tmp_path / "large", "import torch\nbuild_model = lambda args: torch.empty(2**48)"),
    ]
    found = run_benchmark("--rounds 2 --modes evaluation --without_plain", ["--peer", *peers], tmp_path / "out")
    assert found["dies", "evaluation"]["failed"] == "killed, as happens when memory runs out"
    assert found["large", "evaluation"]["failed"] == "out of memory"
    for key in ((ICN, "evaluation"), (ICN, WITH_MAPS), (ICN, BACKBONE_ONLY), ("downloads", "evaluation")):
        line = found[key]
        assert "failed" not in line, line
        assert len(line["seconds"]["all"]) == 2 and line["img_per_s"] == pytest.approx(2 / line["seconds"]["median"])
        assert line["peak_memory_bytes"] > 2**20
    assert {"backbone", "encoder", "decoder", "head"} <= set(found[ICN, "evaluation"]["shares_seconds"])
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert str(tmp_path) not in text and text in capsys.readouterr().out


def test_the_cost_of_classes_and_pixels_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both axes share the case at which they cross; nothing is run here."""

    def measured(_: Any, cases: Any, implementations: Any, after_case: Any) -> list[Series]:
        return [
            series(who.name, [case.classes / 1000], case=case, precision=who.precision, peak_memory=case.height)
            for case in cases
            for who in implementations
        ]

    monkeypatch.setattr("tools.benchmark.__main__.Runner.measure", measured)
    flags = "--scale --device cpu --image_size 64 448 --classes 10 100 1000 --output_dir"
    main(parse(get_args_parser(), [*flags.split(), str(tmp_path)]))
    numbers = json.loads((tmp_path / "scale.json").read_text())
    assert [line["classes"] for line in numbers["by_classes"][::3]] == [10, 100, 1000]
    assert [line["height"] for line in numbers["by_size"][::3]] == [64, 448]
    assert "| 1,000 | 1 |" in (tmp_path / "scale.md").read_text()
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_the_training_step_is_measured_against_that_of_the_transcription(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_CONTENTION", 1.0)
    found = run_benchmark("--rounds 1 --modes training", [], tmp_path / "out")
    assert list(found) == [(ICN, "training"), ("plain", "training")]
    for line in found.values():
        assert "failed" not in line, line
        assert {BACKWARD, OPTIMIZER, "decoder"} <= set(line["shares_seconds"])
