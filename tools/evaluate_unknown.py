"""Measure how well images of unknown classes are told: `python -m tools.evaluate_unknown --resume <checkpoint.pth> ...`

The data set has more classes than the checkpoint: those that it was not trained on count as unknown (train on a copy of the data
set without their folders, for example of links). Writes unknown.json, unknown.md and unknown.png to --output_dir, by default
`unknown_<split>` beside the checkpoint. Leaving a logit out of a model that was trained on its class is not the same.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/evaluate_unknown.py` works too

import cv2
import numpy as np
import torch
from torch import Tensor

from attribution.report.unknown import write_unknown
from datasets import ImageFolder, open_split, set_decoding
from datasets.folders import class_folders
from datasets.image_folder import split_folder
from datasets.loaders import build_eval_loader
from datasets.transforms import eval_transform
from flags import add_data_flags, add_model_flags
from models import ICN, for_inference
from models.icn import resize_mask
from models.unknown import LOGIT_SCORES, Mahalanobis, pool, positive_evidence
from tools.opening import open_checkpoint
from util.classes import match_classes
from util.cli import Flags, Parser, launch
from util.device import select_device
from util.number import SEED
from util.precision import Precision, select_precision
from util.printable import quoted
from util.progress import Progress
from util.results_folder import expand_job_id, results_folder
from util.roc import auroc, compare_scores
from util.tables import markdown_table

PROG = "python -m tools.evaluate_unknown"
BASELINE = "max_probability"


def get_args_parser() -> Parser:
    """Return the flags."""
    parser = Parser(PROG, description=__doc__)
    parser.add_argument("--resume", required=True, help="the checkpoint (ICN's or INTR's; path, URL or hf://owner/repo)")
    parser.add_argument("--seed", default=0, type=SEED, help="of the bootstrap samples")
    add_model_flags(parser)
    add_data_flags(parser)
    parser.set_defaults(batch_size=16)
    return parser


def main(args: Flags) -> dict[str, Any]:
    """Measure, write, and return the content of unknown.json; a ValueError is raised for a wrong flag or file."""
    cv2.setNumThreads(1)  # OpenCV's own threads do not survive the fork of a loader
    args = expand_job_id(args)
    device = select_device(args.device)
    opened = open_checkpoint(args, device, "train")  # --test has further classes
    args, model, meta, classes = opened
    folder = opened.results("unknown")
    set_decoding(args.bit_depth, args.max_image_mb)
    split = open_all(args, args.test, classes)
    labels = torch.tensor(split.labels)
    is_known = labels < len(classes)
    if is_known.all() or not is_known.any():
        missing = "class that the checkpoint does not know" if is_known.all() else "image of the checkpoint's classes"
        raise ValueError(f"{split.root} has no {missing} ({quoted(classes)}): give a data set with known and unknown classes")
    with results_folder(folder, "unknown.json"):
        extractor = Extractor(args, for_inference(model), device, meta.normalisation, select_precision(args.precision, device))
        images, train = extractor.extract(split, args.test), training_features(args, extractor, classes)
        scores = {name: values.double().numpy() for name, values in all_scores(images, model, train).items()}
        known, unknown = ({name: x[mask.numpy()] for name, x in scores.items()} for mask in (is_known, ~is_known))
        content = {
            "settings": describe(args, model, images.logits[is_known], labels[is_known], len(labels), train),
            "scores": compare_scores(known, unknown, BASELINE, args.seed),
            "classes": by_class(scores, split, len(classes)),
        }
        write_unknown(content, known, unknown, folder)
    print_summary(content)
    print(f"{folder / 'unknown.md'}, and unknown.json and unknown.png beside it")
    return content


def open_all(args: Flags, name: str, classes: Sequence[str]) -> ImageFolder:
    """Open a split, with labels for the `classes` first, then for those of its folders that are none of them."""
    folders = list(class_folders(split_folder(args.dataset_path, args.dataset_name, name)))
    further = [folder for folder, label in zip(folders, match_classes(folders, classes), strict=True) if label is None]
    transform = eval_transform(args.image_size, args.square)
    return open_split(args.dataset_path, args.dataset_name, name, [*classes, *further], transform)


@dataclass(frozen=True)
class Outputs:
    """What the scores are computed of: logits `[N, C]`, pooled features `[N, D]`, and positive evidence `[N]` (or `[N, 0]`)."""

    logits: Tensor
    features: Tensor
    evidence: Tensor


@dataclass(frozen=True)
class Extractor:
    """The model with what its input needs."""

    args: Flags
    model: ICN
    device: torch.device
    normalisation: Mapping[str, list[float]]
    precision: Precision

    @torch.inference_mode()
    def extract(self, split: ImageFolder, label: str) -> Outputs:
        """Return the outputs for all images of a split, in its order, on the CPU.

        Raises:
            ValueError: the model gives logits that are not finite.
        """
        rows: list[tuple[Tensor, ...]] = []
        with Progress(len(split), f"scoring {label}") as progress:
            for batch in build_eval_loader(self.args, split, self.device):
                batch = batch.to(self.device)
                with self.precision.autocast():
                    output = self.model(batch.normalise(**self.normalisation), batch.padding_mask)
                mask = resize_mask(batch.padding_mask, output.features)
                evidence = output.logits[:, :0]
                if self.model.decoder_spec.is_additive:
                    best = output.logits.argmax(1, keepdim=True)  # [B, 1]
                    evidence = positive_evidence(self.model.evidence_of(output.features, batch.padding_mask, best)[:, 0])
                values = batch.indices, output.logits.float(), pool(output.features, mask), evidence
                rows.append(tuple(value.cpu() for value in values))
                progress.step(len(batch))
        indices, logits, features, evidence = (torch.cat(column) for column in zip(*rows, strict=True))
        if not logits.isfinite().all():
            raise ValueError(f"--resume {self.args.resume}: the model gives logits that are not finite: the file is damaged")
        order = indices.argsort()
        return Outputs(logits[order], features[order], evidence[order])


def training_features(args: Flags, extractor: Extractor, classes: Sequence[str]) -> tuple[Tensor, Tensor] | None:
    """Return features `[N, D]` and labels `[N]` of the training images of known classes; None where there is no folder train."""
    if not Path(args.dataset_path, args.dataset_name, "train").is_dir():
        print("no folder train: distances of features are left out")
        return None
    train = open_all(args, "train", classes)
    kept = [place for place, label in enumerate(train.labels) if label < len(classes)]
    train.paths, train.labels = [train.paths[place] for place in kept], [train.labels[place] for place in kept]
    return extractor.extract(train, "train").features, torch.tensor(train.labels)


def all_scores(images: Outputs, model: ICN, train: tuple[Tensor, Tensor] | None) -> dict[str, Tensor]:
    """Return every score `[N]` that there is: higher is more known."""
    scores = {name: score(images.logits, model.loss) for name, score in LOGIT_SCORES.items()}
    if model.decoder_spec.is_additive:
        scores["positive_evidence"] = images.evidence
    if train is not None:
        gaussians = Mahalanobis.fit(*train, model.num_classes)
        scores["mahalanobis"] = gaussians.score(images.features)
        scores["relative_mahalanobis"] = gaussians.relative_score(images.features)
    return scores


def describe(
    args: Flags, model: ICN, logits: Tensor, labels: Tensor, images: int, train: tuple[Tensor, Tensor] | None
) -> dict[str, Any]:
    """Return what the numbers depend on: `logits` and `labels` are of the known ones of all `images`."""
    return {
        "checkpoint": Path(args.resume).name, "decoder": model.decoder_name, "loss": model.loss, "dataset": args.dataset_name,
        "split": args.test, "seed": args.seed, "known_classes": model.num_classes, "known_images": len(labels),
        "unknown_images": images - len(labels), "train_images": 0 if train is None else len(train[1]),
        "acc1": 100 * float((logits.argmax(1) == labels).double().mean()),
    }  # fmt: skip


def by_class(scores: Mapping[str, np.ndarray], split: ImageFolder, known_classes: int) -> dict[str, dict[str, float]]:
    """Return for each unknown class its number of images, and the AUROC of each score against all known images."""
    labels = np.array(split.labels)
    return {
        split.classes[label]: {
            "images": int((labels == label).sum()),
            **{name: auroc(values[labels < known_classes], values[labels == label]) for name, values in scores.items()},
        }
        for label in sorted(set(labels[labels >= known_classes].tolist()))
    }


def print_summary(content: Mapping[str, Any]) -> None:
    """Print AUROC and false positives of each score."""
    rows = [[name, *(f"{each[key].value:.3f}" for key in ("auroc", "fpr"))] for name, each in content["scores"].items()]
    print(markdown_table(["score", "AUROC", "FPR at 95 % TPR"], rows, text_columns=1))


if __name__ == "__main__":
    launch(main, get_args_parser())
