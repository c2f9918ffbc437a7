"""What an evaluation starts from: the model, the images and the ground truth that there is of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attribution.evaluation.images import subset
from attribution.evaluation.protocol import Budget
from attribution.evaluation.selection import in_turn
from attribution.metrics.columns import chosen_families
from datasets import ImageBatch, ImageFolder, collate, eval_transform, open_split
from datasets.masks import PairPicture, check_masks, mask_path, read_pairs
from datasets.planes.dataset import PlanesSplit, is_planes, open_planes
from models import ICN, for_inference
from util.precision import Precision


@dataclass(frozen=True)
class Options:
    """What is measured, as the flags of the same names say; `metrics` and `methods` are names, or None for all.

    resume: the checkpoint. test: the split. output_dir: where the results are written.
    """

    resume: str
    dataset_path: str
    dataset_name: str
    test: str
    image_size: int
    square: bool
    batch_size: int
    seed: int
    output_dir: Path
    budget: Budget
    methods: Sequence[str] | None = None
    ours: str | None = None
    metrics: Sequence[str] | None = None
    masks: str | None = None
    pairs: str | None = None


@dataclass
class Inputs:
    """The model, the images and the ground truth.

    Attributes:
        families: of the metrics that are measured.
        model: for gradients. inference: the same for outputs alone. score: probabilities `[B, C]` of normalised images.
        places: of all images of the split, classes in turn.
        masks: folder of object masks. pairs: images with two objects. planes: None, or empty, where there are none.
        loader: this process's batches of a data set, none padded.
    """

    options: Options
    families: frozenset[str]
    model: ICN
    inference: ICN
    score: Callable[[Tensor], Tensor]
    precision: str
    device: torch.device
    normalisation: dict[str, list[float]]
    split: ImageFolder
    places: list[int]
    masks: Path | None
    pairs: list[PairPicture]
    planes: PlanesSplit | None
    loader: Callable[[ImageFolder], Iterable[ImageBatch]]

    def images(self, pictures: Sequence[Tensor]) -> Tensor:
        """Return decoded images uint8 `[3, H, W]` of one size after the eval transform, normalised: `[B, 3, h, w]`."""
        assert self.split.transform is not None
        batch = collate([(self.split.transform(picture, None), 0, place) for place, picture in enumerate(pictures)])
        return batch.to(self.device).normalise(**self.normalisation)

    def labelled(self, count: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's normalised batches of the first images, classes in turn, with their labels."""
        for batch in self.loader(subset(self.split, self.places[:count])):
            batch = batch.to(self.device)
            yield batch.normalise(**self.normalisation), batch.labels

    def files(self) -> list[Path]:
        """Return the images of the split and their masks."""
        masks = [mask_path(self.masks, self.split.root, path) for path in self.split.paths] if self.masks else []
        return [*self.split.paths, *filter(Path.is_file, masks)]


def open_inputs(
    options: Options,
    model: ICN,
    normalisation: dict[str, list[float]],
    classes: Sequence[str],
    precision: Precision,
    device: torch.device,
    loader: Callable[[ImageFolder], Iterable[ImageBatch]],
) -> Inputs:
    """Open the images, and the ground truth that there is of them.

    Raises:
        ValueError: a file is not what it should be, or a metric was asked for whose ground truth is missing.
    """
    families = chosen_families(options.metrics)
    transform = eval_transform(options.image_size, options.square)
    split = open_split(options.dataset_path, options.dataset_name, options.test, classes, transform)
    places = in_turn(split.labels, options.seed)
    masks, pairs, planes = _ground_truth(options, families, split, places)
    inference = for_inference(model)
    scorer = inference if precision.dtype == torch.float32 else for_inference(model, precision.dtype)

    def score(images: Tensor) -> Tensor:
        with torch.no_grad(), precision.autocast():
            return scorer(images).logits.float().softmax(1)

    return Inputs(
        options, families, model, inference, score, precision.name, device, normalisation, split, places, masks, pairs, planes,
        loader,
    )  # fmt: skip


def _ground_truth(
    options: Options, families: frozenset[str], split: ImageFolder, places: Sequence[int]
) -> tuple[Path | None, list[PairPicture], PlanesSplit | None]:
    """Find masks, pairs and planes, as far as the flags and the data give them."""
    root, count = Path(options.dataset_path, options.dataset_name), options.budget.images
    masks = Path(options.masks) if options.masks else root / "masks" if is_planes(root) and (root / "masks").is_dir() else None
    if masks is not None:
        measured = subset(split, places[:count]).paths
        if missing := len(measured) - check_masks(masks, split.root, measured):
            print(f"{missing} of {len(measured)} pictures have no mask in {masks}: they do not count where masks are needed")
    pairs = read_pairs(Path(options.pairs), split.classes)[:count] if options.pairs and "pairs" in families else []
    planes = open_planes(root, options.test, split.classes) if is_planes(root) and "planes" in families else None
    truth = {"masks": masks, "pairs": pairs, "planes": planes}
    if options.metrics and (lacking := [family for family, known in truth.items() if family in families and not known]):
        hint = {"masks": "give --masks", "pairs": "give --pairs", "planes": f"{root} is not of tools.make_planes"}[lacking[0]]
        raise ValueError(
            f"--metrics {','.join(options.metrics)}: there is nothing that {lacking[0]} could be measured by: {hint}"
        )
    return masks, pairs, planes
