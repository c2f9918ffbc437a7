"""The tables of a Darwin Core archive (TDWG 2009), as meta.xml describes them, or as their names and headers say."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from datasets.prepare.archives import MEGABYTE, inside
from util.errors import first_line
from util.printable import quoted
from util.progress import Progress

RECORDS = ("occurrence.txt", "occurrence.csv", "verbatim.txt", "observations.csv", "observations-*.csv")
MEDIA = ("multimedia.txt", "multimedia.csv", "media.csv", "images.csv")
TEXT = "{http://rs.tdwg.org/dwc/text/}"
ROW_TYPES = {"occurrence": True, "taxon": True, "multimedia": False, "image": False}  # whether they are records
LONGEST = 2**26  # bytes of a cell in quotation marks
LARGEST_META = 2**24  # bytes


class Table(NamedTuple):
    """A table of text: the names of its columns (`term`) by index, and the index of the column that identifies a record."""

    path: Path
    delimiter: str
    quote: str
    header: int  # lines to leave out
    columns: Mapping[int, str]
    identifier: int


def term(name: str) -> str:
    """Return what the ways to write a term have in common: `dwc:scientificName`, `scientific_name`."""
    return name.replace("#", "/").rpartition("/")[2].rpartition(":")[2].replace("_", "").replace(" ", "").casefold()


def has_tables(folder: Path) -> bool:
    """Return whether a folder holds an archive's table of records."""
    if (folder / "meta.xml").is_file() or any((folder / name).is_file() for name in RECORDS[:3]):
        return True
    exported = (path for name in RECORDS[3:] for path in folder.glob(name))
    return any({"id", "scientificname"} <= set(_read_header(path).columns.values()) for path in exported)


def find_tables(folder: Path) -> tuple[Table, list[Table]]:
    """Return the table of records, and those of their pictures.

    Raises:
        ValueError: there is no table of records, or meta.xml is damaged.
    """
    described = list(_described(folder / "meta.xml")) if (folder / "meta.xml").is_file() else []
    tables = {is_record: [table for kind, table in described if kind == is_record] for is_record in (True, False)}
    for is_record, names in ((True, RECORDS), (False, MEDIA)):
        if not tables[is_record]:
            tables[is_record] = [_read_header(path) for name in names for path in sorted(folder.glob(name))]
    if not tables[True]:
        raise ValueError(f"{folder}: no table of records; expected meta.xml, {', '.join(RECORDS)}")
    return tables[True][0], tables[False]


def _described(path: Path) -> Iterator[tuple[bool, Table]]:
    """Yield the tables of a meta.xml whose files are there, and whether they are of records."""
    try:
        if path.stat().st_size > LARGEST_META:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        for element in ElementTree.parse(path).getroot():
            kind = ROW_TYPES.get(term(element.get("rowType", "")))
            file = inside(path.parent, (element.findtext(f"{TEXT}files/{TEXT}location") or "").strip())
            key = element.find(f"{TEXT}id" if element.tag == f"{TEXT}core" else f"{TEXT}coreid")
            if kind is None or key is None or not file.is_file():
                continue
            fields = [field for field in element.findall(f"{TEXT}field") if field.get("index")]
            columns = {int(field.attrib["index"]): term(field.get("term", "")) for field in fields}
            delimiter, quote = (
                element.get(name, default).replace("\\t", "\t")
                for name, default in (("fieldsTerminatedBy", ","), ("fieldsEnclosedBy", '"'))
            )
            header, identifier = int(element.get("ignoreHeaderLines", "0")), int(key.attrib["index"])
            yield kind, Table(file, delimiter or "\t", quote, header, {identifier: "id", **columns}, identifier)
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: is no description of a Darwin Core archive ({first_line(error)}); get it again") from None


def _read_header(path: Path) -> Table:
    """Return the table of a file whose first line names its columns."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        line = file.readline(MEGABYTE)
    delimiter = max("\t,;", key=line.count)
    quote = "" if delimiter == "\t" else '"'
    cells = next(csv.reader([line.strip("\r\n")], delimiter=delimiter), []) if quote else line.strip("\r\n").split(delimiter)
    columns = dict(enumerate(map(term, cells)))
    identifier = next((index for name in ("gbifid", "coreid", "id") for index, other in columns.items() if other == name), 0)
    return Table(path, delimiter, quote, 1, columns, identifier)


def read_table(table: Table, wanted: Sequence[str], notes: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield identifier and wanted cells, by `term`, of each row; rows that have another number of cells are said in `notes`.

    Raises:
        ValueError: the table is damaged.
    """
    chosen = {name: index for index, name in sorted(table.columns.items(), reverse=True) if name in wanted}
    least = max([table.identifier, *chosen.values()]) + 1
    width, bad = 0, list[str]()
    size = table.path.stat().st_size // MEGABYTE
    with table.path.open("rb") as raw, Progress(size, f"reading {table.path.name} (MB)") as line:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="" if table.quote else "\n")
        try:
            for number, cells in enumerate(_cells(text, table), 1):
                if not number % 1000:
                    line.step(raw.tell() // MEGABYTE - line.done)
                if number == 1:
                    width = len(cells)
                if number <= table.header or not cells:
                    continue
                if len(cells) != width or len(cells) < least:
                    bad.append(str(number))
                    continue
                yield cells[table.identifier].strip(), {name: cells[index].strip() for name, index in chosen.items()}
        except csv.Error as error:
            raise ValueError(f"{table.path}: is damaged ({first_line(error)}); get it again") from None
    if bad:
        notes.append(f"{table.path.name}: {len(bad)} rows have another number of cells than the first: {quoted(bad)}; left out")


def _cells(text: io.TextIOWrapper, table: Table) -> Iterator[list[str]]:
    """Yield the cells of each row; [] for an empty one. Without quotation marks a row is a line, as in GBIF's tables."""
    if table.quote:
        csv.field_size_limit(LONGEST)
        yield from csv.reader(text, delimiter=table.delimiter[:1], quotechar=table.quote[:1])
    else:
        for line in text:
            yield line.strip("\r\n").split(table.delimiter) if line.strip("\r\n") else []
