"""The page on the check of a data set: what is wrong, with thumbnails of the pictures that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attribution.report import page
from datasets.decode import decode_image
from datasets.scan import map_files
from util.atomic import atomic_write
from util.errors import ImageError

LONGEST = 224  # side of the thumbnails
SHOWN = 100  # entries of a list on the page
LISTS = ("unusable", "flat", "identical", "near_across", "near_classes", "near_groups", "suspects")
SHOWN_OF_GROUP = 12  # pictures of a group of near-duplicates


def write_check(
    folder: Path, place: Path, content: Mapping[str, Any], faults: Sequence[str], remarks: Sequence[str], workers: int
) -> None:
    """Write `index.html` and the thumbnails.

    Args:
        folder: to write to.
        place: where the folder will be: links to the pictures themselves start there.
        content: of check.json, as `datasets.check.check_dataset` returns it.
        faults, remarks: lines.
        workers: threads that draw.
    """
    totals = {name: len(content[name] or ()) for name in LISTS}
    shown = {**content, **{name: (content[name] or [])[:SHOWN] for name in LISTS}}
    names = list(dict.fromkeys(_pictures(shown)))
    root = Path(content["dataset"])
    (folder / page.PICTURES).mkdir()

    def draw(number: int) -> bool:
        try:
            picture = decode_image(root / names[number]).permute(1, 2, 0).numpy()
        except ImageError:  # it changed meanwhile
            return False
        page.write_picture(folder / page.picture_name(number), picture, LONGEST)
        return True

    drawn = map_files(draw, range(len(names)), workers, 4, "drawing")
    thumbnails = {names[number]: page.picture_name(number).as_posix() for number, done in enumerate(drawn) if done}
    html = page.render_page(
        "check.html", title=f"Check of {root.name}", content=shown, totals=totals, faults=faults, remarks=remarks,
        thumbnails=thumbnails, above=os.path.relpath(root, place), group_length=SHOWN_OF_GROUP,
    )  # fmt: skip
    with atomic_write(folder / "index.html") as file:
        file.write(html)


def _pictures(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the pictures that the page shows."""
    for pair in (*content["near_across"], *content["near_classes"]):
        yield from (pair["file"], pair["other"])
    for group in content["near_groups"]:
        yield from group[:SHOWN_OF_GROUP]
    for each in content["identical"]:
        yield each["files"][0]
    for each in content["suspects"]:
        examples = content["examples"]
        yield from (file for file in (each["file"], examples.get(each["label"]), examples.get(each["predicted"])) if file)
    yield from content["flat"]
    for extreme in (content["sizes"] or {"extremes": {}})["extremes"].values():
        yield from (each["file"] for each in extreme)
