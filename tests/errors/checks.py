"""Wrong cut-outs for tools.make_composites, and data sets for tools.check_dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.errors.world import Case, save_model


def cutouts(second: int = 0) -> None:
    """Write a cut-out of each of two classes, the background of the second with this opacity."""
    for name, alpha in (("finch", 0), ("wren", second)):
        Path("cutouts").mkdir(exist_ok=True)
        pixels = np.full((30, 30, 4), 255, np.uint8)
        pixels[:10, :, 3] = alpha
        Image.fromarray(pixels).save(f"cutouts/{name}.png")


def others() -> None:
    """Write a checkpoint of other classes."""
    save_model("bad.pth", {"classes": ["bus", "car", "tram"]})


COMPOSE = "tools.make_composites --out datasets --cutouts"
CHECKS = [
    Case(
        "no cut-outs",
        f"{COMPOSE} nowhere",
        "--cutouts: 'nowhere': no such file or folder; give a folder of class folders, one of files "
        "(each a class), or several folders or files (each a class)",
    ),
    Case(
        "a single cut-out",
        f"{COMPOSE} photos/0.jpg",
        "--cutouts {path}: is one file, one class: at least two are needed; give a folder of class "
        "folders, one of files (each a class), or several folders or files (each a class)",
    ),
    Case(
        "cut-outs without transparency",
        f"{COMPOSE} cutouts",
        "{n} of {n} cut-outs cannot be used (replace or remove them, or give --partial to leave them "
        "out); {path}: is opaque everywhere; expected an object cut out of its background",
        lambda: cutouts(255),
    ),
    Case(
        "no backgrounds",
        f"{COMPOSE} cutouts --backgrounds nowhere",
        "--backgrounds nowhere: no such folder; give a folder of photographs, or none to render backgrounds",
        cutouts,
    ),
    Case("sizes in the wrong order", f"{COMPOSE} cutouts --scale 0.8 0.4", "--scale 0.8 0.4: give the smaller one first"),
    Case(
        "composites without a folder",
        "tools.make_composites --cutouts cutouts",
        "nothing to do: give --out for a data set, --sheet for a picture of its classes, or both",
    ),
    Case(
        "a data set that does not exist, to be checked",
        "tools.check_dataset --dataset_name brids",
        "--dataset_name: no folder datasets/brids; expected "
        "<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>; folders in datasets: 'birds'; did you mean birds?",
    ),
    Case(
        "a page in the data set that it is about",
        "tools.check_dataset --dataset_name birds --out datasets/birds/page",
        "--out datasets/birds/page lies in the data set: choose a folder elsewhere",
    ),
    Case(
        "a check by a model of other classes",
        "tools.check_dataset --dataset_name birds --resume bad.pth --device cpu",
        "--resume: the checkpoint has none of the classes of the data set ('finch', 'robin', 'wren'), but 'bus', 'car', 'tram'",
        others,
    ),
]
