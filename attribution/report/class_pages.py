"""The pages of one class: the panels of each image in a folder of its own, and an index.html of all."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from attribution.report.html import OVERLAYS, Row, clear, index_html, panel_name
from attribution.report.panels import Explained, draw_overlays, draw_panels
from util.atomic import replacing


@dataclass(frozen=True)
class ClassPages:
    """The folder in which the images of a class are drawn.

    Attributes:
        source: the class's folder of images. target: the folder of the index.
        classes: the names of all classes.
        origin: what the maps are from, such as the decoder layer, in words.
        heads, query_heads: whether to draw the heads of the true class, and those of the similar classes.
    """

    source: Path
    target: Path
    classes: Sequence[str]
    origin: str
    heads: bool
    query_heads: bool

    def draw(self, path: Path, explained: Explained) -> Row:
        """Write all panels of the image `path` to the place in `target` that it has in `source`.

        Those of an earlier run are deleted first; nothing else is.

        Raises:
            ValueError: the folder cannot be written.
        """
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

    def write_index(self, title: str, about: str, rows: list[Row]) -> Path:
        """Write index.html; arguments as of `html.index_html`."""
        index = self.target / "index.html"
        with writing(index), replacing(index) as temporary:
            temporary.write_text(index_html(title, about, rows), encoding="utf-8", errors="replace")
        return index


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError into a ValueError."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"--output_dir: {folder} cannot be written ({error.strerror}): choose another folder") from None


def _png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
