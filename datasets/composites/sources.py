"""What composites are made of: cut-outs of each class and photographs, divided into those of train and those of val."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.composites.compose import stream
from datasets.composites.cutouts import Cutout, find_cutouts, usable_cutouts
from datasets.folders import LeftOut, images_below
from datasets.near_duplicates import measure_looks, near_duplicates
from datasets.prepare.names import class_folders_of
from datasets.prepare.splits import join_groups, split_by_group
from datasets.scan import verify_images
from util.printable import quoted

DUPLICATE_BITS = 4  # of 63, that the hashes of near-duplicates differ by at most


class Sources(NamedTuple):
    """What pictures are composed of, for each split: cut-outs by class, and photographs; folders of classes; names of files."""

    cutouts: dict[str, dict[str, list[Cutout]]]
    photographs: dict[str, list[Path]]
    folders: dict[str, str]
    names: dict[Path, str]

    def choose(self, split: str, label: str, z: int, place: int = 0) -> Path:
        """Return the cut-out of a class in a picture of seed z, of the object at `place` in it."""
        cutouts = self.cutouts[split][label]
        return cutouts[int(stream(z, "cutout").random(2)[place] * len(cutouts))].path


def read_sources(
    cutouts: Sequence[Path], backgrounds: Path | None, smallest: float, partial_set: bool, share: float, seed: int, workers: int
) -> tuple[Sources, list[str]]:
    """Find and check the files, and divide them into train and val; also return what there is to say about them.

    Args:
        cutouts, backgrounds: what the flags of these names say; no `backgrounds`: they are rendered.
        smallest: pixels of the longer side of an object in the smallest picture of it that may be drawn.
        partial_set: leave out cut-outs that cannot be used.
        share: of the cut-outs of a class, and of the photographs, that only val has.
        seed, workers: of the division, and the threads that read files.

    Raises:
        ValueError: a file cannot be used, or there are too few.
    """
    notes: list[str] = []
    found = usable_cutouts(find_cutouts(cutouts, notes), smallest, partial_set, workers, notes)
    folders = class_folders_of(cutout.label for cutout in found)
    splits = _divide([c.path for c in found], [c.label for c in found], share, seed, "cut-outs", notes)
    by_class = {
        split: {label: [found[i] for i in members if found[i].label == label] for label in folders}
        for split, members in splits.items()
    }
    photographs: dict[str, list[Path]] = {split: [] for split in by_class}
    names = {cutout.path: cutout.name for cutout in found}
    if backgrounds is not None:
        paths = find_photographs(backgrounds, notes)
        verify_images(paths, workers=workers)
        divided = _divide(paths, ["photographs"] * len(paths), share, seed, "backgrounds", notes)
        photographs = {split: [paths[i] for i in members] for split, members in divided.items()}
        names |= {path: os.path.relpath(path, backgrounds) for path in paths}
    return Sources(by_class, photographs, folders, names), notes


def find_photographs(folder: Path, notes: list[str]) -> list[Path]:
    """Return all images below the folder of --backgrounds, and note what is left out; a ValueError without any."""
    left_out = LeftOut(folder)
    if not folder.is_dir():
        raise ValueError(f"--backgrounds {folder}: no such folder; give a folder of photographs, or none to render backgrounds")
    paths = [Path(path) for path in sorted(images_below(str(folder), left_out))]
    text = str(left_out)
    if not paths:
        why = f" (left out are {text})" if text else ""
        raise ValueError(f"--backgrounds {folder}: no image in it{why}; give photographs, or none to render backgrounds")
    if text:
        notes.append(f"backgrounds: left out are {text}")
    return paths


def _divide(
    paths: Sequence[Path], labels: Sequence[str], share: float, seed: int, what: str, notes: list[str]
) -> dict[str, list[int]]:
    """Return the indices of the files of train and of val, near-duplicates together.

    Where a label has too few files, val has those of train, which is noted.
    """
    duplicates = near_duplicates(measure_looks(paths), DUPLICATE_BITS)
    groups = join_groups(range(len(paths)), duplicates)
    splits = split_by_group(labels, groups, {"train": 1 - share, "val": share}, seed)
    if duplicates and share:
        named = quoted([f"{paths[i].name} = {paths[j].name}" for i, j in duplicates])
        notes.append(f"{len(duplicates)} pairs of {what} are near-duplicates, and kept in one split: {named}")
    lacking = set(labels) - {label for label, split in zip(labels, splits, strict=True) if split == "val"}
    if lacking and len(set(labels)) > 1:
        which = "every class" if lacking == set(labels) else f"{len(lacking)} of {len(set(labels))} classes"
        notes.append(f"val shows the same {what} as train of {which}, for want of others: {quoted(sorted(lacking))}")
    elif lacking:
        notes.append(f"val has the same {what} as train, for want of others")
    indices = range(len(paths))
    val = [i for i in indices if splits[i] == "val" or labels[i] in lacking]
    return {"train": [i for i in indices if splits[i] == "train"], "val": val}
