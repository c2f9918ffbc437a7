"""Factorial planes on disk: an image folder, and beside it everything that is known about its pictures.

<root>/{train,val,test}/<class>/<stem>.png     the pictures (or .jpg)
<root>/annotations/<split>.jsonl               one record a line: class, variants, z, file, boxes, key points, visible shares
<root>/parts/<split>/<class>/<stem>.png        part map, 8 bit: 0, or 1 + index of the visible part
<root>/amodal/<split>/<class>/<stem>.png       8 bit: bit i is set where part i is, hidden or not
<root>/masks/<split>/<class>/<stem>.png        the visible aeroplane, 0 or 255
<root>/planes.json                             how it was made; what is there only when all of it is there

A stem is the seed z in hexadecimal: it is drawn before the class and says nothing about it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from datasets.planes.parts import PARTS
from datasets.planes.presets import Preset, get_preset
from datasets.planes.renderer import MIN_SIZE, VERSION, render

SPLITS = ("train", "val", "test")
FORMATS = ("png", "jpg")
JPG_QUALITY = 95


class Job(NamedTuple):
    """One picture to be made."""

    root: str
    split: str
    class_name: str
    z: int
    preset: str
    size: int
    format: str


def plan_split(preset: Preset, split: str, count: int, seed: int) -> list[tuple[int, str]]:
    """(z, class) of every picture of a split: seeds without repetition, classes equally often to within one, in no order."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    names = list(preset.classes)
    seeds: dict[int, None] = {}
    while len(seeds) < count:  # the split is in the lowest digits, so that no two splits share a seed
        seeds[int(rng.integers(2**48 // 3)) * 3 + SPLITS.index(split)] = None
    turn = rng.permutation(len(names))
    labels = rng.permutation([int(turn[i % len(names)]) for i in range(count)])
    return [(z, names[label]) for z, label in zip(seeds, labels, strict=True)]


def _write(path: Path, image: np.ndarray, options: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image, options or [])[1].tobytes())


def write_picture(job: Job) -> dict[str, Any]:
    """Render one job into its files; returns its record."""
    preset = get_preset(job.preset)
    mark = preset.roundel_of(job.class_name, job.z)
    drawn = render(preset.classes[job.class_name], job.z, job.size, roundel=mark)
    folder, stem, root = Path(job.split) / job.class_name, f"{job.z:012x}", Path(job.root)
    file = folder / f"{stem}.{job.format}"
    options = [cv2.IMWRITE_JPEG_QUALITY, JPG_QUALITY] if job.format == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    _write(root / file, drawn.image[..., ::-1], options)
    amodal = np.zeros(drawn.parts.shape, np.uint8)
    for part, mask in drawn.amodal.items():
        amodal |= mask.astype(np.uint8) << PARTS.index(part)
    name = f"{stem}.png"
    _write(root / "parts" / folder / name, drawn.parts)
    _write(root / "amodal" / folder / name, amodal)
    _write(root / "masks" / folder / name, drawn.mask.astype(np.uint8) * 255)
    record = drawn.record | {"file": file.as_posix(), "split": job.split}
    if mark is not None:
        record["roundel_is_of_class"] = mark == list(preset.classes).index(job.class_name)
    return record


def describe(preset: Preset, name: str, size: int, counts: dict[str, int], seed: int, image_format: str) -> dict[str, Any]:
    """The content of planes.json."""
    return {
        "name": name,
        "preset": preset.name,
        "version": VERSION,
        "seed": seed,
        "size": size,
        "format": image_format,
        "counts": counts,
        "slots": {slot: list(variants) for slot, variants in preset.slots.items()},
        "classes": preset.classes,
        "parts": list(PARTS),
        "roundel_rate": preset.rate,
    }


def already_there(root: Path, description: dict[str, Any]) -> bool:
    """True: `root` is this very data set, whole. False: there is nothing. ValueError: there is something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    advice = "give another --name, or remove it first"
    try:
        found = json.loads((root / "planes.json").read_text())
    except (OSError, ValueError):
        raise ValueError(f"{root} exists and is not a finished planes data set: {advice}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{root} exists and is not a finished planes data set: {advice}")
    differing = [key for key in description if found.get(key) != description[key]]
    if differing:
        key = differing[0]
        what = f" ({key} is {found.get(key)}, not {description[key]})" if key not in ("classes", "slots") else ""
        raise ValueError(f"{root} holds a data set made with other settings{what}: {advice}")
    for split, count in description["counts"].items():
        held = Counter(path.parent.parent.name for path in root.glob(f"{split}/*/*.{description['format']}"))[split]
        if held != count:
            raise ValueError(f"{root} is incomplete ({split} has {held} of {count} pictures): {advice}")
    return True


def _start_worker() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool


def _run(jobs: list[Job], num_workers: int) -> Iterator[dict[str, Any]]:
    if num_workers <= 1:
        yield from map(write_picture, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(num_workers, initializer=_start_worker) as pool:
        yield from pool.imap(write_picture, jobs, chunksize=16)


def export(
    root: Path,
    preset: Preset,
    size: int,
    counts: dict[str, int],
    seed: int = 0,
    num_workers: int = 0,
    image_format: str = "png",
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Make the data set `root`. Returns False when it is already there, whole and with the same settings.

    counts: pictures of each split, 0 for no split. The files do not depend on num_workers. They are written to a hidden
    folder beside `root` that takes its name at the end, so that an interrupted run leaves nothing that looks finished.
    Raises ValueError when `root` is something else, or for settings that cannot be met.
    """
    if size < MIN_SIZE:
        raise ValueError(f"size is {size}: it must be at least {MIN_SIZE} pixels")
    if image_format not in FORMATS:
        raise ValueError(f"format is '{image_format}': choose from {', '.join(FORMATS)}")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}: it must not be negative")
    if seed < 0:
        raise ValueError(f"seed is {seed}: it must not be negative")
    for split, count in counts.items():
        if count < 0 or (split == "train" and count < len(preset.classes)):
            least = len(preset.classes) if split == "train" else 0
            raise ValueError(
                f"{split} is {count}: it must be at least {least}, preset {preset.name} has {len(preset.classes)} classes"
            )
    description = describe(preset, root.name, size, counts, seed, image_format)
    if already_there(root, description):
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = root.parent / f".{root.name}.{os.getpid()}.unfinished"
    draft.mkdir()
    try:
        plans = {split: plan_split(preset, split, count, seed) for split, count in counts.items()}
        jobs = [
            Job(str(draft), split, name, z, preset.name, size, image_format) for split, plan in plans.items() for z, name in plan
        ]
        lines: dict[str, list[str]] = {split: [] for split in counts}
        for done, record in enumerate(_run(jobs, num_workers), start=1):
            lines[record["split"]].append(json.dumps(record) + "\n")
            if progress:
                progress(done, len(jobs))
        (draft / "annotations").mkdir()
        for split, text in lines.items():
            (draft / "annotations" / f"{split}.jsonl").write_text("".join(text))
        (draft / "planes.json").write_text(json.dumps(description, indent=1) + "\n")
        try:
            os.rename(draft, root)
        except OSError:
            raise ValueError(f"{root} appeared while it was being made: nothing of it was overwritten") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return True
