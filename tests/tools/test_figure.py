"""`python -m tools.figure`: the grid of a paper's figure, and what it says when it cannot be drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attribution.report.paper import draw_grid
from tools.figure import get_args_parser, head_labels, main
from util.cli import launch, parse

Command = Callable[..., list[str]]


@pytest.mark.parametrize(("columns", "labels"), [
    ("heads", ["photograph", "head 0", "head 1"]),
    ("classes", ["photograph", "b", "plain"]),
    ("methods", ["photograph", "attention", "rollout", "relevance", "contribution"]),
])  # fmt: skip
def test_the_columns_are_labelled_and_each_class_once(command: Command, tmp_path: Path, columns: str, labels: list[str]) -> None:
    out = tmp_path / "fig.svg"
    main(parse(get_args_parser(), command("--classes", "plain,b", "--columns", columns, "--out", out)))
    svg = out.read_text(encoding="utf-8")
    assert svg.count("<image") == 4 * len(labels)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    wanted = ["plain", "b", *labels] if columns != "classes" else ["plain", "b", "photograph", "plain", "b"]
    assert sorted(texts) == sorted(wanted)
    assert float(re.search(r'width="([\d.]+)pt"', svg)[1]) == pytest.approx(3.25 * 72, abs=0.1)


def test_photographs_of_a_folder_are_explained_by_their_predicted_class(
    command: Command, small_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "fig.pdf"
    main(parse(get_args_parser(), command("--photos", small_run / "d" / "val" / "a", "--out", out)))
    assert out.read_bytes().startswith(b"%PDF")


def test_long_and_flat_photographs_keep_their_shape_in_a_row_of_bounded_height(tmp_path: Path) -> None:
    rows = [[np.zeros((512, 1, 3), np.uint8)], [np.zeros((1, 512, 3), np.uint8)]]
    draw_grid(tmp_path / "a.svg", rows, ["long", "flat"], ["photograph"], 3.25)
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert float(re.search(r'height="([\d.]+)pt"', svg)[1]) < 2.2 * 3.25 * 72
    sizes = [tuple(map(float, pair)) for pair in re.findall(r'<image[^>]*?width="([\d.]+)" height="([\d.]+)"', svg)]
    assert sizes[0][1] > 300 * sizes[0][0] and sizes[1][0] > 100 * sizes[1][1]


def test_labels_become_smaller_before_they_are_cut(tmp_path: Path) -> None:
    for count, label, shown, size in ((8, "head 0", "head 0", 7), (8, "head 100", "head 100", 5), (30, "head 100", "…", 5)):
        draw_grid(tmp_path / "a.svg", [[np.zeros((9, 9, 3), np.uint8)] * count], ["x"], [label] * count, 3.25)
        svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
        assert svg.count(f">{shown}</text>") == count and f"{size:g}px" in svg, size
    assert head_labels(2) == ["head 0", "head 1"] and head_labels(16)[-1] == "15"


def test_images_keep_their_shape_at_the_width_of_a_column(tmp_path: Path) -> None:
    rows = [[np.full((40, 80, 3), value, np.uint8) for value in (10, 200)], [np.full((80, 40, 3), 90, np.uint8)] * 2]
    draw_grid(tmp_path / "a.svg", rows, ["x", "x"], ["one", "two"], 3.25)
    draw_grid(tmp_path / "b.svg", rows, ["x", "x"], ["one", "two"], 3.25)
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert svg == (tmp_path / "b.svg").read_text(encoding="utf-8")
    assert len(re.findall(r">x</text>", svg)) == 1  # once for both rows
    width, height = (float(value) / 72 for value in re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups())
    side = (width - 0.03 - 7 / 72 * 1.3 - 0.03) / 2
    assert height == pytest.approx(7 / 72 * 1.3 + 0.03 + side / 2 + 0.03 + 2 * side, abs=0.01)


@pytest.mark.parametrize(("flags", "words"), [
    (["--classes", "x"], ["--classes", "'x'", "0 to 3"]),
    (["--out", "absent/fig.pdf"], ["absent/fig.pdf", "does not exist; create it"]),
    (["--classes", "a", "--columns", "methods", "--methods", "oracle"], ["oracle", "ground truth"]),
    (["--classes", "a", "--columns", "classes", "--methods", "attention", "rollout"], ["one method"]),
    ([], ["--classes is missing"]),
    (["--classes", "a", "--width", "0"], ["--width: '0' must be"]),
    (["--photos", "absent.jpg"], ["absent.jpg"]),
])  # fmt: skip
def test_errors_are_one_line(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), command("--out", tmp_path / "fig.pdf", *flags))
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and all(word in lines[0] for word in words), lines
    assert not any(tmp_path.iterdir())
