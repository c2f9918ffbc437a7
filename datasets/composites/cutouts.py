"""Cut-outs: image files of one object each, with transparency around it; found, checked and read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from datasets.decode import open_image, orientation, turn_upright
from datasets.folders import SYSTEM, LeftOut, class_folders, images_below
from datasets.rendering import shrink
from datasets.scan import list_bad, map_files
from util.classes import class_key
from util.errors import ImageError
from util.printable import quoted

FAINT, HALF = 8, 128  # alpha, of 255, from which a pixel counts as seen, and as the object's
MIN_SIDE = 16  # pixels of the longer side of an object in its file
MIN_PIXELS = 16  # of an object in the smallest picture of it that may be drawn
FORM = "give a folder of class folders, one of files (each a class), or several folders or files (each a class)"


class Cutout(NamedTuple):
    """A file with an object: its name in messages and records, its path, and the object's class."""

    name: str
    path: Path
    label: str


def find_cutouts(words: Sequence[Path], notes: list[str]) -> list[Cutout]:
    """Return the cut-outs that the words of --cutouts name, sorted, at least one of each of two classes.

    Args:
        words: one folder, of class folders or of files that are each a class; or several folders and files, each a class.
        notes: is extended by what was left out.

    Raises:
        ValueError: a word names nothing, what it names is no cut-out, or there are fewer than two classes.
    """
    if missing := [str(word) for word in words if not word.exists()]:
        raise ValueError(f"--cutouts: {quoted(missing)}: no such file or folder; {FORM}")
    words = [word.absolute() for word in words]
    left_out = LeftOut(Path(os.path.commonpath(words)))
    found: list[Cutout] = []
    for label, folder, files in _classes(words, left_out):
        if any(class_key(label) == cutout.label for cutout in found):
            raise ValueError(f"--cutouts: two of them are the class {quoted([label])}: rename one, or put both into one folder")
        if not files:
            notes.append(f"class {quoted([label])} has no cut-out: left out")
        found += [Cutout(os.path.relpath(file, folder), Path(file), class_key(label)) for file in sorted(files)]
    if text := str(left_out):
        notes.append(f"left out are {text}")
    if len(labels := {cutout.label for cutout in found}) < 2:
        what = f"one class, {quoted(sorted(labels))}" if labels else "no cut-out" + f" (left out are {text})" * bool(text)
        raise ValueError(f"--cutouts {quoted([str(word) for word in words])}: {what}: at least two classes are needed; {FORM}")
    return found


def _classes(words: Sequence[Path], left_out: LeftOut) -> list[tuple[str, Path, list[str]]]:
    """Return the name of each class, the folder to which names of files are relative, and its files."""
    if len(words) > 1:
        below = [list(images_below(os.fspath(word), left_out)) if word.is_dir() else [os.fspath(word)] for word in words]
        names = [word.resolve().name if word.is_dir() else word.stem for word in words]
        return list(zip(names, [word.absolute().parent for word in words], below, strict=True))
    root = words[0]
    if not root.is_dir():
        raise ValueError(f"--cutouts {root}: is one file, one class: at least two are needed; {FORM}")
    entries = [entry for entry in root.iterdir() if not SYSTEM.fullmatch(entry.name)]
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders:
        return [(Path(file).stem, root, [file]) for file in sorted(images_below(os.fspath(root), left_out))]
    found = [
        (name, root, list(images_below(os.fspath(root / folder), left_out)))
        for name, folder in class_folders(root, left_out).items()
    ]
    if loose := left_out.names.get("in no class folder"):
        both = f"{len(loose)} images and {quoted([folder.name for folder in sorted(folders)])}"
        raise ValueError(
            f"--cutouts {root}: holds {both}, but files or folders are classes, not both; name them: --cutouts {root}/*.png"
        )
    return found


def usable_cutouts(found: Sequence[Cutout], smallest: float, partial_set: bool, workers: int, notes: list[str]) -> list[Cutout]:
    """Return the cut-outs that can be used: all, or with `partial_set` those that can, of which the others are noted.

    Args:
        found: the cut-outs.
        smallest: longer side, in pixels, of the smallest picture of an object that may be drawn.
        partial_set: leave bad ones out; otherwise they are an error.
        workers: threads that read files.
        notes: is extended by what was left out.

    Raises:
        ValueError: some cannot be used; or too few are left.
    """
    check = partial(_flaw, smallest=smallest)
    flaws = list(map_files(check, [cutout.path for cutout in found], workers, 4, "reading cut-outs"))
    bad = [flaw for flaw in flaws if flaw]
    if not bad:
        return list(found)
    if not partial_set:
        advice = "replace or remove them, or give --partial to leave them out"
        raise ValueError(list_bad(bad, len(found), f"cut-outs cannot be used ({advice})"))
    notes.append(f"{len(bad)} of {len(found)} cut-outs cannot be used, and are left out; the first: {bad[0]}")
    good = [cutout for cutout, flaw in zip(found, flaws, strict=True) if not flaw]
    if lost := sorted({cutout.label for cutout in found} - {cutout.label for cutout in good}):
        notes.append(f"{len(lost)} classes are lost with them: {quoted(lost)}")
    if len({cutout.label for cutout in good}) < 2:
        raise ValueError(f"--cutouts: fewer than two classes have a cut-out that can be used; the first that cannot: {bad[0]}")
    return good


def _flaw(path: str | os.PathLike[str], smallest: float) -> str:
    """Return why a cut-out cannot be used; '' if it can."""
    try:
        alpha = read_cutout(path)[..., 3]
    except ImageError as error:
        return str(error)
    down, right = max(alpha.shape) - np.array(alpha.shape)
    alpha = shrink(np.pad(alpha, ((0, down), (0, right))), smallest)  # as a square, no side is rounded up to a pixel
    if np.count_nonzero(alpha >= HALF) < MIN_PIXELS:
        return f"{path}: so thin that, {smallest:.0f} pixels long, nothing is left of it; give a larger --size or --scale"
    return ""


def read_cutout(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a cut-out, upright and cut to what is not transparent: uint8 RGBA `[h, w, 4]`.

    Raises:
        ImageError: the file cannot be read, has no transparency, is transparent or opaque everywhere, or its object is too small.
    """
    with open_image(path) as image:
        if "A" not in image.getbands() and "transparency" not in image.info:
            raise ImageError(f"{path}: has no transparency; expected an object cut out of its background")
        turned = orientation(image)
        pixels = turn_upright(np.array(image.convert("RGBA")), turned)
    solid = (pixels[..., 3] >= HALF).astype(np.uint8)
    if not solid.any():
        raise ImageError(f"{path}: is transparent everywhere")
    if solid.all():
        raise ImageError(f"{path}: is opaque everywhere; expected an object cut out of its background")
    width, height = cv2.boundingRect(solid)[2:]
    if max(width, height) < MIN_SIDE:
        raise ImageError(f"{path}: its object has {width} x {height} pixels; expected {MIN_SIDE} or more on the longer side")
    x, y, w, h = cv2.boundingRect((pixels[..., 3] >= FAINT).astype(np.uint8))
    return pixels[y : y + h, x : x + w]
