"""Classify photographs, and draw why: `python -m tools.predict PHOTO... --resume <checkpoint.pth> [--panels <folder>]`

PHOTO is a file, a folder, a pattern, or - for names on standard input. A photograph that cannot be read is named and left out,
and the exit code is 1 then. With --panels the maps of the predicted class and of the runner-up, their contrast, and the heads of
the attention are drawn for each photograph. With --fiftyone the predictions and these maps become a data set for FiftyOne.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `python tools/predict.py` works too

import cv2
import numpy as np

from attribution.methods.registry import METHODS
from attribution.report.fiftyone_dataset import FiftyOneDataset
from attribution.report.overlay import fit
from attribution.report.panels import Explained, Item, Style, compute_maps, explain_classes, safe_name
from attribution.report.render import FORMATS, FULL, GRID_TILE, Section, Sheet, Tile, panel
from datasets.decode import set_decoding
from datasets.photographs import find_photographs, photograph_batches
from flags import DEVICES
from models.prediction import Prediction, Reader
from models.thresholds import BEST_SCORE, NOT_CALIBRATED
from models.unknown import DISTANCE
from predictor import Predictor
from util.atomic import atomic_write
from util.cli import Flags, Parser, launch
from util.errors import RunFailed
from util.number import COUNT, PART, WORKERS, Number
from util.output_files import check_output_file, make_output_folder, writing_to
from util.printable import printable, short_name
from util.progress import Progress
from util.tables import write_csv

PROG = "python -m tools.predict"
SAID = ("known", "conformal_set", "family", "family_probability")  # fields of a prediction that may be None
BETWEEN = Number(float, 0, 1, above=True, below=True)
SHOWN = 1000  # rows of the table in the terminal
IN_SET = 10  # classes of a conformal set there


def get_args_parser() -> Parser:
    """Return the flags."""
    parser = Parser(PROG, description=__doc__)
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="file, folder, pattern, or - for names on standard input")
    parser.add_argument("--resume", required=True, help="the checkpoint (ICN's or INTR's; path, URL or hf://owner/repo)")
    parser.add_argument("--topk", default=5, type=COUNT, help="number of classes of each photograph")
    parser.add_argument(
        "--refused",
        type=PART,
        help="share of photographs of known classes that may be taken for none of them; 0: all are known; None: 0.05 where the "
        "checkpoint has thresholds",
    )
    parser.add_argument("--coverage", type=BETWEEN, help="give sets of classes that hold the true one so often, such as 0.9")
    parser.add_argument("--families", type=Path, metavar="CSV", help="file with the columns class and family: give families, too")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the predictions as CSV")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the predictions as JSON")
    parser.add_argument("--parquet", type=Path, metavar="FILE", help="write the predictions as Parquet (needs pyarrow)")
    parser.add_argument("--panels", type=Path, metavar="FOLDER", help="draw a panel for each photograph")
    parser.add_argument("--fiftyone", type=Path, metavar="FOLDER", help="write a data set for FiftyOne: predictions and maps")
    parser.add_argument("--format", default="png", choices=FORMATS, help="of the panels")
    parser.add_argument("--grid", action="store_true", help="draw the cells as they are, without interpolation")
    parser.add_argument("--max_image_mb", default=1200, type=COUNT, help="memory in MB that a photograph may take to decode")
    parser.add_argument("--device", default="cuda", help=DEVICES)
    parser.add_argument("--batch_size", default=16, type=COUNT, help="photographs of one shape in a forward pass")
    parser.add_argument("--num_workers", default=2, type=WORKERS, help="processes that load photographs; 0: none")
    return parser


def main(args: Flags) -> None:
    """Classify photographs; raise a ValueError for a wrong flag, and a RunFailed at the end where one could not be read."""
    cv2.setNumThreads(1)  # OpenCV's own threads do not survive the fork of a loader
    check_outputs(args)
    paths = find_photographs(args.photos, standard_input())
    set_decoding(max_image_mb=args.max_image_mb)
    predictor = Predictor.from_checkpoint(args.resume, args.device)
    reader = make_reader(args, predictor)
    predictions: list[Prediction | None] = [None] * len(paths)
    bad: dict[int, str] = {}
    with Progress(len(paths), "classifying") as progress:
        for place, result in predictor.stream(paths, args.topk, args.batch_size, args.num_workers, reader):
            if isinstance(result, Prediction):
                predictions[place] = result
            else:
                bad[place] = result
            progress.step()
    good = {str(path): prediction for path, prediction in zip(paths, predictions, strict=True) if prediction is not None}
    print_table(good)
    write_predictions(args, good)
    if good and (args.panels is not None or args.fiftyone is not None):
        draw_maps(args, predictor, {Path(path): prediction for path, prediction in good.items()})
    for place in sorted(bad):
        print(f"left out: {bad[place]}", file=sys.stderr)
    if bad:
        raise RunFailed(f"{len(bad)} of {len(paths)} photographs cannot be read")


def make_reader(args: Flags, predictor: Predictor) -> Reader:
    """Return what makes predictions of logits; a ValueError names the flag. Say where there are no thresholds, or better ones."""
    try:
        reader = predictor.reader(args.refused, args.coverage, args.families)
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    if predictor.thresholds is None and args.refused is None:
        print(f"every photograph gets a class: {NOT_CALIBRATED}; {BEST_SCORE}", file=sys.stderr)
    elif predictor.thresholds is not None and reader.least_score is not None and predictor.thresholds.score != DISTANCE:
        print(f"photographs are refused by {predictor.thresholds.score}; calibrated {BEST_SCORE}", file=sys.stderr)
    return reader


def standard_input() -> Iterator[str]:
    """Yield the lines of standard input, names of files, which need not be UTF-8."""
    yield from map(os.fsdecode, sys.stdin.buffer)


def check_outputs(args: Flags) -> None:
    """Raise a ValueError where an output cannot be written, before anything is computed."""
    for flag in ("csv", "json", "parquet"):
        file = getattr(args, flag)
        if file is not None:
            check_output_file(f"--{flag}", file)
    if args.parquet is not None:
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise ValueError("--parquet needs the package pyarrow (pip install pyarrow); --csv and --json need none") from None
    if args.panels is not None:
        make_output_folder("--panels", args.panels)
    if args.fiftyone is not None:
        make_output_folder("--fiftyone", args.fiftyone.parent)
        FiftyOneDataset(args.fiftyone, {})  # refuses a folder that holds something


def print_table(predictions: dict[str, Prediction]) -> None:
    """Print each photograph with its classes and probabilities, its conformal set and its family."""
    shown = {printable(file): prediction for file, prediction in list(predictions.items())[:SHOWN]}
    width = max(map(len, shown), default=0)
    for file, said in shown.items():
        classes = "  ".join(f"{short_name(name)} {p:.1%}" for name, p in zip(said.names, said.probabilities, strict=True))
        answer = f"{said.answer}: " if said.answer != said.names[0] else ""
        print(f"{file:<{min(width, 60)}}  {answer}{classes}{set_and_family(said)}")
    if len(predictions) > SHOWN:
        print(f"and {len(predictions) - SHOWN} more: --csv or --json writes all")


def set_and_family(said: Prediction) -> str:
    """Return the conformal set and the family of a prediction for its line in the terminal; empty where none was asked for."""
    text = ""
    if said.conformal_set is not None:
        more = len(said.conformal_set) - IN_SET
        names = "; ".join(map(short_name, said.conformal_set[:IN_SET]))
        text += f"  set: {names}{f' and {more} more' * (more > 0)}"
    if said.family is not None:
        text += f"  family: {short_name(said.family)} {said.family_probability:.1%}"
    return text


def write_predictions(args: Flags, predictions: dict[str, Prediction]) -> None:
    """Write the files that were asked for: `file`, `class_1`, `probability_1` and so on, best first, and what else is said."""
    count = max((len(prediction.names) for prediction in predictions.values()), default=0)
    heads = ["file", *(f"{what}_{rank}" for rank in range(1, count + 1) for what in ("class", "probability"))]
    said = [name for name in SAID if any(getattr(prediction, name) is not None for prediction in predictions.values())]
    heads += ["answer", *said] if said else []
    rows = [
        [file, *itertools.chain(*zip(each.names, each.probabilities, strict=True)), *map(in_cell, further(each, said).values())]
        for file, each in predictions.items()
    ]
    if args.csv is not None:
        write_csv(args.csv, heads, rows)
    if args.json is not None:
        table = [
            {"file": file, "classes": each.names, "probabilities": each.probabilities, **further(each, said)}
            for file, each in predictions.items()
        ]
        with atomic_write(args.json) as text:
            text.write(json.dumps(table, indent=1) + "\n")
    if args.parquet is not None:
        import pyarrow
        import pyarrow.parquet

        columns: dict[str, Any] = {head: [row[place] for row in rows] for place, head in enumerate(heads)}
        columns["file"] = [printable(file) for file in columns["file"]]  # Parquet is UTF-8
        with atomic_write(args.parquet, "wb") as binary:
            pyarrow.parquet.write_table(pyarrow.table(columns), binary)
    for file in filter(None, (args.csv, args.json, args.parquet)):
        print(f"{len(rows)} predictions: {file}")


def further(prediction: Prediction, names: Sequence[str]) -> dict[str, Any]:
    """Return what is said besides the classes: nothing, or the answer and the fields of these names."""
    return {"answer": prediction.answer, **{name: getattr(prediction, name) for name in names}} if names else {}


def in_cell(value: Any) -> Any:
    """Return a value for a cell of a table: a list as one text."""
    return "; ".join(value) if isinstance(value, list) else value


def draw_maps(args: Flags, predictor: Predictor, predictions: dict[Path, Prediction]) -> None:
    """Draw a panel for each photograph, named after its file, and write the data set for FiftyOne, whichever was asked for."""
    stems, method = file_stems(list(predictions)), predictor.model.decoder_spec.default_map
    with contextlib.ExitStack() as stack:
        exported = None
        if args.fiftyone is not None:
            stack.enter_context(writing_to("--fiftyone", args.fiftyone))
            info = {"model": Path(urlsplit(args.resume).path).name, "classes": predictor.classes, "map": method}
            exported = stack.enter_context(FiftyOneDataset(args.fiftyone, info))
        progress = stack.enter_context(Progress(len(predictions), "drawing"))
        for path, explained, heads in explain_photographs(args, predictor, list(predictions)):
            if args.panels is not None:
                with writing_to("--panels", args.panels):
                    sheet = photograph_sheet(predictor, path, explained, heads, args.grid)
                    sheet.save(args.panels / f"{stems[path]}.{args.format}")
            if exported is not None:
                signed = METHODS[method].signed
                exported.add(path, stems[path], predictions[path][:2], predictor.classes, explained, signed, args.grid)
            progress.step()
    for what, folder in (("panels", args.panels), ("photographs for FiftyOne", args.fiftyone)):
        if folder is not None:
            print(f"{len(predictions)} {what}: {folder}")


def file_stems(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a file name without suffix for each photograph; those of the same name, in different folders, get numbers."""
    names: dict[Path, str] = {}
    used: set[str] = set()
    for path in paths:
        stem = safe_name(path.stem)
        name = next(name for number in itertools.count(1) if (name := f"{stem}_{number}" if number > 1 else stem) not in used)
        used.add(name)
        names[path] = name
    return names


def explain_photographs(
    args: Flags, predictor: Predictor, paths: Sequence[Path]
) -> Iterator[tuple[Path, Explained, np.ndarray | None]]:
    """Yield each photograph with the maps of its two most probable classes, and for panels the heads of the first."""
    model = predictor.model
    method = model.decoder_spec.default_map
    for batch in photograph_batches(
        paths, predictor.transform, args.batch_size, args.num_workers, originals=True, decoding=predictor.decoding
    ):
        if batch.images is None:
            continue
        items = []
        for photograph in batch.photographs:
            assert photograph.original is not None
            picture = fit(photograph.original.permute(1, 2, 0).numpy(), FULL, enlarge=False)
            items.append(Item(photograph.input, picture, paths[photograph.place], -1, photograph.place))
        explained = explain_classes(model, predictor.normalisation, batch.images, items, 2, method)
        heads = None
        if model.num_decoder_layers and args.panels is not None:
            images = batch.images.to(predictor.device)
            first = images.labels.new_tensor([[each.predicted] for each in explained])
            maps = compute_maps(model, images.normalise(**predictor.normalisation), images.padding_mask, first, "attention")
            heads = maps[:, 0].cpu().numpy()  # [B, heads, h, w]
        for row, (item, each) in enumerate(zip(items, explained, strict=True)):
            yield item.path, each, None if heads is None else heads[row]


def photograph_sheet(predictor: Predictor, path: Path, explained: Explained, heads: np.ndarray | None, cells: bool) -> Sheet:
    """Lay out one photograph: the two most probable classes, their contrast, and the heads of the first."""
    picture = fit(explained.picture, GRID_TILE * 3 // 2)
    method = predictor.model.decoder_spec.default_map
    names = [f"{predictor.classes[index]} ({p:.1%})" for index, p in zip(explained.classes, explained.scores, strict=True)]
    style = Style(cells=cells, signed=METHODS[method].signed)
    maps = explained.maps[:, 0]  # [2, h, w]
    overlays, scale = style.draw(explained, picture, maps)
    tiles = [Tile(picture, ("photograph",)), *(Tile(*pair) for pair in zip(overlays, ((name,) for name in names), strict=True))]
    sections = [Section(f"{method}: the predicted class and the runner-up", tiles, scale)]
    if len(maps) > 1:
        overlays, scale = Style(cells=cells, signed=True).draw(explained, picture, maps[:1] - maps[1:])
        words = f"red: for {predictor.classes[explained.classes[0]]}; blue: for {predictor.classes[explained.classes[1]]}"
        sections.append(Section(f"contrast of the two ({words})", [Tile(overlays[0], ("first less second",))], scale))
    if heads is not None:
        overlays, scale = Style(cells=cells).draw(explained, picture, heads)
        labels = ((f"head {head}",) for head in range(len(heads)))
        sections.append(
            Section(f"attention: heads of {names[0]}", [Tile(*pair) for pair in zip(overlays, labels, strict=True)], scale)
        )
    return panel(path.name, f"predicted: {names[0]}", None, sections, "one scale per section")


if __name__ == "__main__":
    launch(main, get_args_parser())
