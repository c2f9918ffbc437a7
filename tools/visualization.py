"""Draw where the class queries looked: `python -m tools.visualization --resume <checkpoint.pth> --class_index <i> ...`

For every image of one class three panels are drawn: the heads of the true class's query, the most similar classes, and the
heads of those. `index.html` in the folder of the class shows them all. Under torchrun or srun the processes share the images.
"""

from __future__ import annotations

import argparse
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attribution.methods.attention import class_maps
from attribution.report.html import OVERLAYS, Row, clear, index_html, panel_name, safe_name
from attribution.report.panels import Explained, draw_overlays, draw_panels
from attribution.report.render import FULL, WEIGHT, fit
from datasets import (
    EvalSampler,
    ImageBatch,
    ImageFolder,
    class_names,
    collate,
    eval_transform,
    open_split,
    verify_images,
    worker_init,
)
from flags import INPUT, add_data_flags, add_model_flags, explicit_flags, fill_from_checkpoint
from models import ICN, load_checkpoint
from util.cli import Parser, launch, select_device
from util.distributed import Ranks, init_distributed
from util.launcher import read_launcher_env
from util.progress import Progress

PROG = "python -m tools.visualization"
NEIGHBOURS = 3


def get_args_parser() -> Parser:
    """INTR's flags for drawing, and those of the model and of the data."""
    parser = Parser(PROG, description=__doc__.splitlines()[0])
    group = parser.add_argument_group("drawing")
    group.add_argument("--resume", default="", help="the checkpoint (ICN's or INTR's; path or URL)")
    group.add_argument("--class_index", default=0, type=int, help="the class whose images are drawn")
    group.add_argument("--dec_layer_index", type=int, help="decoder layer, negative from the end; None: the last")
    group.add_argument("--top_q", default=5, type=int, help="number of most similar classes")
    group.add_argument("--gt_query_heads", default=1, type=int, choices=[0, 1], help="draw the heads of the true class")
    group.add_argument("--sim_query_heads", default=1, type=int, choices=[0, 1], help="draw the heads of the similar classes")
    group.add_argument("--eval", action="store_true", help="accepted: nothing is ever trained here")
    add_model_flags(parser)
    add_data_flags(parser)
    parser.set_defaults(batch_size=1)
    return parser


class Item(NamedTuple):
    """One image twice: as the network sees it (uint8 `[3, h, w]`), and as it is drawn (uint8 `[H, W, 3]`)."""

    seen: Tensor
    picture: np.ndarray
    path: Path


class Pictures(Dataset[Item]):
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
    """The batch for the network, and what is drawn of it."""
    return collate([(item.seen, 0, index) for index, item in enumerate(items)]), items


@torch.inference_mode()
def explain(
    model: ICN, normalisation: dict[str, list[float]], batch: ImageBatch, items: list[Item], true: int, top_q: int, layer: int
) -> list[Explained]:
    """Classify a batch of images of class `true`, and keep the maps of the `top_q` highest logits.

    Where the true class is not among them, it takes the place of the last.

    Raises:
        ValueError: the model gives no finite logits.
    """
    device = next(model.parameters()).device
    batch = batch.to(device)
    images = batch.normalise(**normalisation)
    sums = model.decoder_spec.is_additive  # the logit is a sum over cells: what each of them added is drawn, not the attention
    output = model(images, batch.padding_mask, attention=None if sums else layer)
    logits = output.logits.float().cpu()  # [B, C]
    if not logits.isfinite().all():
        raise ValueError(f"--resume: the model gives logits that are not finite for {items[0].path}: the file is damaged")
    scores = logits.softmax(1)
    order = logits.argsort(dim=1, descending=True, stable=True)  # [B, C]
    classes = order[:, :top_q].clone()  # [B, Q]
    classes[(classes != true).all(1), -1] = true
    ranks = order.argsort(1).gather(1, classes) + 1
    if sums:
        maps = model.evidence(images, batch.padding_mask, classes.to(device))[1].clamp(min=0)[:, :, None]  # [B, Q, 1, h, w]
    else:
        maps = class_maps(output.attention[0], classes.to(device)).float()  # [B, Q, heads, h, w]
    found = maps.cpu().numpy()
    best = order[:, 0].tolist()
    return [
        Explained(
            picture=item.picture,
            padded_size=tuple(batch.images.shape[-2:]),
            valid_size=tuple(item.seen.shape[-2:]),
            true=true,
            predicted=best[b],
            predicted_score=float(scores[b, best[b]]),
            classes=classes[b].tolist(),
            ranks=ranks[b].tolist(),
            logits=logits[b, classes[b]].tolist(),
            scores=scores[b, classes[b]].tolist(),
            maps=found[b],
        )
        for b, item in enumerate(items)
    ]


def draw(
    path: Path,
    explained: Explained,
    source: Path,
    target: Path,
    classes: Sequence[str],
    layer: str,
    heads: bool,
    query_heads: bool,
) -> Row:
    """Write all panels of the image `path`, which lies somewhere in `source`, to the same place in `target`.

    Those of an earlier run are deleted first; nothing else is.

    Args:
        path: the image.
        explained: what the model says about it.
        source, target: its class's folder, and the folder of the index.
        classes: the names of all classes.
        layer: the decoder layer, in words.
        heads, query_heads: whether to draw the heads of the true class, and those of the similar classes.
    """
    name = path.relative_to(source)
    folder = target / name
    title = f"{source.name} / {name}"
    panels = draw_panels(explained, classes, title, layer, heads=heads, query_heads=query_heads)
    overlays = draw_overlays(explained, classes, heads=heads)
    true, predicted = classes[explained.true], classes[explained.predicted]
    files = [panel_name(kind, true, predicted, explained.predicted_score, explained.right) for kind in panels]
    with writing(folder):
        (folder / OVERLAYS).mkdir(parents=True, exist_ok=True)
        clear(folder)
        for file, picture in zip(files, panels.values(), strict=True):
            (folder / file).write_bytes(png(picture))
        for stem, picture in overlays.items():
            (folder / OVERLAYS / f"{stem}.png").write_bytes(png(picture))
    scores = explained.predicted_score, explained.true_score
    return Row(str(name), name.as_posix(), files, predicted, *scores, explained.right)


def png(picture: np.ndarray) -> bytes:
    """The file's bytes."""
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a ValueError."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"--output_dir: {folder} cannot be written ({error.strerror}): choose another folder") from None


def check_flags(args: argparse.Namespace, classes: Sequence[str], layers: int, layer: int) -> None:
    """Raise a ValueError for a flag that does not fit the checkpoint."""
    count = len(classes)
    if not 0 <= args.class_index < count:
        near = range(max(0, count - NEIGHBOURS), count) if args.class_index >= count else range(min(NEIGHBOURS, count))
        names = ", ".join(f"{index} {classes[index]}" for index in near)
        raise ValueError(f"--class_index {args.class_index} does not exist: {args.resume} has 0 to {count - 1} (near: {names})")
    if layers and not -layers <= layer < layers:
        raise ValueError(
            f"--dec_layer_index {layer} does not exist: {args.resume} has decoder layers 0 to {layers - 1} "
            f"(or -{layers} to -1 from the end)"
        )
    if not 1 <= args.top_q <= count and (args.top_q < 1 or "top_q" in args.explicit):
        raise ValueError(f"--top_q {args.top_q} must be from 1 to {count}, the number of classes in {args.resume}")
    if not args.output_dir:
        raise ValueError("--output_dir is empty: name a folder for the pictures")
    if args.batch_size < 1 or args.num_workers < 0:
        raise ValueError(f"--batch_size {args.batch_size} must be at least 1, and --num_workers {args.num_workers} at least 0")


def main(args: argparse.Namespace) -> None:
    """Draw the images of `--class_index`, and their index.

    Raises:
        ValueError: what the user can mend, in one line.
        RunFailed: another process is gone.
    """
    cv2.setNumThreads(1)  # images are drawn in threads of ours, and OpenCV's do not survive the fork of a loader
    if not args.resume:
        raise ValueError("--resume is missing: give the checkpoint whose maps are to be drawn")
    device = select_device(args.device, read_launcher_env())
    with init_distributed(args.dist_url, device.type == "cuda") as ranks:
        visualize(args, device, ranks)


def visualize(args: argparse.Namespace, device: torch.device, ranks: Ranks) -> None:
    """`main` among its processes: each draws every so many-th batch, rank 0 writes the index."""
    model, meta = load_checkpoint(args.resume, device, explicit_flags(args))
    model.eval().to(memory_format=torch.channels_last)
    fill_from_checkpoint(args, meta.args, INPUT)
    classes = meta.classes or class_names(args.dataset_path, args.dataset_name, args.test, model.num_classes)
    sums = model.decoder_spec.is_additive
    layers = 0 if sums else model.num_decoder_layers
    if sums and "dec_layer_index" in args.explicit:
        raise ValueError(f"--dec_layer_index: {args.resume} has no decoder layers, its map is its logit: leave the flag out")
    layer = layers - 1 if args.dec_layer_index is None else args.dec_layer_index
    check_flags(args, classes, layers, layer)
    split = open_split(args.dataset_path, args.dataset_name, args.test, classes, only_class=args.class_index)
    verify_images(split.paths[ranks.rank :: ranks.size])
    ranks.barrier()

    true = classes[args.class_index]
    data_set = [safe_name(part, limit=255) for part in Path(args.dataset_name).parts]
    target = Path(args.output_dir, "visualization", *data_set, args.test, f"{args.class_index}_{safe_name(true)}")
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
    batches = EvalSampler(len(split), args.batch_size).batches[ranks.rank :: ranks.size]
    loader = DataLoader(
        Pictures(split, args.image_size, args.square),
        batch_sampler=batches,
        num_workers=min(args.num_workers, len(batches)),
        collate_fn=collate_items,
        worker_init_fn=worker_init,
    )
    top_q = min(args.top_q, len(classes))
    explained = (
        (item.path, one)
        for batch, items in loader
        for item, one in zip(items, explain(model, meta.normalisation, batch, items, args.class_index, top_q, layer), strict=True)
    )
    words = "what speaks for the class, cell by cell" if sums else f"decoder layer {layer % layers} of 0 to {layers - 1}"
    heads, query_heads = bool(args.gt_query_heads) and not sums, bool(args.sim_query_heads) and not sums
    source = split.root / true
    show = partial(draw, source=source, target=target, classes=classes, layer=words, heads=heads, query_heads=query_heads)
    drawn: dict[str, Row] = {}
    with Progress(len(split), "drawing") as progress:
        for row in ranks.gather_in_order(in_threads(show, explained)):
            drawn[row.name] = row
            progress.step()
    if not ranks.main:
        return

    rows = [drawn[str(path.relative_to(source))] for path in split.paths]
    what = words if sums else f"cross-attention of {words}"
    about = (
        f"{args.dataset_name}, {args.test} split; checkpoint {Path(args.resume).name}; {what}. Each map is on its own "
        f"scale: its minimum has the weight {WEIGHT[0]:.0%} over the picture, its maximum {WEIGHT[1]:.0%}."
    )
    index = target / "index.html"
    with writing(index):
        index.write_text(index_html(f"{args.class_index} {true}", about, rows), encoding="utf-8", errors="replace")
    right = sum(row.right for row in rows)
    print(f"{len(rows)} images of class {args.class_index} ({true}): {right} right, {len(rows) - right} wrong")
    print(f"open {index}")


def in_threads(show: Callable[[Path, Explained], Row], explained: Iterable[tuple[Path, Explained]]) -> Iterator[Row]:
    """Call `show` on every item while the next ones are made; what it returns, in order, with few of them in memory."""
    threads = min(8, os.cpu_count() or 1)
    pending: deque[Future[Row]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for path, one in explained:
            pending.append(pool.submit(show, path, one))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


if __name__ == "__main__":
    launch(main, get_args_parser())
