"""The pages of a class: the panels of each image in a folder of its own, and an `index.html` of all."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from attribution.report.page import render_page
from attribution.report.panels import Explained, Style, draw_overlays, draw_panels, safe_name
from attribution.report.render import FORMATS, png
from util.atomic import atomic_write

OVERLAYS = "overlays"
OWN_PANEL = re.compile(r"(heads|queries|query_heads)__true-.+__pred-.+_[01]\.\d\d__(right|wrong)\.(" + "|".join(FORMATS) + ")")
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


def panel_name(kind: str, true: str, predicted: str, score: float, right: bool, format: str = "png") -> str:
    """Return the file name of a panel: its kind, true and predicted class, probability of the latter, right or wrong."""
    verdict = "right" if right else "wrong"
    return f"{kind}__true-{safe_name(true)}__pred-{safe_name(predicted)}_{score:.2f}__{verdict}.{format}"


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
    style: Style
    format: str = "png"  # of the panels, one of `render.FORMATS`

    def draw(self, path: Path, explained: Explained) -> Row:
        """Write all panels of the image `path` to its place in `target`; only those of an earlier run are deleted first."""
        name = path.relative_to(self.source)
        folder = self.target / name
        title = f"{self.source.name} / {name}"
        parts = {"heads": self.heads, "query_heads": self.query_heads}
        panels = draw_panels(explained, self.classes, title, self.origin, self.style, **parts)
        overlays = draw_overlays(explained, self.classes, self.style, heads=self.heads)
        true, predicted = self.classes[explained.true], self.classes[explained.predicted]
        files = [panel_name(kind, true, predicted, explained.predicted_score, explained.right, self.format) for kind in panels]
        (folder / OVERLAYS).mkdir(parents=True, exist_ok=True)
        clear(folder)
        for file, sheet in zip(files, panels.values(), strict=True):
            sheet.save(folder / file)
        for stem, picture in overlays.items():
            with atomic_write(folder / OVERLAYS / f"{stem}.png", "wb") as output:
                output.write(png(picture))
        scores = explained.predicted_score, explained.true_score
        return Row(str(name), name.as_posix(), files, predicted, *scores, explained.right)


def draw_all(images: Iterable[tuple[ClassPages, Path, Explained]]) -> Iterator[tuple[Path, Row]]:
    """Draw images in threads while the next ones are explained; yield their rows in order, with few of them in memory."""
    threads = min(8, os.cpu_count() or 1)
    pending: deque[tuple[Path, Future[Row]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for pages, path, explained in images:
            pending.append((path, pool.submit(pages.draw, path, explained)))
            if len(pending) > 2 * threads:
                path, row = pending.popleft()
                yield path, row.result()
        while pending:
            path, row = pending.popleft()
            yield path, row.result()


def index_html(title: str, about: str, rows: list[Row]) -> str:
    """Return the page of a class, in the style of the report; `about` says what was drawn. Links are relative."""
    right = sum(row.right for row in rows)
    return render_page("panels.html", title=title, about=about, rows=rows, right=right, overlays=OVERLAYS)
