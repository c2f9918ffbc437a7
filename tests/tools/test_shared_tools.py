"""Tools whose processes share the work: every picture once, the result of one process, and one end for all of them."""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COLOURS, make_images
from ranks import Launched

from attribution.evaluation.harness import Harness
from datasets.planes import get_preset
from datasets.planes.dataset import export
from datasets.planes.pairs import export_pairs
from datasets.prepare import writing
from tests.tools.test_evaluate_attribution import checkpoint
from tests.tools.test_prepare_dataset import write_idx
from tools import evaluate_attribution, prepare_dataset
from util.cli import Parser, launch
from util.distributed import gpu_name, init_distributed, shared_gpu
from util.launcher import ProcessInfo
from util.ranks import SINGLE_PROCESS
from util.stopping import Stopped, StopRequest


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def together(scenes: list[tuple[int, int]]) -> list[tuple[list[int], str]]:
    """For each scene (number of items, turn after which rank 1 is asked to stop): what came, and how it ended."""
    found = []
    with init_distributed() as ranks:
        for count, last in scenes:
            request, came, end = StopRequest(ProcessInfo()), [], ""
            object.__setattr__(ranks, "request", request)

            def mine(count: int = count, last: int = last, request: StopRequest = request) -> Iterator[int]:
                for turn, item in enumerate(range(count)[ranks.rank :: ranks.size]):
                    request.number = signal.SIGUSR2 if ranks.rank == 1 and turn == last else None
                    yield item

            try:
                came += ranks.gather_in_order(mine())
            except Stopped as stop:
                end = stop.signal_name
            found.append((came, end))
    return found


def test_results_come_in_order_and_all_stop_at_one_place(tmp_path: Path) -> None:
    found = Launched(3, tmp_path / "log", together, [(7, 9), (2, 9), (0, 9), (9, 1)]).results()
    assert found[0] == found[1] == found[2]
    assert found[0][:3] == [(list(range(7)), ""), ([0, 1], ""), ([], "")]
    assert found[0][3] == ([0, 1, 2, 3, 4, 5], "SIGUSR2")


def test_a_signal_interrupts_a_result_that_takes_long() -> None:
    came = []

    def slow() -> Iterator[int]:
        yield 1
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it is finished")

    with StopRequest(ProcessInfo(), "what is done is kept") as request, pytest.raises(Stopped, match="what is done is kept"):
        for number in replace(SINGLE_PROCESS, request=request).gather_in_order(slow()):
            came.append(number)
    assert came == [1]


def fail(how: Callable[[], None]) -> None:
    """A tool that works without an end, until something happens to rank 1."""

    def main(args: object) -> None:
        with init_distributed() as ranks:

            def mine() -> Iterator[int]:
                for turn in range(10**6):
                    if (ranks.rank, turn) == (1, 2):
                        how()
                    yield turn

            for _ in ranks.gather_in_order(mine()):
                pass

    launch(main, Parser("tool"), [], shared=True)


def damaged() -> None:
    raise ValueError("7.png: is damaged")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("how, code, line", [(damaged, 2, "tool: error: rank 1: 7.png: is damaged\n"), (killed, -9, "")])
def test_one_that_fails_ends_the_others(tmp_path: Path, how: Callable[[], None], code: int, line: str) -> None:
    three = Launched(3, tmp_path / "log", fail, how)
    assert three.end() == [1, code, 1]
    assert three.err(1) == line
    for rank in (0, 2):
        assert three.err(rank).startswith(f"tool: error: rank {rank}: another process of this run ended")


def use(name: str, argv: list[str]) -> None:
    tool = importlib.import_module(f"tools.{name}")
    writing.CHUNK = 16
    argv = [word.format(rank=os.environ.get("RANK", 0)) for word in argv]
    launch(tool.main, tool.get_args_parser(), argv, shared=True)


def test_prepared_folder_is_that_of_one_process(tmp_path: Path) -> None:
    source, rng = tmp_path / "idx", np.random.default_rng(0)
    source.mkdir()
    for prefix, n in (("train", 40), ("t10k", 20)):
        write_idx(source / f"{prefix}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        write_idx(source / f"{prefix}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    argv = ["fashion-mnist", "--source", str(source), "--out"]
    prepare_dataset.main(prepare_dataset.get_args_parser().parse_args([*argv, str(tmp_path / "one")]))
    three = Launched(3, tmp_path / "log", use, "prepare_dataset", [*argv, str(tmp_path / "three")])
    assert three.end() == [0, 0, 0], three.err()
    assert three.out(0).count("60 images") == 1 and three.out(1) == three.complaints() == ""
    assert contents(tmp_path / "one") == contents(tmp_path / "three") and len(contents(tmp_path / "one")) == 61


def test_drawn_pictures_are_those_of_one_process(tmp_path: Path) -> None:
    """Five processes, three pictures, that each process has at a place of its own."""
    make_images(tmp_path / "colours", {"val": 3}, COLOURS, (40, 48))
    for rank in range(5):
        (tmp_path / f"machine{rank}").symlink_to(tmp_path)
    resume = checkpoint(tmp_path / "detr.pth", sorted(COLOURS), "detr")
    words = ["--resume", resume, "--dataset_path", tmp_path / "machine{rank}", "--dataset_name", "colours", "--device", "cpu"]
    argv = [*map(str, words), "--num_workers", "0", "--top_q", "2", "--sim_query_heads", "0", "--output_dir"]
    use("visualization", [*argv, str(tmp_path / "one")])
    five = Launched(5, tmp_path / "log", use, "visualization", [*argv, str(tmp_path / "five")])
    assert five.end() == [0] * 5, five.err()
    assert five.out(0).count("3 images of class 0 (blue)") == 1 and five.out(3) == five.complaints() == ""
    assert contents(tmp_path / "one") == contents(tmp_path / "five")


def measure(argv: list[str], record: Path, stop_at: int = 0) -> None:
    """The tool; what each process measures is recorded, and rank 1 is asked to stop at one of its parts."""
    real, rank = Harness.measure, int(os.environ["RANK"])
    done: list[str] = []

    def recorded(harness: Harness, unit: Any, method: Any) -> Any:
        done.append(f"{unit.number} {method.name}")
        record.with_name(f"{record.name}.{rank}").write_text("\n".join(done))
        if rank == 1 and len(done) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(harness, unit, method)

    Harness.measure = recorded  # type: ignore[method-assign]
    launch(evaluate_attribution.main, evaluate_attribution.get_args_parser(), argv, shared=True)


def lines(folder: Path, name: str) -> list[str]:
    return [line for file in folder.glob(f"{name}.?") for line in file.read_text().splitlines()]


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in ("ms", "minutes")}
    return value


def test_measurement_is_that_of_one_process_and_goes_on_with_another_number(tmp_path: Path) -> None:
    """Two units: three processes are stopped in the middle, two go on."""
    preset = get_preset("f8")
    export(tmp_path / "planes", preset, 64, {"val": 8}, image_format="png")
    export_pairs(tmp_path / "pairs", preset, 2, 64)
    resume = checkpoint(tmp_path / "additive.pth", list(preset.classes), "additive", 64)
    words = ["--resume", resume, "--dataset_path", tmp_path, "--dataset_name", "planes", "--pairs", tmp_path / "pairs"]
    words += ["--device", "cpu", "--num_workers", 0, "--steps", 3, "--batch_size", 3, "--images", 6, "--methods", "gradcam"]
    words += ["--metrics", "srg,ap,gini,planes,pairs,reliance,head_diversity,locality,randomisation", "--output_dir"]
    argv = [str(word) for word in words]
    alone = Launched(1, tmp_path / "log", measure, [*argv, str(tmp_path / "one")], tmp_path / "one")
    assert alone.end() == [0], alone.err()
    some = Launched(3, tmp_path / "log", measure, [*argv, str(tmp_path / "more")], tmp_path / "some", 3)
    assert some.end() == [143] * 3, some.err()
    assert "stopped; the same command resumes from what is done" in some.err(0) and some.err(1) == some.err(2) == ""
    assert not (tmp_path / "more" / "attribution.json").exists()
    rest = Launched(2, tmp_path / "log", measure, [*argv, str(tmp_path / "more")], tmp_path / "rest")
    assert rest.end() == [0, 0], rest.err()
    assert rest.out(0).count("methods on 6 images") == 1 and rest.out(1) == rest.complaints() == ""

    parts = [*lines(tmp_path, "some"), *lines(tmp_path, "rest")]
    assert sorted(set(parts)) == sorted(lines(tmp_path, "one"))
    assert len(parts) == len(set(parts)) + 1  # the one that the signal interrupted
    one, more = ({**contents(tmp_path / name)} for name in ("one", "more"))
    found = [without_times(json.loads(files["attribution.json"])) for files in (one, more)]
    assert found[0] == found[1]
    same = ("curves.png", "bars.png", "examples.jpg")
    assert {name: one[name] for name in same} == {name: more[name] for name in same}


def one_gpu(uuids: list[str]) -> None:
    """Processes that see CUDA devices of these numbers, as far as `joined` asks."""
    number = uuids[int(os.environ["RANK"])]
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_properties = lambda index: type("Properties", (), {"uuid": number})()

    def main(args: object) -> None:
        with init_distributed(cuda=bool(number)):
            raise AssertionError("they are not to start")

    launch(main, Parser("tool"), [], shared=True)


def test_two_processes_do_not_share_a_gpu_silently(tmp_path: Path) -> None:
    two = Launched(2, tmp_path / "log", one_gpu, ["a", "a"])
    assert two.end() == [2, 2]
    assert two.err(0).startswith("tool: error: rank 0: ranks 0, 1 would share one GPU (GPU-a): start as many processes")
    assert two.err(0).count("\n") == 1


def test_names_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not shared_gpu(["", ""]) and not shared_gpu(["GPU-a", "GPU-b", "GPU-c"])
    assert shared_gpu(["GPU-a", "GPU-b", "GPU-c", "GPU-b"]).startswith("ranks 1, 3 would share one GPU (GPU-b): ")
    assert shared_gpu(["GPU-a", "", "GPU-b"]).startswith("rank 1 has no GPU, the others do: ")
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: type("Properties", (), {"uuid": "ab"})())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert gpu_name() == "GPU-ab"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1,MIG-2")
    assert gpu_name() == "MIG-2"
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: object())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert gpu_name().startswith("GPU 5 of ")
