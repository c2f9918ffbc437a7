"""Writes a public data set as ICN's folders: `<out>/<name>/{train,val}/<class>/<image>`.

    python -m tools.prepare_dataset fashion-mnist --source <folder of IDX files> --out <datasets>

Under torchrun or srun the processes share the pictures. A further data set is a further sub-command: its flags, and a function
that gives its pictures to `write_dataset`.
"""

from __future__ import annotations

import argparse
import gzip
import math
import os
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/prepare_dataset.py` works too

from util.cli import Parser, launch
from util.distributed import ALONE, Ranks, init_distributed
from util.progress import Progress

FASHION_CLASSES = (
    *("t-shirt_top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle_boot"),
)
FASHION_FILES = {"train": "train", "val": "t10k"}
FASHION_SHAPE = (28, 28)

IDX_UINT8 = 0x08
CHUNK = 64  # pictures per task

Picture = tuple[str, np.ndarray]  # path below the data set's folder, uint8 [H, W] or BGR [H, W, 3]


def get_args_parser() -> Parser:
    parser = Parser("prepare_dataset", description="Writes a public data set as <out>/<name>/<split>/<class>/<image>")
    datasets = parser.add_subparsers(title="data sets", dest="dataset", required=True, metavar="<data set>")

    fashion = datasets.add_parser(
        "fashion-mnist",
        help="70,000 grey pictures of clothes, 28 x 28 pixels, 10 classes (Xiao et al. 2017)",
        description="Fashion-MNIST from its four IDX files. `train` holds the 60,000 training images, `val` the 10,000 "
        "test images; there is no `test`, since the data set has only two splits.",
    )
    fashion.add_argument(
        "--source",
        type=Path,
        required=True,
        help="folder of the four IDX files, plain or .gz (as in Debian's package dataset-fashion-mnist)",
    )
    fashion.add_argument("--train_images", type=int, help="only the first N/10 training images of each class")
    fashion.set_defaults(prepare=prepare_fashion_mnist)

    for name, command in datasets.choices.items():
        command.add_argument("--out", type=Path, required=True, help="folder of data sets: main.py's --dataset_path")
        command.add_argument("--name", default=name, help=f"folder to write in it: --dataset_name (default: {name})")
    return parser


def prepare_fashion_mnist(args: argparse.Namespace, ranks: Ranks = ALONE) -> None:
    per_class = None
    if args.train_images is not None:
        if args.train_images < 1 or args.train_images % len(FASHION_CLASSES):
            raise ValueError(f"--train_images {args.train_images} must be a positive multiple of 10, as many per class")
        per_class = args.train_images // len(FASHION_CLASSES)
    target = dataset_folder(args.out, args.name)
    if target.exists():
        there = sum(1 for _ in target.glob("train/*/*.png"))
        if args.train_images not in (None, there):
            raise ValueError(
                f"{target} is already there with {there} training images, not --train_images {args.train_images}; "
                "choose another --name or remove it"
            )
        print(f"already there: {target}, {there} training images")
        return
    pictures = []
    for split, prefix in FASHION_FILES.items():
        images, labels = read_labelled_images(args.source, prefix)
        chosen = range(len(labels)) if split == "val" else first_of_each_class(labels, per_class, args.source)
        pictures += [(f"{split}/{FASHION_CLASSES[labels[i]]}/{i:05}.png", images[i]) for i in chosen]
    write_dataset(target, pictures, ranks)


def read_labelled_images(source: Path, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[N, 28, 28]` and labels uint8 `[N]` of one split.

    Raises:
        ValueError: a file is missing or damaged, or the two do not belong together.
    """
    image_file = find_idx(source, f"{prefix}-images-idx3-ubyte")
    label_file = find_idx(source, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or images.shape[1:] != FASHION_SHAPE:
        raise ValueError(f"{image_file}: holds an array of shape {images.shape}; expected (images, 28, 28)")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{label_file}: holds an array of shape {labels.shape}; expected ({len(images)},)")
    if set(np.unique(labels)) != set(range(len(FASHION_CLASSES))):
        raise ValueError(f"{label_file}: labels are {np.unique(labels).tolist()}; expected each of 0 to 9")
    return images, labels


def first_of_each_class(labels: np.ndarray, per_class: int | None, source: Path) -> list[int]:
    """Positions of the first `per_class` images of each class, in order; all of them if None."""
    smallest = int(np.bincount(labels).min())
    if per_class is not None and per_class > smallest:
        most = smallest * len(FASHION_CLASSES)
        raise ValueError(f"--train_images {per_class * len(FASHION_CLASSES)} is more than {source} has: at most {most}")
    return sorted(i for label in np.unique(labels) for i in np.flatnonzero(labels == label)[:per_class].tolist())


def find_idx(source: Path, name: str) -> Path:
    for path in (source / name, source / f"{name}.gz"):
        if path.is_file():
            return path
    what = f"no file {name} or {name}.gz" if source.is_dir() else "no such folder"
    raise ValueError(f"--source {source}: {what}; expected Fashion-MNIST's four IDX files")


def read_idx(path: Path) -> np.ndarray:
    """A uint8 array from a file in the IDX format, plain or gzipped.

    IDX: two zero bytes, the type, the number of dimensions, the dimensions as big-endian uint32, the data.

    Raises:
        ValueError: damaged gzip, another magic number or type, or data shorter or longer than the shape says.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); copy it again") from None
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError(f"{path}: is not an IDX file; its first four bytes are {data[:4].hex() or 'missing'}")
    if data[2] != IDX_UINT8:
        raise ValueError(f"{path}: holds IDX type 0x{data[2]:02x}; expected 0x08, unsigned bytes")
    start = 4 + 4 * data[3]
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, min(start, len(data)), 4))
    if len(data) != start + math.prod(shape):
        raise ValueError(f"{path}: is {len(data)} bytes long; its header {shape} means {start + math.prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def dataset_folder(out: Path, name: str) -> Path:
    if name in ("", ".", "..") or Path(name).name != name:
        raise ValueError(f"--name {name!r} must be the name of one folder, without slashes")
    return out / name


def write_dataset(target: Path, pictures: Sequence[Picture], ranks: Ranks = ALONE) -> None:
    """Writes all pictures as PNG, or nothing: they go to a sibling folder that is renamed at the end."""
    partial = target.with_name(f".{target.name}.partial-{ranks.broadcast(os.getpid())}")
    chunks = [pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK)]
    pool = ThreadPoolExecutor(2)

    def written() -> Iterator[int]:
        yield from pool.map(lambda chunk: write_pngs(partial, chunk), chunks[ranks.rank :: ranks.size])

    try:
        for folder in {os.path.dirname(name) for name, _ in pictures}:
            (partial / folder).mkdir(parents=True, exist_ok=True)
        with Progress(len(pictures), f"writing {target.name}") as line:
            for count in ranks.gather_in_order(written()):
                line.step(count)
        if ranks.main:
            partial.rename(target)
        ranks.barrier()
    finally:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(partial, ignore_errors=True)
    print(f"written: {target}, {len(pictures)} images")


def write_pngs(folder: Path, pictures: Sequence[Picture]) -> int:
    for name, image in pictures:
        written, png = cv2.imencode(".png", image)
        assert written, name
        (folder / name).write_bytes(png.tobytes())
    return len(pictures)


def main(args: argparse.Namespace) -> None:
    """Write the data set that the sub-command names.

    Raises:
        ValueError: a source that is missing or damaged, or a folder that cannot be written to.
        RunFailed: another process is gone.
    """
    try:
        with init_distributed() as ranks:
            args.prepare(args, ranks)
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None


if __name__ == "__main__":
    launch(main, get_args_parser())
