"""Writing the pages that people open from disk: the report of an evaluation, the index of drawn panels, the check of a data set.

A page is one folder without a server: `index.html`, and data as scripts, since a page opened from disk may not fetch files. Names
of classes and files are data, never markup.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from attribution.report.overlay import COLOURS, SIGNED_COLOURS, SIGNED_WEIGHT, WEIGHT, Size, fit, valid_cells
from util.atomic import atomic_write
from util.plotting import colormaps
from util.printable import printable

TEMPLATES = Path(__file__).parent / "page"
PICTURES, MAPS = Path("pictures"), Path("data", "maps")
SUMMARY = Path("data", "summary.js")
QUALITY = 85  # of the pictures


def render_page(template: str, **values: Any) -> str:
    """Fill in a template of the folder `page`; every value is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, finalize=_finalize
    )
    environment.filters["link"] = lambda name: quote(os.fsencode(name))  # also of a name whose bytes are no UTF-8
    style, script = (Markup((TEMPLATES / f"report.{kind}").read_text("utf-8")) for kind in ("css", "js"))
    return environment.get_template(template).render(style=style, script=script, **values)


def _finalize(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def write_report(folder: Path, title: str, about: str, summary: Mapping[str, Any]) -> None:
    """Write `index.html` and the summary of a report; the pictures and their maps are there already."""
    with atomic_write(folder / SUMMARY) as file:
        file.write(script("icnSummary", {"title": title, "colours": colour_tables(), **summary}))
    with atomic_write(folder / "index.html") as file:
        file.write(render_page("report.html", title=title, about=about))


def script(function: str, *values: Any) -> str:
    """Return a script that calls a function of the page with values, in ASCII, in which no `<` can end the script."""
    words = ", ".join(json.dumps(value, separators=(",", ":"), allow_nan=False) for value in values)
    return f"{function}({words.replace('<', chr(92) + 'u003c')});\n"


def read_script(path: Path) -> list[Any]:
    """Return the values of a file that `script` made; ValueError for another one, OSError where it cannot be read."""
    _, start, words = path.read_text("utf-8").partition("(")
    values = json.loads(f"[{words.strip().removesuffix(');')}]")
    if not start or not words.strip().endswith(");"):
        raise ValueError(f"{path} is no script of a report")
    return values


def colour_tables() -> dict[str, Any]:
    """Return the 256 colours of plain and of signed maps as hexadecimal digits, and the weights of their ends."""
    table = {key: colormaps[name](np.arange(256), bytes=True)[:, :3].tobytes().hex() for key, name in
             (("plain", COLOURS), ("signed", SIGNED_COLOURS))}  # fmt: skip
    return {**table, "weight": WEIGHT, "signedWeight": SIGNED_WEIGHT}


def picture_name(number: int) -> Path:
    """Return the file of an image, relative to the folder of the report."""
    return PICTURES / f"{number:07d}.jpg"


def write_picture(path: Path, picture: np.ndarray, longest: int) -> None:
    """Write a picture uint8 `[H, W, 3]` as JPEG, with a long side of at most `longest` pixels."""
    pixels = cv2.cvtColor(fit(picture, longest, enlarge=False), cv2.COLOR_RGB2BGR)
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    path.write_bytes(jpeg.tobytes())


def maps_name(number: int) -> Path:
    """Return the file of an image's maps, relative to the folder of the report."""
    return MAPS / f"{number:07d}.js"


def encode_maps(maps: np.ndarray, padded_size: Size, valid_size: Size, signed: bool) -> dict[str, Any]:
    """Return maps `[Q, heads, h, w]` on the grid of a padded input as the page reads them: one byte for a cell."""
    every = maps.reshape(-1, *maps.shape[2:])  # [Q * heads, h, w]
    cells = valid_cells(every, padded_size, valid_size).astype(np.float64)
    low, high = cells.min((1, 2)), cells.max((1, 2))
    steps = np.where(high > low, (high - low) / 255, 1)
    values = ((cells - low[:, None, None]) / steps[:, None, None]).round().astype(np.uint8)
    return {
        "size": list(values.shape[1:]),
        "extent": [maps.shape[axis + 2] * valid_size[axis] / padded_size[axis] for axis in (0, 1)],  # cells on the image
        "heads": maps.shape[1],
        "signed": signed,
        "low": [float(f"{value:.6g}") for value in low],
        "high": [float(f"{value:.6g}") for value in high],
        "bytes": base64.b64encode(values.tobytes()).decode(),
    }


def decode_maps(encoded: Mapping[str, Any]) -> np.ndarray:
    """Return what `encode_maps` encoded, but for rounding: the cells on the image, float32 `[Q, heads, rows, columns]`."""
    rows, columns = encoded["size"]
    values = np.frombuffer(base64.b64decode(encoded["bytes"]), np.uint8).reshape(-1, rows, columns).astype(np.float32)
    low, high = (np.array(encoded[name], np.float32)[:, None, None] for name in ("low", "high"))
    return (low + values * (high - low) / 255).reshape(-1, encoded["heads"], rows, columns)


def training_curves(log: Path) -> dict[str, list[float | None]] | None:
    """Return the columns of a log.txt that the page draws; None where there is no log, or a line of it cannot be read."""
    names = ("epoch", "train_loss", "test_loss", "test_acc1")
    try:
        lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        return {name: [line.get(name) for line in lines] for name in names} if lines else None
    except (OSError, ValueError, AttributeError):
        return None
