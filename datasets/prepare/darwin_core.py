"""Darwin Core archives (GBIF, iNaturalist): records of species, whose pictures were fetched into a folder before."""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from hashlib import md5, sha1
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote, urlsplit

from datasets.folders import LeftOut, images_below
from datasets.prepare.archives import DAMAGES, Source, inside
from datasets.prepare.darwin_tables import RECORDS, Table, find_tables, has_tables, read_table, term
from datasets.prepare.photo_lists import Row
from util.classes import class_key
from util.errors import did_you_mean
from util.printable import quoted

NAME = "a Darwin Core archive"
# Columns of addresses, in tables of pictures and of records; several are divided by | or ;.
ADDRESSES = ("identifier", "accessuri", "associatedmedia", "imageurl")
OBSERVERS = ("recordedby", "userlogin", "userid", "recordedbyid")
DATES = ("eventdate", "observedon")
NAMES = ("species", "genus", "specificepithet", "scientificname", "taxonspeciesname")
GROUPS = ("organismid", "eventid", *OBSERVERS, *DATES)
BINOMIAL = re.compile(r"([^\W\d_][\w-]+)\s+(?:\([^)]*\)\s*)?(?:[x×]\s*)?([^\W\d_A-Z][\w-]+)")  # without author and subspecies
SIZES = {"original", "large", "medium", "small", "square", "thumb", "full", "default", "image", "download", "content", "max"}
CUTS = re.compile(r"[-_. (]")  # what follows an identifier in the name of a picture
MOST_CUTS = 8


class Pictures(NamedTuple):
    """Pictures by what may identify them: `names`, their own and the starts of it, and `places`, those of their folders."""

    paths: list[Path]
    names: dict[str, list[int]]
    places: dict[str, list[int]]


class Record(NamedTuple):
    """A record: its label ('': none), its group, and its licence."""

    label: str
    group: str
    licence: str


def recognise(folder: Path) -> bool:
    """Return whether a folder holds a Darwin Core archive, perhaps as GBIF's zip."""
    return has_tables(folder) or any(_zipped_tables(folder))


def _zipped_tables(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield each zip archive in a folder that holds a table of records, and the name of that in it."""
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() == ".zip" and path.is_file()):
        try:
            with zipfile.ZipFile(path) as container:
                names = container.namelist()
        except (OSError, ValueError, *DAMAGES):
            continue  # it is no archive, and can be none of records
        tables = [name for record in RECORDS[:3] for name in names if name.rpartition("/")[2] == record]
        if tables:
            yield path, tables[0]


def read(files: Source, folder: Path, flags: Mapping[str, Any]) -> list[Row]:
    """Return the pictures in a folder that records describe.

    A picture belongs to a record whose identifier (gbifID, id) or end of occurrenceID starts its name or is that of its folder,
    or one of whose addresses ends with the start of its name, or has it as MD5 or SHA-1. Where two of these ways name different
    records, the one that finds more pictures counts.

    Raises:
        ValueError: there is no table of records, or it is damaged; a column is missing; no picture belongs to a record.
    """
    tables = folder if has_tables(folder) else _unpack_tables(files, folder)
    left_out = LeftOut(folder)
    roots = dict.fromkeys([folder, *files.roots])
    pictures = _index(sorted({Path(path) for root in roots for path in images_below(os.fspath(root), left_out)}))
    records, owners, count = _read_records(tables, pictures, flags, files.notes)
    if not owners:
        advice = "fetch them first, under names that start with gbifID, or that end their addresses"
        raise ValueError(f"{folder}: none of {len(pictures.paths)} pictures belongs to one of {count} records: {advice}")
    rows: list[Row] = []
    out: dict[str, list[str]] = defaultdict(list)
    licences = Counter[str]()
    for place, path in enumerate(pictures.paths):
        name = os.path.relpath(path, next(root for root in roots if path.is_relative_to(root)))
        found = [records[identifier] for identifier in owners.get(place, ())]
        labels = {record.label for record in found}
        if len(labels) == 1 and labels != {""}:
            rows.append(Row(name, path, found[0].label, "", found[0].group))
            licences[found[0].licence or "not stated"] += 1
        else:
            what = "belong to no record" if not found else "are of records without a species"
            out["show several species" if len(labels) > 1 else what].append(name)
    files.notes += [
        f"{len(names)} of {len(pictures.paths)} pictures {what}: {quoted(names)}; left out" for what, names in sorted(out.items())
    ]
    with_pictures = len({identifier for identifiers in owners.values() for identifier in identifiers})
    files.notes.append(f"{with_pictures} of {count} records have pictures here")
    files.notes.append("licences of the pictures: " + ", ".join(f"{name} ({number})" for name, number in licences.most_common()))
    return rows


def _unpack_tables(files: Source, folder: Path) -> Path:
    """Return the folder of the tables that a zip archive in `folder` holds."""
    for archive, name in _zipped_tables(folder):
        files.roots.append(files.unpacked(archive))
        return inside(files.roots[-1], name).parent
    return files.find(RECORDS[0], "*.zip").parent


def _index(paths: list[Path]) -> Pictures:
    names: dict[str, list[int]] = defaultdict(list)
    places: dict[str, list[int]] = defaultdict(list)
    for place, path in enumerate(paths):
        stem = path.stem.casefold()
        cuts = [cut.start() for cut in CUTS.finditer(stem)][:MOST_CUTS]
        for name in {stem, *(stem[:cut] for cut in cuts if cut)}:
            names[name].append(place)
        places[path.parent.name.casefold()].append(place)
    return Pictures(paths, names, places)


# The records of each picture, by its place: identifiers, and the lengths of the names by which they were found.
Owners: TypeAlias = "defaultdict[int, list[tuple[int, str]]]"


def _read_records(
    folder: Path, pictures: Pictures, flags: Mapping[str, Any], notes: list[str]
) -> tuple[dict[str, Record], dict[int, list[str]], int]:
    """Return the records of pictures by identifier, the identifiers of each picture, and the number of all records."""
    core, media = find_tables(folder)
    chosen = {what: _choose(core, what, flags[what]) for what in ("label", "group")}
    by_address, by_identifier, by_occurrence = ways = [defaultdict[int, list[tuple[int, str]]](list) for _ in range(3)]
    licences = _read_media(media, pictures, by_address, notes)
    wanted = [*NAMES, *GROUPS, *ADDRESSES, "occurrenceid", "license", *filter(None, chosen.values())]
    records: dict[str, Record] = {}
    total = 0
    for identifier, cells in read_table(core, wanted, notes):
        total += 1
        end = re.split("[/:]", cells.get("occurrenceid", "").rstrip("/"))[-1]
        found = [
            _find(names, indices, owners, identifier)
            for owners, names, indices in (
                (by_address, _addresses(cells, ADDRESSES[2:]), [pictures.names]),
                (by_identifier, [identifier], [pictures.names, pictures.places]),
                (by_occurrence, [end], [pictures.names, pictures.places]),
            )
        ]
        if any(found) or identifier in licences:
            label = class_key(cells[chosen["label"]]) if chosen["label"] else _species(cells)
            licence = licences.get(identifier) or cells.get("license", "")
            records[identifier] = Record(label, _group(cells, chosen["group"], identifier), licence)
    owners: dict[int, list[str]] = {}
    for way in sorted(ways, key=len):  # what finds most comes last, and counts
        for place, found_by in way.items():
            known = [(length, identifier) for length, identifier in found_by if identifier in records]
            longest = max(known, default=(0, ""))[0]
            if known:
                owners[place] = [*dict.fromkeys(identifier for length, identifier in known if length == longest)]
    return records, owners, total


def _read_media(tables: Iterable[Table], pictures: Pictures, owners: Owners, notes: list[str]) -> dict[str, str]:
    """Find the records of pictures by the tables of addresses; return the licences by identifier."""
    licences = {}
    for table in tables:
        for identifier, cells in read_table(table, [*ADDRESSES, "license"], notes):
            found = _find(_addresses(cells, ADDRESSES), [pictures.names], owners, identifier)
            if found or identifier.casefold() in pictures.names or identifier.casefold() in pictures.places:
                licences[identifier] = cells.get("license", "")
    return licences


def _find(names: Iterable[str], indices: Iterable[Mapping[str, list[int]]], owners: Owners, identifier: str) -> bool:
    """Note the identifier of a record for each picture that one of its names identifies; return whether there is one."""
    found = {place: len(name) for name in names if name for index in indices for place in index.get(name.casefold(), ())}
    for place, length in found.items():
        owners[place].append((length, identifier))
    return bool(found)


def _choose(table: Table, what: str, name: str | None) -> str:
    """Return the term of a column that a flag names, '' if it names none; a ValueError if there is no such column."""
    if name and term(name) not in table.columns.values():
        advice = did_you_mean(term(name), table.columns.values())
        raise ValueError(f"--{what} {name}: {table.path} has no such column{advice}")
    return term(name or "")


def _species(cells: Mapping[str, str]) -> str:
    """Return the name of a species, of two words; '' where a record names none."""
    if cells.get("species"):
        return class_key(cells["species"])
    two = f"{cells.get('genus', '')} {cells.get('specificepithet', '')}"
    for text in (two, cells.get("taxonspeciesname", ""), cells.get("scientificname", "")):
        if words := BINOMIAL.match(class_key(text)):
            return f"{words[1]} {words[2]}"
    return ""


def _group(cells: Mapping[str, str], chosen: str, identifier: str) -> str:
    """Return what a record must not be divided from: its individual, its event, or its observer's day; else itself."""
    for name in (chosen,) if chosen else ("organismid", "eventid"):
        if cells.get(name):
            return f"{name} {cells[name]}"
    observer = next((cells[name] for name in OBSERVERS if cells.get(name)), "")
    date = next((cells[name][:10] for name in DATES if cells.get(name)), "")
    return f"{observer} {date}" if observer and date and not chosen else f"record {identifier}"


def _addresses(cells: Mapping[str, str], columns: Iterable[str]) -> Iterator[str]:
    """Yield the names that a picture may have after its addresses: their end, or the number before it, or their hash."""
    for column in columns:
        for address in re.split(r"\s*[|;]\s*(?=\w+://)", cells.get(column, "")):
            if address:
                yield from (hashed(address.encode(), usedforsecurity=False).hexdigest() for hashed in (md5, sha1))
                parts = [part for part in unquote(urlsplit(address).path).casefold().split("/") if part]
                stem = os.path.splitext(parts[-1])[0] if parts else ""
                if stem in SIZES and len(parts) > 1 and any(map(str.isdecimal, parts[-2])):
                    stem = parts[-2]
                if stem and stem not in SIZES:
                    yield stem
