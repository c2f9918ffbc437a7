"""Files of a data set from its official site: an interrupted download is continued, and each file is checked."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b, md5
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from datasets.urls import AGENT, WAIT
from util.errors import DISK_FULL, RunFailed, first_line
from util.progress import Progress

if TYPE_CHECKING:
    from util.distributed import Ranks

FLAG: dict[str, Any] = {
    "action": "store_true",
    "help": "first fetch the files that --source lacks from the official site; an interrupted download is continued",
}
TRIES, PAUSE = 5, 2.0  # tries in a row that bring no byte; seconds before the next, growing
CHUNK, MEGABYTE = 2**18, 2**20
NOT_SATISFIABLE = 416  # the status where the part is as long as the file, or longer
FOR_GOOD = range(400, 500)  # statuses that another try does not change


class Download(NamedTuple):
    """A file that a site serves: its address, and its bytes and MD5 where they are known."""

    url: str
    size: int | None = None
    md5: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.partition("?")[0].rpartition("/")[2]


def fetch_files(downloads: Sequence[Download], folder: Path, ranks: Ranks) -> None:
    """Fetch the files that a folder lacks; it is created. Files that are there are checked, and never overwritten.

    Raises:
        ValueError: the folder is a file, a file in it is another than the site's, or the disk has no room.
        RunFailed: a file cannot be fetched, or is another than expected.
    """
    if folder.is_file():
        raise ValueError(f"--source {folder} is a file: --download needs a folder")
    if ranks.main:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            for download in downloads:
                path = folder / download.name
                if not path.exists():
                    _fetch(download, path)
                    print(f"fetched: {path}, {path.stat().st_size:,} bytes")
                elif problem := _difference(download, path):
                    raise ValueError(f"{path} is not the file of the site ({problem}): move it away, or leave --download out")
    ranks.barrier()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder while the context is entered; ValueError where another process has locked it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(f"another process fetches files into {folder}: wait for it") from None
    finally:
        os.close(handle)


def _fetch(download: Download, path: Path) -> None:
    """Fetch a file: under a hidden name until it is whole and checked; try again where the connection is lost."""
    failures = 0
    while True:
        before = sum(part.stat().st_size for part in _parts(path))
        try:
            part = _receive(download, path)
            break
        except HTTPError as error:
            if error.code in FOR_GOOD and error.code != NOT_SATISFIABLE:
                raise RunFailed(f"{download.url}: the site answers {error.code} ({error.reason}): get the file by hand") from None
            problem = f"the site answers {error.code}"
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) in DISK_FULL:
                raise
            problem = first_line(error)
        failures = 0 if sum(part.stat().st_size for part in _parts(path)) > before else failures + 1
        if failures == TRIES:
            raise RunFailed(f"{download.url}: cannot be fetched ({problem}): the same command resumes the download")
        time.sleep(PAUSE * failures)
    if problem := _difference(download, part):
        part.unlink()
        raise RunFailed(f"{download.url}: the site or a proxy sent another file ({problem}), which was deleted: get it by hand")
    part.rename(path)


def _parts(path: Path) -> list[Path]:
    """Return the unfinished files of a download; the name holds a hash of the version of the site's file."""
    return sorted(path.parent.glob(f".{path.name}.*.part"))


def _receive(download: Download, path: Path) -> Path:
    """Receive a file, or the rest of it, and return the path of the part; raises as urllib, or ValueError without room."""
    parts = _parts(path)
    start = parts[0].stat().st_size if parts else 0
    headers = {**AGENT, **({"Range": f"bytes={start}-"} if start else {})}
    try:
        with urlopen(Request(download.url, headers=headers), timeout=WAIT) as response:
            version = str(response.headers.get("ETag") or response.headers.get("Last-Modified")).encode()
            part = path.with_name(f".{path.name}.{blake2b(version, digest_size=4).hexdigest()}.part")
            if start and (response.status != 206 or part != parts[0]):
                for old in parts:
                    old.unlink()
                if response.status == 206:
                    raise ConnectionError("the site has a new version of the file")
                start = 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length else download.size
            if total and total - start > (free := shutil.disk_usage(path.parent).free):
                raise ValueError(
                    f"{path} needs {total - start:,} bytes, {free:,} are free: make room, or choose another --source"
                )
            with part.open("ab") as file:
                _copy(response, file, total, path.name)
    except HTTPError as error:
        if error.code == NOT_SATISFIABLE:
            if start == download.size:
                return parts[0]
            for old in parts:
                old.unlink()
        raise
    return part


def _copy(response: HTTPResponse, file: IO[bytes], total: int | None, name: str) -> None:
    """Append what a site sends to a file; ConnectionError where it ends early."""
    with Progress((total or 0) // MEGABYTE, f"fetching {name} (MB)") as line:
        line.done = file.tell() // MEGABYTE
        while chunk := response.read(CHUNK):
            file.write(chunk)
            line.step(file.tell() // MEGABYTE - line.done)
    if total and file.tell() < total:
        raise ConnectionError(f"the connection ended at {file.tell():,} of {total:,} bytes")


def _difference(download: Download, path: Path) -> str:
    """Return how a file differs from that of the site; '' if it does not, as far as is known."""
    size = path.stat().st_size
    if download.size is not None and size != download.size:
        return f"{size:,} bytes, expected {download.size:,}"
    if download.md5:
        digest = md5(usedforsecurity=False)
        with path.open("rb") as file, Progress(size // MEGABYTE, f"checking {path.name} (MB)") as line:
            while chunk := file.read(MEGABYTE):
                digest.update(chunk)
                line.step()
        if digest.hexdigest() != download.md5:
            return f"MD5 {digest.hexdigest()}, expected {download.md5}"
    return ""
