"""What an evaluation starts from: the model, the images and the ground truth that there is of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attribution.evaluation.keypoints import ANNOTATIONS, PartAnnotations, open_part_annotations
from attribution.evaluation.protocol import Budget, alternate_classes
from attribution.metrics.faithfulness import Score
from attribution.metrics.metric import Unit
from attribution.metrics.registry import METRICS, chosen_families
from attribution.planes.metrics import PlanesMetrics
from datasets import EvalSampler, ImageBatch, ImageFolder, collate, eval_shapes, eval_transform, open_split, set_decoding
from datasets.masks import PairPicture, check_masks, mask_path, object_masks, read_pairs
from datasets.planes.dataset import PlanesSplit, is_planes, open_planes
from models import ICN, for_inference
from util.cli import Flags
from util.precision import Precision
from util.progress import Progress
from util.ranks import Ranks

Loader = Callable[[ImageFolder], Iterable[ImageBatch]]


@dataclass
class Inputs:
    """The model, the images and the ground truth."""

    args: Flags  # of tools.evaluate_attribution; `methods` and `metrics` are lists of names, or None for all
    budget: Budget
    families: frozenset[str]  # of the metrics that are measured
    model: ICN  # for gradients
    inference: ICN  # for outputs alone
    score: Score
    precision: str
    normalisation: dict[str, list[float]]  # mean and standard deviation of the model's input
    split: ImageFolder
    places: list[int]  # of all images of the split, classes in turn
    masks: Path | None  # folder of object masks
    pairs: list[PairPicture]  # images with two objects; empty where there are none
    planes: PlanesSplit | None
    parts: PartAnnotations | None
    device: torch.device
    loader: Loader  # this process's batches of a data set, none padded

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

    def files(self) -> dict[str, Path]:
        """Return the images of the split and their masks, by names that do not depend on where they are."""
        root = self.split.root
        files = {str(path.relative_to(root)): path for path in self.split.paths}
        masks = {name: mask_path(self.masks, root, path) for name, path in files.items()} if self.masks else {}
        return files | {f"mask of {name}": mask for name, mask in masks.items() if mask.is_file()}


def open_inputs(
    args: Flags, budget: Budget, model: ICN, normalisation: dict[str, list[float]], classes: Sequence[str],
    precision: Precision, device: torch.device, loader: Loader,
) -> Inputs:  # fmt: skip
    """Open the images, and the ground truth that there is of them; arguments as of `Inputs`.

    Raises:
        ValueError: a file is not what it should be, or a metric was asked for whose ground truth is missing.
    """
    families = chosen_families(args.metrics)
    for family in families if args.metrics else ():
        if not all(metric.applies(model) for metric in METRICS.values() if metric.family == family):
            raise ValueError(f"--metrics {family} is not defined for the {model.decoder_name} decoder: leave it out")
    transform = eval_transform(args.image_size, args.square)
    set_decoding(args.bit_depth, args.max_image_mb)
    split = open_split(args.dataset_path, args.dataset_name, args.test, classes, transform)
    places = alternate_classes(split.labels, args.seed)
    truth = _ground_truth(args, families, split, places, budget.images)
    inference = for_inference(model)
    scorer = inference if precision.dtype == torch.float32 else for_inference(model, precision.dtype)

    def score(images: Tensor) -> Tensor:
        with torch.no_grad(), precision.autocast():
            return scorer.probabilities(scorer(images).logits)

    return Inputs(
        args, budget, families, model, inference, score, precision.name, normalisation, split, places, *truth, device, loader
    )


def _ground_truth(
    args: Flags, families: frozenset[str], split: ImageFolder, places: Sequence[int], count: int | None
) -> tuple[Path | None, list[PairPicture], PlanesSplit | None, PartAnnotations | None]:
    """Find masks, pairs, planes and parts, as far as the flags and the data give them."""
    root = Path(args.dataset_path, args.dataset_name)
    masks = Path(args.masks) if args.masks else root / "masks" if is_planes(root) and (root / "masks").is_dir() else None
    if masks is not None:
        measured = subset(split, places[:count]).paths
        if missing := len(measured) - check_masks(masks, split.root, measured):
            print(f"{missing} of {len(measured)} images have no mask in {masks}: they do not count where masks are needed")
    pairs = read_pairs(Path(args.pairs), split.classes)[:count] if args.pairs and "pairs" in families else []
    rendered = open_planes(root, args.test, split.classes) if is_planes(root) and {"planes", "parts"} & families else None
    planes = rendered if "planes" in families else None
    parts = _open_parts(args, split, rendered) if "parts" in families else None
    truth = {"masks": masks, "pairs": pairs, "planes": planes, "parts": parts}
    if args.metrics and (lacking := [family for family, known in truth.items() if family in families and not known]):
        hints = {"masks": "give --masks", "pairs": "give --pairs", "planes": f"{root} is not of tools.make_planes"}
        noted = root / ANNOTATIONS
        no_parts = f"{noted} has no key points (parts)" if noted.is_file() else f"{root} has no {ANNOTATIONS} with key points"
        hint = {**hints, "parts": no_parts}[lacking[0]]
        raise ValueError(f"--metrics {','.join(args.metrics)}: there is nothing that {lacking[0]} could be measured by: {hint}")
    return masks, pairs, planes, parts


def _open_parts(args: Flags, split: ImageFolder, planes: PlanesSplit | None) -> PartAnnotations | None:
    try:
        return open_part_annotations(split.root, planes)
    except ValueError as error:
        if args.metrics:
            raise
        print(f"parts are not measured: {error}")
        return None


def subset(split: ImageFolder, places: Sequence[int]) -> ImageFolder:
    """Return the images of a split at `places`, in that order."""
    chosen = copy.copy(split)
    chosen.paths, chosen.labels = [split.paths[place] for place in places], [split.labels[place] for place in places]
    return chosen


class MeasuredImages:
    """The images that are measured, in units of one shape: none is padded, so that no image changes another's maps.

    Attributes:
        data: the images in the order of the units, as are `paths`, `sizes` (H, W) and `predicted`, `[N]`.
        units: how many images each has.
        planes: their ground truth on factorial planes, or None; with it the units have the effects of removed parts.
    """

    def __init__(self, inputs: Inputs, predictions: Tensor, ranks: Ranks) -> None:
        places = inputs.places[: inputs.budget.images]
        chosen = subset(inputs.split, places)
        shapes = eval_shapes(chosen)
        batches = EvalSampler(len(chosen), inputs.args.batch_size, shapes=shapes).batches
        order = [place for batch in batches for place in batch]
        self.inputs, self.data, self.units = inputs, subset(chosen, order), [len(batch) for batch in batches]
        self.paths, self.sizes = self.data.paths, [shapes[place] for place in order]
        self.predicted = predictions[torch.tensor([places[place] for place in order])]
        self.planes = None if inputs.planes is None else self._planes(inputs.planes, ranks)

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self) -> list[dict[str, str]]:
        """Return `file`, `label` and `predicted` of each image."""
        names, predicted = self.data.classes, self.predicted.tolist()
        return [
            {"file": str(path.relative_to(self.data.root)), "label": names[label], "predicted": names[prediction]}
            for path, label, prediction in zip(self.paths, self.data.labels, predicted, strict=True)
        ]

    def load(self, number: int) -> Unit:
        """Return a unit by its number."""
        start = sum(self.units[:number])
        rows, device = slice(start, start + self.units[number]), self.inputs.device
        batch = collate([self.data[place] for place in range(rows.start, rows.stop)]).to(device)
        images, predicted, masks, effects = batch.normalise(**self.inputs.normalisation), self.predicted[rows], None, None
        if self.inputs.masks is not None:
            masks = object_masks(self.inputs.masks, self.data.root, self.paths[rows], self.sizes[start]).to(device)
        if self.planes is not None:
            effects = self.planes.removal_effects(rows, predicted).to(device)
        return Unit(number, rows, images, predicted.to(device), masks, effects)

    def _planes(self, split: PlanesSplit, ranks: Ranks) -> PlanesMetrics:
        """Render and score the counterfactuals of the images."""

        @torch.no_grad()
        def logits(images: Tensor) -> Tensor:
            return self.inputs.inference(images.to(memory_format=torch.channels_last)).logits

        with Progress(1, "counterfactuals") as progress:

            def step(done: int, total: int) -> None:
                progress.total = progress.work = total
                progress.step(done - progress.done)

            return PlanesMetrics(
                split, self.paths, lambda picture: self.inputs.images([picture])[0], logits, size=self.sizes[0][0],
                batch_size=self.inputs.args.batch_size, progress=step, ranks=ranks, loss=self.inputs.model.loss,
            )  # fmt: skip
