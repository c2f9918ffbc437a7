"""WebDataset shards: patterns of names, labels of several kinds, and samples that are wrong."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from sources import Files, archive, error_of, picture, run

from datasets.prepare.webdataset import expand


def sample(number: int, **parts: str) -> Files:
    return {f"{number:06}.jpg": picture(seed=number), **{f"{number:06}.{ending}": text for ending, text in parts.items()}}


def shards(folder: Path, name: str = "shard-{:03}.tar", count: int = 3) -> Path:
    """Shards of four samples of two classes each."""
    for shard in range(count):
        files: dict[str, bytes | str] = {}
        for number in range(4 * shard, 4 * shard + 4):
            files |= sample(number, cls=str(9 + number % 2), json=json.dumps({"session": number // 2}))
        archive(folder / name.format(shard), files)
    return folder


def contents(target: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in target.glob("[tv]*/*/*.*")}


@pytest.mark.parametrize(
    "pattern", ["wds:{}/shard-{{000..002}}.tar", "wds:{}/*.tar", "wds:{}/shard-00{{0,1,2}}.tar", "wds:{}", "{}"]
)
def test_patterns_of_shards(tmp_path, pattern):
    source = shards(tmp_path / "source")
    target = run("folder", pattern.format(source), "--val", 0.5, out=tmp_path / "data")
    assert contents(target) == {f"{'09' if n % 2 == 0 else '10'}/{n:06}.jpg" for n in range(12)}
    splits = {int(path.stem): path.parts[-3] for path in target.glob("[tv]*/*/*.jpg")}
    assert all(splits[n] == splits[n + 1] for n in range(0, 12, 2)) and {*splits.values()} == {"train", "val"}
    assert [path.name for path in target.parent.iterdir()] == ["folder"]


def test_one_shard_and_one_that_changed(tmp_path, capsys):
    source = shards(tmp_path / "source") / "shard-000.tar"
    target = run("folder", f"wds:{source}", "--val", 0, out=tmp_path / "data")
    assert contents(target) == contents(run("folder", source, "--val", 0, out=tmp_path / "b"))  # recognised, once it is unpacked
    run("folder", f"wds:{source}", "--val", 0, out=tmp_path / "data")
    assert "already there" in capsys.readouterr().out
    archive(source, sample(1, cls="3"))
    with pytest.raises(SystemExit):
        run("folder", f"wds:{source}", "--val", 0, out=tmp_path / "data")
    assert "prepared with hash of the photographs" in capsys.readouterr().err


def test_splits_of_the_names(tmp_path, capsys):
    source = shards(tmp_path / "source", "set-train-{:03}.tar")
    assert {path.parts[-3] for path in run("folder", f"wds:{source}", "--val", 0.5).glob("*/*/*.jpg")} == {
        "train",
        "val",
    }  # drawn
    files = {**sample(20, cls="9"), **sample(21, cls="10")}
    archive(source / "set-validation-000.tar", files)
    target = run("folder", f"wds:{source}", out=tmp_path / "b")
    assert {path.name for path in target.glob("val/*/*.jpg")} == {"000020.jpg", "000021.jpg"}
    archive(source / "other.tar", sample(22, cls="9"))
    assert "'other.tar' name no split, where others name one" in error_of(capsys, "folder", f"wds:{source}", out=tmp_path / "c")


@pytest.mark.parametrize(
    ("parts", "more", "label"),
    [
        ({"cls": "cat\n"}, [], "cat"),
        ({"cls": "3", "json": '{"class_name": "F/A-18"}'}, [], "F_A-18"),
        ({"cls": "cat", "json": '{"class_name": "dog"}'}, [], "cat"),
        ({"json": '{"label": 7, "width": 60}'}, [], "7"),
        ({"json": '{"label": 7, "breed": "pug, black"}'}, ["--label", "breed"], "pug, black"),
        ({"txt": "wren"}, [], "wren"),
        ({"cls": "é", "seg.png": "x", "npy": "\x93NUMPY"}, [], "é"),
    ],
)
def test_labels(tmp_path, parts, more, label):
    archive(tmp_path / "source" / "a.tar", {**sample(1, **parts), "000002.json": "{}"})
    assert contents(run("folder", f"wds:{tmp_path / 'source'}", "--val", 0, *more)) == {f"{label}/000001.jpg"}


@pytest.mark.parametrize(
    ("files", "more", "expected"),
    [
        (sample(1), [], "1 of 2 rows are wrong: a.tar 000001: no label"),
        (sample(1, cls=" "), [], "000001: no label"),
        (sample(1, json="{"), [], "000001: Expecting property name"),
        (sample(1, json="[1]"), [], "000001: its .json is no object"),
        (sample(1, json="[" * 100000), [], "000001: maximum recursion"),
        (sample(1, json='{"label": [1, 2]}'), [], "000001: no label"),
        (sample(1, json='{"label": 1}'), ["--label", "breed"], "000001: no label 'breed' in its .json"),
        ({**sample(1, cls="1"), "000001.png": picture(kind="PNG")}, [], "000001: 2 pictures: '000001.jpg', '000001.png'"),
        ({"../../x.jpg": "x"}, [], "'../../x.jpg' leads out of its folder"),
        ({"/x.jpg": "x"}, [], "'/x.jpg' leads out of its folder"),
    ],
)
def test_wrong_samples(tmp_path, capsys, files, more, expected):
    archive(tmp_path / "source" / "a.tar", {**files, **sample(5, cls="1", json='{"breed": "pug"}')})
    message = error_of(capsys, "folder", f"wds:{tmp_path / 'source'}", "--val", 0, *more, out=tmp_path / "data")
    assert expected in message
    if "rows are wrong" in message:
        target = run("folder", f"wds:{tmp_path / 'source'}", "--val", 0, *more, "--partial", out=tmp_path / "data")
        assert len(contents(target)) == 1


def test_a_key_that_is_twice_in_a_shard(tmp_path, capsys):
    path = tmp_path / "source" / "a.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tape:
        for number in range(2):
            data = picture(seed=number)
            member = tarfile.TarInfo("1.jpg")
            member.size = len(data)
            tape.addfile(member, io.BytesIO(data))
    assert "'1.jpg' is in it twice" in error_of(capsys, "folder", f"wds:{path}", out=tmp_path / "data")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("no-{000..002}.tar", "there is no 'no-000.tar', 'no-001.tar', 'no-002.tar'"),
        ("*.tar", "there is no '*.tar'"),
        ("x-{0..999999999}.tar", "stands for more than 100,000 names"),
        ("{a,b}{0..9}{0..9}{0..999}", "stands for more than 100,000 names"),
        ("pipe:touch owned", "there is no 'pipe:touch owned'"),
        ("https://example.org/a.tar", "there is no 'https://example.org/a.tar'"),
        ("", "expected a folder, or names"),
    ],
)
def test_patterns_that_name_nothing(tmp_path, monkeypatch, pattern, expected):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        expand(pattern)
    assert expected in str(caught.value) and list(tmp_path.iterdir()) == []


def test_an_interrupted_run_is_continued(tmp_path, monkeypatch, capsys):
    source = shards(tmp_path / "source")
    calls = []
    original = tarfile.TarFile.extractfile

    def extract(tape: tarfile.TarFile, member: tarfile.TarInfo) -> object:
        calls.append(member.name)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return original(tape, member)

    monkeypatch.setattr(tarfile.TarFile, "extractfile", extract)
    for code in (130, 0):
        try:
            target = run("folder", f"wds:{source}", "--val", 0.5)
        except SystemExit as stop:
            assert stop.code == code
    assert len(calls) == 36 + 1 and len(contents(target)) == 12
