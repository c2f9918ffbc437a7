"""A factorial-planes data set on disk, written and read: an image folder, and beside it the ground truth of its pictures.

<root>/{train,val,test}/<class>/<stem>.png     the pictures (or .jpg)
<root>/annotations/<split>.jsonl               one record a line: class, variants, z, file, boxes, key points, visible shares
<root>/parts/<split>/<class>/<stem>.png        part map, 8 bit: 0, or 1 + index of the visible part
<root>/amodal/<split>/<class>/<stem>.png       8 bit: bit i is set where part i is, hidden or not
<root>/masks/<split>/<class>/<stem>.png        the visible aeroplane, 0 or 255
<root>/planes.json                             how it was made

A stem is the seed z in hexadecimal: it is drawn before the class and does not depend on it.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datasets.planes.parts import PARTS
from datasets.planes.presets import Preset, class_name, get_preset
from datasets.planes.renderer import VERSION, counterfactual, render
from datasets.rendering import encode, plan_split
from util.atomic import new_folder
from util.processes import die_with_parent

Record = Mapping[str, Any]
TOLERANCE = 3  # grey levels by which another JPEG library may differ


def export(
    root: Path,
    preset: Preset,
    size: int,
    counts: dict[str, int],
    seed: int = 0,
    num_workers: int = 0,
    image_format: str = "png",
    progress: Callable[[], None] | None = None,
) -> bool:
    """Write the data set `root`, whole or not at all; return False when it exists, complete and with the same settings.

    Args:
        size: side of a picture in pixels.
        counts: pictures of each split, 0 for no split.
        seed, num_workers: the first decides every picture; the files do not depend on the number of processes.
        image_format, progress: one of `FORMATS`; called after every picture.

    Raises:
        ValueError: `root` is something else, or settings that cannot be met.
        OSError: a file cannot be written, or `root` appeared in the meantime.
    """
    classes = preset.classes
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}: it must not be negative")
    planned = [(split, *row) for split, count in counts.items() for row in plan_split(list(classes), split, count, seed)]
    slots = {slot: list(variants) for slot, variants in preset.slots.items()}
    description = {"name": root.name, "preset": preset.name, "version": VERSION, "seed": seed, "size": size}
    description |= {"format": image_format, "counts": counts, "slots": slots, "classes": classes}
    description |= {"parts": list(PARTS), "roundel_rate": preset.rate}
    if _is_complete(root, description):
        return False
    with new_folder(root) as draft:
        write = partial(write_picture, root=draft, preset=preset, size=size, image_format=image_format)
        lines: dict[str, list[str]] = {split: [] for split in counts}
        for record in _run(write, planned, num_workers):
            lines[record["split"]].append(json.dumps(record) + "\n")
            if progress:
                progress()
        (draft / "annotations").mkdir()
        for split, text in lines.items():
            (draft / "annotations" / f"{split}.jsonl").write_text("".join(text))
        (draft / "planes.json").write_text(json.dumps(description, indent=1) + "\n")
    return True


def write_picture(planned: tuple[str, int, str], root: Path, preset: Preset, size: int, image_format: str) -> dict[str, Any]:
    """Render a picture of a split, seed z and class, write it with its masks below `root`, and return its record."""
    split, z, name = planned
    roundel = preset.roundel_of(name, z)
    drawn = render(preset.classes[name], z, size, roundel=roundel)
    folder, stem = Path(split) / name, f"{z:012x}"
    file = folder / f"{stem}.{image_format}"
    write_image(root / file, drawn.image[..., ::-1])
    amodal = np.zeros(drawn.parts.shape, np.uint8)
    for part, mask in drawn.amodal.items():
        amodal |= mask.astype(np.uint8) << PARTS.index(part)
    for kind, image in (("parts", drawn.parts), ("amodal", amodal), ("masks", drawn.mask * np.uint8(255))):
        write_image(root / kind / folder / f"{stem}.png", image)
    record = drawn.record | {"file": file.as_posix(), "split": split}
    if roundel is not None:
        record["roundel_is_of_class"] = roundel == list(preset.classes).index(name)
    return record


def _is_complete(root: Path, description: dict[str, Any]) -> bool:
    """Return whether `root` is this very data set; False where there is nothing, a ValueError where it is something else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    advice = "give another --name, or remove it first"
    try:
        existing = json.loads((root / "planes.json").read_text())
    except (OSError, ValueError):
        existing = None
    if not isinstance(existing, dict):
        raise ValueError(f"{root} exists and is not a finished planes data set: {advice}")
    differing = [key for key in description if existing.get(key) != description[key]]
    if differing:
        key = differing[0]
        what = f" ({key} is {existing.get(key)}, not {description[key]})" if key not in ("classes", "slots") else ""
        raise ValueError(f"{root} holds a data set made with other settings{what}: {advice}")
    for split, count in description["counts"].items():
        pictures = sum(1 for _ in root.glob(f"{split}/*/*.{description['format']}"))
        if pictures != count:
            raise ValueError(f"{root} is incomplete ({split} has {pictures} of {count} pictures): {advice}")
    return True


def write_image(path: Path, image: np.ndarray) -> None:
    """Write a picture uint8 BGR [H, W, 3] or grey [H, W] in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image, path.suffix[1:]))


def _start_worker() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process stops the pool
    die_with_parent()


def _run(write: Callable[[Any], dict[str, Any]], planned: Sequence[Any], num_workers: int) -> Iterator[dict[str, Any]]:
    if num_workers <= 1:
        yield from map(write, planned)
        return
    # Unlike multiprocessing's Pool it does not wait for a process that was killed.
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        yield from pool.map(write, planned, chunksize=16)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class PlanesSplit:
    """The annotations of one split of a planes data set.

    `classes` are names in the order of the logits; `records` maps `<split>/<class>/<stem>.<format>` to a record.
    """

    root: Path
    split: str
    preset: Preset
    classes: tuple[str, ...]
    records: dict[str, Record]

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots in which classes differ."""
        return tuple(slot for slot, variants in self.preset.slots.items() if len(variants) > 1)

    def record(self, path: Path | str) -> Record:
        """Return the record of a picture; raises a ValueError unless it is one of the split's."""
        key = "/".join(Path(path).parts[-3:])
        if key not in self.records:
            raise ValueError(f"{path}: not in {self.root}/annotations/{self.split}.jsonl; remove it, or make the data set again")
        return self.records[key]

    def label(self, variants: Mapping[str, str | None]) -> int:
        """Return the index of the class with these variants."""
        return self.classes.index(class_name(variants))


def is_planes(root: Path) -> bool:
    """Return whether a data set was made by tools.make_planes."""
    return (root / "planes.json").is_file()


def open_planes(root: Path, split: str, classes: Sequence[str] | None = None) -> PlanesSplit:
    """Read the annotations of a split of a data set of tools.make_planes.

    Args:
        classes: the model's class names in the order of its logits; None for the data set's own.

    Raises:
        ValueError: a file is missing or damaged, was made by another version of the renderer, or the classes are others.
    """
    again = "make the data set again with tools.make_planes"
    description = _read_description(root / "planes.json", again)
    if description.get("version") != VERSION:
        raise ValueError(f"{root}/planes.json: renderer version {description.get('version')}, not {VERSION}: {again}")
    preset = get_preset(str(description.get("preset")))
    names = tuple(classes or preset.classes)
    if unshared := sorted(set(names) ^ set(preset.classes)):
        where = "the model lacks it" if unshared[0] in preset.classes else "the data set lacks it"
        raise ValueError(f"{root}: class '{unshared[0]}': {where}; model and data set must have the same classes")
    path = root / "annotations" / f"{split}.jsonl"
    try:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        by_file = {record["file"]: record for record in records}
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; {again}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: a line is no record; {again}") from None
    if not by_file:
        raise ValueError(f"{path}: the split {split} has no pictures; choose another or {again}")
    return PlanesSplit(root, split, preset, names, by_file)


def check_picture(split: PlanesSplit, record: Record) -> None:
    """Raise a ValueError unless a stored picture is what its record renders to, within `TOLERANCE` (as JPEG, if it is one).

    Its ground truth would be wrong otherwise.
    """
    from datasets.decode import decode_image  # imports torch, which rendering does not need

    path = split.root / record["file"]
    stored = decode_image(path).permute(1, 2, 0).numpy().astype(np.int16)  # [H, W, 3]
    drawn = counterfactual(record).image
    if path.suffix == ".jpg":
        encoded = np.frombuffer(encode(drawn[..., ::-1], "jpg"), np.uint8)
        drawn = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]
    if stored.shape != drawn.shape or np.abs(stored - drawn).max() > TOLERANCE:
        raise ValueError(f"{path}: is not what its record renders to: it was changed; make the data set again")


def _read_description(path: Path, again: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; expected the folder of a data set of tools.make_planes") from None
    except ValueError:
        raise ValueError(f"{path}: is not JSON; {again}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is no JSON object; {again}")
    return content
