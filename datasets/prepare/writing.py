"""Writing an image folder by one or several processes: links where possible, whole or not at all, resumed where it stopped."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np

from util.atomic import atomic_write, remove_temporary_files, replacing
from util.progress import Progress

if TYPE_CHECKING:
    from util.distributed import Ranks

CHUNK = 64  # files per task
RECORD = "dataset.json"

# Path below the data set's folder, and what it holds: a file to link, pixels uint8 [H, W] or BGR [H, W, 3] to save as PNG, or
# what makes its bytes (None: there is nothing to write).
Entry: TypeAlias = "tuple[str, Path | np.ndarray | Callable[[], bytes | None]]"


def is_prepared(target: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether an earlier run wrote `target` with these settings (JSON values), and print so.

    Raises:
        ValueError: it was written with other settings, or by something else.
    """
    if not target.exists():
        return False
    advice = "choose another --name, or remove it"
    try:
        record = json.loads((target / RECORD).read_text(encoding="utf-8"))
        found, counts = record["settings"], _totals(record["images"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{target} is already there, without the {RECORD} of a data set of this kind: {advice}") from None
    if other := [name for name in sorted({*settings, *found}) if settings.get(name) != found.get(name)]:
        before, now = (", ".join(f"{name} {values.get(name)}" for name in other) for values in (found, settings))
        raise ValueError(f"{target} is already there, {counts}, prepared with {before}, not with {now}: {advice}")
    print(f"already there: {target}, {counts}")
    return True


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Lock a data set while the context is entered; where that is impossible (a read-only folder, no locks) do nothing.

    Raises:
        ValueError: another process has locked it.
    """
    lock, handle = target.with_name(f".{target.name}.lock"), None
    try:
        with suppress(OSError):
            lock.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                handle = None
                raise ValueError(f"another process prepares {target}: wait for it, or choose another --name") from None
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                lock.rmdir()
            os.close(handle)


def write_dataset(
    target: Path,
    entries: Sequence[Entry],
    ranks: Ranks,
    record: Mapping[str, Any],
    temporary: Path | None = None,
    threads: int = 2,
) -> None:
    """Write all files of a data set, then give its folder its name; an interrupted run is continued.

    Args:
        target: the folder, which does not exist.
        entries: the files.
        ranks: the processes that share them.
        record: becomes dataset.json; its `images` are {split: {"images": ..., "classes": ...}}.
        temporary: folder of files that will be deleted, to which there must be no symbolic links.
        threads: of each process.
    """
    draft = target.with_name(f".{target.name}.unfinished")
    text = json.dumps({**record, "files": _fingerprint(entries)}, indent=1, ensure_ascii=False) + "\n"
    if ranks.main:
        _open_draft(draft, text, {os.path.dirname(name) for name, _ in entries})
    ranks.barrier()
    chunks = [entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK)]
    pool = ThreadPoolExecutor(threads)
    written: Counter[str] = Counter()

    def write_chunks() -> Iterator[Counter[str]]:
        yield from pool.map(lambda chunk: write_files(draft, chunk, temporary), chunks[ranks.rank :: ranks.size])

    try:
        with Progress(len(entries), f"writing {target.name}") as line:
            for count in ranks.gather_in_order(write_chunks()):
                line.step(count.total())
                written += count
    finally:
        pool.shutdown(cancel_futures=True)
    if ranks.main:
        draft.rename(target)
    ranks.barrier()
    how = ", ".join(f"{count:,} {kind}" for kind, count in sorted(written.items()))
    print(f"written: {target}, {_totals(record['images'])} ({how})")


def _open_draft(draft: Path, text: str, folders: set[str]) -> None:
    """Create the folders of an unfinished data set, unless an interrupted run began to write the very same."""
    with suppress(OSError):
        if (draft / RECORD).read_text(encoding="utf-8") != text:
            shutil.rmtree(draft)
    for folder in sorted(folders):
        (draft / folder).mkdir(parents=True, exist_ok=True)
        remove_temporary_files(draft / folder)
    with atomic_write(draft / RECORD) as file:
        file.write(text)


def write_files(folder: Path, entries: Sequence[Entry], temporary: Path | None) -> Counter[str]:
    """Write files below a folder, but for those that an interrupted run has written; return how many of each kind."""
    kinds: Counter[str] = Counter()
    for name, content in entries:
        path = folder / name
        if os.path.lexists(path):
            kinds["files of an interrupted run"] += 1
        elif isinstance(content, Path):
            source = content.resolve()
            lasting = temporary is None or not source.is_relative_to(temporary.resolve())
            kinds[link(source, path, symbolic=lasting)] += 1
        else:
            data = png(content) if isinstance(content, np.ndarray) else content()
            if data is None:
                kinds["masks left out, of another size than their picture"] += 1
                continue
            with atomic_write(path, "wb") as file:
                file.write(data)
            kinds["new files"] += 1
    return kinds


def link(source: Path, path: Path, symbolic: bool = True) -> str:
    """Link to a file, or copy it where the file system has no links; return which."""
    for make, kind in ((os.link, "hard links"), (os.symlink, "symbolic links")):
        if make is os.link or symbolic:
            with suppress(OSError):
                make(source, path)
                return kind
    with replacing(path) as copy:
        shutil.copyfile(source, copy)
    return "copies"


def png(pixels: np.ndarray) -> bytes:
    """Encode pixels uint8 `[H, W]` or BGR `[H, W, 3]`."""
    encoded, data = cv2.imencode(".png", pixels)
    assert encoded, pixels.shape
    return data.tobytes()


def _fingerprint(entries: Sequence[Entry]) -> str:
    digest = blake2b(digest_size=8)
    for name, _ in entries:
        digest.update(name.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


def _totals(images: Mapping[str, Mapping[str, int]]) -> str:
    splits = ", ".join(f"{split} {count['images']:,}" for split, count in images.items())
    return f"{sum(count['images'] for count in images.values()):,} images ({splits})"
