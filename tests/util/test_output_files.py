"""Files and folders of output that cannot be written are refused before the work, by the name of their flag."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from util.output_files import check_output_file, make_output_folder, writing_to


@pytest.mark.parametrize(("name", "message"), [
    ("a.xyz", "--out {}/a.xyz: give a file that ends in .pdf, .png"),
    ("absent/a.pdf", "--out {}/absent/a.pdf cannot be written: the folder {}/absent does not exist; create it first"),
    ("folder.pdf", "--out {}/folder.pdf is a folder: give a file in it"),
    ("locked/a.pdf", "--out {}/locked/a.pdf cannot be written: the folder {}/locked is read-only; choose another"),
])  # fmt: skip
def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    (tmp_path / "folder.pdf").mkdir()
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "locked")  # root may write anywhere
    with pytest.raises(ValueError) as error:
        check_output_file("--out", tmp_path / name, (".pdf", ".png"))
    assert str(error.value) == message.replace("{}", str(tmp_path))
    check_output_file("--out", tmp_path / "A.PDF", (".pdf", ".png"))
    check_output_file("--csv", tmp_path / "a")


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_output_folder("--out", tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--out .*file/x cannot be written .Not a directory.: choose another folder"):
        make_output_folder("--out", tmp_path / "file" / "x")
    with pytest.raises(ValueError, match="--panels p cannot be written .No space left"), writing_to("--panels", Path("p")):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="it is read-only"):
        make_output_folder("--out", tmp_path)
