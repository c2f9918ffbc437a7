"""Saved data sets of Hugging Face: folders of `save_to_disk` (Arrow), Parquet files, and image folders; read with pyarrow."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets.folders import IMAGE_EXTENSIONS
from datasets.prepare.archives import Source, inside
from datasets.prepare.arrow_files import read_batches
from datasets.prepare.photo_lists import SPLIT, Row, note_unlisted, read_list, refuse
from datasets.prepare.split_folders import read_split_folders, split_folders, splits_in_names
from datasets.prepare.unsplit import pad_numbers
from util.classes import class_key
from util.errors import first_line
from util.printable import quoted

NAME = "a saved Hugging Face data set"
SIGNATURES = {
    b"\xff\xd8\xff": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"BM": ".bmp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
    b"P5": ".pgm",
    b"P6": ".ppm",
    b"\0\0\0\x0cjP": ".jp2",
}
LISTS = ("metadata.csv", "metadata.jsonl")


class Part(NamedTuple):
    """A file of rows, the split that it is of, and the features that a file beside describes."""

    path: Path
    split: str
    features: Mapping[str, Any]


def recognise(folder: Path) -> bool:
    """Return whether a folder is one that `save_to_disk` wrote, or holds Parquet files."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file() or bool(_parquets(folder))


def _parquets(folder: Path) -> list[Path]:
    return sorted(path for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet") for path in folder.glob(pattern))


def read(files: Source, folder: Path, flags: Mapping[str, Any]) -> list[Row]:
    """Return the pictures of a saved data set; those that its files hold are written to the folder of unpacked files.

    Raises:
        ValueError: pyarrow is missing; a file is damaged; columns are missing, or cannot be told apart; a picture is not in the
            data set; a label has no name.
    """
    if not recognise(folder):
        return list(_read_image_folder(files, folder, flags))
    parts = list(_parts(folder))
    rows: list[Row] = []
    unlabelled: list[str] = []
    wrong: list[str] = []
    for part in parts:
        for name, picture, label, group in _read_part(files, folder, part, flags, wrong):
            if label:
                rows.append(Row(name, picture, label, part.split, group))
            else:
                unlabelled.append(name)
    files.ranks.barrier()  # the first process has written the pictures
    count = len(rows) + len(unlabelled) + len(wrong)
    if unlabelled:
        files.notes.append(f"{len(unlabelled)} of {count} pictures have no label: {quoted(unlabelled)}; left out")
    refuse(folder, wrong, count, files.notes if flags["partial"] else None)
    if not rows:
        raise ValueError(f"{folder}: no row has a picture and a label")
    return pad_numbers(rows)


def _parts(folder: Path) -> Iterator[Part]:
    """Yield the Arrow or Parquet files of a data set; none for an image folder."""
    if (folder / "dataset_dict.json").is_file():
        names = _json(folder / "dataset_dict.json").get("splits")
        if not isinstance(names, list) or not names:
            raise ValueError(f"{folder / 'dataset_dict.json'}: names no splits")
        if len(names) > 1 and (unknown := [name for name in names if str(name).casefold() not in SPLIT]):
            raise ValueError(f"{folder}: the splits {quoted(unknown)} are not train, val or test: give hf:{folder}/<one of them>")
        for name in names:
            yield from _saved(inside(folder, str(name)), SPLIT[str(name).casefold()] if len(names) > 1 else "")
    elif (folder / "state.json").is_file():
        yield from _saved(folder, "")
    else:
        paths = _parquets(folder)
        for path, split in zip(paths, splits_in_names([str(path.relative_to(folder)) for path in paths]), strict=True):
            yield Part(path, split, {})


def _saved(folder: Path, split: str) -> Iterator[Part]:
    """Yield the files of a folder of `save_to_disk`, which may hold files of a cache, too."""
    state, info = _json(folder / "state.json"), {}
    if (folder / "dataset_info.json").is_file():
        info = _json(folder / "dataset_info.json")
    if state.get("_indices_data_files"):
        raise ValueError(f"{folder}: is a selection of rows of an old version: save it again after flatten_indices()")
    try:
        names = [file["filename"] for file in state["_data_files"]]
    except (KeyError, TypeError):
        raise ValueError(f"{folder / 'state.json'}: names no files; expected the folder that save_to_disk wrote") from None
    for name in names:
        yield Part(inside(folder, str(name)), split, info.get("features") or {})


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read ({first_line(error)}); copy the whole folder again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is no object; copy the whole folder again")
    return content


def _read_image_folder(files: Source, folder: Path, flags: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the pictures of split folders with class folders, or with lists of metadata."""
    chosen = {key: flags[key] for key in ("label", "group") if flags[key]}
    splits = split_folders(folder)
    lists = {split: path / name for split, path in (splits or {"": folder}).items() for name in LISTS if (path / name).is_file()}
    if not splits and not lists:
        wanted = f"dataset_dict.json, state.json, *.parquet, {', '.join(LISTS)} or folders of splits"
        raise ValueError(f"{folder}: no saved data set of Hugging Face; expected {wanted}")
    for split, path in lists.items():
        rows = [row._replace(split=split) for row in read_list(path, path.parent, flags["partial"], chosen, files.notes)]
        note_unlisted(path.parent, rows, files.notes)
        yield from rows
    if without := splits.keys() - lists.keys():
        if chosen:
            raise ValueError(f"--{next(iter(chosen))} names a column, and {splits[min(without)]} has no list: leave it out")
        photos = read_split_folders(folder, files.notes)
        yield from (Row(photo.name, photo.path, photo.label, photo.split, "") for photo in photos if photo.split in without)


def _read_part(
    files: Source, folder: Path, part: Part, flags: Mapping[str, Any], wrong: list[str]
) -> Iterator[tuple[str, Path, str, str]]:
    """Yield name, file, label and group of each picture of a file; what is wrong with the others is appended to `wrong`."""
    place = files.place(part.path) if part.path.is_file() else files.work
    if files.ranks.main:
        place.mkdir(parents=True, exist_ok=True)
    number = 0
    for batch, columns in read_batches(part.path, part.features, flags):
        cells = {name: batch.column(name).to_pylist() for name in columns.names}
        for row in range(batch.num_rows):
            number += 1
            cell, group = cells[columns.image][row], cells[columns.group][row] if columns.group else None
            try:
                name, data = _picture(cell, number)
                path = place / f"{number:07}{os.path.splitext(name)[1]}"
                picture = _linked(folder, cell) if data is None else _write(path, data, files.ranks.main)
                label = _label(cells[columns.label][row], columns.classes)
            except ValueError as error:
                wrong.append(f"{part.path.name} {number}: {first_line(error)}")
            else:
                yield f"{part.split}/{name}".lstrip("/"), picture, label, "" if group is None else str(group)


def _write(path: Path, data: bytes, writes: bool) -> Path:
    if writes and not (path.is_file() and path.stat().st_size == len(data)):
        path.write_bytes(data)
    return path


def _picture(cell: Any, number: int) -> tuple[str, bytes | None]:
    """Return the name of a picture, with the ending of its format, and its bytes; None where they are in a file of their own."""
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    name = os.path.basename(str(path or "").replace("\\", "/")) or f"{number:07}"
    if data is None:
        if not path:
            raise ValueError("no picture")
        return name, None
    ending = next((ending for signature, ending in SIGNATURES.items() if data.startswith(signature)), "")
    if not ending:
        raise ValueError("the bytes of no known format of pictures")
    stem, own = os.path.splitext(name)
    return (name, data) if own.lower() in IMAGE_EXTENSIONS else (f"{name if own == '' else stem}{ending}", data)


def _linked(folder: Path, cell: Mapping[str, Any]) -> Path:
    """Return the file of a picture that is not in the data set, which must be in its folder."""
    path = Path(os.path.abspath(folder / str(cell["path"])))
    if not path.is_relative_to(os.path.abspath(folder)) or not path.is_file():
        raise ValueError(f"{quoted([str(cell['path'])])} is not in the data set: save it again with its pictures")
    return path


def _label(value: Any, classes: Sequence[str]) -> str:
    """Return the name of a label; '' where there is none."""
    if value is None or (isinstance(value, int) and value == -1):
        return ""
    if classes and isinstance(value, int):
        if not 0 <= value < len(classes):
            raise ValueError(f"label {value} of {len(classes)} classes")
        value = classes[value]
    if not isinstance(value, (str, int)):
        raise ValueError(f"label {reprlib.repr(value)} is neither a name nor a number")
    return class_key(str(value))
