from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import datasets.decode
import datasets.scan
from datasets.scan import verify_images


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    """Forty small sound images."""
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    names = [tmp_path / f"{i:02}.{'jpg' if i % 2 else 'png'}" for i in range(40)]
    for name in names:
        Image.fromarray(values).save(name)
    return names


@pytest.fixture
def opened(monkeypatch) -> list:
    """The files that were really opened."""
    seen = []
    check = datasets.scan.check_image
    monkeypatch.setattr(datasets.scan, "check_image", lambda path, *more: seen.append(path) or check(path, *more))
    return seen


def lines_of(paths) -> list[str]:
    with pytest.raises(ValueError) as caught:
        verify_images(paths)
    return str(caught.value).split("\n")


def test_one_bad_file_is_one_line(paths):
    paths[7].write_bytes(paths[7].read_bytes()[:200])
    (line,) = lines_of(paths)
    assert line.startswith("1 of 40 images cannot be used")
    assert str(paths[7]) in line


def test_all_bad_files_are_named_in_order_and_the_first_line_stands_alone(paths):
    bad = [paths[3], paths[20], paths[33]]
    bad[0].write_text("text")
    bad[1].write_bytes(b"")
    bad[2].unlink()
    lines = lines_of(paths)
    assert len(lines) == 4
    assert "3 of 40" in lines[0]
    assert str(bad[0]) in lines[0]
    assert [str(path) in line for path, line in zip(bad, lines[1:], strict=True)] == [True] * 3


def test_at_most_twenty_are_listed(paths):
    for path in paths[:25]:
        path.write_text("text")
    lines = lines_of(paths)
    assert "25 of 40" in lines[0]
    assert len(lines) == 22
    assert lines[-1].strip() == "and 5 more"


def test_second_run_opens_nothing(paths, opened):
    verify_images(paths)
    assert sorted(opened) == paths
    verify_images(list(reversed(paths)))
    assert len(opened) == 40


@pytest.mark.parametrize("change", ["content", "touched", "more"])
def test_whatever_changed_is_checked_again(paths, opened, change):
    verify_images(paths[:39])
    if change == "content":
        time = paths[0].stat().st_mtime_ns
        paths[0].write_bytes(paths[0].read_bytes() + b"\0")
        os.utime(paths[0], ns=(time, time))
    elif change == "touched":
        os.utime(paths[0], ns=(1, 1))
    verify_images(paths if change == "more" else paths[:39])
    assert len(opened) >= 78


def test_failure_is_not_remembered(paths, opened):
    paths[0].write_text("text")
    for _ in range(2):
        lines_of(paths)
    assert len(opened) == 80


def test_a_cache_that_cannot_be_written_is_no_error(paths, opened, home):
    home.write_text("a file where the folder should be")
    for _ in range(2):
        verify_images(paths)
    assert len(opened) == 80


def test_progress_counts_every_file(paths, monkeypatch):
    counts = []

    class Counted(datasets.scan.Progress):
        def step(self, count: int = 1, note: str = "") -> None:
            super().step(count, note)
            counts.append((self.done, self.total))

    monkeypatch.setattr(datasets.scan, "Progress", Counted)
    verify_images(paths, workers=3)
    assert counts[-1] == (40, 40)
    assert [done for done, _ in counts] == sorted(done for done, _ in counts)


def test_nothing_to_check():
    verify_images([])


def test_what_is_odd_is_said_by_kind_in_every_run(paths, capsys):
    whole = paths[1].read_bytes()
    for path in paths[1:16:2]:
        path.write_bytes(whole + whole)
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(paths[2])
    for _ in range(2):
        verify_images(paths)
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert len(errors) == 2
        assert errors[0].startswith("warning: 8 of 40 images: another picture") and f"'{paths[1]}', " in errors[0]
        assert errors[0].endswith(" and 3 more")
        assert errors[1].startswith("warning: 1 of 40 images store 16 bits") and "--bit_depth 12" in errors[1]
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(paths[4])
    verify_images(paths)
    assert "--bit_depth" not in capsys.readouterr().err, "a value of 16 bits: the dark picture is dark"


def test_bit_depth_is_checked_before_training(paths, monkeypatch):
    Image.fromarray(np.full((4, 4), 4000, np.uint16)).save(paths[2])
    monkeypatch.setattr(datasets.decode, "_decoding", datasets.decode.Decoding(bit_depth=10))
    (line,) = lines_of(paths)
    assert "has a value of 4000, more than the 1023 of --bit_depth 10" in line
