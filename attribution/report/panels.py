"""The panels of one image, explained by a model: the heads of its class, the most similar classes, and the heads of these."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from attribution.methods.attention import class_maps
from attribution.report.render import GREEN, GRID_TILE, RED, TILE, Section, Tile, display_maps, fit, overlay, panel, valid_cells
from datasets import ImageBatch, ImageFolder, collate, eval_transform
from models import ICN

NAME_BYTES = 64


class Item(NamedTuple):
    """An image as the network's input (uint8 `[3, h, w]`) and as it is drawn (uint8 `[H, W, 3]`)."""

    input: Tensor
    picture: np.ndarray
    path: Path


@dataclass
class Explained:
    """One image with predictions and maps; the lists, and the first axis of `maps`, are over the classes to be drawn."""

    picture: np.ndarray  # uint8 RGB [H, W, 3], as it is to be drawn
    padded_size: tuple[int, int]  # height and width of the network's input
    valid_size: tuple[int, int]  # of the image in it
    true: int  # class index
    predicted: int
    predicted_score: float  # its probability
    classes: list[int]  # highest logit first; the true one is among them
    ranks: list[int]  # their places among all classes, from 1
    logits: list[float]
    scores: list[float]  # after the softmax over all classes
    maps: np.ndarray  # attention of each of their heads, [Q, heads, h, w], on the grid of the padded input

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


class DrawnImages(Dataset[Item]):
    """The images of a split, each decoded once."""

    def __init__(self, split: ImageFolder, image_size: int, square: bool) -> None:
        self.split = split
        self.transform = eval_transform(image_size, square)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Item:
        image = self.split[index][0]  # [3, H, W]
        picture = fit(image.permute(1, 2, 0).numpy(), enlarge=False)
        return Item(self.transform(image), picture, self.split.paths[index])


def collate_items(items: list[Item]) -> tuple[ImageBatch, list[Item]]:
    """Return the batch for the network, and its items."""
    return collate([(item.input, 0, index) for index, item in enumerate(items)]), items


@torch.inference_mode()
def explain_classes(
    model: ICN, normalisation: dict[str, list[float]], batch: ImageBatch, items: list[Item], true: int, top_q: int,
    layer: int | None,
) -> list[Explained]:  # fmt: skip
    """Classify a batch of images of class `true`, and return the maps of the `top_q` highest logits.

    Where the true class is not among them, it takes the place of the last. Maps are the attention of a decoder layer; without
    `layer` the positive evidence of an additive decoder.

    Raises:
        ValueError: the model gives logits that are not finite.
    """
    device = next(model.parameters()).device
    batch = batch.to(device)
    images = batch.normalise(**normalisation)
    output = model(images, batch.padding_mask, attention=layer)
    logits = output.logits.float().cpu()  # [B, C]
    if not logits.isfinite().all():
        raise ValueError(f"--resume: the model gives logits that are not finite for {items[0].path}: the file is damaged")
    scores = logits.softmax(1)
    order = logits.argsort(dim=1, descending=True, stable=True)  # [B, C]
    classes = order[:, :top_q].clone()  # [B, Q]
    classes[(classes != true).all(1), -1] = true
    ranks = order.argsort(1).gather(1, classes) + 1
    if layer is None:
        maps = model.evidence(images, batch.padding_mask, classes.to(device))[1].clamp(min=0)[:, :, None]  # [B, Q, 1, h, w]
    else:
        maps = class_maps(output.attention[0], classes.to(device)).float()  # [B, Q, heads, h, w]
    arrays, predicted = maps.cpu().numpy(), order[:, 0].tolist()
    return [
        Explained(
            item.picture, (batch.images.shape[2], batch.images.shape[3]), (item.input.shape[1], item.input.shape[2]),
            true, predicted[b], float(scores[b, predicted[b]]), classes[b].tolist(), ranks[b].tolist(),
            logits[b, classes[b]].tolist(), scores[b, classes[b]].tolist(), arrays[b],
        )
        for b, item in enumerate(items)
    ]  # fmt: skip


def safe_name(text: str, limit: int = NAME_BYTES) -> str:
    """Return a name that every file system takes: letters and digits of any script, `.`, `-` and `_`; at most `limit` bytes."""
    text = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text)).strip("._")
    return text.encode()[:limit].decode(errors="ignore") or "_"


def draw_panels(
    explained: Explained, names: Sequence[str], title: str, layer: str, *, heads: bool = True, query_heads: bool = True
) -> dict[str, np.ndarray]:
    """Draw the panels of an image, uint8 `[H, W, 3]` each, named `heads`, `queries` and `query_heads`.

    Args:
        names: of all classes.
        title: first line of each panel.
        layer: what the maps are from, in words.
        heads, query_heads: draw the heads of the true class, and of every class.
    """
    picture, small = fit(explained.picture, TILE), fit(explained.picture, GRID_TILE)
    sections = {}
    if heads:
        sections["heads"] = [Section("", [Tile(picture, ("picture",)), *_head_tiles(explained, picture)])]
    sections["queries"] = [Section("", [Tile(picture, ("picture",)), *_query_tiles(explained, picture, names)])]
    if query_heads:
        sections["query_heads"] = [
            Section(
                " · ".join(_caption(explained, row, names)),
                [Tile(image, (f"head {head} · {peak}",)) for head, (image, peak) in enumerate(_draw(explained, small, maps))],
            )
            for row, maps in enumerate(explained.maps)  # [heads, h, w]
        ]
    note = f"{layer} · each map on its own scale · peak: strongest cell over mean"
    true = f"{names[explained.true]} (p {explained.true_score:.3f})"
    wrong = f"✗ wrong: predicted {names[explained.predicted]} (p {explained.predicted_score:.3f}), true {true}"
    verdict = f"✓ right: {true}" if explained.right else wrong
    return {kind: panel(title, verdict, explained.right, content, note) for kind, content in sections.items()}


def draw_overlays(explained: Explained, names: Sequence[str], *, heads: bool = True) -> dict[str, np.ndarray]:
    """Draw single maps over the whole image, for papers, uint8 `[H, W, 3]` each.

    With `heads`, `head_<i>` and `mean` of the true class; and the mean over heads of each class, `query_<rank>_<class>`.
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
    """Draw maps `[N, h, w]` over an image."""
    heat = display_maps(maps, explained.padded_size, explained.valid_size, picture.shape[:2])
    return [overlay(picture, values) for values in heat]


def _peaks(explained: Explained, maps: np.ndarray) -> list[str]:
    cells = valid_cells(maps, explained.padded_size, explained.valid_size)
    return [f"peak {peak:.1f}" for peak in cells.max((1, 2)) / cells.mean((1, 2))]


def _draw(explained: Explained, picture: np.ndarray, maps: np.ndarray) -> Iterator[tuple[np.ndarray, str]]:
    return zip(_overlays(explained, picture, maps), _peaks(explained, maps), strict=True)


def _head_tiles(explained: Explained, picture: np.ndarray) -> list[Tile]:
    of_true = explained.maps[explained.true_row]  # [heads, h, w]
    labels = [f"head {head}" for head in range(len(of_true))] + [f"mean of {len(of_true)} heads"]
    drawn = _draw(explained, picture, np.concatenate([of_true, of_true.mean(0, keepdims=True)]))
    return [Tile(image, (label, peak)) for label, (image, peak) in zip(labels, drawn, strict=True)]


def _query_tiles(explained: Explained, picture: np.ndarray, names: Sequence[str]) -> list[Tile]:
    tiles = []
    for row, (image, peak) in enumerate(_draw(explained, picture, explained.maps.mean(1))):
        name, scores = _caption(explained, row, names)
        true, predicted = (explained.classes[row] == index for index in (explained.true, explained.predicted))
        tiles.append(Tile(image, (name, f"{scores} · {peak}"), GREEN if true else RED if predicted else None))
    return tiles


def _caption(explained: Explained, row: int, names: Sequence[str]) -> tuple[str, str]:
    """Return rank and name, and scores, of one of the classes."""
    index = explained.classes[row]
    name = f"{explained.ranks[row]}. {names[index]}{' (true)' if index == explained.true else ''}"
    return name, f"logit {explained.logits[row]:.2f} · p {explained.scores[row]:.3f}"
