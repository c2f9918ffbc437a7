"""Make a factorial-planes data set, or a sheet that shows its classes.

python -m tools.make_planes --preset f16 --out <datasets> --train 3200 --val 800 --test 800
python -m tools.make_planes --preset f81 --sheet planes.png
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from datasets.planes import MIN_SIZE, Preset, Render, get_preset, render
from datasets.planes_export import FORMATS, SPLITS, export
from datasets.planes_parts import PARTS

# One colour a part, RGB: fuselage, wings, nose, engines, wingtip, tail, roundel.
PART_COLOURS = ((150, 150, 150), (95, 95, 95), (230, 60, 60), (250, 170, 30), (60, 180, 75), (60, 120, 230), (220, 60, 220))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """One line, without the usage."""
        self.exit(2, f"make_planes: error: {message}\n")


def get_args_parser() -> argparse.ArgumentParser:
    parser = _Parser("make_planes", description="Make a factorial-planes data set: aeroplanes whose evidence is known.")
    parser.add_argument("--preset", default="f16", help="f16, f81, f8, pair-<slot> or shortcut-<rate> (default: f16)")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=Path, help="folder of data sets in which <name> is made")
    output.add_argument("--name", help="name of the data set (default: planes-<preset>)")
    output.add_argument(
        "--format", default="png", choices=FORMATS, help="png keeps the pictures exact; jpg is smaller (default: png)"
    )
    output.add_argument("--sheet", type=Path, help="write a picture with one aeroplane of each class and its parts in colour")
    data = parser.add_argument_group("data")
    data.add_argument("--size", type=int, default=224, help=f"side of a picture in pixels, at least {MIN_SIZE} (default: 224)")
    data.add_argument("--train", type=int, default=3200, help="pictures in train, all classes together (default: 3200)")
    data.add_argument("--val", type=int, default=800, help="pictures in val (default: 800)")
    data.add_argument("--test", type=int, default=800, help="pictures in test (default: 800)")
    data.add_argument("--seed", type=int, default=0, help="the data set is a function of it (default: 0)")
    data.add_argument("--num_workers", type=int, default=2, help="processes; they do not change the files (default: 2)")
    return parser


def _progress(out: Callable[[str], object], interval: float = 2.0) -> Callable[[int, int], None]:
    """A callback that prints a line with the time left, every few seconds and at the end."""
    first: float | None = None  # the first picture's time: the start of the workers is no measure of their speed
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal first, last
        now = time.monotonic()
        first = now if first is None else first
        if done == 1 or (now - last < interval and done < total):
            return
        last = now
        rate = (done - 1) / max(now - first, 1e-9)
        left = round((total - done) / rate)
        out(f"{done}/{total} pictures  {rate:.0f}/s  ETA {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}")

    return show


def _paint_parts(drawn: Render) -> np.ndarray:
    palette = np.array([(20, 20, 28), *PART_COLOURS], np.uint8)
    return palette[drawn.parts]  # [H, W, 3]


def contact_sheet(preset: Preset, size: int, seed: int) -> np.ndarray:
    """One aeroplane of each class, with its parts in colour and its name beneath: uint8 [H, W, 3] RGB."""
    count = len(preset.classes)
    columns = min((c for c in range(1, count + 1) if count % c == 0), key=lambda c: abs(c - (count / 2) ** 0.5))
    tiles = []
    for index, (name, variants) in enumerate(preset.classes.items()):
        z = seed * 1000 + index
        drawn = render(variants, z, size, roundel=preset.roundel_of(name, z))
        caption = np.full((18, 2 * size, 3), 255, np.uint8)
        cv2.putText(caption, name, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        tiles.append(np.vstack([np.hstack([drawn.image, _paint_parts(drawn)]), caption]))
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def _write_sheet(path: Path, preset: Preset, size: int, seed: int) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"--sheet {path}: the name must end in .png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", contact_sheet(preset, size, seed)[..., ::-1])[1].tobytes())
    except OSError as error:
        raise ValueError(f"--sheet {path}: {error.strerror}") from None
    print(f"wrote {path} (parts: {', '.join(PARTS)})")


def main(argv: list[str] | None = None) -> int:
    parser = get_args_parser()
    args = parser.parse_args(argv)
    if args.out is None and args.sheet is None:
        parser.error("nothing to do: give --out for a data set, --sheet for a picture of its classes, or both")
    if args.seed < 0:
        parser.error(f"seed is {args.seed}: it must not be negative")
    if args.name is not None and (not args.name or Path(args.name).name != args.name):
        parser.error(f"--name '{args.name}': give a plain folder name, without a path")
    try:
        preset = get_preset(args.preset)
        if args.size < MIN_SIZE:
            raise ValueError(f"size is {args.size}: it must be at least {MIN_SIZE} pixels")
        if args.sheet is not None:
            _write_sheet(args.sheet, preset, args.size, args.seed)
        if args.out is not None:
            root = args.out / (args.name or f"planes-{preset.name}")
            counts = {split: getattr(args, split) for split in SPLITS}
            made = export(root, preset, args.size, counts, args.seed, args.num_workers, args.format, _progress(print))
            print(f"{root}: {'made' if made else 'already there'}, {len(preset.classes)} classes")
    except KeyboardInterrupt:
        parser.exit(130, "make_planes: stopped, nothing was kept\n")
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
