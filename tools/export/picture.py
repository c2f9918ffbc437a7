"""The picture of a model card: some photographs of a report with the maps of the classes that the model predicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2

from attribution.methods.registry import METHODS
from attribution.report import page
from attribution.report.overlay import at_pixels, fit, overlay, own_scale
from attribution.report.render import GREEN, GRID_TILE, RED, Section, Tile, panel
from models import ICN

PHOTOGRAPHS = 4
PARTS = 10**6  # of the side of a map, in which the part of it that lies on the picture is counted


def write_picture(path: Path, report: Mapping[str, Any], folder: Path, model: ICN) -> str:
    """Write the first photograph of each of `PHOTOGRAPHS` classes, evenly spaced, with its map; return what is to be seen.

    Raises:
        ValueError: a file of the report is missing or damaged.
    """
    labels = report["images"]["label"]
    present = sorted(set(labels))
    chosen = [present[i * len(present) // PHOTOGRAPHS] for i in range(PHOTOGRAPHS)] if len(present) > PHOTOGRAPHS else present
    try:
        drawn = [_tiles(labels.index(label), report, folder, model) for label in chosen]
    except (OSError, ValueError, KeyError, TypeError, IndexError, cv2.error) as error:
        raise ValueError(f"--results {folder} has damaged maps ({type(error).__name__}): make the report again") from None
    names = {name for name, _ in drawn}
    about = f"The first photograph of {len(chosen)} of {len(report['classes'])} classes, with the map of the predicted class"
    note = f"{', '.join(sorted(names))}; each map on its own scale; frames: green right, red wrong"
    pairs = [drawn[first : first + 2] for first in range(0, len(drawn), 2)]
    sheet = panel(
        "Maps", about, None, [Section("", [tile for _, tiles in pair for tile in tiles]) for pair in pairs], note
    ).array()
    path.write_bytes(cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return f"{about} ({note})."


def _tiles(place: int, report: Mapping[str, Any], folder: Path, model: ICN) -> tuple[str, list[Tile]]:
    """Return the method, and a photograph with its map as tiles."""
    photograph = cv2.imread(str(folder / page.picture_name(place)))
    if photograph is None:
        raise ValueError("no picture")
    picture = fit(cv2.cvtColor(photograph, cv2.COLOR_BGR2RGB), GRID_TILE)
    number, maps = page.read_script(folder / page.maps_name(place))
    if number != place:
        raise ValueError("maps of another image")
    name = model.decoder_spec.default_map
    name = name if name in maps["maps"] else next(iter(maps["maps"]))
    cells = page.decode_maps(maps["maps"][name])[:1].mean(1)  # [1, rows, columns] of the class with the highest logit
    extent = tuple(round(PARTS * part / side) for part, side in zip(maps["maps"][name]["extent"], cells.shape[1:], strict=True))
    values = at_pixels(cells, (PARTS, PARTS), (extent[0], extent[1]), picture.shape[:2])[0]
    drawn = overlay(picture, values, own_scale(cells, METHODS[name].signed))
    explained, true = maps["classes"][0], report["images"]["label"][place]
    label, other = (str(report["classes"][index]) for index in (true, explained))
    caption = (other, f"p {maps['p'][0]:.3f}")
    return name, [Tile(picture, (label,)), Tile(drawn, caption, GREEN if explained == true else RED)]
