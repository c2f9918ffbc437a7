"""Your own photographs: a folder with a list, or class folders without splits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from datasets.folders import SYSTEM, LeftOut, class_folders, images_below
from datasets.prepare import darwin_core, huggingface, webdataset
from datasets.prepare.archives import Source, fingerprint_of
from datasets.prepare.photo_lists import FORM, NONE, SPLIT, Row, note_unlisted, read_list
from datasets.prepare.photos import About, Photo, prepare_photos
from datasets.prepare.split_folders import read_split_folders
from datasets.prepare.unsplit import FLAGS as SPLITTING
from datasets.prepare.unsplit import with_splits
from datasets.prepare.workbooks import WORKBOOKS
from util.classes import class_key
from util.printable import quoted

if TYPE_CHECKING:
    from util.distributed import Ranks

TABLES = (".csv", ".tsv", *WORKBOOKS)
LISTS = (*TABLES, ".txt", ".json", ".jsonl")
LOCK = "~$"  # before the name of a workbook that is open
FORMS: dict[str, ModuleType] = {"hf": huggingface, "wds": webdataset, "gbif": darwin_core}  # by the prefix of --source

HELP = "your own photographs: a list of labels, class folders, or an export of GBIF, iNaturalist, Hugging Face, WebDataset"
DESCRIPTION = (
    "Your own photographs, from a folder (or tar or zip archive) with a list `path,label[,split][,group]`, as a spreadsheet "
    "exports it, or with a folder for each class. Without splits in the list they are drawn: stratified by class, by a seed, "
    "with all pictures of a group (one individual, one camera, one burst) and all near-duplicates in one split. Also a Darwin "
    "Core archive beside its pictures (gbif:), a saved data set of Hugging Face (hf:), and WebDataset shards (wds:)."
)
COLUMN_HELP = "column of the {} in the list, or key in .json of WebDataset, where it is not found by its name"
FLAGS: dict[str, dict[str, Any]] = {
    "source": {
        "required": True,
        "help": "folder or archive of the photographs; gbif:<folder>, hf:<folder>, wds:<folder or 'shard-{000..099}.tar'> say "
        "what else it is, where that is not recognised",
    },
    "list": {
        "type": Path,
        "help": f"the list (default: the only one in --source; {NONE}: class folders); {FORM}; or JSON in COCO's form",
    },
    "val_list": {"type": Path, "help": "the list of val, where --list is that of train"},
    "label": {"metavar": "COLUMN", "help": COLUMN_HELP.format("labels")},
    "group": {"metavar": "COLUMN", "help": COLUMN_HELP.format("groups")},
    **SPLITTING,
}


def prepare(target: Path, ranks: Ranks, *, source: str, **flags: Any) -> None:
    """Write photographs as the image folder `target`.

    Args:
        target: the folder.
        ranks: the processes that share the files.
        source: folder or archive of the photographs, perhaps after the name of one of `FORMS` and a colon.
        **flags: the values of the other `FLAGS`.

    Raises:
        ValueError: as `prepare_photos`; the shares leave nothing to train; the list is wrong; a group or near-duplicates are
            in several splits of the list.
    """
    if flags["val"] + flags["test"] >= 1:
        raise ValueError(f"--val {flags['val']} and --test {flags['test']} leave no picture for train: their sum must be below 1")
    form, path, shards = _place(source)
    lists = {key: flags[key] and str(flags[key]) for key in ("list", "val_list")}
    if form and any(lists.values()):
        raise ValueError(f"--list and --val_list are for photographs without {form}: before --source")
    if shards:
        hashes = "\0".join(f"{shard.name}\0{fingerprint_of(shard)}" for shard in shards)
        version = blake2b(os.fsencode(hashes), digest_size=8).hexdigest()
    else:
        version = fingerprint_of(path, filter(None, lists.values()))
    settings = {**flags, **lists, "hash of the photographs": version}
    about = About(
        title="own photographs",
        url="",
        licence="not stated",
        split=f"of the list, or else drawn by class and group: seed {flags['seed']}, val {flags['val']}, test {flags['test']}",
    )
    prepare_photos(target, ranks, about, path, lambda files: _read(files, form, shards, flags), settings)


def _place(source: str) -> tuple[str, Path, list[Path]]:
    """Return the form of a source ('': not said), its folder or archive, and its shards; a ValueError if it cannot be any."""
    prefix, _, rest = source.partition(":")
    form, text = (prefix, os.path.expanduser(rest)) if prefix in FORMS else ("", source)
    if not text:
        raise ValueError(f"--source {source!r} names no folder")
    if form == "wds":
        shards = webdataset.expand(text)
        return form, shards[0].parent, shards
    path = Path(text)
    if path.is_file() and path.suffix.lower() in (*LISTS, ".arrow", ".parquet"):
        raise ValueError(f"--source {source} is a list or one file: give its folder{'' if form else f', and --list {path.name}'}")
    return form, path, []


def _read(files: Source, form: str, shards: Sequence[Path], flags: Mapping[str, Any]) -> list[Photo]:
    """Return the photographs with their splits."""
    folder = files.roots[0] if shards else _top(files.roots[0])
    if not form and not flags["list"]:
        form = next((name for name, module in FORMS.items() if module.recognise(folder)), "")
        if form:
            print(f"{folder}: is read as {FORMS[form].NAME} ({form}:)")
    if shards:
        rows = webdataset.read(files, folder, flags, shards)
    else:
        rows = FORMS[form].read(files, folder, flags) if form else _read_rows(folder, flags, files.notes)
    return with_splits(rows, flags, files.notes)


def _top(folder: Path) -> Path:
    """Return the folder itself, or the one in it that an archive wraps all of its content in."""
    inner = [path for path in folder.iterdir() if not SYSTEM.fullmatch(path.name)]
    if len(inner) == 1 and inner[0].is_dir() and any(path.is_dir() or path.suffix in LISTS for path in inner[0].iterdir()):
        return _top(inner[0])
    return folder


def _read_rows(folder: Path, flags: Mapping[str, Any], notes: list[str]) -> list[Row]:
    """Return the pictures of the lists or class folders, with the splits that the lists give."""
    train, val = _given(folder, flags["list"]), _given(folder, flags["val_list"])
    chosen = {key: flags[key] for key in ("label", "group") if flags[key]}
    if str(train) == NONE or not (train := train or _find_list(folder)):
        if val:
            raise ValueError("--val_list needs a --list, that of train")
        if chosen:
            raise ValueError(f"--{next(iter(chosen))} names a column, and {folder} has no list: leave it out, or give --list")
        rows = list(_read_folders(folder, notes))
    else:
        rows = read_list(train, folder, flags["partial"], chosen, notes)
    if val:
        rows = [row._replace(split="train") for row in rows]
        rows += [row._replace(split="val") for row in read_list(val, folder, flags["partial"], chosen, notes)]
    if str(train) != NONE and train:
        note_unlisted(folder, rows, notes)
    if not rows:
        raise ValueError(f"{folder}: no image in any class folder; expected {folder}/<class>/<image>")
    return rows


def _given(folder: Path, path: Path | None) -> Path | None:
    """Return the path of a list, which may be one in the source."""
    return folder / path if path and not path.is_file() and (folder / path).is_file() else path


def _find_list(folder: Path) -> Path | None:
    """Return the only list in a folder; None if there is none. Beside folders, a text may be another one."""
    entries = sorted(path for path in folder.iterdir() if not SYSTEM.fullmatch(path.name) and not path.name.startswith(LOCK))
    endings = TABLES if any(path.is_dir() for path in entries) else LISTS
    found = [path for path in entries if path.suffix.lower() in endings]
    if len(found) > 1:
        names = quoted([path.name for path in found])
        raise ValueError(f"{folder} holds {len(found)} lists, {names}: choose by --list, or --list {NONE}: class folders")
    if found:
        print(f"labels: {found[0]}")
    return found[0] if found else None


def _read_folders(folder: Path, notes: list[str]) -> Iterator[Row]:
    """Yield the pictures of class folders."""
    left_out = LeftOut(folder)
    try:
        classes = class_folders(folder, left_out)
    except ValueError as error:
        wanted = f"expected {folder}/<class>/<image>, or a list ({', '.join(LISTS)}; --list)"
        raise ValueError(f"{str(error).partition('; expected')[0]}; {wanted}") from None
    if {name.casefold() for name in classes} <= SPLIT.keys():
        if {*classes} <= {"train", "val", "test"}:
            raise ValueError(f"{folder} has the folders {quoted(list(classes))}: it has splits, and can be trained on as it is")
        yield from (Row(photo.name, photo.path, photo.label, photo.split, "") for photo in read_split_folders(folder, notes))
        return
    for name, class_folder in classes.items():
        images = list(images_below(os.fspath(folder / class_folder), left_out))
        if not images:
            notes.append(f"class {quoted([name])} has no image: left out")
        for image in images:
            yield Row(os.path.relpath(image, folder), Path(image), class_key(name), "", "")
    if text := str(left_out):
        notes.append(f"left out are {text}")
