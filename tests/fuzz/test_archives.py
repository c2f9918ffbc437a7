"""Archives with hostile names, links, devices and damages: their files are in the folder, or one line is all."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.prepare.archives import unpack
from tests.fuzz.harness import NAMES, damaged, examples, is_one_line, watched

FOLDER: list[Path] = []  # the tests write here; hypothesis calls a test many times with the fixtures of the first


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    FOLDER[:] = [tmp_path]


class Member(NamedTuple):
    """An entry of an archive: its name, kind (of tarfile), the name that a link has as its target, and content."""

    name: str
    kind: bytes
    target: str
    content: bytes


KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
PLACES = st.sampled_from(["a", "a/b", "a/b.jpg", "A", "link", "link/x.jpg", "/etc/passwd"]) | NAMES
MEMBERS = st.lists(
    st.builds(Member, PLACES, st.sampled_from(KINDS), PLACES | st.just("../.."), st.sampled_from([b"", b"x", b"y" * 600])),
    max_size=5,
)


def tarred(members: list[Member], form: int, packing: str) -> bytes:
    """Return a tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{packing}", format=form, encoding="utf-8", errors="surrogatepass") as tape:  # type: ignore[call-overload]
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.type, info.linkname, info.mode = member.kind, member.target, 0o6777
            info.size = len(member.content) if member.kind == tarfile.REGTYPE else 0
            try:
                tape.addfile(info, io.BytesIO(member.content))
            except ValueError:  # a name that the format cannot hold
                continue
    return file.getvalue()


def zipped(members: list[Member], packing: int) -> bytes:
    """Return a zip archive; links and devices by their mode, as Unix has them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is in it twice
        for member in members:
            if "\ud800" in member.name or not member.name:
                continue
            info = zipfile.ZipInfo(member.name)
            info.filename = member.name  # as it is
            modes = {tarfile.SYMTYPE: 0o120777, tarfile.CHRTYPE: 0o020666, tarfile.FIFOTYPE: 0o010666, tarfile.DIRTYPE: 0o040777}
            info.external_attr = modes.get(member.kind, 0o106777) << 16
            info.compress_type = packing
            is_link = member.kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) and "\ud800" not in member.target
            archive.writestr(info, member.target if is_link else member.content)
    return file.getvalue()


def unpacked(content: bytes, once: bool = False) -> list[Path]:
    """Unpack an archive: plain files in the folder alone, or an error of one line. Return what is there."""
    archive, folder = FOLDER[0] / "a.tar", FOLDER[0] / "out"
    archive.write_bytes(content)
    shutil.rmtree(folder, ignore_errors=True)
    with watched(folder, 100):
        try:
            unpack(archive, folder, once)
        except ValueError as error:
            assert is_one_line(error) and str(error).startswith(f"{archive}: ")
    found = list(folder.rglob("*"))
    assert all(path.is_dir() or path.is_file() for path in found) and not any(path.is_symlink() for path in found)
    assert not any(path.stat().st_mode & 0o7000 for path in found)
    assert sorted(os.listdir(FOLDER[0])) in (["a.tar"], ["a.tar", "out"])
    return found


@examples(150)
@given(
    MEMBERS,
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]),
    st.sampled_from(["", "gz", "bz2", "xz"]),
)
def test_tar_archives(members: list[Member], form: int, packing: str) -> None:
    unpacked(tarred(members, form, packing))


@examples(150)
@given(MEMBERS, st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]), st.booleans())
def test_zip_archives(members: list[Member], packing: int, once: bool) -> None:
    unpacked(zipped(members, packing), once)


PLAIN = [Member(f"a/{number}.jpg", tarfile.REGTYPE, "", bytes([number]) * 300) for number in range(3)]
WHOLE = {
    **{f"tar {packing}": tarred(PLAIN, tarfile.PAX_FORMAT, packing) for packing in ("", "gz", "bz2", "xz")},
    **{f"zip {packing}": zipped(PLAIN, packing) for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA)},
}


@pytest.mark.parametrize("form", WHOLE)
def test_damaged_archives(form: str) -> None:
    assert len(unpacked(WHOLE[form])) == 4

    @examples(60)
    @given(damaged([WHOLE[form]]))
    def read(content: bytes) -> None:
        unpacked(content)

    read()


@examples(60)
@given(damaged([WHOLE["tar "]]))
def test_damaged_archives_within_whole_gzip(content: bytes) -> None:
    unpacked(gzip.compress(content, 1))
