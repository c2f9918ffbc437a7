"""A list of photographs, as a person or a spreadsheet writes it, or as JSON in COCO's form; wrong rows are named."""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.folders import EXTENSIONS, IMAGE_EXTENSIONS, SYSTEM, LeftOut, images_below
from datasets.prepare.archives import inside
from datasets.prepare.cutting import Box, around
from datasets.prepare.workbooks import WORKBOOKS, read_workbook
from util.classes import class_key
from util.errors import did_you_mean, first_line
from util.printable import printable, quoted

FORM = "expected columns path,label[,split][,group], between commas, semicolons, tabs or |"
COCO_FORM = (
    'expected {"images": [{"id", "file_name"}], "annotations": [{"image_id", "category_id"}], "categories": [{"id", "name"}]}'
)
COLUMNS = {
    "path": "path file filename file_name filepath file_path image image_path image_name img picture photo photograph",
    "label": "label labels class class_name classname category species target",
    "split": "split subset set partition fold",
    "group": "group group_id individual camera burst sequence site session",
}
COLUMN = {name: column for column, names in COLUMNS.items() for name in names.split()}
SPLIT_NAMES = {"train": "train training", "val": "val valid validation dev", "test": "test testing"}
SPLIT = {name: split for split, names in SPLIT_NAMES.items() for name in names.split()}
NONE = "none"  # --list: there is none that counts
DELIMITERS = "\t;,|"
SHOWN = 5  # wrong rows in an error


class Row(NamedTuple):
    """A row: its picture as listed and its file, label, split and group (empty: none given), and the object's box."""

    name: str
    path: Path
    label: str
    split: str
    group: str
    box: Box | None = None


def read_list(
    path: Path,
    folder: Path,
    missing_allowed: bool = False,
    chosen: Mapping[str, str] | None = None,
    notes: list[str] | None = None,
) -> list[Row]:
    """Read a list of photographs.

    Args:
        path: the list.
        folder: that of the pictures.
        missing_allowed: whether a picture may not exist.
        chosen: headers of the columns `label` and `group`, where they are not found by their names.
        notes: what the columns of a table were taken for is appended.

    Raises:
        ValueError: it is no such list, or some rows are wrong, of which the first are named.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file; {FORM}")
    if path.suffix.lower() == ".json":
        if chosen:
            raise ValueError(f"--{next(iter(chosen))}: {path} is JSON in COCO's form, which has no columns: leave it out")
        rows, boxes = _read_coco(path)
        columns, head, encoding = list(COLUMNS), list[str](), "utf-8"
    else:
        boxes = {}
        rows, encoding = _read_table(path)
        columns, head = _columns(path, rows, chosen or {}, folder, encoding)
    if "split" in columns and not any(cells[columns.index("split")] for _, cells in rows if len(cells) == len(columns)):
        columns[columns.index("split")] = ""  # an empty column
    if head and notes is not None and (note := _describe(path, columns, head)) not in notes:
        notes.append(note)
    found, wrong = [], []
    for number, cells in rows:
        row, problem = _read_row(cells, columns, folder, encoding)
        if not problem and not missing_allowed and not os.path.isfile(row.path):
            problem = f"no file {quoted([row.name])} in {folder}"
        if problem:
            wrong.append(f"row {number}: {problem}")
        else:
            found.append(row._replace(box=boxes.get(number)))
    refuse(path, wrong, len(rows))
    if not found:
        raise ValueError(f"{path}: lists no picture; {FORM}")
    return found


def _read_table(path: Path) -> tuple[list[tuple[int, list[str]]], str]:
    """Return number and cells of each row of a workbook, of lines of JSON or of a text, and its encoding."""
    if path.suffix.lower() in WORKBOOKS:
        rows, encoding = read_workbook(path), "utf-8"
    elif path.suffix.lower() == ".jsonl":
        rows, encoding = _read_json_lines(path), "utf-8"
    else:
        text, encoding = _decode(path)
        rows = _parse(path, text)
    if not any(cells for _, cells in rows):
        raise ValueError(f"{path}: lists no picture; {FORM}")
    return rows, encoding


def refuse(path: Path, wrong: Sequence[str], count: int, notes: list[str] | None = None) -> None:
    """Raise a ValueError that names the first wrong rows of a list; with `notes`, append it there: they are left out."""
    if not wrong:
        return
    more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    message = f"{len(wrong)} of {count} rows are wrong: {'; '.join(map(printable, wrong[:SHOWN]))}{more}"
    if notes is None:
        raise ValueError(f"{path}: {message}")
    notes.append(f"{message}; left out")


def _describe(path: Path, columns: Sequence[str], head: Sequence[str]) -> str:
    """Return what the columns of a list were taken for."""
    used = {column: quoted([header]) for column, header in zip(columns, head, strict=True) if column}
    parts = [f"label: {used['label']}", f"group: {used['group']}" if "group" in used else "no group"]
    parts += [f"split: {used['split']}"] if "split" in used else []
    unused = [header for column, header in zip(columns, head, strict=True) if header and not column]
    return f"{path.name}: {'; '.join([*parts, *[f'unused: {quoted(unused)}'] * bool(unused)])}"


def note_unlisted(folder: Path, rows: Iterable[Row], notes: list[str]) -> None:
    """Append the pictures below a folder that no row of its lists labels to `notes`, if there are any."""
    listed = {os.path.abspath(row.path) for row in rows}
    try:
        pictures = sorted(images_below(os.fspath(folder), LeftOut(folder)))
    except ValueError as error:  # the listed ones are elsewhere
        notes.append(f"pictures without a label in the list were not looked for: {error}")
        return
    if unlisted := [os.path.relpath(path, folder) for path in pictures if os.path.abspath(path) not in listed]:
        notes.append(f"{len(unlisted)} of {len(pictures)} pictures have no label in the list: {quoted(unlisted)}; left out")


def _decode(path: Path) -> tuple[str, str]:
    """Return the text of a list, and its encoding: UTF-8, UTF-16 with a mark, or else that of Windows in the west."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace"), "utf-16"
    if b"\0" in data or data.startswith(b"PK\3\4"):
        raise ValueError(f"{path}: is no text (a workbook of another kind than .xlsx?): save it as CSV; {FORM}")
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace"), "cp1252"


def _read_coco(path: Path) -> tuple[list[tuple[int, list[str]]], dict[int, Box]]:
    """Return number and cells (in the order of COLUMNS) of each label of a JSON file in COCO's form, and the boxes by number.

    A group is that of COCO Camera Traps, a sequence or else a place. Boxes of one category in a picture become one around all.
    """
    try:
        content = json.loads(path.read_bytes())
        images = {image["id"]: image for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        rows: dict[tuple[str, ...], int] = {}
        boxes: dict[int, Box] = {}
        for number, annotation in enumerate(content["annotations"], 1):
            image, label = images[annotation["image_id"]], names[annotation["category_id"]]
            group = next((image[key] for key in ("seq_id", "location") if image.get(key) is not None), "")
            row = str(image["file_name"]), str(label), str(image.get("split", "")), str(group)
            number = rows.setdefault(row, number)
            if annotation.get("bbox"):
                left, top, width, height = map(float, annotation["bbox"])
                box = left, top, left + width, top + height
                boxes[number] = around([boxes.get(number, box), box]) or box
                if not all(map(math.isfinite, box)):
                    raise ValueError(f"the box {annotation['bbox']} is not finite")
    except KeyError as error:
        raise ValueError(f"{path}: there is no {error}; {COCO_FORM}") from None
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{path}: is no JSON in COCO's form ({first_line(error)}); {COCO_FORM}") from None
    return [(number, list(row)) for row, number in rows.items()], boxes


def _read_json_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return number and cells of a header, made of all keys, and of each line that is an object."""
    try:
        lines = [(number, json.loads(line)) for number, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()]
        keys = list(dict.fromkeys(str(key) for _, facts in lines for key in facts))
        texts = [(number, {key: "" if value is None else str(value) for key, value in facts.items()}) for number, facts in lines]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: has lines that are no JSON objects ({first_line(error)})") from None
    return [(0, keys), *((number, [facts.get(key, "").strip() for key in keys]) for number, facts in texts)]


def _parse(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Return number and cells of each row that is not empty, by the delimiter that gives most rows that name a picture."""
    first, _, rest = text.partition("\n")
    skipped = first.strip().casefold().startswith("sep=") and len(first.strip()) == 5  # written by a spreadsheet
    delimiters, text = (first.strip()[4], rest) if skipped else (DELIMITERS, text)
    best: list[tuple[int, list[str]]] = []
    most, problem = (0, 0), ""
    for delimiter in delimiters:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            rows = [(reader.line_num + skipped, [cell.strip() for cell in cells]) for cells in reader]
        except csv.Error as error:
            problem = problem or f"row {reader.line_num + skipped}: {printable(str(error))}"
            continue
        rows = [(number, cells) for number, cells in rows if any(cells)]
        widths = Counter(len(cells) for _, cells in rows if len(cells) > 1)
        pictures = Counter(len(cells) for _, cells in rows if len(cells) > 1 and any(map(_is_picture, cells)))
        if widths and (score := (max(pictures.values(), default=0), max(widths.values()))) > most:
            best, most = rows, score
    if not best:
        raise ValueError(f"{path}: has no rows of two columns{f' ({problem})' if problem else ''}; {FORM}")
    return best


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def _columns(
    path: Path, rows: list[tuple[int, list[str]]], chosen: Mapping[str, str], folder: Path, encoding: str
) -> tuple[list[str], list[str]]:
    """Return the columns' names ('' for those that do not count) and headers; the header is taken out of the rows."""
    head = rows[0][1]
    names = [COLUMN.get(cell.casefold().replace(" ", "_"), "") for cell in head]
    for column, header in chosen.items():
        if header not in head:
            raise ValueError(f"--{column} {header}: {path} has no such column, but {quoted(head)}{did_you_mean(header, head)}")
        names = ["" if name == column else name for name in names]
        names[head.index(header)] = column
    if not any(map(_is_picture, head)):
        _find_header(path, rows, names, folder, encoding)
        if repeated := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
            raise ValueError(
                f"{path}: the header {quoted(head)} has several columns of {repeated[0]}s: rename the others; {FORM}"
            )
        rows.pop(0)
    elif not {"path", "label"} <= set(names):
        names = _columns_by_place(path, rows)
        head = [f"column {number}" for number in range(1, len(names) + 1)]
    return names, head


def _find_header(path: Path, rows: Sequence[tuple[int, list[str]]], names: list[str], folder: Path, encoding: str) -> None:
    """Name the column of pictures, where its header does not; a ValueError where that or the column of labels is not found."""
    number, head = rows[0]
    classes = any(entry.is_dir() and not SYSTEM.fullmatch(entry.name) for entry in folder.iterdir())
    advice = f"by --label, and that of groups by --group{f', or give --list {NONE}: class folders' if classes else ''}; {FORM}"
    if "path" not in names:
        table = [cells for _, cells in rows[1:] if len(cells) == len(head)]
        free = [index for index, name in enumerate(names) if not name]
        found = [index for index in free if any(_exists(folder, cells[index], encoding) for cells in table)]
        if len(found) > 1:
            both = quoted([head[index] for index in found])
            raise ValueError(f"{path}: the columns {both} name pictures: call the one that counts path; {FORM}")
        if not found:
            unknown = f"row {number} is {quoted(head)}, neither a picture nor a header that is known"
            raise ValueError(f"{path}: {unknown}: call the column of pictures path, choose that of labels {advice}")
        names[found[0]] = "path"
    if "label" not in names:
        raise ValueError(f"{path}: none of the columns {quoted(head)} is known as that of labels: choose it {advice}")


def _exists(folder: Path, name: str, encoding: str) -> bool:
    """Return whether a cell names a picture in the folder."""
    try:
        return _is_picture(name) and any(map(os.path.isfile, _candidates(folder, name, encoding)))
    except ValueError:  # it leads out of the folder
        return False


def _columns_by_place(path: Path, rows: Sequence[tuple[int, list[str]]]) -> list[str]:
    """Return the columns' names of a list without a header."""
    number, first = rows[0]
    if not _is_picture(first[0]):
        raise ValueError(f"{path}: row {number} is {quoted(first)}, neither a picture nor a header that is known; {FORM}")
    width = Counter(len(cells) for _, cells in rows).most_common(1)[0][0]
    third = {cells[2].casefold() for _, cells in rows if len(cells) == width > 2}
    has_split = width == 4 or bool(third and third <= SPLIT.keys())
    names = ["path", "label", *["split"] * has_split, "group"]
    if width > len(names):
        raise ValueError(f"{path}: {width} columns and no header that says which is which; {FORM}")
    return names[:width]


def _read_row(cells: list[str], columns: list[str], folder: Path, encoding: str) -> tuple[Row, str]:
    """Return a row, and what is wrong with it; '' if nothing is."""
    while len(cells) > len(columns) and not cells[-1]:
        cells = cells[:-1]
    values = dict.fromkeys(COLUMNS, "") | {name: cell for name, cell in zip(columns, cells, strict=False) if name}
    label, split = class_key(values["label"]), values["split"].casefold()
    row = Row(values["path"], folder, label, SPLIT.get(split, ""), values["group"])
    if len(cells) != len(columns):
        return row, f"{len(cells)} columns, expected {len(columns)} (a cell that holds the delimiter needs quotation marks)"
    if not row.name or not label:
        return row, f"no {'label' if row.name else 'path'}"
    if "split" in columns and not row.split:
        return row, f"split {quoted([values['split']])} is not train, val or test"
    if not _is_picture(row.name):
        return row, f"{quoted([row.name])} is not named like an image ({EXTENSIONS})"
    try:
        candidates = list(_candidates(folder, row.name, encoding))
    except ValueError as error:
        return row, str(error)
    return row._replace(path=next((path for path in candidates if os.path.isfile(path)), candidates[0])), ""


def _candidates(folder: Path, name: str, encoding: str) -> Iterator[Path]:
    """Yield the paths in the folder that a list may mean by a name, best first.

    It may start with the folder; other systems write slashes and accents in another way.
    """
    texts = [name, name.replace("\\", "/")]
    texts += [text.removeprefix(f"{start}/") for text in texts for start in (folder.resolve(), folder, folder.name)]
    for text in [text for text in dict.fromkeys(texts) if not os.path.isabs(text)] or [name]:
        yield inside(folder, text)
        for form in ("NFC", "NFD"):
            yield inside(folder, unicodedata.normalize(form, text))
        if encoding == "cp1252":
            yield inside(folder, os.fsdecode(text.encode(encoding, "replace")))
