"""WebDataset: tar archives, called shards, whose files of one key are a sample: key.jpg with key.cls, key.json or key.txt."""

from __future__ import annotations

import glob
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.folders import IMAGE_EXTENSIONS
from datasets.prepare.archives import Source, file_names
from datasets.prepare.photo_lists import COLUMNS, Row, refuse
from datasets.prepare.split_folders import splits_in_names
from datasets.prepare.unsplit import pad_numbers
from util.classes import class_key
from util.errors import first_line
from util.printable import quoted

NAME = "WebDataset shards"
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST = 10**5  # names of a pattern
CLASS_NAMES = ("class_name", "classname", "label_name")  # keys of .json that name the number in .cls


def recognise(folder: Path) -> bool:
    """Return whether a folder holds shards, or the files of one, and no folders."""
    names = [path.name for path in folder.iterdir()]
    return any(name.endswith((".tar", ".cls")) for name in names) and not any(path.is_dir() for path in folder.iterdir())


def expand(pattern: str) -> list[Path]:
    """Return the shards that a pattern names.

    Args:
        pattern: a folder of tar archives, or names with braces ({000..099}, {a,b}) and wildcards.

    Raises:
        ValueError: one of the names does not exist, a wildcard fits nothing, or there are too many names.
    """
    if Path(pattern).is_dir():
        found = sorted(path for path in Path(pattern).iterdir() if path.name.endswith((".tar", ".tar.gz", ".tgz")))
        missing = [] if found else [f"{pattern}/*.tar"]
    else:
        found, missing = [], []
        for name in _without_braces(pattern):
            paths = [Path(path) for path in sorted(glob.glob(name))] if glob.has_magic(name) else [Path(name)]
            found += paths
            missing += [] if paths and all(path.is_file() for path in paths) else [name]
    if missing:
        wanted = "expected a folder, or names such as 'shard-{000..099}.tar' or '*.tar'"
        raise ValueError(f"--source wds:{pattern}: there is no {quoted(missing)}; {wanted}")
    return found


def _without_braces(pattern: str) -> list[str]:
    """Return the names that a pattern with braces stands for."""
    names = [pattern]
    while any(BRACES.search(name) for name in names):
        longer = [_alternatives(name) for name in names]
        names = list(itertools.islice(itertools.chain.from_iterable(longer), MOST + 1))
        if len(names) > MOST:
            raise ValueError(f"--source wds:{pattern}: stands for more than {MOST:,} names: give a smaller range")
    return names


def _alternatives(name: str) -> Iterator[str]:
    braces = BRACES.search(name)
    if not braces:
        yield name
        return
    limits = RANGE.fullmatch(braces[1])
    choices: Iterator[str] = iter(braces[1].split(","))
    if limits:
        choices = (f"{number:0{len(limits[1])}}" for number in range(int(limits[1]), int(limits[2]) + 1))
    for choice in choices:
        yield f"{name[: braces.start()]}{choice}{name[braces.end() :]}"


def read(files: Source, folder: Path, flags: Mapping[str, Any], shards: Sequence[Path] = ()) -> list[Row]:
    """Return the samples of shards (default: those of a folder, or its files) that hold a picture.

    Raises:
        ValueError: a shard is damaged, or holds a name twice; a sample has no label, several pictures, or JSON that is none.
    """
    shards = shards or sorted(path for path in folder.iterdir() if path.name.endswith(".tar"))
    places = [files.unpacked(shard, once=True) for shard in shards] or [folder]
    names = [shard.name for shard in shards] or [""]
    rows: list[Row] = []
    wrong: list[str] = []
    without = 0
    for place, name, split in zip(places, names, splits_in_names(names), strict=True):
        for key, parts in _samples(place).items():
            pictures = [path for ending, path in parts.items() if f".{ending.lower()}" in IMAGE_EXTENSIONS]
            if not pictures:
                without += 1
                continue
            try:
                label, group = _label(parts, flags)
                if len(pictures) > 1:
                    raise ValueError(f"{len(pictures)} pictures: {quoted([path.name for path in pictures])}")
            except (ValueError, RecursionError) as error:
                wrong.append(f"{name} {key}: {first_line(error)}")
            else:
                picture = pictures[0]
                rows.append(Row(f"{name.partition('.')[0]}/{picture.relative_to(place)}", picture, label, split, group))
    if without:
        files.notes.append(f"{without} samples without a picture are left out")
    refuse(folder, wrong, len(wrong) + len(rows), files.notes if flags["partial"] else None)
    if not rows:
        raise ValueError(f"{folder}: no sample has a picture; expected key.jpg beside key.cls, key.json or key.txt")
    return pad_numbers(rows)


def _samples(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the files of each key by their ending: what follows the first dot of the name."""
    samples: dict[str, dict[str, Path]] = defaultdict(dict)
    for name in file_names(folder):
        parent, slash, base = name.rpartition("/")
        key, _, ending = base.partition(".")
        samples[f"{parent}{slash}{key}"][ending] = folder / name
    return samples


def _label(parts: Mapping[str, Path], flags: Mapping[str, Any]) -> tuple[str, str]:
    """Return label and group of a sample; a ValueError says what is wrong with it."""
    facts = json.loads(parts["json"].read_bytes()) if "json" in parts else {}
    if not isinstance(facts, dict):
        raise ValueError("its .json is no object")
    values = {str(key): str(value) for key, value in facts.items() if isinstance(value, (str, int)) and str(value).strip()}
    groups = [flags["group"]] if flags["group"] else COLUMNS["group"].split()
    group = next((values[key] for key in groups if key in values), "")
    if flags["label"]:
        found = [values.get(flags["label"], "")]
    else:
        texts = [parts[ending].read_text(encoding="utf-8") if ending in parts else "" for ending in ("cls", "txt")]
        known = [values.get(key, "") for key in (*CLASS_NAMES, *COLUMNS["label"].split())]
        number = texts[0].strip().isdecimal()
        found = [*(known[: len(CLASS_NAMES)] if number else ()), texts[0], *known, texts[1]]
    label = next((class_key(text) for text in found if class_key(text)), "")
    if not label:
        raise ValueError(f"no label {flags['label']!r} in its .json" if flags["label"] else "no label")
    return label, group
