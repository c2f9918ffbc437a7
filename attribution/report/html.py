"""The pages of a class: the panels of each image in a folder of its own, and an `index.html` of all."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import cv2
import numpy as np

from attribution.report.panels import Explained, draw_overlays, draw_panels, safe_name

OVERLAYS = "overlays"
OWN_PANEL = re.compile(r"(heads|queries|query_heads)__true-.+__pred-.+_[01]\.\d\d__(right|wrong)\.png")
OWN_OVERLAY = re.compile(r"(head_\d+|mean|query_\d+_.+)\.png")


class Row(NamedTuple):
    """One image of the index."""

    name: str  # its path below its class folder
    folder: str  # of its panels, relative to the index
    panels: list[str]  # their file names, in the order of display
    predicted: str
    predicted_score: float
    true_score: float
    right: bool


def panel_name(kind: str, true: str, predicted: str, score: float, right: bool) -> str:
    """Return the file name of a panel: its kind, true and predicted class, probability of the latter, right or wrong."""
    verdict = "right" if right else "wrong"
    return f"{kind}__true-{safe_name(true)}__pred-{safe_name(predicted)}_{score:.2f}__{verdict}.png"


def clear(folder: Path) -> None:
    """Delete the panels and overlays of an earlier run from an image's folder, and nothing else."""
    for place, own in ((folder, OWN_PANEL), (folder / OVERLAYS, OWN_OVERLAY)):
        if place.is_dir():
            for path in place.iterdir():
                if own.fullmatch(path.name) and path.is_file():
                    path.unlink()


@dataclass(frozen=True)
class ClassPages:
    """The folder in which the images of a class are drawn."""

    source: Path  # the class's folder of images
    target: Path  # the folder of the index
    classes: Sequence[str]  # the names of all classes
    origin: str  # what the maps are from, such as the decoder layer, in words
    heads: bool  # whether to draw the heads of the true class
    query_heads: bool  # and those of the similar classes

    def draw(self, path: Path, explained: Explained) -> Row:
        """Write all panels of the image `path` to its place in `target`; only those of an earlier run are deleted first."""
        name = path.relative_to(self.source)
        folder = self.target / name
        title = f"{self.source.name} / {name}"
        panels = draw_panels(explained, self.classes, title, self.origin, heads=self.heads, query_heads=self.query_heads)
        overlays = draw_overlays(explained, self.classes, heads=self.heads)
        true, predicted = self.classes[explained.true], self.classes[explained.predicted]
        files = [panel_name(kind, true, predicted, explained.predicted_score, explained.right) for kind in panels]
        with writing(folder):
            (folder / OVERLAYS).mkdir(parents=True, exist_ok=True)
            clear(folder)
            for file, picture in zip(files, panels.values(), strict=True):
                (folder / file).write_bytes(_png(picture))
            for stem, picture in overlays.items():
                (folder / OVERLAYS / f"{stem}.png").write_bytes(_png(picture))
        scores = explained.predicted_score, explained.true_score
        return Row(str(name), name.as_posix(), files, predicted, *scores, explained.right)

    def draw_all(self, images: Iterable[tuple[Path, Explained]]) -> Iterator[Row]:
        """Draw images in threads while the next ones are explained; yield their rows in order, with few of them in memory."""
        threads = min(8, os.cpu_count() or 1)
        pending: deque[Future[Row]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for path, explained in images:
                pending.append(pool.submit(self.draw, path, explained))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise a ValueError where `folder` cannot be written."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"--output_dir: {folder} cannot be written ({error.strerror}): choose another folder") from None


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1400px; padding: 0 1rem; color: #191919; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
p { color: #555; margin-top: .3rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .7rem .8rem; border-top: 1px solid #ddd; }
td:first-child { width: 15rem; overflow-wrap: anywhere; }
img { max-width: 100%; display: block; margin-bottom: .5rem; }
dl { margin: .5rem 0 0; } dt { color: #777; font-size: .85rem; } dd { margin: 0 0 .4rem; }
.right { color: #0a783c; } .wrong { color: #b91e1e; }
"""


def index_html(title: str, about: str, rows: list[Row]) -> str:
    """Return a page with a row per image; `about` says what was drawn. Links are relative, every name is escaped."""
    right = sum(row.right for row in rows)
    body = "\n".join(_row_html(row) for row in rows)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{len(rows)} pictures, <span class="right">{right} right</span>, <span class="wrong">{len(rows) - right} wrong</span>.
{escape(about)}</p>
<table>
<thead><tr><th>picture</th><th>maps</th></tr></thead>
<tbody>
{body}
</tbody>
</table>
</body>
</html>
"""


def _row_html(row: Row) -> str:
    verdict = "right" if row.right else "wrong"
    links = {panel: _link(row.folder, panel) for panel in row.panels}
    image = '<a href="{0}"><img src="{0}" loading="lazy" alt="{1}"></a>'
    images = "\n".join(image.format(link, escape(panel)) for panel, link in links.items())
    return f"""<tr>
<td><strong>{escape(row.name)}</strong>
<dl>
<dt>verdict</dt><dd class="{verdict}">{verdict}</dd>
<dt>predicted</dt><dd>{escape(row.predicted)} ({row.predicted_score:.3f})</dd>
<dt>true class</dt><dd>{row.true_score:.3f}</dd>
<dt>files</dt><dd><a href="{_link(row.folder)}/">panels</a>, <a href="{_link(row.folder, OVERLAYS)}/">overlays</a></dd>
</dl></td>
<td>
{images}
</td>
</tr>"""


def _link(*parts: str) -> str:
    """Return a relative link, also to a name whose bytes are no UTF-8."""
    return quote(os.fsencode("/".join(parts)))
