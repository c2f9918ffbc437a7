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

from tools.benchmark import rounds
from tools.benchmark.__main__ import get_args_parser, main, make_contestants, size
from tools.benchmark.cases import FLOOR, WITH_MAPS, Case, Contestant, Series, quartiles, ratio
from tools.benchmark.goals import ICN, LARGE, Outcome, loading_outcomes, outcomes
from tools.benchmark.machine import describe, machine
from tools.benchmark.shares import BACKWARD, OPTIMIZER, REST, time_parts
from tools.benchmark.tables import data_table, goal_table, scale_table, share_table, speed_table
from util.cli import parse

ROOT = Path(__file__).resolve().parents[2]
CASE = Case("evaluation", *LARGE, 100)
PEER = """
import torch, torchvision
from torch import nn

class Peer(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.backbone = nn.Sequential(torchvision.models.resnet18(weights="DEFAULT"))
        self.presence_vector = nn.Linear(1000, classes)
        self.presence_vector.load_state_dict(torch.hub.load_state_dict_from_url("https://example.invalid/weights.pth"))

    def forward(self, samples):
        images, mask = samples.decompose()
        assert images.dtype == torch.float32 and not mask.any()
        print("a peer may print")
        return {"query_logits": self.presence_vector(self.backbone(images))}, None

def build_model(args):
    return Peer(args.num_queries), None
"""


def series(name: str, seconds: list[float], variant: str = "evaluation", **more: Any) -> Series:
    case = more.pop("case", CASE)
    precision = more.pop("precision", "fp32")
    contestant = Contestant(name, None if name == ICN else "folder", precision, more.pop("compiled", False))
    return Series(case, contestant, variant, seconds, **more)


def write_peer(folder: Path, code: str) -> str:
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "__init__.py").write_text(code)
    return str(folder)


def test_a_ratio_is_that_of_the_medians_and_spreads_over_the_rounds() -> None:
    found = ratio(series("plain", [2.0, 4.0, 9.0]), series(ICN, [1.0, 2.0, 3.0]))
    assert found is not None
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.5)
    assert ratio(series("plain", [], failed="out of memory"), series(ICN, [1.0])) is None
    assert quartiles([3.0]) == (3.0, 3.0)


def test_goals_compare_what_they_say() -> None:
    found = [
        series(ICN, [1.2]),
        series(ICN, [1.26], WITH_MAPS),
        series(ICN, [1.0], FLOOR),
        series("plain", [2.4]),
        series("intr", [2.2]),
    ]
    answers = {answer.what: answer for answer in outcomes(found, "cpu")}
    assert {what: answer.met for what, answer in answers.items()} == {
        "evaluation fp32, times as fast as plain": True,
        "evaluation fp32, times as fast as intr": False,
        "evaluation fp32, time over the bare backbone's": True,
        "evaluation fp32 with the last layer's maps, time over that without": False,
    }
    assert answers["evaluation fp32, times as fast as plain"].measured.value == pytest.approx(2.0)
    assert answers["evaluation fp32 with the last layer's maps, time over that without"].measured.value == pytest.approx(1.05)
    assert outcomes(found, "cuda") == []


def test_a_compiled_model_is_measured_against_its_own_backbone() -> None:
    found = [series(ICN, [1.2]), series(ICN, [1.0], FLOOR), series("plain", [2.0])]
    found += [series(ICN, [0.9], compiled=True), series(ICN, [0.8], FLOOR, compiled=True)]
    assert {answer.what: answer.measured.value for answer in outcomes(found, "cpu")} == pytest.approx(
        {
            "evaluation fp32, times as fast as plain": 2.0 / 1.2,
            "evaluation fp32 compiled, times as fast as plain": 2.0 / 0.9,
            "evaluation fp32, time over the bare backbone's": 1.2,
            "evaluation fp32 compiled, time over the bare backbone's": 0.9 / 0.8,
        }
    )


def test_memory_is_compared_with_that_of_the_others() -> None:
    case = Case("training", 448, 448, 8, 1000)
    found = [
        series(ICN, [1.0], "training", case=case, peak_memory=2 * 2**30),
        series("plain", [2.0], "training", case=case, peak_memory=8 * 2**30),
        series("gone", [], "training", case=case, failed="out of memory"),
    ]
    (answer,) = outcomes(found, "cpu")
    assert answer == Outcome(
        "training fp32, peak memory over that of plain", "448x448 b8, 1000 classes", False, 0.5, answer.measured
    )
    assert answer.measured.value == 0.25 and answer.met


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
    assert "**no**" in goal_table(outcomes([series(ICN, [1.0]), series("plain", [1.5])], "cpu"))


def test_loading_says_how_many_workers_a_step_needs() -> None:
    rate = {"median": 50.0, "low": 45.0, "high": 55.0}
    row = {"recipe": "aspect 800 evaluation", "width": 500, "height": 375, "icn": rate, "pil": rate, "ratio": 1.0}
    table = data_table([row], [series(ICN, [0.01])])
    assert table.splitlines()[2].endswith("| 1.00 | 2.00 |")
    assert [answer.met for answer in loading_outcomes([row])] == [False]


def test_peak_memory_is_what_was_held_in_between() -> None:
    # In a process of its own: here, what an earlier test left to the garbage collector may go at any moment.
    script = """
import torch
from tools.benchmark.memory import PeakMemory
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
    assert size("448") == (448, 448) and size("800x1066") == (800, 1066)
    for wrong in ("0", "x", "1x2x3", "4e2", "800x"):
        with pytest.raises(ValueError, match="--image_size"):
            size(wrong)


class Noisy:
    """A process whose measurements others disturb, until they are gone."""

    def __init__(self, disturbances: list[float]) -> None:
        self.disturbances = disturbances
        self.asked: list[bool] = []

    def ask(self, do: str, variant: str, first: bool) -> dict[str, Any]:
        self.asked.append(first)
        return {"seconds": self.disturbances[0], "disturbance": self.disturbances.pop(0), "peak_memory": 1}


def test_disturbed_measurements_are_repeated_and_the_quietest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []
    monkeypatch.setattr(rounds, "wait_for_quiet", waited.append)
    process, one = Noisy([0.9, 0.4, 0.7, 0.3, 0.0, 0.0]), series(ICN, [])
    run = rounds.Rounds(3, {}, patience=5.0)
    for _ in range(3):
        run._take_turn(process, one, "run", first=False)  # type: ignore[arg-type]
    assert one.seconds == one.disturbance == [0.4, 0.0, 0.0]
    assert waited == [5.0] * 4  # before two repetitions, the turn after them and its repetition
    assert process.asked == [False, True, True, True, True, False]  # a step after a pause finds a cold cache


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batch_size 0", "--batch_size 0 must be at least 1"),
        ("--classes 10 -3", "--classes -3 must be at least 1"),
        ("--rounds 0", "--rounds 0 must be at least 1"),
        ("--num_queries 7", "--classes"),
        ("--patience -1", "--patience -1.0 must be 0 seconds or more"),
        ("--max_memory 0", "--max_memory 0.0 must be above 0"),
        ("--peer /nowhere", "--peer /nowhere: no models/ there"),
    ],
)
def test_wrong_flags_are_named_before_anything_runs(flags: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        main(parse(get_args_parser(), [*flags.split(), "--device", "cpu", "--output_dir", str(tmp_path)]))


def test_two_peers_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [write_peer(tmp_path / parent / "same", "") for parent in "ab"]
    with pytest.raises(ValueError, match="called the same"):
        make_contestants(parse(get_args_parser(), ["--peer", *folders]))


def test_the_machine_has_no_name() -> None:
    import socket

    words = describe(machine(torch.device("cpu"), 2))
    assert "2 threads" in words and torch.__version__ in words
    assert socket.gethostname() not in words.split() and "/" not in words


def run_benchmark(flags: str, peers: list[str], folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The lines of benchmark.json by contestant and variant."""
    flags = f"{TINY} --image_size 64 --batch_size 2 --classes 3 --precision fp32 --device cpu {flags}"
    main(parse(get_args_parser(), [*flags.split(), *peers, "--output_dir", str(folder)]))
    numbers = json.loads((folder / "benchmark.json").read_text())
    return {(line["contestant"], line["variant"]): line for line in numbers["results"]}


def test_contestants_take_turns_and_those_that_fail_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rounds, "QUIET", 1.0)
    peers = [
        write_peer(tmp_path / "downloads", PEER),
        write_peer(tmp_path / "dies", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
        write_peer(tmp_path / "large", "import torch\nbuild_model = lambda args: torch.empty(2**48)"),
    ]
    found = run_benchmark("--rounds 2 --modes evaluation --without_plain", ["--peer", *peers], tmp_path / "out")
    assert found["dies", "evaluation"]["failed"] == "killed, as happens when memory runs out"
    assert found["large", "evaluation"]["failed"] == "out of memory"
    for key in ((ICN, "evaluation"), (ICN, WITH_MAPS), (ICN, FLOOR), ("downloads", "evaluation")):
        line = found[key]
        assert "failed" not in line, line
        assert len(line["seconds"]["all"]) == 2 and line["img_per_s"] == pytest.approx(2 / line["seconds"]["median"])
        assert line["peak_memory_bytes"] > 2**20
    assert {"backbone", "encoder", "decoder", "head"} <= set(found[ICN, "evaluation"]["shares_seconds"])
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert str(tmp_path) not in text and text in capsys.readouterr().out


def test_the_cost_of_classes_and_pixels_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both axes share the case at which they cross; nothing is run here."""

    def measured(_: Any, cases: Any, after_case: Any) -> list[Series]:
        return [
            series(who.name, [case.classes / 1000], case=case, precision=who.precision, peak_memory=case.height)
            for case, contestants in cases
            for who in contestants
        ]

    monkeypatch.setattr("tools.benchmark.__main__.Rounds.measure", measured)
    flags = "--scale --device cpu --image_size 64 448 --classes 10 100 1000 --output_dir"
    main(parse(get_args_parser(), [*flags.split(), str(tmp_path)]))
    numbers = json.loads((tmp_path / "scale.json").read_text())
    assert [line["classes"] for line in numbers["by_classes"][::3]] == [10, 100, 1000]
    assert [line["height"] for line in numbers["by_size"][::3]] == [64, 448]
    assert "| 1,000 | 1 |" in (tmp_path / "scale.md").read_text()
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_the_training_step_is_measured_against_that_of_the_transcription(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "QUIET", 1.0)
    found = run_benchmark("--rounds 1 --modes training", [], tmp_path / "out")
    assert list(found) == [(ICN, "training"), ("plain", "training")]
    for line in found.values():
        assert "failed" not in line, line
        assert {BACKWARD, OPTIMIZER, "decoder"} <= set(line["shares_seconds"])
