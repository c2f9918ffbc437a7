"""Images of a class with the maps that are drawn of them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from attribution.methods.attention import class_maps
from attribution.report.panels import Explained
from attribution.report.render import FULL, fit
from datasets import ImageBatch, ImageFolder, collate, eval_transform
from models import ICN


class Item(NamedTuple):
    """An image as the network's input (uint8 `[3, h, w]`) and as it is drawn (uint8 `[H, W, 3]`)."""

    input: Tensor
    picture: np.ndarray
    path: Path


class DrawnImages(Dataset[Item]):
    """The images of a split, each decoded once."""

    def __init__(self, split: ImageFolder, image_size: int, square: bool) -> None:
        self.split = split
        self.transform = eval_transform(image_size, square)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Item:
        image = self.split[index][0]  # [3, H, W]
        picture = fit(image.permute(1, 2, 0).numpy(), FULL, enlarge=False)
        return Item(self.transform(image), picture, self.split.paths[index])


def collate_items(items: list[Item]) -> tuple[ImageBatch, list[Item]]:
    """Return the batch for the network, and its items."""
    return collate([(item.input, 0, index) for index, item in enumerate(items)]), items


@torch.inference_mode()
def explain_classes(
    model: ICN,
    normalisation: dict[str, list[float]],
    batch: ImageBatch,
    items: list[Item],
    true: int,
    top_q: int,
    layer: int | None,
) -> list[Explained]:
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
            picture=item.picture,
            padded_size=(batch.images.shape[2], batch.images.shape[3]),
            valid_size=(item.input.shape[1], item.input.shape[2]),
            true=true,
            predicted=predicted[b],
            predicted_score=float(scores[b, predicted[b]]),
            classes=classes[b].tolist(),
            ranks=ranks[b].tolist(),
            logits=logits[b, classes[b]].tolist(),
            scores=scores[b, classes[b]].tolist(),
            maps=arrays[b],
        )
        for b, item in enumerate(items)
    ]
