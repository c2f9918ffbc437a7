"""The files of `tools.grid`: grid.json, grid.md, boxes in grid.png, and the maps of one grid in grid.jpg."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from attribution.report.figures import FAINT
from attribution.report.names import FAMILIES, label
from attribution.report.overlay import at_pixels, common_scale, overlay
from attribution.report.render import Section, Tile, panel
from attribution.report.tables import write_json
from util.atomic import atomic_write, replacing
from util.plotting import Figure, FigureCanvasAgg
from util.tables import markdown_table

MEANINGS = {
    "gridpg": "GridPG: the model sees the whole grid",
    "difull": "DiFull: each logit depends on its own image alone, in the backbone, too: mass elsewhere is an error of the method",
    "dipart": "DiPart: the backbone sees the whole grid, the transformer the cells of one image",
}
# Means in GridPG, 3 x 3 grids of ImageNet: other models and data, as later papers quote them, for orientation only.
PUBLISHED = {"B-cos ViT-C": 0.88, "B-cos ViT": 0.84, "DeiT-III": 0.66, "DINO": 0.51}
SOURCE = "Rao et al., CVPR 2022, arXiv 2205.10435"


def write_grids(content: Mapping[str, Any], folder: Path) -> None:
    """Write the tables and the plot of what `tools.grid` measured."""
    write_json(folder / "grid.json", content)
    with atomic_write(folder / "grid.md") as file:
        file.write(markdown(content))
    draw_boxes(content, folder / "grid.png")


def summarise(shares: np.ndarray) -> dict[str, float]:
    """Return mean, median and quartiles of shares `[N]`, and the share of maps with more than half of their mass at home."""
    low, median, high = np.quantile(shares, [0.25, 0.5, 0.75])
    numbers = {
        "mean": shares.mean(),
        "median": median,
        "first_quartile": low,
        "third_quartile": high,
        "above_half": (shares > 0.5).mean(),
    }
    return {name: float(number) for name, number in numbers.items()}


def markdown(content: Mapping[str, Any]) -> str:
    """Return the tables of grid.md."""
    settings = content["settings"]
    lines = [f"# Grids of {settings['checkpoint']} on {settings['dataset']}, {settings['split']}", "", _about(settings), ""]
    for result in content["results"]:
        n = result["n"]
        heading = f"{MEANINGS[result['setting']].partition(':')[0]}, {n} x {n} images of {settings['side']} pixels"
        body = [
            [f"**{label(name, result['methods'])}**" if name == content["ours"] else label(name, result["methods"]),
             FAMILIES[entry["family"]], *_cells(entry)]
            for name, entry in result["methods"].items()
        ]  # fmt: skip
        uniform = f"{1 / n**2:.3f}"
        body.append(["uniform", FAMILIES["control"], uniform, uniform, "–", "–"])
        heads = ["map", "kind", "mean ↑", "median ↑", "quartiles", "above half ↑"]
        lines += [f"## {heading}", "", f"{result['grids']} grids.", "", markdown_table(heads, body), ""]
    lines += [f"- {meaning}" for setting, meaning in MEANINGS.items() if setting in settings["settings"]]
    published = ", ".join(f"{name} {value:.2f}" for name, value in PUBLISHED.items())
    note = f"Other models on ImageNet, quoted second-hand, for orientation (GridPG, 3 x 3): {published}."
    return "\n".join([*lines, "", note, ""])


def _about(settings: Mapping[str, Any]) -> str:
    confident = f"with a probability of at least {settings['confidence']:g}"
    if settings["below"]:
        confident += f" or, of classes where few reach it, the most confident ones (down to {settings['lowest']:.3f})"
    trained = ""
    if settings["mosaic"]:
        trained = f" The model was trained on mosaics of 2 x 2 images at half their size (`--mosaic {settings['mosaic']:g}`)."
    return (
        f"Share of the positive mass of a class's map that lies on its own image, in grids of images of different classes "
        f"({SOURCE}). {settings['images']} images that are classified right on their own, {confident}; each at full size, "
        f"centre square. No map is smoothed or enlarged.{trained}"
    )


def _cells(entry: Mapping[str, Any]) -> list[str]:
    quartiles = f"{entry['first_quartile']:.3f} to {entry['third_quartile']:.3f}"
    return [f"{entry['mean']:.3f}", f"{entry['median']:.3f}", quartiles, f"{entry['above_half']:.3f}"]


def draw_boxes(content: Mapping[str, Any], path: Path) -> None:
    """Draw median and quartiles of every method, with the uniform map as a line, one panel for each grid."""
    results = content["results"]
    most = max(len(result["methods"]) for result in results)
    figure = Figure(figsize=(2.2 + 3.2 * len(results), 1.6 + 0.3 * most), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, result in zip(panels, results, strict=True):
        for place, entry in enumerate(reversed(result["methods"].values())):
            low, width = entry["first_quartile"], entry["third_quartile"] - entry["first_quartile"]
            axes.barh(place, width, 0.6, left=low, color=FAINT if entry["family"] == "control" else "#56B4E9")
            axes.plot([entry["median"]] * 2, [place - 0.3, place + 0.3], color="black")
        axes.axvline(1 / result["n"] ** 2, color="black", linestyle=":", linewidth=1)
        axes.set_xlim(0, 1)
        axes.set_title(f"{result['setting']}, {result['n']} x {result['n']}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    names = [label(name, results[0]["methods"]) + " (ours)" * (name == content["ours"]) for name in results[0]["methods"]][::-1]
    panels[0].set_yticks(range(len(names)), names)
    figure.supxlabel("share of the map on its own image (median and quartiles; dotted: uniform)", fontsize=9)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def write_example(picture: np.ndarray, maps: np.ndarray, names: list[str], title: str, path: Path) -> None:
    """Write a grid, uint8 `[H, W, 3]`, with the maps `[n * n, h, w]` of its classes on one scale."""
    positive = np.maximum(maps, 0)
    size, scale = picture.shape[:2], common_scale(positive)
    values = at_pixels(positive, size, size, size)
    tiles = [
        Tile(picture, ("grid",)),
        *(Tile(overlay(picture, x, scale), (name,)) for x, name in zip(values, names, strict=True)),
    ]
    sheet = panel(title, "", None, [Section("", tiles, scale)], "positive part of each class's map").array()
    encoded = cv2.imencode(".jpg", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    with atomic_write(path, "wb") as file:
        file.write(encoded.tobytes())
