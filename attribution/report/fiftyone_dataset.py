"""Predictions and maps as a folder that FiftyOne imports (`fiftyone.types.FiftyOneDataset`), written without that package.

The layout is the one of serialised samples, without internals of FiftyOne's database, which all its versions import:
`metadata.json`, `samples.json`, the pictures in `data/`, and a folder for each field of maps in `fields/`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attribution.report.overlay import at_pixels, common_scale
from attribution.report.panels import Explained
from datasets.prepare.writing import link, png
from util.atomic import atomic_write

SHOWN_BY_BROWSERS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}  # pictures of other kinds become PNG
Named = tuple[Sequence[str], Sequence[float]]  # names of classes and their probabilities, best first


class FiftyOneDataset:
    """Writer of a data set for FiftyOne into a folder that is not there yet; a context manager.

    What is unfinished is in a hidden folder beside it, which is removed after an error.

    Args:
        folder: of the data set.
        info: what FiftyOne shows as the data set's information; of JSON's types.

    Raises:
        ValueError: there is something in the folder already.
    """

    def __init__(self, folder: Path, info: Mapping[str, Any]) -> None:
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise ValueError(f"--fiftyone {folder} holds something already: choose a new folder; nothing was overwritten")
        self.folder, self.info = folder.absolute(), dict(info)  # `.` has no name
        self.unfinished = self.folder.with_name(f".{self.folder.name}.unfinished")
        self.samples: list[dict[str, Any]] = []

    def __enter__(self) -> FiftyOneDataset:
        shutil.rmtree(self.unfinished, ignore_errors=True)
        (self.unfinished / "data").mkdir(parents=True)
        return self

    def add(
        self, photograph: Path, stem: str, top: Named, classes: Sequence[str], explained: Explained, signed: bool, cells: bool
    ) -> None:
        """Add a photograph with its predictions and the maps of its two most probable classes.

        Args:
            photograph: hard-linked where the file system allows, else copied.
            stem: name of its files; no other photograph has it.
            top: the most probable classes.
            classes: names of all classes.
            explained: its picture and maps `[2, 1, h, w]`.
            signed: the maps have evidence for and against a class.
            cells: the maps keep the cells of the model, without interpolation.
        """
        suffix = photograph.suffix.lower()
        file = f"data/{stem}{suffix if suffix in SHOWN_BY_BROWSERS else '.png'}"
        if suffix in SHOWN_BY_BROWSERS:
            link(photograph, self.unfinished / file, symbolic=False)
        else:
            (self.unfinished / file).write_bytes(png(np.ascontiguousarray(explained.picture[..., ::-1])))
        sample: dict[str, Any] = {"filepath": file, "tags": [], "metadata": None, "prediction": _label(top[0][0], top[1][0])}
        sample["top"] = {"_cls": "Classifications", "classifications": [_label(*pair) for pair in zip(*top, strict=True)]}
        if len(explained.classes) > 1:
            sample["runner_up"] = _label(classes[explained.classes[1]], explained.scores[1])
        grids = explained.maps[:, 0]  # [2, h, w]
        sizes = explained.padded_size, explained.valid_size, explained.picture.shape[:2]
        maps = at_pixels(grids, *sizes, cells=cells)  # type: ignore[arg-type]
        sample["map_scale"] = self._add_maps(sample, stem, dict(zip(("map", "map_runner_up"), maps, strict=False)), signed)
        if len(grids) > 1:
            contrast = at_pixels(grids[:1] - grids[1:], *sizes, cells=cells)  # type: ignore[arg-type]
            sample["contrast_scale"] = self._add_maps(sample, stem, {"contrast": contrast[0]}, signed=True)
        self.samples.append(sample)

    def _add_maps(self, sample: dict[str, Any], stem: str, maps: Mapping[str, np.ndarray], signed: bool) -> float:
        """Write maps of one scale as pictures of 8 bits, as fields of the sample; return the value that 255 stands for."""
        scale = common_scale(np.stack(list(maps.values())), signed)
        for name, values in maps.items():
            path = f"fields/{name}/{stem}.png"
            (self.unfinished / path).parent.mkdir(parents=True, exist_ok=True)
            pixels = np.nan_to_num(scale.place(values) * 255).round().astype(np.uint8)
            (self.unfinished / path).write_bytes(png(pixels))
            sample[name] = {"_cls": "Heatmap", "tags": [], "map_path": path, "range": [0, 255]}
        return scale.high

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.unfinished, ignore_errors=True)
            return
        self.samples.sort(key=lambda sample: sample["filepath"])
        content = {"metadata": {"media_type": "image", "info": self.info}, "samples": {"samples": self.samples}}
        for name, value in content.items():
            with atomic_write(self.unfinished / f"{name}.json") as file:
                json.dump(value, file, indent=1)
        if self.folder.is_dir():  # an empty one
            self.folder.rmdir()
        self.unfinished.rename(self.folder)


def _label(name: str, probability: float) -> dict[str, Any]:
    return {"_cls": "Classification", "tags": [], "label": name, "confidence": probability}
