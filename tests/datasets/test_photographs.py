"""Photographs named on a command line: what is found, and what happens to those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import eval_transform
from datasets.photographs import find_photographs, photograph_batches


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (("b.jpg", (40, 30)), ("a.PNG", (30, 40)), ("sub/c.jpg", (40, 30)), ("@eaDir/d.jpg", (40, 30))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    return tmp_path


def test_files_folders_patterns_and_names_on_standard_input_are_found_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [folder / name for name in ("a.PNG", "b.jpg", "broken.jpg", "sub/c.jpg")]
    assert find_photographs([str(folder)]) == expected
    left_out = "1 hidden or of the system: '@eaDir'; 1 not named like an image: 'notes.txt'"
    assert capsys.readouterr().out == f"{folder}: left out are {left_out}\n"
    assert find_photographs([str(folder / "*.jpg"), str(folder / "b.jpg")]) == expected[1:3]
    assert find_photographs([str(folder / "**" / "*.jpg")])[-1] == expected[3]
    assert find_photographs(["-"], [f"{folder}/b.jpg\n", "\n", "x\r\n"]) == [folder / "b.jpg", Path("x")]
    assert find_photographs([str(folder / "notes.txt")]) == [folder / "notes.txt"]


@pytest.mark.parametrize("word", ["absent.jpg", "*.gif", "-", "empty"])
def test_a_word_that_names_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.heic").touch()
    with pytest.raises(ValueError, match="heif-convert.*name photographs" if word == "empty" else "name photographs"):
        find_photographs([word])


@pytest.mark.parametrize("square", [False, True])
def test_batches_have_one_shape_and_name_what_cannot_be_read(folder: Path, square: bool) -> None:
    paths = [*find_photographs([str(folder)]), folder / "absent.jpg"]
    batches = list(photograph_batches(paths, eval_transform(32, square), 4, 0, originals=True))
    errors = {place: message for batch in batches for place, message in batch.errors.items()}
    assert sorted(errors) == [2, 4] and "broken.jpg" in errors[2] and "absent.jpg" in errors[4]
    photographs = [photograph for batch in batches for photograph in batch.photographs]
    assert sorted(photograph.place for photograph in photographs) == [0, 1, 3]
    for batch in batches:
        assert batch.images is None or batch.images.padding_mask is None
    assert all(photograph.original is not None for photograph in photographs)
