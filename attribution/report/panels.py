"""The panels of one image, explained by a model: the heads of its class, the most similar classes, and the heads of these."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from attribution.methods.explain import explain
from attribution.methods.hooks import class_attention
from attribution.report.overlay import Scale, at_pixels, common_scale, fit, lack_of_pattern, overlay, own_scale, valid_cells
from attribution.report.render import FULL, GREEN, GRID_TILE, RED, TILE, Section, Sheet, Tile, panel
from datasets import ImageBatch, ImageFolder, collate, eval_transform
from models import ICN, ICNOutput

NAME_BYTES = 64


class Item(NamedTuple):
    """An image as the network's input (uint8 `[3, h, w]`) and as it is drawn (uint8 `[H, W, 3]`)."""

    input: Tensor
    picture: np.ndarray
    path: Path
    label: int  # -1: unknown
    place: int  # in the split


@dataclass
class Explained:
    """One image with predictions and maps; the lists, and the first axis of `maps`, are over the classes to be drawn."""

    picture: np.ndarray  # uint8 RGB [H, W, 3], as it is to be drawn
    padded_size: tuple[int, int]  # height and width of the network's input
    valid_size: tuple[int, int]  # of the image in it
    true: int  # class index; -1 if unknown
    predicted: int
    predicted_score: float  # its probability
    classes: list[int]  # highest logit first; the true one is among them
    ranks: list[int]  # their places among all classes, from 1
    logits: list[float]
    scores: list[float]  # the probabilities
    maps: np.ndarray  # [Q, heads, h, w] on the grid of the padded input; a map that has no heads has one

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
        image, label, _ = self.split[index]  # [3, H, W]
        picture = fit(image.permute(1, 2, 0).numpy(), FULL, enlarge=False)
        return Item(self.transform(image), picture, self.split.paths[index], label, index)


def collate_items(items: list[Item]) -> tuple[ImageBatch, list[Item]]:
    """Return the batch for the network, and its items."""
    return collate([(item.input, item.label, item.place) for item in items]), items


def explain_classes(
    model: ICN, normalisation: Mapping[str, list[float]], batch: ImageBatch, items: list[Item], top_q: int, method: str,
    layer: int | None = None,
) -> list[Explained]:  # fmt: skip
    """Classify a batch of images, and return the maps of the `top_q` highest logits of each.

    Where the true class is not among them, it takes the place of the last.

    Args:
        method: name of `attribution.METHODS`; of `attention` the maps of all heads are returned.
        layer: the decoder layer of `attention`; None for the last.

    Raises:
        ValueError: the model gives logits that are not finite, or the method does not apply.
    """
    device = next(model.parameters()).device
    batch = batch.to(device)
    images = batch.normalise(**normalisation)
    true = torch.tensor([item.label for item in items], device=device)

    def choose(logits: Tensor) -> Tensor:
        classes = logits.float().argsort(dim=1, descending=True, stable=True)[:, :top_q].clone()  # [B, Q]
        missing = (classes != true[:, None]).all(1) & (true >= 0)
        classes[missing, -1] = true[missing]
        return classes

    if method == "attention":
        with torch.inference_mode():
            raw, maps = class_attention(model, images, batch.padding_mask, choose, -1 if layer is None else layer)
    else:
        with torch.inference_mode():
            output = model(images, batch.padding_mask)
        raw, maps = output.logits, compute_maps(model, images, batch.padding_mask, choose(output.logits), method, output)
    classes, logits = choose(raw).cpu(), raw.float().cpu()
    if not logits.isfinite().all():
        raise ValueError(f"--resume: the model gives logits that are not finite for {items[0].path}: the file is damaged")
    scores = model.probabilities(logits)
    order = logits.argsort(dim=1, descending=True, stable=True)  # [B, C]
    ranks = order.argsort(1).gather(1, classes) + 1
    arrays, predicted = maps.float().cpu().numpy(), order[:, 0].tolist()
    return [
        Explained(
            item.picture, (batch.images.shape[2], batch.images.shape[3]), (item.input.shape[1], item.input.shape[2]),
            item.label, predicted[b], float(scores[b, predicted[b]]), classes[b].tolist(), ranks[b].tolist(),
            logits[b, classes[b]].tolist(), scores[b, classes[b]].tolist(), arrays[b],
        )
        for b, item in enumerate(items)
    ]  # fmt: skip


def compute_maps(
    model: ICN, images: Tensor, padding_mask: Tensor | None, classes: Tensor, method: str, output: ICNOutput | None = None
) -> Tensor:
    """Compute the maps of Q classes of each image, `[B, Q]`: `[B, Q, heads, h, w]`; one head but for `attention`.

    Args:
        output: of the model for these images; None to compute it.
    """
    with torch.inference_mode():
        if method == "attention":
            return class_attention(model, images, padding_mask, lambda logits: classes)[1].float()
        if method == "additive":
            output = output or model(images, padding_mask)
            return model.evidence_of(output.features, padding_mask, classes)[:, :, None]
    return torch.stack([explain(model, images, column, method, padding_mask) for column in classes.T], 1)[:, :, None]


def safe_name(text: str, limit: int = NAME_BYTES) -> str:
    """Return a name that every file system takes: letters and digits of any script, `.`, `-` and `_`; at most `limit` bytes."""
    text = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text)).strip("._")
    return text.encode()[:limit].decode(errors="ignore") or "_"


@dataclass(frozen=True)
class Style:
    """How maps are drawn.

    own_scale: each map has a scale of its own, instead of one for all of a section.
    cells: the cells are drawn as they are, without interpolation.
    signed: values below zero are evidence against the class.
    """

    own_scale: bool = False
    cells: bool = False
    signed: bool = False

    def draw(self, explained: Explained, picture: np.ndarray, maps: np.ndarray) -> tuple[list[np.ndarray], Scale | None]:
        """Draw maps `[N, h, w]` over a picture; return the overlays and their common scale, if they have one."""
        maps = np.where(np.isfinite(maps).all((1, 2), keepdims=True), maps, 0)  # nothing, rather than another scale for all
        inside = valid_cells(maps, explained.padded_size, explained.valid_size)
        common = None if self.own_scale else common_scale(inside, self.signed)
        values = at_pixels(maps, explained.padded_size, explained.valid_size, picture.shape[:2], cells=self.cells)
        scales = [common or own_scale(each, self.signed) for each in inside]
        return [overlay(picture, *pair) for pair in zip(values, scales, strict=True)], common


def draw_panels(
    explained: Explained,
    names: Sequence[str],
    title: str,
    origin: str,
    style: Style,
    *,
    heads: bool = True,
    query_heads: bool = True,
) -> dict[str, Sheet]:
    """Lay out the panels of an image, named `heads`, `queries` and `query_heads`.

    Args:
        names: of all classes.
        title: first line of each panel.
        origin: what the maps are from, in words.
        heads, query_heads: draw the heads of the true class, and of every class.
    """
    picture, small = fit(explained.picture, TILE), fit(explained.picture, GRID_TILE)
    sections = {}
    if heads:
        sections["heads"] = [_head_section(explained, picture, style)]
    sections["queries"] = [_query_section(explained, picture, names, style)]
    if query_heads:
        sections["query_heads"] = []
        for row, maps in enumerate(explained.maps):  # [heads, h, w]
            overlays, scale = style.draw(explained, small, maps)
            labels = (f"head {head} · {peak}" for head, peak in enumerate(_peaks(explained, maps)))
            tiles = [Tile(image, (label,)) for image, label in zip(overlays, labels, strict=True)]
            sections["query_heads"].append(Section(" · ".join(_caption(explained, row, names)), tiles, scale))
    scales = "each map on its own scale" if style.own_scale else "one scale per section"
    peaks = "" if style.signed else " · peak: strongest cell over mean"
    note = f"{origin} · {scales}{peaks}"
    true = f"{names[explained.true]} (p {explained.true_score:.3f})"
    wrong = f"✗ wrong: predicted {names[explained.predicted]} (p {explained.predicted_score:.3f}), true {true}"
    verdict = f"✓ right: {true}" if explained.right else wrong
    return {kind: panel(title, verdict, explained.right, content, note) for kind, content in sections.items()}


def draw_overlays(explained: Explained, names: Sequence[str], style: Style, *, heads: bool = True) -> dict[str, np.ndarray]:
    """Draw single maps over the whole image, for papers, uint8 `[H, W, 3]` each.

    With `heads`, `head_<i>` and `mean` of the true class; and the mean over heads of each class, `query_<rank>_<class>`.
    """
    drawn = {}
    if heads:
        of_true = explained.maps[explained.true_row]  # [heads, h, w]
        overlays, _ = style.draw(explained, explained.picture, np.concatenate([of_true, of_true.mean(0, keepdims=True)]))
        drawn = dict(zip([*(f"head_{head}" for head in range(len(of_true))), "mean"], overlays, strict=True))
    overlays, _ = style.draw(explained, explained.picture, explained.maps.mean(1))
    stems = (f"query_{rank}_{safe_name(names[index])}" for rank, index in zip(explained.ranks, explained.classes, strict=True))
    return drawn | dict(zip(stems, overlays, strict=True))


def _peaks(explained: Explained, maps: np.ndarray) -> list[str]:
    """Describe the strongest cell of each map: over the mean, or, of a signed map, the ends of its range."""
    return [
        lack_of_pattern(cells)
        or (f"{cells.min():+.2g} to {cells.max():+.2g}" if signed else f"peak {cells.max() / cells.mean(dtype=np.float64):.1f}")
        for signed in [(maps < 0).any()]
        for cells in valid_cells(maps, explained.padded_size, explained.valid_size)
    ]


def _head_section(explained: Explained, picture: np.ndarray, style: Style) -> Section:
    of_true = explained.maps[explained.true_row]  # [heads, h, w]
    labels = [f"head {head}" for head in range(len(of_true))] + [f"mean of {len(of_true)} heads"]
    maps = np.concatenate([of_true, of_true.mean(0, keepdims=True)])
    overlays, scale = style.draw(explained, picture, maps)
    drawn = zip(overlays, labels, _peaks(explained, maps), strict=True)
    return Section("", [Tile(picture, ("picture",)), *(Tile(image, (label, peak)) for image, label, peak in drawn)], scale)


def _query_section(explained: Explained, picture: np.ndarray, names: Sequence[str], style: Style) -> Section:
    maps = explained.maps.mean(1)
    overlays, scale = style.draw(explained, picture, maps)
    tiles = [Tile(picture, ("picture",))]
    for row, (image, peak) in enumerate(zip(overlays, _peaks(explained, maps), strict=True)):
        name, scores = _caption(explained, row, names)
        true, predicted = (explained.classes[row] == index for index in (explained.true, explained.predicted))
        tiles.append(Tile(image, (name, f"{scores} · {peak}"), GREEN if true else RED if predicted else None))
    return Section("", tiles, scale)


def _caption(explained: Explained, row: int, names: Sequence[str]) -> tuple[str, str]:
    """Return rank and name, and scores, of one of the classes."""
    index = explained.classes[row]
    name = f"{explained.ranks[row]}. {names[index]}{' (true)' if index == explained.true else ''}"
    return name, f"logit {explained.logits[row]:.2f} · p {explained.scores[row]:.3f}"
