"""Checking a data set: its files, sizes, kinds of pixels, classes and duplicates, as one table of JSON values."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from datasets.decode import Finding, check_image, current_decoding, image_size, open_image
from datasets.folders import SPLITS
from datasets.inventory import Inventory
from datasets.leaks import Leaks, Pair, find_leaks
from datasets.near_duplicates import identical_files, look_of, stack_looks
from datasets.pixels import is_deep_grey, raw_mode
from datasets.scan import describe_findings, map_files
from util.printable import printable, quoted

CHANNELS = {
    "1": "black and white", "L": "grey", "LA": "grey and opacity", "P": "palette", "PA": "palette and opacity", "RGB": "colour",
    "RGBA": "colour and opacity", "CMYK": "CMYK",
}  # fmt: skip
BINS = 16  # of a distribution, of equal ratio
QUANTILES = {"min": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "max": 1.0}
EXTREMES = 4  # pictures at each end of a distribution
FLAT = 1  # levels that the colours of a picture of one colour differ by
UNBALANCED = 10  # times as many pictures of one class as of another


class Facts(NamedTuple):
    """What is known of a picture: height and width, kind of its file, what is odd about it, and its looks."""

    height: int
    width: int
    kind: str
    finding: Finding
    look: tuple[np.ndarray, np.ndarray]


def inspect(path: str | os.PathLike[str]) -> Facts | str:
    """Decode a picture as `check_image` does; return its facts, or why it cannot be used."""
    try:
        finding = check_image(path)
        height, width = image_size(path)
        with open_image(path) as image:
            deep = ";16" in raw_mode(image) or is_deep_grey(image)
            channels = "grey" if is_deep_grey(image) else CHANNELS.get(image.mode, image.mode)
            kind = f"{image.format}, {channels}{', 16 bits' if deep else ''}"
        return Facts(height, width, kind, finding, look_of(path))
    except ValueError as error:
        return str(error).removeprefix(f"{printable(os.fspath(path))}: ")


def check_dataset(inventory: Inventory, duplicate_bits: int, workers: int) -> dict[str, Any]:
    """Decode all pictures in `workers` threads and compare them.

    Args:
        inventory: the data set.
        duplicate_bits: bits that the hashes of near-duplicates differ by at most; -1: they are not looked for.
        workers: number of threads.

    Returns:
        The content of check.json; files are named by their paths below the data set's folder.
    """
    results = list(map_files(inspect, inventory.paths, workers, 16, "checking pictures"))
    usable = [index for index, result in enumerate(results) if isinstance(result, Facts)]
    facts = [result for result in results if isinstance(result, Facts)]
    files = [inventory.file(index) for index in range(len(inventory))]
    names = [files[index] for index in usable]
    splits, labels = (np.array(column, dtype=np.int64)[usable] for column in (inventory.split_of, inventory.label_of))
    identical = identical_files([inventory.paths[index] for index in usable])
    looks = stack_looks([each.look for each in facts])
    leaks = find_leaks(looks, duplicate_bits, splits, labels, identical) if duplicate_bits >= 0 else Leaks([], [], [])
    flat = np.ptp(looks.colours.reshape(-1, 64, 3).astype(np.int16), axis=1).max(1, initial=0) <= FLAT
    unusable = [{"file": file, "reason": result} for file, result in zip(files, results, strict=True) if isinstance(result, str)]
    findings = [result.finding if isinstance(result, Facts) else result for result in results]

    def pairs(found: Sequence[Pair]) -> list[dict[str, Any]]:
        return [{"file": names[pair.picture], "other": names[pair.other], "bits": pair.bits} for pair in found]

    return {
        "dataset": os.fspath(inventory.root),
        "splits": inventory.splits,
        "images": len(inventory),
        "bytes": sum(inventory.paths[index].stat().st_size for index in usable),
        "classes": [{"name": name, "images": row} for name, row in zip(inventory.classes, inventory.counts(), strict=True)],
        "layout": inventory.faults,
        "unusable": unusable,
        "left_out": inventory.left_out,
        "odd": list(describe_findings(files, findings, current_decoding().bit_depth)),
        "flat": [name for name, is_flat in zip(names, flat, strict=True) if is_flat],
        "kinds": dict(Counter(each.kind for each in facts).most_common()),
        "sizes": _sizes(facts, names) if facts else None,
        "identical": [_identical(group, names, splits, labels) for group in identical],
        "duplicate_bits": duplicate_bits,
        "near_across": pairs(leaks.across),
        "near_classes": pairs(leaks.labels),
        "near_groups": [[names[index] for index in group] for group in leaks.within],
        "suspects": None,
        "scored": 0,
    }


def _identical(group: Sequence[int], names: Sequence[str], splits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    chosen = list(group)
    return {
        "files": [names[index] for index in chosen],
        "splits": len(set(splits[chosen].tolist())),
        "classes": len(set(labels[chosen].tolist())),
    }


def _sizes(facts: Sequence[Facts], names: Sequence[str]) -> dict[str, Any]:
    """Return distributions of short side and aspect ratio, the most common size, and the pictures at the ends."""
    height, width = (np.array([each[place] for each in facts]) for place in (0, 1))
    ratio, area = width / height, height * width
    sizes = Counter(zip(height.tolist(), width.tolist(), strict=True))
    (common, count), *others = sizes.most_common(2)
    ends = {"smallest": area, "largest": -area, "tallest": ratio, "widest": -ratio}
    extremes = {
        name: [
            {"file": names[index], "height": int(height[index]), "width": int(width[index])}
            for index in np.argsort(values, kind="stable")[:EXTREMES]
        ]
        for name, values in ends.items()
    }
    return {
        "different": len(sizes),
        "most_common": {"height": common[0], "width": common[1], "images": count},
        "short_side": _distribution(np.minimum(height, width), 0),
        "aspect_ratio": _distribution(ratio, 3),
        "extremes": extremes if others else {},
    }


def _distribution(values: np.ndarray, digits: int) -> dict[str, Any]:
    """Return quantiles, and numbers in bins of equal ratio."""
    low, high = float(values.min()), float(values.max())
    edges = np.geomspace(low, high, BINS + 1) if high > low else np.array([low, high])
    edges[0], edges[-1] = low, high  # as geomspace rounds
    counts = np.histogram(values, edges)[0] if high > low else np.array([len(values)])
    return {
        "quantiles": {name: round(float(np.quantile(values, share)), digits) for name, share in QUANTILES.items()},
        "bins": [
            {"low": round(float(edges[place]), 3), "high": round(float(edges[place + 1]), 3), "images": int(images)}
            for place, images in enumerate(counts)
        ],
    }


def faults(content: dict[str, Any]) -> list[str]:
    """Return what a training refuses, or what makes its score or its labels wrong, a line each."""
    lines = list(content["layout"])
    if bad := content["unusable"]:
        lines.append(f"{_count(bad, 'file')} cannot be used: {quoted([each['file'] for each in bad])}")
        lines[-1] += f" (the first {bad[0]['reason']})"
    for what, chosen in (
        ("in two splits", [each for each in content["identical"] if each["splits"] > 1]),
        ("in two classes of a split", [each for each in content["identical"] if each["splits"] == 1 < each["classes"]]),
    ):
        if chosen:
            named = quoted([" = ".join(each["files"][:2]) for each in chosen])
            lines.append(f"{_count(chosen, 'group')} of equal files {what}: {named}")
    for split in content["splits"]:
        if chosen := [pair for pair in content["near_across"] if pair["file"].startswith(f"{split}{os.sep}")]:
            what = "has a near-duplicate" if len(chosen) == 1 else "have near-duplicates"
            named = quoted([f"{pair['file']} = {pair['other']}" for pair in chosen])
            lines.append(f"{_count(chosen, 'picture')} of {split} {what} in an earlier split: {named}")
    return lines


def remarks(content: dict[str, Any]) -> list[str]:
    """Return what is worth a look, a line each."""
    lines = [f"{_count(names, 'file')} left out, {reason}: {quoted(names)}" for reason, names in content["left_out"].items()]
    lines += content["odd"]
    if content["flat"]:
        lines.append(f"{_count(content['flat'], 'picture')} of a single colour: {quoted(content['flat'])}")
    lines += _class_remarks(content)
    chosen = [each for each in content["identical"] if each["splits"] == each["classes"] == 1]
    if chosen:
        named = quoted([" = ".join(each["files"][:2]) for each in chosen])
        lines.append(f"{_count(chosen, 'group')} of equal files in a class: {named}")
    if pairs := content["near_classes"]:
        named = quoted([f"{pair['file']} = {pair['other']}" for pair in pairs])
        lines.append(f"{_count(pairs, 'picture')} like one of another class in the same split: {named}")
    if groups := content["near_groups"]:
        images = sum(map(len, groups))
        named = quoted([f"{group[0]} and {len(group) - 1} more" for group in groups])
        lines.append(f"{_count(groups, 'group')} of near-duplicates within a class and split, {images:,} pictures: {named}")
    if suspects := content["suspects"]:
        confident = sum(each["confident"] for each in suspects)
        named = quoted([f"{each['file']} for {each['predicted']}" for each in suspects])
        lines.append(f"{_count(suspects, 'picture')} taken for another class, {confident:,} of them confidently: {named}")
    usable = content["images"] - len(content["unusable"])
    if (left := usable - content["scored"]) and content["suspects"] is not None:
        lines.append(f"{left:,} of {usable:,} pictures have no prediction: the checkpoint does not know their classes")
    return lines


def _class_remarks(content: dict[str, Any]) -> Iterator[str]:
    classes = content["classes"]
    for place, split in enumerate(content["splits"]):
        counts = {each["name"]: each["images"][place] for each in classes}
        missing = [name for name, count in counts.items() if not count]
        if missing and split != SPLITS[0]:
            yield f"{len(missing)} of {len(classes)} classes have no picture in {split}: {quoted(missing)}"
        present = {name: count for name, count in counts.items() if count}
        if split == SPLITS[0] and present and max(present.values()) >= UNBALANCED * min(present.values()):
            most, fewest = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
            yield (
                f"classes are not balanced: {present[most]:,} training pictures of {quoted([most])}, "
                f"{present[fewest]:,} of {quoted([fewest])}"
            )


def _count(items: Sequence[Any], noun: str) -> str:
    return f"{len(items):,} {noun}{'' if len(items) == 1 else 's'}"
