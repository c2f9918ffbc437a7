"""The files of a source: a folder of files, of the archives that a site serves, or one archive; nothing is written elsewhere."""

from __future__ import annotations

import errno
import gzip
import json
import lzma
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from datasets.folders import SYSTEM
from util.atomic import atomic_write
from util.errors import first_line
from util.printable import quoted, short_name
from util.progress import Progress

if TYPE_CHECKING:
    from util.distributed import Ranks

DAMAGES = (
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    IndexError,
    OverflowError,
)
MEGABYTE = 2**20
# Bounds of what an archive may unpack to: no archive of photographs comes near them, one that is made to fill the disk does.
BLOCK = 4096  # bytes that a file takes at least
SLACK, RATIO = 2**30, 100  # bytes of any archive, and of each of its own bytes
LONGEST_HEADER = MEGABYTE  # of a tar archive: names and the like, which are read at once


class BoundedHeader(tarfile.TarInfo):
    """The header of a file in a tar archive; one whose own length would fill the memory is damaged."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
        """Return the header in 512 bytes; a damaged one is an error: to tarfile it ends the archive, and the rest is lost."""
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from None

    def _proc_member(self, tape: tarfile.TarFile) -> Any:
        headers = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if self.type in headers and self.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tape)  # type: ignore[misc]


def inside(folder: Path, name: str) -> Path:
    """Return the path of a relative name in a folder.

    Raises:
        ValueError: the name leads out of the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
        raise ValueError(f"{quoted([name])} leads out of its folder")
    return folder / path


class Source(AbstractContextManager["Source"]):
    """The folder or archive of `--source`; archives are unpacked where a file is looked for that is not there.

    Args:
        source: the folder or archive.
        work: folder for unpacked files; deleted at the end, unless the run is interrupted, which the next one continues.
        ranks: the processes, of which the first unpacks.

    Attributes:
        roots: the folders where files are looked for.
        notes: what there is to say about the files.

    Raises:
        ValueError: there is no `source`, or it is a file that is no archive.
    """

    def __init__(self, source: Path, work: Path, ranks: Ranks) -> None:
        self.source, self.work, self.ranks = source, work, ranks
        self.notes: list[str] = []
        self.origins: dict[Path, Path] = {}  # the archive of each folder of unpacked files
        if not (source.is_dir() or source.is_file()):
            raise ValueError(f"--source {source}: no such folder or archive")
        self.roots = [source] if source.is_dir() else []

    def __enter__(self) -> Source:
        if not self.roots:
            try:
                self.roots.append(self.unpacked(self.source))
            except ValueError:
                self.__exit__(ValueError)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None = None, *_: object) -> None:
        if self.ranks.main and (kind is None or issubclass(kind, ValueError)):
            shutil.rmtree(self.work, ignore_errors=True)
        text = str(error)
        for folder, archive in self.origins.items():  # the user knows the archive, not where it is unpacked
            text = text.replace(str(folder), str(archive))
        if isinstance(error, ValueError) and text != str(error):
            raise ValueError(text) from None

    @property
    def temporary(self) -> Path | None:
        """The folder of unpacked files, if there are any."""
        return self.work if self.work.exists() else None

    def find(self, name: str, archives: str = "") -> Path:
        """Return the path of a file or folder, at most two folders deep, from one of the archives of these patterns if need be.

        Raises:
            ValueError: it is missing; an archive is damaged or unsafe.
        """
        found = self.find_optional(name, archives)
        if found is None:
            served = f", nor an archive {archives.replace(' ', ' or ')} that holds it" if archives else ""
            raise ValueError(f"--source {self.source}: no {name}{served}; expected what the site serves, unpacked or not")
        return found

    def find_optional(self, name: str, archives: str = "") -> Path | None:
        """Return what `find` does, or None."""
        if found := self._search(name):
            return found
        for pattern in archives.split() if self.source.is_dir() else ():
            for archive in sorted(self.source.glob(pattern)):
                if archive.is_file():
                    self.roots.append(self.unpacked(archive))
                    if found := self._search(name):
                        return found
        return None

    def _search(self, name: str) -> Path | None:
        for root in self.roots:
            for pattern in (name, f"*/{name}", f"*/*/{name}"):
                for path in sorted(root.glob(pattern)):
                    if not any(map(SYSTEM.fullmatch, path.relative_to(root).parts)):
                        return path
        return None

    def place(self, path: Path) -> Path:
        """Return the folder for the unpacked content of a file; another one when the file changes."""
        status = path.stat()
        version = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}"
        return self.work / f"{path.name[:100]}.{blake2b(os.fsencode(version), digest_size=4).hexdigest()}"

    def unpacked(self, archive: Path, once: bool = False) -> Path:
        """Return the folder with the files of an archive; raises as `unpack`."""
        folder = self.place(archive)
        record = folder.with_name(f"{folder.name}.links")  # for the note of a run that continues an interrupted one
        if self.ranks.main and not folder.exists():
            partial = folder.with_name(f"{folder.name}.partial")
            links = unpack(archive, partial, once)
            with atomic_write(record) as file:
                json.dump(links, file)
            partial.rename(folder)
        self.ranks.barrier()
        if folder not in self.origins and (links := json.loads(record.read_bytes())):
            advice = "pack the files that they lead to (tar --dereference --hard-dereference)"
            self.notes.append(f"{archive.name}: left out are {len(links)} links: {quoted(links)}; {advice}")
        self.origins[folder] = archive
        return folder


def unpack(archive: Path, folder: Path, once: bool = False) -> list[str]:
    """Unpack the files of a tar or zip archive; return the names of links, which are left out, as devices are.

    Files that are there already are kept.

    Args:
        archive: the archive.
        folder: is created.
        once: a name that is in it twice is an error; else the last file of it counts, as tar has it.

    Raises:
        ValueError: it is no archive, is damaged, a name in it leads out of the folder, or it would fill the disk.
    """
    size = archive.stat().st_size
    most, taken, names, links = SLACK + RATIO * size, 0, set[str](), list[str]()
    try:
        with archive.open("rb") as file, Progress(size // MEGABYTE, f"unpacking {archive.name} (MB)") as line:
            folder.mkdir(parents=True, exist_ok=True)
            for name, length, open_member in _members(file):
                taken += max(length, BLOCK)
                if taken > most:
                    raise ValueError(f"its {size:,} bytes would unpack to over {most // MEGABYTE:,} MB, as no pictures do")
                if open_member is None:
                    links.append(name)
                    continue
                if once and name in names:
                    raise ValueError(f"{quoted([name])} is in it twice")
                path = inside(folder, name)
                if name in names or not (path.is_file() and path.stat().st_size == length):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with open_member() as content, path.open("wb") as copy:
                        shutil.copyfileobj(content, copy)
                names.add(name)
                line.step(file.tell() // MEGABYTE - line.done)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise ValueError(f"{archive}: {quoted([str(error.filename)])} is a file and a folder in it; get it again") from None
    except (OSError, *DAMAGES) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"{archive}: {quoted([name[:80]])}... is too long a name for this file system") from None
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a place before the file's beginning
            raise
        raise ValueError(
            f"{archive}: is damaged, encrypted or no tar or zip archive ({short_name(first_line(error), 200)}); get it again"
        ) from None
    except ValueError as error:
        raise ValueError(f"{archive}: {error}; it was not unpacked") from None
    return links


def _members(file: IO[bytes]) -> Iterator[tuple[str, int, Callable[[], IO[bytes]] | None]]:
    """Yield name, size and opener of each file in an archive; a link of a tar archive has no opener.

    Windows writes backslashes into zip archives.
    """
    if file.read(2) == b"PK":  # not zipfile.is_zipfile: a tar archive may end in a zip archive
        file.seek(0)
        with zipfile.ZipFile(file) as container:
            for info in container.infolist():
                name = info.filename.replace("\\", "/")
                if not name.endswith("/"):
                    yield name, info.file_size, lambda info=info: container.open(info)  # type: ignore[misc]
        return
    file.seek(0)
    with tarfile.open(fileobj=file, tarinfo=BoundedHeader) as tape:
        for member in tape:
            if member.isfile():
                yield member.name, member.size, lambda member=member: _extract(tape, member)  # type: ignore[misc]
            elif member.issym() or member.islnk():
                yield member.name, 0, None


def _extract(tape: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    return tape.extractfile(member)


def file_names(folder: Path) -> Iterator[str]:
    """Yield the relative paths of all files below a folder that are not hidden or of the system, sorted."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not SYSTEM.fullmatch(name))
        for name in sorted(files):
            if not SYSTEM.fullmatch(name):
                yield os.path.relpath(os.path.join(where, name), folder)


def fingerprint_of(source: Path, lists: Iterable[str] = ()) -> str:
    """Return a hash of names, sizes and times of the files of a source, and of lists, by which a change is noticed."""
    digest = blake2b(digest_size=8)
    names = list(file_names(source)) if source.is_dir() else ["."]
    for name, path in [*((name, source / name) for name in names), *((name, Path(name)) for name in lists)]:
        if path.exists():
            status = path.stat()
            digest.update(os.fsencode(name) + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
