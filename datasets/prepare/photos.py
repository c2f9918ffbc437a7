"""From a list of photographs with labels and splits to a data set: checks, masks, dataset.json; shared by all sources."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from datasets.folders import SPLITS
from datasets.near_duplicates import identical_files
from datasets.prepare.archives import Source
from datasets.prepare.broken import find_usable
from datasets.prepare.cutting import Area, Box, cut_picture, lies_in, mask_png, square_around
from datasets.prepare.names import class_folders_of, picture_names
from datasets.prepare.selection import select
from datasets.prepare.writing import Entry, is_prepared, write_dataset
from util.printable import quoted

if TYPE_CHECKING:
    from util.distributed import Ranks

Official: TypeAlias = "tuple[int | None, int]"  # images (None: the site does not say) and classes


class Photo(NamedTuple):
    """A photograph of the source.

    Attributes:
        name: its path in the source, as listed.
        path: the file.
        label: the name of its class, as the source writes it.
        split: train, val or test.
        box: the object's box in the stored picture.
        mask: reads the object's mask, bool `[H, W]` of the stored picture; None: from the box.
        parts: (x, y) of each visible part.
    """

    name: str
    path: Path
    label: str
    split: str
    box: Box | None = None
    mask: Callable[[], np.ndarray] | None = None
    parts: Mapping[str, tuple[float, float]] | None = None


class About(NamedTuple):
    """A data set: name, address, the site's line on its licence, how it is split, and the official numbers of each split."""

    title: str
    url: str
    licence: str
    split: str
    official: Mapping[str, Official] = {}


def prepare_photos(
    target: Path,
    ranks: Ranks,
    about: About,
    source: Path,
    read: Callable[[Source], Sequence[Photo]],
    settings: Mapping[str, Any],
    banner: int = 0,
) -> None:
    """Write the photographs that `read` lists as the image folder `target`; one that is there already is left as it is.

    Args:
        target: the folder.
        ranks: the processes that share the files.
        about: the data set.
        source: folder or archive for `read`.
        read: returns the photographs.
        settings: flags (JSON values) that make another data set of the source; those of `selection.FLAGS` among them.
        banner: rows to cut off at the bottom of each picture.

    Raises:
        ValueError: as `Source`, `read`, `is_prepared` and `check_photos`.
    """
    work = target.with_name(f".{target.name}.unpacked")
    if is_prepared(target, settings):
        if ranks.main:
            shutil.rmtree(work, ignore_errors=True)  # of a run that was interrupted at its very end
        return
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"--out: {target} would lie in --source, and become a part of it: choose a folder elsewhere")
    with Source(source, work, ranks) as files:
        photos, remarks = check_photos(read(files), about.official, bool(settings["partial"]))
        if about.official:
            chosen = select([photo.label for photo in photos], [photo.split for photo in photos], settings, remarks)
            photos = [photos[index] for index in chosen]
        if settings.get("square_crop") and all(photo.box is None for photo in photos):
            raise ValueError("--square_crop boxes: no picture has a box in this source")
        photos = _check_boxes(photos, banner, remarks)
        areas = _squares(photos, banner, remarks) if settings.get("square_crop") else {}
        notes = [*files.notes, *remarks]
        for note in notes:
            print(note)
        folders = class_folders_of(photo.label for photo in photos)
        named = list(_named(photos, folders))
        record = {
            "title": about.title,
            "url": about.url,
            "licence": about.licence,
            "split": about.split,
            "source": str(source.resolve()),
            "settings": dict(settings),
            "images": _counts(photos),
            "class_names": {folder: label for label, folder in folders.items() if folder != label},
            "notes": notes,
        }
        entries = list(_entries(named, banner, areas))
        write_dataset(target, entries, ranks, record, files.temporary)


def check_once(listed: Sequence[Photo]) -> list[Photo]:
    """Return each photograph once; a ValueError for one with two labels or splits."""
    known: dict[Path, Photo] = {}
    for photo in listed:
        other = known.setdefault(photo.path, photo)
        for what, first, second in (("split", other.split, photo.split), ("label", other.label, photo.label)):
            if first != second:
                both = f"{quoted([first])} and {quoted([second])}"
                raise ValueError(f"{quoted([photo.name])} is listed with the {what}s {both}: keep one of them")
    return list(known.values())


def check_photos(listed: Sequence[Photo], official: Mapping[str, Official], partial: bool) -> tuple[list[Photo], list[str]]:
    """Return the photographs that are used, each once, and what there is to say about the others.

    Raises:
        ValueError: a picture has two labels or splits; a class has no training picture; without `partial`: a file is missing
            or (in a set with official numbers) broken, or the numbers of images and classes are not the official ones.
    """
    photos = check_once(listed)
    notes = []
    if twice := len(listed) - len(photos):
        notes.append(f"{twice} of {len(listed)} pictures are listed again: taken once")
    if missing := [photo.name for photo in photos if not os.path.isfile(photo.path)]:
        note = f"{len(missing)} of {len(photos)} listed pictures are missing: {quoted(missing)}"
        if not partial:
            raise ValueError(f"{note}; copy them, or give --partial to take what is there")
        notes.append(note)
        photos = [photo for photo in photos if os.path.isfile(photo.path)]
    if official:
        paths = [photo.path for photo in photos]
        photos = [photos[index] for index in find_usable([photo.name for photo in photos], paths, partial, notes)]
    trained = {photo.label for photo in photos if photo.split == "train"}
    if unknown := sorted({photo.label for photo in photos} - trained):
        note = f"{len(unknown)} of {len(trained) + len(unknown)} classes have no training picture: {quoted(unknown)}"
        if not partial:
            raise ValueError(f"{note}; give them some, or --partial to leave these classes out")
        notes.append(f"{note}; left out")
        photos = [photo for photo in photos if photo.label in trained]
    if not photos:
        raise ValueError("there is no training picture: nothing to prepare")
    if len(classes := {photo.label for photo in photos}) == 1:
        notes.append(f"the data set has a single class, {quoted(sorted(classes))}: a classifier needs two")
    for split, counts in official.items():
        found = len(chosen := [photo.label for photo in photos if photo.split == split]), len(set(chosen))
        images, number = counts[0] or found[0], counts[1]
        if found != (images, number):
            note = f"{split}: {found[0]:,} images of {found[1]:,} classes, the official set has {images:,} of {number:,}"
            if not partial:
                raise ValueError(f"{note}; get the whole set, or give --partial to take what is there")
            notes.append(note)
    if official and (pairs := _identical_across_splits(photos)):
        named = quoted([f"{one.name} ({one.split}) = {other.name} ({other.split})" for one, other in pairs])
        notes.append(
            f"{len(pairs)} of {len(photos)} pictures are the same file in another split: {named}; kept: the splits are official"
        )
    return photos, notes


def _identical_across_splits(photos: Sequence[Photo]) -> list[tuple[Photo, Photo]]:
    """Return the pictures whose bytes are those of one in another split, and that one."""
    pairs = []
    for group in identical_files([photo.path for photo in photos]):
        first, *others = (photos[index] for index in group)
        pairs += [(first, other) for other in others if other.split != first.split]
    return pairs


def _check_boxes(photos: Sequence[Photo], banner: int, notes: list[str]) -> list[Photo]:
    """Return the photographs without the boxes that are empty or outside their picture, which are noted."""
    from datasets.scan import map_files  # with torch, which the command line does not wait for

    boxed = [(photo.path, photo.box, photo.name) for photo in photos if photo.box]
    inside = map_files(lambda facts: lies_in(facts[0], facts[1], banner), boxed, 4, 64, "checking boxes")
    if not (wrong := {path: name for (path, _, name), good in zip(boxed, inside, strict=True) if not good}):
        return list(photos)
    notes.append(
        f"{len(wrong)} of {len(boxed)} boxes are empty or outside their picture: {quoted(list(wrong.values()))}; "
        "these pictures stay whole, without the box and its mask"
    )
    return [photo._replace(box=None) if photo.path in wrong else photo for photo in photos]


def _squares(photos: Sequence[Photo], banner: int, notes: list[str]) -> dict[Path, Area]:
    """Return the square around the box of each picture that has one, and note how many there are."""
    areas = {photo.path: square_around(photo.path, photo.box, banner) for photo in photos if photo.box}
    narrow = [photo.name for photo in photos if (area := areas.get(photo.path)) and area[2] - area[0] != area[3] - area[1]]
    notes.append(f"{len(areas) - len(narrow):,} of {len(photos):,} pictures are cut to the square around their box")
    if narrow:
        notes.append(
            f"{len(narrow):,} of {len(photos):,} pictures are smaller than the square around their box, and are cut to what they "
            f"have of it, no square: {quoted(narrow)}"
        )
    return areas


def _counts(photos: Sequence[Photo]) -> dict[str, dict[str, int]]:
    images = Counter(photo.split for photo in photos)
    classes = Counter(split for split, _ in {(photo.split, photo.label) for photo in photos})
    return {split: {"images": images[split], "classes": classes[split]} for split in SPLITS if images[split]}


def _named(photos: Sequence[Photo], folders: Mapping[str, str]) -> Iterator[tuple[str, Photo]]:
    """Yield `<split>/<class>/<file>` and its photograph."""
    groups: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        groups[f"{photo.split}/{folders[photo.label]}"].append(photo)
    for folder, group in groups.items():
        for name, photo in zip(picture_names([photo.name for photo in group]), group, strict=True):
            yield f"{folder}/{name}", photo


def _entries(named: Sequence[tuple[str, Photo]], banner: int, areas: Mapping[Path, Area]) -> Iterator[Entry]:
    """Yield pictures, masks and annotations.json (boxes and parts in pixels of the pictures, before EXIF turns them)."""
    annotations = {}
    for name, photo in named:
        area = areas.get(photo.path)
        yield name, partial(cut_picture, photo.path, banner, area) if banner or area else photo.path
        if photo.mask or photo.box:
            yield f"masks/{name.rpartition('.')[0]}.png", partial(mask_png, photo.path, photo.mask, photo.box, banner, area)
        left, top, *_ = area or (0, 0)
        facts: dict[str, Any] = {}
        if photo.box:
            facts["box"] = [edge - start for edge, start in zip(photo.box, (left, top, left, top), strict=True)]
        if photo.parts:
            facts["parts"] = {part: (x - left, y - top) for part, (x, y) in photo.parts.items()}
        if facts:
            annotations[name] = facts
    if annotations:
        rows = (f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(facts)}" for name, facts in annotations.items())
        text = "{\n" + ",\n".join(rows) + "\n}\n"
        yield "annotations.json", text.encode
