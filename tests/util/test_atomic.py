"""Atomic writes: the old content or the whole new one, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from util.atomic import atomic_write, new_folder, replacing


def test_a_file_is_replaced_in_one_step_with_the_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write("né\r\nw\n\udce9")  # the last letter stands for a byte of a file name that is no UTF-8
        file.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == "né\r\nw\n\\udce9".encode() and list(tmp_path.iterdir()) == [path]
    with atomic_write(path, "wb", durable=True) as file:
        file.write(b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_after_an_error_the_old_content_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as file:
        file.write("half of the new")
        raise KeyError
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "above" / "data"
    with pytest.raises(KeyError), new_folder(path) as draft:
        (draft / "a").write_text("1")
        raise KeyError
    assert list((tmp_path / "above").iterdir()) == []
    with new_folder(path) as draft:
        (draft / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1" and list((tmp_path / "above").iterdir()) == [path]
    with pytest.raises(FileExistsError, match="was not overwritten"), new_folder(path) as draft:
        (draft / "a").write_text("2")
    assert (path / "a").read_text() == "1" and list((tmp_path / "above").iterdir()) == [path]
