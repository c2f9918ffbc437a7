"""The panels of one image: the heads of its class, the most similar classes, and the heads of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attribution.report.html import safe_name
from attribution.report.render import GREEN, GRID_TILE, RED, TILE, Section, Tile, display_maps, fit, overlay, panel, valid_cells


@dataclass
class Explained:
    """One image with predictions and maps; the lists, and the first axis of `maps`, are over the classes to be drawn.

    picture: uint8 RGB `[H, W, 3]`, as it is to be drawn.
    padded_size, valid_size: height and width of the network's input, and of the picture in it.
    true, predicted: class indices.
    predicted_score: probability of the predicted class.
    classes: class indices, highest logit first; the true one is among them.
    ranks: their places among all classes, from 1.
    logits, scores: of these classes, before and after the softmax over all.
    maps: attention of each of their heads, `[Q, heads, h, w]`, on the grid of the padded input.
    """

    picture: np.ndarray
    padded_size: tuple[int, int]
    valid_size: tuple[int, int]
    true: int
    predicted: int
    predicted_score: float
    classes: list[int]
    ranks: list[int]
    logits: list[float]
    scores: list[float]
    maps: np.ndarray

    @property
    def right(self) -> bool:
        return self.predicted == self.true

    @property
    def true_row(self) -> int:
        """The place of the true class in the lists."""
        return self.classes.index(self.true)

    @property
    def true_score(self) -> float:
        return self.scores[self.true_row]


def draw_panels(
    explained: Explained, names: Sequence[str], title: str, layer: str, *, heads: bool = True, query_heads: bool = True
) -> dict[str, np.ndarray]:
    """Draw the panels of an image.

    Args:
        explained: the image.
        names: of all classes.
        title: first line of each panel.
        layer: what the maps are from, in words.
        heads: draw the heads of the true class.
        query_heads: draw the heads of every class.

    Returns:
        uint8 `[H, W, 3]` each, under the names `heads`, `queries` and `query_heads`.
    """
    picture = fit(explained.picture, TILE)
    sections = {}
    if heads:
        sections["heads"] = [Section("", [Tile(picture, ("picture",)), *_head_tiles(explained, picture)])]
    sections["queries"] = [Section("", [Tile(picture, ("picture",)), *_query_tiles(explained, picture, names)])]
    if query_heads:
        small = fit(explained.picture, GRID_TILE)
        sections["query_heads"] = [
            Section(" · ".join(_caption(explained, row, names)), _grid_tiles(explained, small, row))
            for row in range(len(explained.classes))
        ]
    note = f"{layer} · each map on its own scale · peak: strongest cell over mean"
    verdict = _verdict(explained, names)
    return {kind: panel(title, verdict, explained.right, content, note) for kind, content in sections.items()}


def draw_overlays(explained: Explained, names: Sequence[str], *, heads: bool = True) -> dict[str, np.ndarray]:
    """Draw single maps over the whole picture, for papers.

    Args:
        explained: the image.
        names: of all classes.
        heads: draw the heads of the true class, and their mean.

    Returns:
        uint8 `[H, W, 3]` each: `head_<i>` and `mean` of the true class, and the mean over heads of each class under
        `query_<rank>_<class>`.
    """
    maps = {}
    if heads:
        of_true = explained.maps[explained.true_row]  # [heads, h, w]
        maps = {f"head_{head}": attention for head, attention in enumerate(of_true)}
        maps["mean"] = of_true.mean(0)
    for rank, index, attention in zip(explained.ranks, explained.classes, explained.maps, strict=True):
        maps[f"query_{rank}_{safe_name(names[index])}"] = attention.mean(0)
    drawn = _overlays(explained, explained.picture, np.stack(list(maps.values())))
    return dict(zip(maps, drawn, strict=True))


def _overlays(explained: Explained, picture: np.ndarray, maps: np.ndarray) -> list[np.ndarray]:
    """Draw maps `[N, h, w]` over the picture."""
    heat = display_maps(maps, explained.padded_size, explained.valid_size, picture.shape[:2])
    return [overlay(picture, values) for values in heat]


def _verdict(explained: Explained, names: Sequence[str]) -> str:
    true = f"{names[explained.true]} (p {explained.true_score:.3f})"
    if explained.right:
        return f"✓ right: {true}"
    return f"✗ wrong: predicted {names[explained.predicted]} (p {explained.predicted_score:.3f}), true {true}"


def _head_tiles(explained: Explained, picture: np.ndarray) -> list[Tile]:
    of_true = explained.maps[explained.true_row]  # [heads, h, w]
    maps = np.concatenate([of_true, of_true.mean(0, keepdims=True)])
    labels = [f"head {head}" for head in range(len(of_true))] + [f"mean of {len(of_true)} heads"]
    drawn = _overlays(explained, picture, maps)
    return [Tile(*tile) for tile in zip(drawn, zip(labels, _peaks(explained, maps), strict=True), strict=True)]


def _query_tiles(explained: Explained, picture: np.ndarray, names: Sequence[str]) -> list[Tile]:
    maps = explained.maps.mean(1)  # [Q, h, w]
    tiles = []
    for row, (drawn, peak) in enumerate(zip(_overlays(explained, picture, maps), _peaks(explained, maps), strict=True)):
        name, scores = _caption(explained, row, names)
        true, predicted = (explained.classes[row] == index for index in (explained.true, explained.predicted))
        tiles.append(Tile(drawn, (name, f"{scores} · {peak}"), GREEN if true else RED if predicted else None))
    return tiles


def _grid_tiles(explained: Explained, picture: np.ndarray, row: int) -> list[Tile]:
    maps = explained.maps[row]  # [heads, h, w]
    labels = [f"head {head} · {peak}" for head, peak in enumerate(_peaks(explained, maps))]
    return [Tile(drawn, (label,)) for drawn, label in zip(_overlays(explained, picture, maps), labels, strict=True)]


def _caption(explained: Explained, row: int, names: Sequence[str]) -> tuple[str, str]:
    """Return rank and name, and scores, of one of the classes."""
    index = explained.classes[row]
    true = " (true)" if index == explained.true else ""
    return (f"{explained.ranks[row]}. {names[index]}{true}", f"logit {explained.logits[row]:.2f} · p {explained.scores[row]:.3f}")


def _peaks(explained: Explained, maps: np.ndarray) -> list[str]:
    cells = valid_cells(maps, explained.padded_size, explained.valid_size)
    return [f"peak {peak:.1f}" for peak in cells.max((1, 2)) / cells.mean((1, 2))]
