"""Files of a site, here one on this machine: fetched, continued, checked, and never overwritten."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from sources import packed, picture, run

from datasets.prepare import SOURCES, downloads
from datasets.prepare.downloads import Download, fetch_files
from util.errors import RunFailed
from util.ranks import SINGLE_PROCESS

CONTENT = bytes(range(256)) * 40


class Site(ThreadingHTTPServer):
    """Serves `content`; `plan` holds what it does with the next requests: bytes after which it hangs up, or a status."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.version, self.ranges = CONTENT, '"1"', True
        self.plan: list[int] = []
        self.asked: list[str] = []

    def download(self, **more: object) -> Download:
        known = {"size": len(CONTENT), "md5": md5(CONTENT).hexdigest(), **more}
        return Download(f"http://127.0.0.1:{self.server_port}/set/data.tgz?download=1", **known)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site = self.server
        asked = self.headers.get("Range", "")
        site.asked.append(asked)
        start = int(asked[6:-1]) if asked and site.ranges else 0
        planned = site.plan.pop(0) if site.plan else len(site.content)
        status = planned if planned in (403, 404, 503) else 416 if start >= len(site.content) else 206 if start else 200
        self.send_response(status)
        self.send_header("ETag", site.version)
        body = site.content[start:] if status < 300 else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body[:planned])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "PAUSE", 0)
    server = Site()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(site: Site, folder: Path, **more: object) -> bytes:
    fetch_files([site.download(**more)], folder, SINGLE_PROCESS)
    assert os.listdir(folder) == ["data.tgz"]
    return (folder / "data.tgz").read_bytes()


@pytest.mark.parametrize("known", [{}, {"md5": ""}, {"md5": "", "size": None}])
def test_a_file_is_fetched_once(site, tmp_path, known):
    assert fetch(site, tmp_path / "a" / "b", **known) == CONTENT
    assert fetch(site, tmp_path / "a" / "b", **known) == CONTENT
    assert site.asked == [""]


def test_a_lost_connection_is_continued(site, tmp_path):
    site.plan = [3000, 2000, 503, 1]
    assert fetch(site, tmp_path) == CONTENT
    assert site.asked == ["", "bytes=3000-", "bytes=5000-", "bytes=5000-", "bytes=5001-"]


def test_a_later_run_continues(site, tmp_path):
    site.plan = [3000, *[503] * downloads.TRIES]
    with pytest.raises(RunFailed, match="cannot be fetched .* the same command resumes the download"):
        fetch(site, tmp_path)
    (part,) = tmp_path.iterdir()
    assert part.read_bytes() == CONTENT[:3000]
    assert fetch(site, tmp_path) == CONTENT
    assert site.asked[-1] == "bytes=3000-"


@pytest.mark.parametrize("change", ["version", "no ranges", "whole", "longer"])
def test_a_part_that_does_not_fit_is_fetched_again(site, tmp_path, change):
    site.plan = [3000, *[503] * downloads.TRIES]
    with pytest.raises(RunFailed):
        fetch(site, tmp_path)
    (part,) = tmp_path.iterdir()
    if change == "version":
        site.version = '"2"'
        part.write_bytes(bytes(3000))
    elif change == "no ranges":
        site.ranges = False
    else:  # it was killed before it gave the file its name; or something is wrong
        part.write_bytes(CONTENT + b"x" * (change == "longer"))
    assert fetch(site, tmp_path) == CONTENT


@pytest.mark.parametrize(
    ("plan", "more", "expected"),
    [
        ([404], {}, "the site answers 404 .*: get the file by hand"),
        ([403], {}, "the site answers 403"),
        ([0] * 9, {}, r"cannot be fetched \(the connection ended at 0 of 10,240 bytes\)"),
        ([], {"md5": "0" * 32}, "another file .MD5 .*, expected 0000.*, which was deleted"),
        ([], {"size": 7}, "another file .10,240 bytes, expected 7.*, which was deleted"),
    ],
)
def test_what_cannot_be_fetched_is_said(site, tmp_path, plan, more, expected):
    site.plan = plan
    with pytest.raises(RunFailed, match=expected):
        fetch(site, tmp_path, **more)
    assert not [path for path in tmp_path.iterdir() if path.stat().st_size]


def test_a_site_that_is_not_there(tmp_path, site):
    site.server_close()
    with pytest.raises(RunFailed, match="cannot be fetched"):
        fetch(site, tmp_path)


def test_a_file_of_the_user_is_not_overwritten(site, tmp_path):
    (tmp_path / "data.tgz").write_bytes(b"mine")
    with pytest.raises(ValueError, match="data.tgz is not the file of the site .4 bytes.* move it away, or leave --download out"):
        fetch(site, tmp_path)
    assert (tmp_path / "data.tgz").read_bytes() == b"mine" and site.asked == []
    with pytest.raises(ValueError, match="is a file: --download needs a folder"):
        fetch(site, tmp_path / "data.tgz")


def test_a_disk_without_room(site, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.raises(ValueError, match="needs 10,240 bytes, 9 are free"):
        fetch(site, tmp_path)


def test_two_processes_do_not_fetch_into_one_folder(site, tmp_path):
    with downloads._locked(tmp_path), pytest.raises(ValueError, match="another process fetches files into"):
        fetch(site, tmp_path)


def test_a_set_is_fetched_and_prepared(site, tmp_path, monkeypatch, capsys):
    pictures = {f"{split}/x/{split}.jpg": picture(seed=seed) for seed, split in enumerate(("train", "val"))}
    packed(tmp_path / "source", {"butterfly.zip": pictures})
    site.content = (tmp_path / "source" / "butterfly.zip").read_bytes()
    address = f"http://127.0.0.1:{site.server_port}/butterfly.zip"
    monkeypatch.setattr(SOURCES["butterflies"], "DOWNLOADS", [Download(address, len(site.content))])
    target = run("butterflies", tmp_path / "new", "--download", "--partial")
    assert len(list(target.glob("*/x/*.jpg"))) == 2
    run("butterflies", tmp_path / "new", "--download", "--partial")
    assert len(site.asked) == 1 and "already there" in capsys.readouterr().out


def test_addresses_are_those_of_official_sites():
    for name, source in SOURCES.items():
        for download in getattr(source, "DOWNLOADS", ()):
            assert download.url.startswith("http") and download.name and "/" not in download.name, name
            assert download.md5 or download.size or name == "butterflies", name
            assert download.md5 == "" or len(download.md5) == 32
