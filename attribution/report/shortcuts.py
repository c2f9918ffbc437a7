"""Possible shortcuts as people see them: a table, and for each alarm its place in the mean of the class's images and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from attribution.metrics.shortcuts import MIN_IMAGES, find_shortcuts, share_outside
from attribution.report import page
from attribution.report.overlay import at_pixels, common_scale, overlay, valid_cells
from attribution.report.panels import Explained, Item
from datasets import ImageFolder
from datasets.masks import mask_path, object_masks
from util.tables import markdown_table

PICTURES = Path("shortcuts")
SIDE, EXAMPLES, MOST = 160, 3, 200  # pixels of a picture, single images beside the mean, images in the mean
SIGNALS = {"place": "much evidence at one place of the frame", "outside": "much evidence outside of the object"}


def shortcuts_section(content: Mapping[str, Any]) -> list[str]:
    """Return the lines of the section of attribution.md, of its content; nothing where no shortcuts were looked for."""
    if not (found := content.get("shortcuts")):
        return []
    body = [
        [alarm["class"] or "all classes", SIGNALS[alarm["signal"]], place_in_words(alarm["box"]), f"{alarm['share']:.3f}",
         f"{alarm['expected']:.3f}", "–" if alarm["p"] is None else f"{alarm['p']:.3f}", str(alarm["images"])]
        for alarm in found["alarms"]
    ]  # fmt: skip
    heads = ["class", "why", "place: left, top, right, bottom", "share of the evidence", "expected", "p", "pictures"]
    table = markdown_table(heads, body, text_columns=3) if body else "No class." if found["classes"] else ""
    return ["## Possible shortcuts", "", about(found), "", table, ""]


def about(found: Mapping[str, Any]) -> str:
    """Return what was searched, and what an alarm means."""
    if not found["classes"]:
        return f"Not searched: no class has {MIN_IMAGES} pictures that are classified right among those that were measured."
    masks = f"{found['masks']} of them with a mask of the object" if found["masks"] else "without masks of the object"
    return (
        f"{found['classes']} classes with at least {MIN_IMAGES} pictures that are classified right: {found['images']} pictures, "
        f"{masks}. "
        f"An alarm exceeds what is expected by {100 * found['least']:.0f} % of the evidence or more; p is the chance of such a "
        f"difference in any class if all were alike, at most {found['rate']:g}. A mark whose place changes is not found."
    )


def place_in_words(box: Sequence[float]) -> str:
    """Return a place in per cent of width and height."""
    return ", ".join(f"{100 * edge:.0f} %" for edge in box)


class ClassEvidence:
    """The maps of the images that are classified right, gathered while a report is written.

    Args:
        split: the images. masks: folder of object masks, see `datasets.masks`; it need not exist.
    """

    def __init__(self, split: ImageFolder, masks: Path) -> None:
        self.split, self.masks = split, masks
        self.places: list[int] = []
        self.maps: list[torch.Tensor] = []
        self.outside: list[float] = []

    def add(self, item: Item, explained: Explained, maps: np.ndarray) -> None:
        """Add an image with its maps `[Q, heads, h, w]` on the grid of the padded input, unless its class is wrong."""
        if not explained.right:
            return
        whole = maps[explained.true_row].mean(0, keepdims=True)  # [1, h, w]
        cells = torch.from_numpy(valid_cells(whole, explained.padded_size, explained.valid_size).copy())
        outside = float("nan")
        if mask_path(self.masks, self.split.root, item.path).is_file():
            masks = object_masks(self.masks, self.split.root, [item.path], explained.valid_size)
            outside = float(share_outside(cells, masks)[0])
        self.places.append(item.place)
        self.maps.append(cells[0])
        self.outside.append(outside)

    def write(self, folder: Path) -> dict[str, Any]:
        """Search for shortcuts, draw a picture of each alarm, and return what the page shows of them."""
        labels = [self.split.labels[place] for place in self.places]
        found = find_shortcuts(self.maps, labels, np.array(self.outside)) if labels else find_shortcuts([], [])
        content = found.as_json(self.split.classes)
        for number, alarm in enumerate(found.alarms):
            rows = [row for row, label in enumerate(labels) if alarm.label in (None, label)]
            chosen = [rows[place] for place in np.linspace(0, len(rows) - 1, min(MOST, len(rows))).astype(int)]
            (folder / PICTURES).mkdir(exist_ok=True)
            pictures = [np.asarray(Image.open(folder / page.picture_name(self.places[row]))) for row in chosen]
            drawn = draw_alarm(pictures, [self.maps[row] for row in chosen], alarm.box)
            file = PICTURES / f"{number}.jpg"
            page.write_picture(folder / file, drawn, drawn.shape[1])
            content["alarms"][number] |= {"picture": file.as_posix(), "why": SIGNALS[alarm.signal]}
            content["alarms"][number]["place"] = place_in_words(alarm.box)
        return {**content, "about": about(content)}


def draw_alarm(pictures: Sequence[np.ndarray], maps: Sequence[torch.Tensor], box: Sequence[float]) -> np.ndarray:
    """Draw the mean of pictures uint8 `[H, W, 3]`, the mean of their maps on it, and some of them, each with the box."""
    size = SIDE, SIDE
    small = [cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA) for picture in pictures]
    mean = np.mean(small, axis=0).astype(np.uint8)
    positive = [each.clamp(min=0).numpy() for each in maps]
    shares = [at_pixels(each[None] / max(float(each.sum()), 1e-12), each.shape, each.shape, size)[0] for each in positive]  # type: ignore[arg-type]
    values = np.stack(shares).mean(0)
    tiles = [mean, overlay(mean, values, common_scale(values)), *small[:EXAMPLES]]
    left, top, right, bottom = (round(edge * (SIDE - 1)) for edge in box)
    for tile in tiles:
        cv2.rectangle(tile, (left, top), (right, bottom), (255, 255, 255), 3)
        cv2.rectangle(tile, (left, top), (right, bottom), (200, 0, 0), 1)
    gap = np.full((SIDE, 4, 3), 255, np.uint8)
    return np.hstack([part for tile in tiles for part in (tile, gap)][:-1])
