"""Opening the caches of `--cache ram|DIR`: what fits, what an earlier run left, and what is refused."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import socket
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from datasets.cache_place import RAM
from datasets.decode import image_size
from datasets.image_folder import ImageFolder
from datasets.picture_cache import IDENTITY, PictureCache, Preparation, Slots, lay_out, slot_bytes
from datasets.scan import map_files
from util.atomic import atomic_write
from util.memory import available
from util.ranks import Ranks

MARKER = "cache.json"  # by which a folder is known as a cache, and of which data set
LIBRARIES = ("opencv-python-headless", "pillow", "simplejpeg", "torch", "torchvision")  # that make pixels
MEMORY_SHARE = 0.8  # of the memory that is free, which a cache may take
OTHERWISE = "give another folder, or leave --cache out"

Split = tuple[ImageFolder, Preparation]


class Index(TypedDict):
    """Content of an index: identity of a file -> offset, height and width of its picture, and whether it was made smaller."""

    end: int
    pictures: dict[str, list[int]]


def use_cache(place: str, splits: Sequence[Split], workers: int, ranks: Ranks) -> None:
    """Give data sets a cache; every process calls it, and rank 0 first.

    Args:
        place: `ram`, or a folder.
        splits: data sets, and what their pictures go through before they are kept.
        workers: threads that read the sizes of pictures from their files.
        ranks: the processes.

    Raises:
        ValueError: the pictures do not fit, or the folder cannot be written to, is of another data set, damaged or no cache.
    """
    if place == RAM:
        _use_memory(splits, workers, ranks)
        return
    if not ranks.main:
        ranks.barrier()  # rank 0 has written the index
    _use_folder(Path(place), splits, workers)
    if ranks.main:
        ranks.barrier()


def identities(dataset: ImageFolder) -> np.ndarray:
    """Return a hash of the path below the root, size in bytes and modification time of each file: uint8 `[N, 16]`."""
    start, hashes = len(os.fspath(dataset.root / "x")) - 1, bytearray()
    for path in dataset.paths:
        status = os.stat(path)
        text = f"{path.as_posix()[start:]}\0{status.st_size}\0{status.st_mtime_ns}"
        hashes += blake2b(text.encode(errors="surrogateescape"), digest_size=IDENTITY).digest()
    return np.frombuffer(hashes, np.uint8).reshape(-1, IDENTITY)


def _use_memory(splits: Sequence[Split], workers: int, ranks: Ranks) -> None:
    """Keep pictures in memory that the processes of a machine share."""
    layouts = []
    if ranks.main:  # whose files' times count: those of other machines may be copies
        for dataset, prepare in splits:
            names = identities(dataset)
            layouts.append((names, _new_index(dataset, prepare, names, workers)))
    layouts = ranks.broadcast(layouts)
    total, free = sum(index["end"] for _, index in layouts), available()
    if free is not None and total > MEMORY_SHARE * free:
        raise ValueError(
            f"--cache ram: the pictures take {total / 1e9:.1f} GB, {free / 1e9:.1f} GB of memory are free: give a folder "
            "(--cache DIR), or leave --cache out"
        )
    for (dataset, prepare), (names, index) in zip(splits, layouts, strict=True):
        own = _shared_memory(index["end"])
        host = socket.gethostname()
        path = next(path for name, path in ranks.gather((host, own)) if name == host and os.access(path, os.R_OK | os.W_OK))
        dataset.cache = PictureCache(path, "ram", _slots(index, names), prepare)
        _announce(dataset, index, dataset.cache, len(dataset), "in memory")


def _shared_memory(size: int) -> str:
    """Create memory that other processes of this user can open, too, by the path that is returned; it ends with this process."""
    if not hasattr(os, "memfd_create"):
        raise ValueError(f"--cache ram is not possible on {platform.system()}: give a folder (--cache DIR)")
    handle = os.memfd_create("pictures")
    os.ftruncate(handle, size)
    return f"/proc/{os.getpid()}/fd/{handle}"


def _use_folder(folder: Path, splits: Sequence[Split], workers: int) -> None:
    """Keep pictures in files of a folder: those of an earlier run are used again."""
    source = os.path.realpath(splits[0][0].root.parent)
    _check_folder(folder, source, [dataset.root for dataset, _ in splits])
    found = [folder / f"{dataset.root.name}-{_settings(dataset, prepare)}.json" for dataset, prepare in splits]
    names = [identities(dataset) for dataset, _ in splits]
    sizes = [
        _missing_sizes(dataset, prepare, name, _read_index(path), workers)
        for (dataset, prepare), name, path in zip(splits, names, found, strict=True)
    ]
    ends = [_extend(_read_index(path), new)["end"] for path, new in zip(found, sizes, strict=True)]
    check_space(folder, sum(ends) - sum(map(_allocated, found)), "the pictures")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not (folder / MARKER).exists():
                _write(folder / MARKER, {"data_set": source})
            for (dataset, prepare), name, path, new in zip(splits, names, found, sizes, strict=True):
                index = _extend(_read_index(path), new)
                pixels = path.with_suffix(".pixels")
                with open(pixels, "ab") as file:
                    file.truncate(max(index["end"], os.fstat(file.fileno()).st_size))
                if new:
                    _write(path, index)
                dataset.cache = PictureCache(os.fspath(pixels), os.fspath(pixels), _slots(index, name), prepare)
                _announce(dataset, index, dataset.cache, len(new), f"in {folder}")
    except OSError as error:
        raise ValueError(f"--cache: {folder} cannot be written to ({error.strerror}): {OTHERWISE}") from None


def _check_folder(folder: Path, source: str, roots: Sequence[Path]) -> None:
    """Raise a ValueError unless a folder is new, empty, or a cache of the data set `source`, and not within one of `roots`."""
    if inside := [root for root in roots if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))]:
        raise ValueError(f"--cache: {folder} lies among the pictures of {inside[0]}: {OTHERWISE}")
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise ValueError(f"--cache: {folder} is no folder: {OTHERWISE}")
    if not (folder / MARKER).exists():
        try:
            names = [name for name in os.listdir(folder) if not name.startswith(f".{MARKER}.")]  # which a process writes now
        except OSError as error:
            raise ValueError(f"--cache: {folder} cannot be read ({error.strerror}): {OTHERWISE}") from None
        if names:
            raise ValueError(f"--cache: {folder} holds something else ({names[0]}): give a new folder, or leave --cache out")
        return
    other = _read(folder / MARKER).get("data_set")
    if other != source:
        raise ValueError(f"--cache: {folder} is of another data set, {other}, and not of {source}: {OTHERWISE}")


def _settings(dataset: ImageFolder, prepare: Preparation) -> str:
    """Return a hash of all but the files that kept pixels depend on."""
    text = f"1 {prepare!r} {dataset.decoding.bit_depth} {library_versions()}"
    return blake2b(text.encode(), digest_size=4).hexdigest()


def library_versions() -> list[tuple[str, str]]:
    """Return the names and versions of the libraries that make pixels."""
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return sorted(versions.items())


def _missing_sizes(
    dataset: ImageFolder, prepare: Preparation, names: np.ndarray, index: Index, workers: int
) -> dict[str, list[int]]:
    """Return height, width, and whether it is made smaller, of each picture that an index does not have, by its identity."""
    missing = {name.tobytes().hex(): path for name, path in zip(names, dataset.paths, strict=True)}
    missing = {name: path for name, path in missing.items() if name not in index["pictures"]}
    sizes = map_files(lambda path: image_size(path, dataset.decoding), list(missing.values()), workers, 64, "reading image sizes")
    kept = ((prepare.output_size(*size), size) for size in sizes)
    return {name: [*after, int(after != before)] for name, (after, before) in zip(missing, kept, strict=True)}


def _new_index(dataset: ImageFolder, prepare: Preparation, names: np.ndarray, workers: int) -> Index:
    empty: Index = {"end": 0, "pictures": {}}
    return _extend(empty, _missing_sizes(dataset, prepare, names, empty, workers))


def _extend(index: Index, sizes: dict[str, list[int]]) -> Index:
    """Return an index with further pictures behind those that it has, whose places stay."""
    new = {name: size for name, size in sizes.items() if name not in index["pictures"]}
    offsets, end = lay_out([(height, width) for height, width, _ in new.values()], index["end"])
    pictures = {name: [offset, *size] for offset, (name, size) in zip(offsets, new.items(), strict=True)}
    return {"end": end, "pictures": {**index["pictures"], **pictures}}


def _slots(index: Index, names: np.ndarray) -> Slots:
    rows = np.array([index["pictures"][name.tobytes().hex()] for name in names], np.int64)  # [N, 4]
    return Slots(names, rows[:, 0].copy(), rows[:, 1:3].astype(np.int32), index["end"])


def _read_index(path: Path) -> Index:
    """Read an index, empty where there is none; a ValueError if it, or the file of the pixels, is damaged."""
    if not path.exists():
        return {"end": 0, "pictures": {}}
    content = _read(path)
    pictures, pixels = content.get("pictures"), path.with_suffix(".pixels")
    end = content.get("end")
    if not isinstance(pictures, dict) or not isinstance(end, int):
        raise _damaged(path, "its content is not what was written")
    if not pixels.is_file() or pixels.stat().st_size < end:
        raise _damaged(pixels, "it was cut short" if pixels.is_file() else "it is missing")
    return {"end": end, "pictures": pictures}


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"--cache: {path} cannot be read ({error.strerror}): {OTHERWISE}") from None
    except (ValueError, TypeError):
        raise _damaged(path, "its content is not what was written") from None


def _damaged(path: Path, problem: str) -> ValueError:
    return ValueError(f"--cache: {path} is damaged ({problem}): remove the folder {path.parent}, which is then made again")


def _write(path: Path, content: Any) -> None:
    with atomic_write(path) as file:
        json.dump(content, file)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait for the lock of a folder; where its file system has none, two processes that start at once lose kept pictures."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _allocated(index: Path) -> int:
    """Return the bytes that the pixels of an index take on the disk so far."""
    pixels = index.with_suffix(".pixels")
    return pixels.stat().st_blocks * 512 if pixels.exists() else 0


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise a ValueError unless there is room for the bytes of `what` in a folder, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(existing)
    if usage.total and usage.free < needed:  # some file systems do not know
        raise ValueError(
            f"--cache: {folder} has {usage.free / 1e9:.1f} GB left, {what} need {needed / 1e9:.1f} GB more: make room, "
            f"{OTHERWISE}"
        )


def _announce(dataset: ImageFolder, index: Index, cache: PictureCache, new: int, where: str) -> None:
    """Print what a cache takes, and how many pictures are not kept as they are decoded."""
    names = [name.tobytes().hex() for name in cache.slots.identities]
    size = sum(slot_bytes(*height_width) for height_width in cache.slots.sizes.tolist())
    smaller = 0 if cache.prepare == dataset.transform else sum(index["pictures"][name][3] for name in names)
    print(
        f"cache: {len(dataset)} {dataset.root.name} pictures take {size / 1e6:.1f} MB {where}"
        f"{f', {new} are new' * (0 < new < len(dataset))}"
        f"{kept_smaller(smaller)}"
    )


def kept_smaller(count: int) -> str:
    """Return the end of a line on a cache: how many of its pictures are not kept as they are decoded."""
    return f"; {count} are kept smaller than in their files, at what the largest size needs" * (count > 0)
