"""Exports of GBIF and iNaturalist beside pictures that were fetched under names of several kinds."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from hashlib import sha1
from pathlib import Path

import pytest
from sources import error_of, picture, run

from datasets.prepare.darwin_core import _species

SPECIES = ["Parus major", "Cyanistes caeruleus"]
HEADER = ["gbifID", "occurrenceID", "recordedBy", "eventDate", "scientificName", "species", "license", "organismID", "genus"]
META = """<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="metadata.xml">
<core encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1"
 rowType="http://rs.tdwg.org/dwc/terms/Occurrence"><files><location>occurrence.txt</location></files><id index="0"/>
{fields}</core>
<extension encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" ignoreHeaderLines="1"
 rowType="http://rs.gbif.org/terms/1.0/Multimedia"><files><location>multimedia.txt</location></files><coreid index="0"/>
<field index="1" term="http://purl.org/dc/terms/type"/><field index="2" term="http://purl.org/dc/terms/identifier"/>
<field index="3" term="http://purl.org/dc/terms/license"/></extension></archive>"""


BOMB = "<!DOCTYPE a [" + "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 40}">' for n in range(9)) + "]><a>&a9;</a>"


def record(number: int) -> dict[str, str]:
    """A record of GBIF: 4000000000 + number; observers have two days each, and some pictures show two birds."""
    return {
        "gbifID": str(4000000000 + number),
        "occurrenceID": f"https://www.inaturalist.org/observations/{700 + number}",
        "recordedBy": f"Observer {number // 4}",
        "eventDate": f"2024-05-0{1 + number // 2 % 2}T10:00:00",
        "scientificName": f"{SPECIES[number % 2]} Linnaeus, 1758",
        "species": SPECIES[number % 2],
        "license": "CC_BY_4_0",
        "organismID": "",
        "genus": SPECIES[number % 2].split()[0],
    }


def address(number: int) -> str:
    return f"https://inaturalist-open-data.s3.amazonaws.com/photos/{90 + number}/original.jpg"


def export(folder: Path, count: int = 12, meta: bool = True, **changes: Mapping[str, str]) -> Path:
    """The tables of a download of GBIF; `changes`: cells of the record r<number>."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [record(number) | dict(changes.get(f"r{number}", {})) for number in range(count)]
    lines = ["\t".join(HEADER), *("\t".join(row[name] for name in HEADER) for row in rows)]
    (folder / "occurrence.txt").write_text("\n".join(lines) + "\n")
    media = [f"{4000000000 + n}\tStillImage\t{address(n)}\thttp://creativecommons.org/licenses/by-nc/4.0/" for n in range(count)]
    (folder / "multimedia.txt").write_text("\n".join(["gbifID\ttype\tidentifier\tlicense", *media]) + "\n")
    if meta:
        fields = "".join(f'<field index="{n}" term="http://rs.tdwg.org/dwc/terms/{name}"/>' for n, name in enumerate(HEADER))
        (folder / "meta.xml").write_text(META.format(fields=fields))
    return folder


def pictures(folder: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(seed=seed))
    return folder


def classes_of(target: Path) -> dict[str, str]:
    return {path.stem: path.parent.name for path in target.glob("[tv]*/*/*.jpg")}


NAMES = {
    "gbifID": lambda n: f"{4000000000 + n}.jpg",
    "several": lambda n: f"pictures/{4000000000 + n}_1.jpg",
    "folders": lambda n: f"{4000000000 + n}/{n:02}.jpg",
    "observation": lambda n: f"{700 + n} (1).jpg",
    "photo": lambda n: f"sub/{90 + n}.jpg",
    "hash": lambda n: f"{sha1(address(n).encode()).hexdigest()}.jpg",
}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("meta", [True, False])
def test_pictures_are_found_by_their_names(tmp_path, capsys, kind, meta):
    source = pictures(export(tmp_path / "source", meta=meta), [NAMES[kind](n) for n in range(12)])
    target = run("folder", source, "--val", 0.5)
    found = classes_of(target)
    assert found == {Path(NAMES[kind](n)).stem: SPECIES[n % 2] for n in range(12)}
    notes = json.loads((target / "dataset.json").read_text())["notes"]
    assert notes[0] == "12 of 12 records have pictures here"
    licence = "CC_BY_4_0 (12)" if kind == "observation" else "http://creativecommons.org/licenses/by-nc/4.0/ (12)"
    assert notes[1] == f"licences of the pictures: {licence}"
    assert "is read as a Darwin Core archive (gbif:)" in capsys.readouterr().out


def splits_of(target: Path) -> dict[int, str]:
    return {int(path.stem) - 4000000000: path.parts[-3] for path in target.glob("[tv]*/*/*.jpg")}


def test_groups_are_days_of_observers_or_individuals_or_a_column(tmp_path):
    source = pictures(export(tmp_path / "source"), [NAMES["gbifID"](n) for n in range(12)])
    splits = splits_of(run("folder", source, "--val", 0.5, "--seed", 3))
    assert all(splits[n] == splits[n + 1] for n in range(0, 12, 2)) and {*splits.values()} == {"train", "val"}
    assert any(splits[n] != splits[n + 2] for n in range(0, 12, 4))
    splits = splits_of(run("folder", source, "--val", 0.5, "--group", "recordedBy", out=tmp_path / "b"))
    assert all(len({splits[n + k] for k in range(4)}) == 1 for n in range(0, 12, 4))
    bird = {f"r{n}": {"organismID": "one bird", "species": SPECIES[0]} for n in range(0, 12, 3)}
    source = pictures(export(tmp_path / "c" / "source", **bird), [NAMES["gbifID"](n) for n in range(12)])
    splits = splits_of(run("folder", source, "--val", 0.5))
    assert len({splits[n] for n in range(0, 12, 3)}) == 1


def test_labels_of_another_column(tmp_path, capsys):
    source = pictures(export(tmp_path / "source"), [NAMES["gbifID"](n) for n in range(12)])
    assert {*classes_of(run("folder", source, "--label", "genus")).values()} == {"Parus", "Cyanistes"}
    message = error_of(capsys, "folder", source, "--label", "Family", out=tmp_path / "b")
    assert "--label Family" in message and "has no such column" in message


def test_what_is_left_out_is_said(tmp_path):
    names = [NAMES["gbifID"](n) for n in range(10)]
    source = export(tmp_path / "source", r1={"species": "", "scientificName": "Passeriformes"})
    with (source / "occurrence.txt").open("a") as file:
        file.write("4000000099\tan unescaped\ttab\n" + "\t".join(record(50).values()) + "\tmore\n")
    with (source / "multimedia.txt").open("a") as file:
        file.write(f"4000000011\tStillImage\t{address(10)}\tx\n")
    pictures(source, [*names, "holiday.jpg", "100.jpg"])  # 100 is the photo of the records 10 and 11, of two species
    target = run("folder", f"gbif:{source}", out=tmp_path / "data")
    notes = json.loads((target / "dataset.json").read_text())["notes"]
    assert notes[:2] == [
        "occurrence.txt: 2 rows have another number of cells than the first: '14', '15'; left out",
        "1 of 12 pictures are of records without a species: '4000000001.jpg'; left out",
    ]
    assert notes[2:5] == [
        "1 of 12 pictures belong to no record: 'holiday.jpg'; left out",
        "1 of 12 pictures show several species: '100.jpg'; left out",
        "12 of 12 records have pictures here",
    ]


def test_numbers_that_are_those_of_other_records_too(tmp_path):
    """GBIF's numbers are those of photos of other records: the way that finds most pictures counts."""
    source = export(tmp_path / "source")
    text = (source / "multimedia.txt").read_text().replace("photos/9", "photos/400000000")
    (source / "multimedia.txt").write_text(text.replace("photos/4000000001/", "photos/4000000000/"))
    pictures(source, [NAMES["gbifID"](n) for n in range(12)])
    assert classes_of(run("folder", source)) == {str(4000000000 + n): SPECIES[n % 2] for n in range(12)}


@pytest.mark.parametrize(("prefix", "inner"), [("gbif:", ""), ("", ""), ("", "download/")])
def test_an_archive_beside_the_pictures(tmp_path, capsys, prefix, inner):
    tables = export(tmp_path / "tables")
    source = pictures(tmp_path / "source", [f"bilder/{NAMES['gbifID'](n)}" for n in range(12)])
    (source / "0000.zip").write_bytes(b"PK damaged")
    with zipfile.ZipFile(source / "0001-240506.zip", "w") as container:
        for path in tables.iterdir():
            container.write(path, inner + path.name)
    found = classes_of(run("folder", f"{prefix}{source}", out=tmp_path / "data"))
    assert len(found) == 12 and {*found.values()} == {*SPECIES}
    assert ("is read as a Darwin Core archive (gbif:)" in capsys.readouterr().out) is not bool(prefix)


@pytest.mark.parametrize("name", ["observations-123.csv", "verbatim.txt"])
def test_other_tables(tmp_path, name):
    """The list that iNaturalist exports, with commas and line ends in cells; and names with authors."""
    source = tmp_path / "source"
    source.mkdir()
    rows = []
    for n in range(12):
        if name.endswith("csv"):
            rows.append(f'{n},2024-05-01,user{n},{address(n)},"One, two\nthree",{SPECIES[n % 2]}')
        else:
            rows.append(f'{n}\t2024-05-01\tuser{n}\t{address(n)}\ta "quoted tit\t{SPECIES[n % 2]} (Linnaeus, 1758)')
    header = "id,observed_on,user_login,image_url,description,scientific_name"
    header = header if name.endswith("csv") else header.replace(",", "\t")
    (source / name).write_text("\n".join([header, *rows]) + "\n")
    found = classes_of(run("folder", pictures(source, [f"{90 + n}.jpg" for n in range(12)])))
    assert found == {str(90 + n): SPECIES[n % 2] for n in range(12)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<archive", "is no description of a Darwin Core archive"),
        (META.replace("occurrence.txt", "../../secret.txt"), "leads out of its folder"),
        (META.replace('<id index="0"/>', '<id index="x"/>'), "is no description of a Darwin Core archive"),
        (
            "<!DOCTYPE a [" + "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 40}">' for n in range(9)) + "]><a>&a9;</a>",
            "is no description",
        ),
    ],
)
def test_a_wrong_description_is_refused(tmp_path, capsys, text, expected):
    source = pictures(export(tmp_path / "source"), [NAMES["gbifID"](n) for n in range(4)])
    (source / "meta.xml").write_text(text)
    assert expected in error_of(capsys, "folder", source)


def test_pictures_of_no_record_and_no_tables(tmp_path, capsys):
    source = pictures(export(tmp_path / "source"), ["a.jpg", "b.jpg"])
    assert "none of 2 pictures belongs to one of 12 records: fetch them first" in error_of(capsys, "folder", source)
    (tmp_path / "empty").mkdir()
    message = error_of(capsys, "folder", f"gbif:{tmp_path / 'empty'}", out=tmp_path / "data")
    assert "no occurrence.txt, nor an archive *.zip that holds it" in message


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"scientificname": "Aves"}, ""),
        ({"scientificname": "Parus major Linnaeus, 1758"}, "Parus major"),
        ({"scientificname": "Heliconius (Heliconius) erato petiverana"}, "Heliconius erato"),
        ({"scientificname": "Salix × fragilis L."}, "Salix fragilis"),
        ({"scientificname": "Parus Linnaeus, 1758"}, ""),
        ({"genus": "Parus", "specificepithet": "major", "scientificname": "x"}, "Parus major"),
        ({"genus": "Parus", "scientificname": "Parus"}, ""),
        ({"species": "Vulpes vulpes", "scientificname": "Canis lupus"}, "Vulpes vulpes"),
    ],
)  # fmt: skip
def test_species_of_a_record(cells, expected):
    assert _species(cells) == expected
