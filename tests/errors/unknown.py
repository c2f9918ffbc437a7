"""Wrong inputs about what a model says beyond its most probable class: thresholds, conformal sets, families."""

from __future__ import annotations

from typing import Any

import torch

from tests.errors.world import Case, save_model, writes

PREDICT = "tools.predict photos/0.jpg --resume model.pth"
NONE = "no threshold is known, the checkpoint has none (calibrate it: python -m tools.calibrate --resume <checkpoint> "
NONE += "--dataset_path ... --dataset_name ...)"
FORM = "expected a CSV file with the columns class and family, a row for each class"


def calibrated(**changes: Any) -> None:
    """Write a checkpoint that was calibrated on three images."""
    entry = {"score": "energy", "split": "val", "files": "", "images": 3, "known": [0.1, 0.2, 0.3], "true": [0.1, 0.2, 0.3]}
    save_model("bad.pth", {"thresholds": {**entry, **changes}})


def of_intr() -> None:
    """Write a checkpoint without the version of ICN's."""
    content = torch.load("model.pth", weights_only=True)
    torch.save({name: value for name, value in content.items() if name != "version"}, "bad.pth")


UNKNOWN = [
    Case(
        "a coverage of everything",
        f"{PREDICT} --coverage 1",
        "argument --coverage: '1' must be a number above 0 and below 1 (--help lists the flags)",
    ),
    Case("conformal sets of a checkpoint without thresholds", f"{PREDICT} --coverage 0.9", f"--coverage 0.9: {NONE}"),
    Case("refusals of a checkpoint without thresholds", f"{PREDICT} --refused 0.1", f"--refused 0.1: {NONE}"),
    Case(
        "a coverage that needs more calibration images",
        "tools.predict photos/0.jpg --resume bad.pth --coverage 0.9",
        "--coverage 0.9 needs at least 9 calibration images, the checkpoint has 3",
        calibrated,
    ),
    Case(
        "damaged thresholds",
        "main.py --eval --resume bad.pth",
        "checkpoint bad.pth: the entry 'thresholds' is damaged, the table of thresholds is needed",
        lambda: calibrated(known=[0.3, 0.2, 0.1]),
    ),
    Case(
        "thresholds of a later version",
        "tools.predict photos/0.jpg --resume bad.pth",
        "the checkpoint has thresholds of the score 'odin', this ICN knows max_probability, max_logit, energy, "
        "relative_mahalanobis: calibrate it: python -m tools.calibrate --resume <checkpoint> --dataset_path ... "
        "--dataset_name ...",
        lambda: calibrated(score="odin"),
    ),
    Case(
        "families that do not exist",
        f"{PREDICT} --families families.csv",
        f"--families families.csv: cannot be read (No such file or directory); {FORM}",
    ),
    Case(
        "a table of families with other columns",
        f"{PREDICT} --families families.csv",
        f"--families families.csv: its columns are 'species', 'group'; {FORM}",
        writes("families.csv", "species,group\nwren,song\n"),
    ),
    Case(
        "a class without a family",
        f"{PREDICT} --families families.csv",
        "--families families.csv: 1 of 3 classes have no family: 'wren'; add them (it has 'Wrenn', which the model does "
        "not know)",
        writes("families.csv", "class,family\nfinch,seeds\nrobin,song\nWrenn,song\n"),
    ),
    Case(
        "a class with two families",
        f"{PREDICT} --families families.csv",
        "--families families.csv: the class 'wren' has two families, 'song', 'seeds': keep one of the rows",
        writes("families.csv", "class,family\nwren,song\nwren,seeds\n"),
    ),
    Case(
        "a checkpoint of INTR, to be calibrated",
        "tools.calibrate --resume bad.pth",
        "--resume bad.pth was not written by ICN and stays as it is: calibrate a copy (python -m tools.export --resume bad.pth "
        "--to safetensors --out model.safetensors)",
        of_intr,
    ),
    Case(
        "an address, to be calibrated",
        "tools.calibrate --resume hf://owner/birds",
        "--resume hf://owner/birds: thresholds are kept in the checkpoint: give a file here, not an address",
    ),
    Case(
        "a calibration at another size",
        "tools.calibrate --resume model.pth --image_size 96",
        "--image_size 96: predictions are made with 64: leave the flag out",
    ),
    Case(
        "a data set without unknown classes",
        "tools.evaluate_unknown --resume model.pth",
        "datasets/birds/val has no class that the checkpoint does not know ('finch', 'robin', 'wren'): give a data set with "
        "known and unknown classes",
    ),
]
