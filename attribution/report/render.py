"""Layout of labelled panels: images with a few lines of text, written as PNG, or as PDF or SVG with text that stays text."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from attribution.report.overlay import Scale, overlay
from util.atomic import atomic_write, replacing
from util.plotting import Figure, Rectangle, set_texts, split_by_font

TILE, GRID_TILE, FULL = 448, 224, 1024  # long side of an image in a panel, where many are side by side, and on its own at most
MARGIN, GAP, TEXT, TITLE, LINE = 20, 12, 15, 20, 20
MIN_COLUMN, MIN_WIDTH, MAX_WIDTH = 128, 920, 2400
BACKGROUND, INK, FAINT = (255, 255, 255), (25, 25, 25), (110, 110, 110)
GREEN, RED = (10, 120, 60), (185, 30, 30)
FORMATS = ("png", "pdf", "svg")
DPI = 100  # pixels of a sheet per inch of a page
Colour = tuple[int, int, int]


class Tile(NamedTuple):
    """An image of a panel with a few lines of text under it; `frame` is the colour of a border, None for no border."""

    picture: np.ndarray
    lines: tuple[str, ...]
    frame: Colour | None = None


class Section(NamedTuple):
    """Tiles that belong together, under a heading ('' for none); `scale` is that of their colours, None for several."""

    heading: str
    tiles: list[Tile]
    scale: Scale | None = None


class Label(NamedTuple):
    """A line of text of at most `width` pixels from `x`, or around it."""

    x: float
    y: float
    text: str
    width: float
    colour: Colour = INK
    size: int = TEXT
    bold: bool = False
    centred: bool = False


@dataclass
class Sheet:
    """A page of images, labels and frames at pixels, to be written in a format of `FORMATS`."""

    width: int
    height: int = 0
    images: list[tuple[int, int, np.ndarray]] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    frames: list[tuple[int, int, int, int, Colour]] = field(default_factory=list)

    def array(self) -> np.ndarray:
        """Draw the sheet: uint8 `[H, W, 3]`."""
        sheet = Image.new("RGB", (self.width, self.height), BACKGROUND)
        draw = ImageDraw.Draw(sheet)
        for x, y, picture in self.images:
            sheet.paste(Image.fromarray(picture), (x, y))
        for x, y, right, bottom, colour in self.frames:
            draw.rectangle((x, y, right, bottom), outline=colour, width=4)
        for label in self.labels:
            _write(draw, label)
        return np.array(sheet)

    def save(self, path: Path) -> None:
        """Write the sheet in the format of the suffix; OSError where it cannot be written."""
        kind = path.suffix[1:].lower()
        if kind == "png":
            with atomic_write(path, "wb") as file:
                file.write(png(self.array()))
            return
        figure = Figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for x, y, picture in self.images:
            height, width = picture.shape[:2]
            axes.imshow(picture, extent=(x, x + width, y + height, y), interpolation="none")
        for x, y, right, bottom, colour in self.frames:
            axes.add_patch(Rectangle((x + 2, y + 2), right - x - 3, bottom - y - 3, fill=False, lw=4 * 72 / DPI, ec=_rgb(colour)))
        for label in self.labels:
            text = "".join(run for run, _ in shorten(label.text, label.width, label.size, label.bold))
            options: dict[str, Any] = {"fontsize": label.size * 72 / DPI, "weight": "bold" if label.bold else "normal"}
            options |= {"va": "top", "ha": "center" if label.centred else "left", "color": _rgb(label.colour)}
            set_texts([axes.text(label.x, label.y, "", **options)], [text])
        axes.set(xlim=(0, self.width), ylim=(self.height, 0))
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else {"CreationDate": None})


def png(picture: np.ndarray) -> bytes:
    """Encode a picture `[H, W, 3]` as PNG."""
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def _rgb(colour: Colour) -> tuple[float, ...]:
    return tuple(value / 255 for value in colour)


_font = lru_cache(ImageFont.truetype)


def shorten(text: str, width: float, size: int = TEXT, bold: bool = False) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """Cut `text` to `width` pixels, with an ellipsis in place of what is missing: runs, each with a font that has its letters."""

    def runs(text: str) -> list[tuple[str, ImageFont.FreeTypeFont]]:
        return [(run, _font(path, size)) for run, path in split_by_font(text, bold)]

    text = " ".join(text.split())
    if _width(runs(text)) <= width:
        return runs(text)
    count = bisect_right(range(1, len(text)), width, key=lambda count: _width(runs(text[:count].rstrip() + "…")))
    return runs(text[:count].rstrip() + "…")


def _width(runs: list[tuple[str, ImageFont.FreeTypeFont]]) -> float:
    return sum(font.getlength(run) for run, font in runs)


def _write(draw: ImageDraw.ImageDraw, label: Label) -> None:
    runs = shorten(label.text, label.width, label.size, label.bold)
    x: float = round(label.x - label.centred * _width(runs) / 2)
    baseline = label.y + max((font.getmetrics()[0] for _, font in runs), default=0)
    for run, font in runs:
        draw.text((x, baseline), run, label.colour, font, anchor="ls")
        x += font.getlength(run)


def panel(title: str, verdict: str, right: bool | None, sections: list[Section], note: str) -> Sheet:
    """Lay out tiles under a title and a verdict, green where `right`, red where not, and black where that is unknown (None).

    Each section is wrapped into rows of equal length; all share one column width. Under a section is the colour bar of its scale
    with numbers; `note` is at the end.
    """
    column = max([MIN_COLUMN] + [tile.picture.shape[1] for section in sections for tile in section.tiles])
    fitting = max(1, (MAX_WIDTH - 2 * MARGIN + GAP) // (column + GAP))
    longest = max(len(section.tiles) for section in sections)
    per_row = -(-longest // -(-longest // fitting))
    sheet = Sheet(max(2 * MARGIN + per_row * (column + GAP) - GAP, MIN_WIDTH))
    room = sheet.width - 2 * MARGIN
    sheet.labels.append(Label(MARGIN, MARGIN, title, room, INK, TITLE, bold=True))
    colour = INK if right is None else GREEN if right else RED
    sheet.labels.append(Label(MARGIN, MARGIN + TITLE + 8, verdict, room, colour, TITLE))
    y = MARGIN + 2 * (TITLE + 8) + GAP
    for section in sections:
        if section.heading:
            sheet.labels.append(Label(MARGIN, y, section.heading, room, bold=True))
            y += LINE + 6
        for start in range(0, len(section.tiles), per_row):
            tiles = section.tiles[start : start + per_row]
            for index, tile in enumerate(tiles):
                _place_tile(sheet, tile, MARGIN + index * (column + GAP), y, column)
            y += max(len(tile.lines) * LINE + tile.picture.shape[0] for tile in tiles) + 4 + GAP
        if section.scale is not None:
            _place_scale(sheet, section.scale, y)
            y += LINE + GAP
    sheet.labels.append(Label(MARGIN, y, note, room, FAINT))
    sheet.height = y + LINE + MARGIN
    return sheet


def _place_tile(sheet: Sheet, tile: Tile, x: int, y: int, column: int) -> None:
    height, width = tile.picture.shape[:2]
    left = x + (column - width) // 2
    sheet.images.append((left, y, tile.picture))
    if tile.frame is not None:
        sheet.frames.append((left - 4, y - 4, left + width + 3, y + height + 3, tile.frame))
    for number, text in enumerate(tile.lines):
        where = x + column / 2, y + height + 6 + number * LINE
        sheet.labels.append(Label(*where, text, column, FAINT if number else INK, centred=True))


def _place_scale(sheet: Sheet, scale: Scale, y: int) -> None:
    """Place a colour bar, drawn over mid grey, with the numbers of its ends and, of a signed map, of its middle."""
    x, width = MARGIN + 80, 240
    ramp = np.tile(np.linspace(scale.low, scale.high, width, dtype=np.float32), (TEXT, 1))
    sheet.images.append((x, y + 2, overlay(np.full((*ramp.shape, 3), 128, np.uint8), ramp, scale)))
    sheet.labels.append(Label(MARGIN, y, f"{scale.low:.3g}", 72, FAINT))
    sheet.labels.append(Label(x + width + 8, y, f"{scale.high:.3g}", 72, FAINT))
