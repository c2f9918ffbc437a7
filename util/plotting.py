"""matplotlib without windows, whatever MPLBACKEND says, and fonts that have the letters of a name."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from .printable import escape

# Import it without MPLBACKEND, which a notebook sets: the backend may not be installed, and figures here are drawn by Agg.
_requested = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)

import matplotlib  # noqa: E402
from matplotlib import colormaps  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.font_manager import FontProperties, findSystemFonts, fontManager  # noqa: E402
from matplotlib.ft2font import FT2Font  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.text import Text  # noqa: E402

if _requested is not None:  # for a notebook's own figures
    os.environ["MPLBACKEND"] = _requested
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = _requested

# Text of PDF and SVG stays text, and two runs write the same bytes.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "icn", "pdf.fonttype": 42})

__all__ = ["DATA", "Axes", "Figure", "FigureCanvasAgg", "Rectangle", "colormaps", "set_texts", "set_tick_labels", "split_by_font"]

DATA = Path(matplotlib.get_data_path())
_lock = threading.Lock()


def split_by_font(text: str, bold: bool = False) -> list[tuple[str, Path]]:
    """Split a text into runs, each with the file of a font that has its letters: DejaVu Sans, or one of the system.

    Letters that no font has are written as escapes, which is said once.
    """
    default = DATA / "fonts" / "ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
    with _lock:
        fonts = {letter: _font_of(letter, default) for letter in text}
        if None in fonts.values():
            _report_escapes()
    letters = [(letter, font) if (font := fonts[letter]) else (escape(letter), default) for letter in text]
    return [("".join(letter for letter, _ in run), font) for font, run in groupby(letters, key=itemgetter(1))]


def set_texts(artists: Iterable[Text], texts: Iterable[str]) -> None:
    """Set names as texts of a figure: nothing in them is a formula, and fonts have their letters."""
    for artist, text in zip(artists, texts, strict=True):
        runs = split_by_font(text)
        for _, font in runs:
            if font.parent.name != "ttf" or DATA not in font.parents:
                fontManager.addfont(font)
        families = [FontProperties(fname=str(font)).get_name() for _, font in runs]  # type: ignore[arg-type]
        artist.set_parse_math(False)
        artist.set_text("".join(run for run, _ in runs))
        artist.set_fontfamily(["DejaVu Sans", *families])


def set_tick_labels(axis: Axis, texts: Sequence[str], **style: Any) -> None:
    """Set names as the labels of the ticks 0, 1, ..., as `set_texts` does."""
    shown = ["".join(run for run, _ in split_by_font(text)) for text in texts]
    axis.set_ticks(range(len(texts)), shown, parse_math=False, **style)
    set_texts(axis.get_ticklabels(), texts)


@cache
def _font_of(letter: str, default: Path) -> Path | None:
    return next((font for font in (default, *_system_fonts()) if letter in _letters(font)), None)


@cache
def _letters(font: Path) -> frozenset[str]:
    """Return the letters that a font draws; none where it cannot be read, or is of pixels (as colour emoji are)."""
    try:
        face = FT2Font(str(font))
        return frozenset(map(chr, face.get_charmap())) if face.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _system_fonts() -> list[Path]:
    fonts = (path for path in map(Path, findSystemFonts()) if "LastResort" not in path.stem)  # it draws boxes for all letters
    return sorted(fonts, key=lambda path: ("Regular" not in path.stem, path))


@cache
def _report_escapes() -> None:
    hint = "install one that has them, such as the package fonts-noto-cjk"
    print(f"warning: no font of this system has some letters of the names: they are drawn as escapes ({hint})", file=sys.stderr)
