"""Archives, hostile and damaged ones among them: nothing is written elsewhere, and nothing that fills the disk or the memory."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from sources import archive, error_of, picture, run

from datasets.prepare import archives
from datasets.prepare.archives import unpack


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """A tar archive of class folders."""
    path = tmp_path / "source" / "birds.tar.gz"
    archive(path, {f"birds/{label}/{n}.jpg": picture(seed=n) for n, label in enumerate(["wren", "tit"] * 3)})
    return path


@pytest.mark.parametrize("member", ["../outside.txt", "/tmp/outside.txt", "a/../../outside.txt"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_that_leads_out_of_the_folder_is_refused(member, kind, tmp_path, capsys):
    source = tmp_path / "source" / f"nabirds.{kind}"
    archive(source, {member: "x"})
    message = error_of(capsys, "nabirds", source.parent)
    assert "leads out of its folder" in message and source.name in message
    assert not list((tmp_path / "data").rglob("*"))


def test_links_in_an_archive_are_left_out(tmp_path, capsys):
    source = tmp_path / "source" / "nabirds.tar"
    source.parent.mkdir()
    with tarfile.open(source, "w") as tape:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo("nabirds/train_test_split.txt")
            member.type, member.linkname = kind, "/etc/passwd"
            tape.addfile(member)
    assert "no train_test_split.txt" in error_of(capsys, "nabirds", source.parent)


def pictures_of(target: Path) -> set[Path]:
    return {path.relative_to(target) for path in target.glob("*/*/*.jpg")}


def test_links_are_counted(tmp_path):
    for n, label in enumerate(["wren", "tit"] * 3):
        (tmp_path / "birds" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "birds" / label / f"{n}.jpg").write_bytes(picture(seed=n))
    os.link(tmp_path / "birds" / "tit" / "1.jpg", tmp_path / "birds" / "tit" / "again.jpg")
    (tmp_path / "birds" / "tit" / "soft.jpg").symlink_to("1.jpg")
    with tarfile.open(tmp_path / "links.tar", "w") as tape:
        tape.add(tmp_path / "birds", "birds")
    target = run("folder", tmp_path / "links.tar", out=tmp_path / "data")
    notes = json.loads((target / "dataset.json").read_text())["notes"]
    links = "'birds/tit/again.jpg', 'birds/tit/soft.jpg'"
    assert notes[0].startswith(f"links.tar: left out are 2 links: {links}; pack the files") and len(pictures_of(target)) == 6


def test_a_zip_of_windows(birds, tmp_path, capsys):
    with tarfile.open(birds) as tape, zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        archive.writestr("empty\\", "")
        for member in tape:
            archive.writestr(member.name.replace("/", "\\"), tape.extractfile(member).read())
    found = pictures_of(run("folder", tmp_path / "windows.zip", out=tmp_path / "zip"))
    assert found == pictures_of(run("folder", birds, out=tmp_path / "tar")) and len(found) == 6
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("..\\..\\x.jpg", "x")
    assert "'../../x.jpg' leads out of its folder" in error_of(capsys, "folder", tmp_path / "evil.zip", out=tmp_path / "evil")


@pytest.mark.parametrize("damage", ["short", "bytes", "none"])
def test_a_damaged_archive_is_named(damage, birds, capsys):
    data = birds.read_bytes()
    birds.write_bytes({"short": data[: len(data) // 2], "bytes": data[:40] + b"12345" + data[45:], "none": b"no archive"}[damage])
    message = error_of(capsys, "folder", birds)
    assert "birds.tar.gz: is damaged, encrypted or no tar or zip archive" in message and "\\n" not in message


def test_an_interrupted_unpacking_is_continued(birds, monkeypatch):
    opened: list[str] = []
    extractfile = tarfile.TarFile.extractfile

    def extract(tape: tarfile.TarFile, member: tarfile.TarInfo) -> object:
        opened.append(member.name)
        if len(opened) == 3:
            raise KeyboardInterrupt
        return extractfile(tape, member)

    monkeypatch.setattr(tarfile.TarFile, "extractfile", extract)
    with pytest.raises(SystemExit) as caught:
        run("folder", birds)
    assert caught.value.code == 130
    run("folder", birds)
    assert len([name for name in opened if name.startswith("birds/")]) == 7  # 2 whole, 1 interrupted, 4 afterwards
    assert os.listdir(birds.parent / "data") == ["folder"]


def test_what_a_run_left_that_was_interrupted_at_its_end_is_removed(birds):
    run("folder", birds)
    (birds.parent / "data" / ".folder.unpacked").mkdir()
    run("folder", birds)
    assert os.listdir(birds.parent / "data") == ["folder"]


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as container:
        container.writestr("a.jpg", bytes(3 * 2**20))


def tar_bomb(path: Path) -> None:
    archive(path, {"a.jpg": bytes(3 * 2**20)})


def many_files(path: Path) -> None:
    archive(path, {f"{n}.jpg": b"" for n in range(1200)})


def sparse_file(path: Path) -> None:
    """A header that says 8 TB, as of a file with holes."""
    member = tarfile.TarInfo("a.jpg")
    member.size = 2**43
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))


@pytest.mark.parametrize(
    ("write", "ending"), [(zip_bomb, ".zip"), (tar_bomb, ".tgz"), (many_files, ".tgz"), (sparse_file, ".tar")]
)
def test_a_bomb_is_refused(write, ending, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(archives, "SLACK", 2**21)
    source = tmp_path / f"bomb{ending}"
    write(source)
    message = error_of(capsys, "folder", source)
    assert re.search(r"bytes would unpack to over [23] MB, as no pictures do; it was not unpacked$", message)


def test_a_header_that_fills_the_memory_is_refused(tmp_path, capsys):
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2**33
    (tmp_path / "x.tgz").write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240)))
    assert "x.tgz: is damaged" in error_of(capsys, "folder", tmp_path / "x.tgz")


def test_a_name_that_is_twice_in_an_archive(tmp_path):
    path = tmp_path / "twice.tar"
    with tarfile.open(path, "w") as tape:
        for text in (b"one", b"two"):
            member = tarfile.TarInfo("a.txt")
            member.size = 3
            tape.addfile(member, io.BytesIO(text))
    unpack(path, tmp_path / "last")
    assert (tmp_path / "last" / "a.txt").read_bytes() == b"two"
    with pytest.raises(ValueError, match="'a.txt' is in it twice"):
        unpack(path, tmp_path / "once", once=True)


def test_a_directory_of_a_zip_archive_that_points_before_the_file(tmp_path, capsys):
    archive(tmp_path / "false.zip", {"a.jpg": picture()})
    data = bytearray((tmp_path / "false.zip").read_bytes())
    data[data.rindex(b"PK\5\6") + 16] += 100
    (tmp_path / "false.zip").write_bytes(data)
    assert "false.zip: is damaged" in error_of(capsys, "folder", tmp_path / "false.zip")


def test_sizes_that_a_zip_archive_understates(tmp_path, capsys):
    path = tmp_path / "false.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as container:
        container.writestr("a.jpg", bytes(10**6))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 10**6), struct.pack("<I", 100)))
    assert "false.zip: is damaged" in error_of(capsys, "folder", path)


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path):
    """To tarfile it is: the files behind it would be lost."""
    path = tmp_path / "a.tar"
    archive(path, {f"{n}.jpg": "x" for n in range(3)})
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 1  # in the checksum of the second
    path.write_bytes(data)
    with pytest.raises(ValueError, match="a.tar: is damaged, .*bad checksum"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.replace(b"PK\3\4", b"PK\4"), "is damaged"),  # a place before the file's beginning
        (lambda data: data.replace(b"a.jpg", b"b.jpg", 1), "is damaged"),
        (lambda data: data[:26] + b"\xff\1" + data[28:], "is damaged"),  # a name that is longer than it was
        (lambda data: data.replace(b"\5\0\0\0\0\0\0\0\0\0\0\0", bytes(12), 1), "is damaged|leads out"),  # an empty name
    ],
)
def test_damages_of_a_zip_archive(change, message, tmp_path):
    path = tmp_path / "a.zip"
    archive(path, {"a.jpg": bytes(600)})
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=f"a.zip: .*({message})") as error:
        unpack(path, tmp_path / "out")
    assert len(str(error.value)) < 500


def test_a_name_that_is_too_long(tmp_path):
    archive(tmp_path / "a.tar", {"x" * 300: "x"})
    with pytest.raises(ValueError, match="a.tar: 'xxx.* is too long a name"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
