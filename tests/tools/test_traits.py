"""`python -m tools.traits`: the table and the figures, and what it says when it cannot."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.traits import get_args_parser, main
from util.cli import launch, parse

Command = Callable[..., list[str]]


def test_every_class_has_its_heads_in_order_and_a_figure(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    main(parse(get_args_parser(), command("--classes", "all", "--images", 3, "--rows", 2, "--out", tmp_path / "o")))
    rows = list(csv.DictReader((tmp_path / "o" / "traits.csv").open()))
    assert [(row["name"], row["rank"]) for row in rows] == [(name, rank) for name in ("a", "b", "c", "plain") for rank in "12"]
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert {first["head"], second["head"]} == {"0", "1"}
        assert float(first["drop alone"]) >= float(second["drop alone"]) and first["drop alone"] == first["drop together"]
    figures = sorted(path.name for path in (tmp_path / "o").glob("*.png"))
    assert figures == ["0_a.png", "1_b.png", "2_c.png", "3_plain.png"]
    assert Image.open(tmp_path / "o" / "0_a.png").width == pytest.approx(6.875 * 300, abs=2)
    assert "4 classes" in capsys.readouterr().out


def test_two_classes_are_separated_beside_a_random_head(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        for number in range(2):
            picture = Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8))
            folder = tmp_path / "d" / "val" / name
            folder.mkdir(parents=True, exist_ok=True)
            for copy in range(2):
                picture.save(folder / f"{number}{copy}.png")
    words = command("--classes", "a", "--against", "b", "--out", tmp_path / "o", "--dataset_path", tmp_path)
    main(parse(get_args_parser(), words))
    rows = dict(list(csv.reader((tmp_path / "o" / "0_against_1.csv").open()))[1:])
    assert {"head 0", "head 1", "a head with random attention"} <= rows.keys() and len(rows) == 2 + 1 + 5 + 1
    assert all(0 <= float(value) <= 1 for value in rows.values())
    assert "What separates a and b (4 and 4 images" in capsys.readouterr().out


@pytest.mark.parametrize(("flags", "message"), [
    (["--classes", "x"], "class 'x' does not exist"),
    (["--classes", "a", "0"], "twice"),
    (["--against", "b"], "--against: give one class"),
    (["--classes", "a", "--against", "b"], "too few"),
    (["--images", "0"], "--images"),
])  # fmt: skip
def test_errors_are_one_line(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), command("--out", tmp_path / "o", *flags))
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and message in lines[0], lines
