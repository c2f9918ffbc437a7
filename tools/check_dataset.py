"""Check a data set before it is trained on: files, sizes, classes, duplicates and, with a checkpoint, labels.

    python -m tools.check_dataset --dataset_path <datasets> --dataset_name <name> [--resume <checkpoint.pth>] [--out <folder>]

All pictures of train, val and test are decoded. The findings are printed, and written with thumbnails to one page, and to
check.json. The exit code is 1 where there are faults: what a training refuses, such as files that cannot be used, and duplicates
in two splits, or equal files of two classes. A page needs no server and no network.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/check_dataset.py` works too

import cv2

from attribution.report.check import write_check
from datasets.check import check_dataset, faults, remarks
from datasets.decode import set_decoding
from datasets.inventory import Inventory, take_inventory
from datasets.near_duplicates import BITS
from flags import BITS as BIT_DEPTH
from flags import DEVICES
from models.prediction import Prediction
from predictor import Predictor
from util.atomic import atomic_write, replace_folder
from util.classes import match_classes
from util.cli import Flags, Parser, launch
from util.errors import RunFailed
from util.number import COUNT, WORKERS, Number
from util.printable import printable, quoted
from util.progress import Progress

PROG = "python -m tools.check_dataset"
CONTENT = "check.json"


class Score(NamedTuple):
    """A picture, its class, the class that the checkpoint predicts, and the probabilities of both."""

    file: str
    label: str
    predicted: str
    p_label: float
    p_predicted: float


def get_args_parser() -> Parser:
    """Return the flags."""
    parser = Parser(PROG, description=__doc__)
    parser.add_argument("--dataset_path", default="datasets", help="folder of data sets")
    parser.add_argument("--dataset_name", required=True, help="<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>")
    parser.add_argument("--out", type=Path, help="folder of the page; None: output/<dataset_name>/check")
    parser.add_argument(
        "--resume", default="", help="checkpoint whose doubts about labels are listed (path, URL or hf://owner/repo)"
    )
    parser.add_argument(
        "--duplicate_bits",
        default=4,
        type=Number(int, -1, 16),
        help=f"bits, of {BITS}, that the perceptual hashes of near-duplicates differ by at most; -1: do not look for them",
    )
    parser.add_argument("--bit_depth", default=16, type=BIT_DEPTH, help="bits of the values in files of 16 bits")
    parser.add_argument("--max_image_mb", default=1200, type=COUNT, help="memory in MB that an image may take to decode")
    parser.add_argument("--num_workers", type=WORKERS, help="threads that read pictures; None: one for each core, at most 8")
    parser.add_argument("--batch_size", default=16, type=COUNT, help="pictures of one shape in a forward pass of --resume")
    parser.add_argument("--device", default="cuda", help=f"of --resume: {DEVICES}")
    return parser


def main(args: Flags) -> None:
    """Check a data set; raise a ValueError for a wrong flag or an empty data set, a RunFailed at the end if there are faults."""
    cv2.setNumThreads(1)  # OpenCV's own threads do not survive the fork of a loader
    workers = max(1, min(8, os.cpu_count() or 1) if args.num_workers is None else args.num_workers)
    set_decoding(args.bit_depth, args.max_image_mb)
    inventory = take_inventory(args.dataset_path, args.dataset_name)
    out = args.out or Path("output", args.dataset_name, "check")
    if out.resolve().is_relative_to(inventory.root.resolve()):
        raise ValueError(f"--out {out} lies in the data set: choose a folder elsewhere")
    predictor = Predictor.from_checkpoint(args.resume, args.device) if args.resume else None
    known = known_classes(predictor, inventory) if predictor else []
    with replace_folder(out, Path(CONTENT)) as folder:
        content = check_dataset(inventory, args.duplicate_bits, workers)
        if predictor:
            unusable = {each["file"] for each in content["unusable"]}
            content |= find_suspects(list(score_pictures(predictor, known, inventory, unusable, args.batch_size, workers)))
        found, more = faults(content), remarks(content)
        print_summary(content, found, more)  # first: nothing of it is lost where the disk is full
        with atomic_write(folder / CONTENT) as file:
            file.write(json.dumps({"faults": found, "remarks": more, **content}, indent=1, allow_nan=False) + "\n")
        write_check(folder, out, content, found, more, workers)
    print(f"open {out / 'index.html'}; everything by name: {out / CONTENT}")
    if found:
        raise RunFailed(f"{args.dataset_name} has {len(found)} {'fault' if len(found) == 1 else 'kinds of faults'}: see above")


def known_classes(predictor: Predictor, inventory: Inventory) -> list[str | None]:
    """Return the name of each class of the data set in the checkpoint, None where it has none.

    Raises:
        ValueError: it knows none of them.
    """
    names = predictor.classes
    if names == [str(index) for index in range(inventory.trained)] != inventory.classes[: inventory.trained]:
        return [*names, *[None] * (len(inventory.classes) - len(names))]  # INTR's: in the order of train
    known = [None if label is None else names[label] for label in match_classes(inventory.classes, names)]
    if not any(name is not None for name in known):
        here, there = quoted(inventory.classes), quoted(names)
        raise ValueError(f"--resume: the checkpoint has none of the classes of the data set ({here}), but {there}")
    return known


def score_pictures(
    predictor: Predictor,
    known: Sequence[str | None],
    inventory: Inventory,
    unusable: Container[str],
    batch_size: int,
    workers: int,
) -> Iterator[Score]:
    """Yield what the checkpoint says of each picture that it can score.

    Args:
        predictor: the model.
        known: its name of each class of the data set; None: it has none.
        inventory: the data set.
        unusable: files that cannot be read.
        batch_size: pictures in a forward pass.
        workers: processes that load them.
    """
    chosen = [index for index, label in enumerate(inventory.label_of) if known[label] is not None]
    chosen = [index for index in chosen if inventory.file(index) not in unusable]
    ours = {name: inventory.classes[label] for label, name in enumerate(known) if name is not None}
    with Progress(len(chosen), "scoring") as progress:
        stream = predictor.stream([inventory.paths[index] for index in chosen], len(predictor.classes), batch_size, workers)
        for place, result in stream:
            progress.step()
            if isinstance(result, Prediction):  # else the file changed meanwhile
                index = chosen[place]
                label = str(known[inventory.label_of[index]])
                p = result.probabilities[result.names.index(label)]
                best = ours.get(result.names[0], result.names[0])
                yield Score(inventory.file(index), ours[label], best, round(p, 6), round(result.probabilities[0], 6))


def find_suspects(scores: Sequence[Score]) -> dict[str, Any]:
    """Return the pictures that are taken for another class, the greatest differences first, and the surest of each class.

    A suspect is `confident` if the predicted class is at least as probable as it is, on average, for the pictures of that class
    (confident learning, Northcutt et al., JAIR 2021, eq. 1 and 2), which does not depend on the calibration of the checkpoint.
    """
    own: dict[str, list[float]] = {}
    surest: dict[str, Score] = {}
    for score in scores:
        own.setdefault(score.label, []).append(score.p_label)
        if score.label == score.predicted:
            surest[score.label] = max(surest.get(score.label, score), score, key=lambda each: each.p_label)
    usual = {name: sum(values) / len(values) for name, values in own.items()}
    doubted = [score for score in scores if score.label != score.predicted]
    doubted.sort(key=lambda score: (score.p_label - score.p_predicted, score.file))
    return {
        "scored": len(scores),
        "suspects": [{**score._asdict(), "confident": score.p_predicted >= usual.get(score.predicted, 1.0)} for score in doubted],
        "examples": {name: score.file for name, score in surest.items()},
    }


def print_summary(content: Mapping[str, Any], found: Sequence[str], more: Sequence[str]) -> None:
    """Print numbers, faults and remarks."""
    counts = [sum(each["images"][place] for each in content["classes"]) for place in range(len(content["splits"]))]
    splits = ", ".join(f"{split} {count:,}" for split, count in zip(content["splits"], counts, strict=True))
    print(f"{printable(content['dataset'])}: {content['images']:,} pictures ({splits}) of {len(content['classes'])} classes")
    if content["sizes"]:
        for name, key in (("short side in pixels", "short_side"), ("width / height", "aspect_ratio")):
            quantiles = content["sizes"][key]["quantiles"]
            print(f"{name}: " + ", ".join(f"{share} {value:g}" for share, value in quantiles.items()))
        print("kinds: " + "; ".join(f"{kind} {count:,}" for kind, count in content["kinds"].items()))
    for title, lines in (("faults", found), ("worth a look", more)):
        print(f"{title}:" if lines else f"{title}: none")
        for line in lines:
            print(f"  {line}")


if __name__ == "__main__":
    launch(main, get_args_parser())
