"""`python -m tests.gpu` without a GPU: a part that fails, hangs or leaves nothing does not end the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flags import get_args_parser
from tests.gpu import epochs, parts
from tests.gpu.__main__ import get_args_parser as gpu_parser
from tests.gpu.__main__ import main
from tools.benchmark.__main__ import get_args_parser as benchmark_parser
from util.cli import parse
from util.errors import RunFailed

COMMANDS = {
    "good": "import pathlib; pathlib.Path('{0}').write_text('5')",
    "broken": "raise SystemExit('a bad end')",
    "empty": "pass",
    "slow": "import time; time.sleep(600)",
}


def part(name: str, folder: Path) -> parts.Part:
    result = folder / f"{name}.txt"
    command = ["-c", COMMANDS[name].format(result)]
    budget = parts.GRACE + (0.5 if name == "slow" else 400)
    return parts.Part(name, budget, command, "cpu", folder / f"{name}.log", lambda: ("a number", int(result.read_text())))


def test_each_part_ends_alone_and_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("tests.gpu.__main__.make_parts", lambda settings: [part(name, settings.folder) for name in COMMANDS])
    with pytest.raises(RunFailed, match="^broken, empty, slow: see .*parts/<part>.log"):
        main(parse(gpu_parser(), ["--device", "cpu", "--output_dir", str(tmp_path), "--seconds", "600"]))
    found = json.loads((tmp_path / "gpu.json").read_text())
    rows = {name: (row["status"], row["results"]) for name, row in found["parts"].items()}
    assert rows["good"] == ("passed", 5) and rows["broken"] == ("failed (code 1)", None)
    assert rows["slow"] == ("out of time", None) and rows["empty"] == ("failed (no results)", None)
    assert "a bad end" in found["parts"]["broken"]["summary"] and found["tiny"] and found["machine"]["torch"]
    said = capsys.readouterr().out
    assert all(f"{name}: " in said for name in COMMANDS) and "1 of 4 parts passed" in said


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_commands_of_the_parts_parse(tmp_path: Path, device: str) -> None:
    peer = str(tmp_path / "peer")
    settings = parts.Settings(torch.device(device), tmp_path, "recipes/one_gpu_448.args", "--batch_size 8", [peer], None, 480)
    made = {each.name: each for each in parts.make_parts(settings)}
    assert list(made) == ["tests", "training", "benchmark", "recipe"] and sum(each.budget for each in made.values()) <= 480
    args = parse(benchmark_parser(), made["benchmark"].command[2:])
    assert args.device == device and args.peer == [peer] and args.image_size == [["448", "64"][settings.tiny]]
    for name in ("training", "recipe"):
        args = parse(epochs.own_parser(), made[name].command[2:])
        assert args.pictures == [6667, 40][settings.tiny] and set(args.sizes) <= {448, 224, 160, 64, 56, 48}
        flags = parse(get_args_parser(), epochs.training_words(args, tmp_path))
        assert flags.batch_size == 8 and flags.epochs == 2 and (flags.backbone == "resnet18") == settings.tiny


def test_what_is_read_of_each_part(tmp_path: Path) -> None:
    cases = "".join(f"<testcase classname='tests.gpu.{name}' name='t{n}'>{inner}</testcase>" for n, (name, inner) in enumerate([
        ("a", ""), ("a", "<skipped message='no GPU'/>"),
        ("b", "<failure message='off&#10;more'/>"), ("b", "<error message='bad'/>"),
    ]))  # fmt: skip
    (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    line, found = parts.read_tests(tmp_path / "tests.xml")
    assert line == "1 passed, 2 failed, 1 skipped" and found["failed"] == {"b::t2": "off", "b::t3": "bad"}
    rows = [
        {"mode": "training", "variant": "training", "implementation": name, "precision": precision, "img_per_s": rate}
        for name, precision, rate in (("ICN", "fp32", 30.0), ("ICN", "bf16", 80.0), ("plain", "fp32", 20.0))
    ]
    rows.append({"mode": "evaluation", "variant": "evaluation", "implementation": "plain", "failed": "out of memory"})
    (tmp_path / "benchmark.json").write_text(json.dumps({"results": rows}))
    line, _ = parts.read_benchmark(tmp_path / "benchmark.json")
    assert line == "training fp32 1.50x plain; training bf16 4.00x plain; plain evaluation: out of memory"
    for size, seconds in ((160, 1.0), (224, 2.0), (448, 4.0)):
        row = {
            "training_img_per_s": 90.0,
            "bare_img_per_s": 100.0,
            "loader_img_per_s": 300.0,
            "train_seconds": seconds,
            "epoch_seconds": 2 * seconds,
        }
        (tmp_path / f"{size}.json").write_text(json.dumps(row))
    line, row = parts.read_training(tmp_path, "448")
    assert "training 90.0, bare 100.0, loader 300.0: 90% of the bare step's" in line and row["share_of_bare_step"] == 0.9
    line, row = parts.read_recipe(tmp_path, ["160", "224", "448"])
    assert row["growing_seconds"] == pytest.approx(60 * (0.4 + 0.6 + 1.2 + 4)) and row["constant_seconds"] == 480.0


def test_many_pictures_are_links_to_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epochs, "ORIGINALS", 2)
    assert epochs.make_data(tmp_path, 7) == 3 == epochs.make_data(tmp_path, 7)
    counts = {split: len(list((tmp_path / "pictures" / split).glob("*/*.jpg"))) for split in ("train", "val")}
    assert counts == {"train": 7, "val": 3} and len({file.stat().st_ino for file in tmp_path.rglob("*.jpg")}) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("words, message", [
    ("", "there is no CUDA device here"), ("--device cpu --parts speed", "--parts speed is unknown: choose from tests, training"),
])  # fmt: skip
def test_without_a_gpu_or_a_part(tmp_path: Path, words: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(parse(gpu_parser(), [*words.split(), "--output_dir", str(tmp_path / "out")]))
    assert not (tmp_path / "out").exists() or words
