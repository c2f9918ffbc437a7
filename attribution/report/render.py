"""Drawing attribution maps over their images, in labelled panels: arrays in, arrays out.

Images are uint8 RGB `[H, W, 3]`. A map is non-negative and is drawn on the scale of its own minimum and maximum, in the turbo
colours; they are blended into the image with a weight that rises with the map, so that the image stays visible where it is low.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from util.plotting import split_by_font

WEIGHT = (0.25, 0.65)  # of the least and of the largest value of a map over its image
TILE, GRID_TILE, FULL = 448, 224, 1024  # long side of an image in a panel, where many are side by side, and on its own at most
MARGIN, GAP, TEXT, TITLE, LINE = 20, 12, 15, 20, 20
MIN_COLUMN, MIN_WIDTH, MAX_WIDTH = 128, 920, 2400
BACKGROUND, INK, FAINT = (255, 255, 255), (25, 25, 25), (110, 110, 110)
GREEN, RED = (10, 120, 60), (185, 30, 30)
CONSTANT = 1e-5
Size = tuple[int, int]  # height and width


class Tile(NamedTuple):
    """An image of a panel with a few lines of text under it; `frame` is the colour of a border, None for no border."""

    picture: np.ndarray
    lines: tuple[str, ...]
    frame: tuple[int, int, int] | None = None


class Section(NamedTuple):
    """Tiles that belong together, under a heading ('' for none)."""

    heading: str
    tiles: list[Tile]


def display_maps(maps: np.ndarray, padded_size: Size, valid_size: Size, size: Size) -> np.ndarray:
    """Bring maps `[N, h, w]` from the feature grid of a padded batch to the pixels of their image: float32 `[N, *size]` in 0..1.

    The grid covers the padded input; only the part of it that lies on the image counts. Each map is scaled by its minimum and
    maximum there (a constant map becomes 0) and enlarged by cubic interpolation, in which the cells on the border of the image
    repeat outwards, so that nothing leaks in from the padding.

    Args:
        padded_size: height and width of the network's input, padding included.
        valid_size: height and width of the image in it, which starts in its upper left corner.
    """
    extents = [maps.shape[axis + 1] * valid_size[axis] / padded_size[axis] for axis in (0, 1)]  # in cells
    cells = valid_cells(maps, padded_size, valid_size).astype(np.float32)
    rows, columns = cells.shape[1:]
    low, high = cells.min((1, 2), keepdims=True), cells.max((1, 2), keepdims=True)
    spread = high - low
    constant = spread <= CONSTANT * np.abs(high)  # what rounding leaves of a constant map is not a pattern
    scaled = np.where(constant, 0, (cells - low) / np.where(constant, 1, spread)).astype(np.float32)
    enlarged = _cubic(size[0], rows, extents[0]) @ scaled @ _cubic(size[1], columns, extents[1]).T
    return enlarged.clip(0, 1, out=enlarged)


def valid_cells(maps: np.ndarray, padded_size: Size, valid_size: Size) -> np.ndarray:
    """Return the cells `[N, rows, columns]` of maps `[N, h, w]` that lie on the picture, at least partly; sizes as above."""
    rows, columns = (-(-maps.shape[axis + 1] * valid_size[axis] // padded_size[axis]) for axis in (0, 1))
    return maps[:, :rows, :columns]


def _cubic(pixels: int, cells: int, extent: float) -> np.ndarray:
    """Return weights `[pixels, cells]` that enlarge the first `extent` cells (Keys 1981, eq. 4, with a = -0.75)."""
    position = (np.arange(pixels) + 0.5) / pixels * extent - 0.5
    base = np.floor(position).astype(int)
    weights = np.zeros((pixels, cells), np.float32)
    for tap in (-1, 0, 1, 2):
        s = np.abs(position - base - tap)
        near, far = (1.25 * s - 2.25) * s**2 + 1, -0.75 * ((s - 5) * s + 8) * s + 3
        np.add.at(weights, (np.arange(pixels), (base + tap).clip(0, cells - 1)), np.where(s <= 1, near, far))
    return weights


def fit(picture: np.ndarray, longest: int = FULL, enlarge: bool = True) -> np.ndarray:
    """Scale a picture to a long side of `longest` pixels; one that is smaller stays as it is unless `enlarge`."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale == 1 or (scale > 1 and not enlarge):
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blend a map `heat` `[H, W]` within 0..1 into its picture `[H, W, 3]`."""
    colours = cv2.applyColorMap((heat * 255).round().astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]  # OpenCV's are BGR
    weight = (WEIGHT[0] + (WEIGHT[1] - WEIGHT[0]) * heat).astype(np.float32)
    return cv2.blendLinear(np.ascontiguousarray(colours), np.ascontiguousarray(picture), weight, 1 - weight)


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


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, width: float, colour: tuple[int, int, int], size: int = TEXT,
    bold: bool = False, centred: bool = False,
) -> None:  # fmt: skip
    """Write one line of at most `width` pixels from `at`, or around it."""
    runs = shorten(text, width, size, bold)
    x: float = round(at[0] - centred * _width(runs) / 2)
    baseline = at[1] + max((font.getmetrics()[0] for _, font in runs), default=0)
    for run, font in runs:
        draw.text((x, baseline), run, colour, font, anchor="ls")
        x += font.getlength(run)


def panel(title: str, verdict: str, right: bool, sections: list[Section], note: str) -> np.ndarray:
    """Lay out tiles under a title and a verdict, green where `right`, else red: uint8 `[H, W, 3]`.

    Each section is wrapped into rows of equal length; all share one column width. `note` is next to the colour scale.
    """
    column = max([MIN_COLUMN] + [tile.picture.shape[1] for section in sections for tile in section.tiles])
    fitting = max(1, (MAX_WIDTH - 2 * MARGIN + GAP) // (column + GAP))
    longest = max(len(section.tiles) for section in sections)
    per_row = -(-longest // -(-longest // fitting))
    width = max(2 * MARGIN + per_row * (column + GAP) - GAP, MIN_WIDTH)
    rows = [
        ("" if start else section.heading, section.tiles[start : start + per_row])
        for section in sections
        for start in range(0, len(section.tiles), per_row)
    ]
    top = MARGIN + 2 * (TITLE + 8) + GAP
    heights = [
        (LINE + 6) * bool(heading) + max(len(tile.lines) * LINE + tile.picture.shape[0] for tile in tiles) + 4 + GAP
        for heading, tiles in rows
    ]
    sheet = Image.new("RGB", (width, top + sum(heights) + LINE + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(sheet)

    room = width - 2 * MARGIN
    _write(draw, (MARGIN, MARGIN), title, room, INK, TITLE, bold=True)
    _write(draw, (MARGIN, MARGIN + TITLE + 8), verdict, room, GREEN if right else RED, TITLE)
    for (heading, tiles), height in zip(rows, heights, strict=True):
        y = top
        if heading:
            _write(draw, (MARGIN, y), heading, room, INK, bold=True)
            y += LINE + 6
        for index, tile in enumerate(tiles):
            _draw_tile(sheet, draw, tile, MARGIN + index * (column + GAP), y, column)
        top += height
    _draw_scale(sheet, draw, top, note, room)
    return np.array(sheet)


def _draw_tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, x: int, y: int, column: int) -> None:
    height, width = tile.picture.shape[:2]
    left = x + (column - width) // 2
    sheet.paste(Image.fromarray(tile.picture), (left, y))
    if tile.frame is not None:
        draw.rectangle((left - 4, y - 4, left + width + 3, y + height + 3), outline=tile.frame, width=4)
    for number, text in enumerate(tile.lines):
        at = (x + column / 2, y + height + 6 + number * LINE)
        _write(draw, at, text, column, FAINT if number else INK, centred=True)


def _draw_scale(sheet: Image.Image, draw: ImageDraw.ImageDraw, y: int, note: str, room: int) -> None:
    """Draw the colour scale over mid grey, and the note."""
    ramp = np.tile(np.linspace(0, 1, 120, dtype=np.float32), (TEXT, 1))
    blended = overlay(np.full((*ramp.shape, 3), 128, np.uint8), ramp)
    _write(draw, (MARGIN, y), "low", room, FAINT)
    sheet.paste(Image.fromarray(blended), (MARGIN + 34, y + 2))
    _write(draw, (MARGIN + 162, y), f"high · {note}", room - 162, FAINT)
