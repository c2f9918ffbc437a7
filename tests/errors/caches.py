"""Wrong caches of decoded pictures."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import torch

from datasets.loaders import build_datasets, cache_pictures
from flags import get_args_parser
from tests.errors.world import CLASSES, TRAINING, Case, writes
from util.cli import parse
from util.ranks import SINGLE_PROCESS


def cut() -> None:
    """Make a cache, and cut its files short."""
    args = parse(get_args_parser(), [*shlex.split(TRAINING), "--cache", "kept"])
    cache_pictures(args, SINGLE_PROCESS, *build_datasets(args, CLASSES), torch.device("cpu"))
    for file in Path("kept").glob("*.pixels"):
        os.truncate(file, 100)


CACHES = [
    Case(
        "a cache over something else",
        "main.py --cache notes",
        "--cache: notes holds something else (a.txt): give a new folder, or leave --cache out",
        writes("notes/a.txt", "mine"),
    ),
    Case(
        "a cache of another data set",
        "main.py --cache kept",
        "--cache: kept is of another data set, /data/cub, and not of {path}: give another folder, or leave --cache out",
        writes("kept/cache.json", '{"data_set": "/data/cub"}'),
    ),
    Case(
        "a cache among the pictures",
        "main.py --cache datasets/birds/train/wren",
        "--cache: datasets/birds/train/wren lies among the pictures of datasets/birds/train: give another folder, or leave "
        "--cache out",
    ),
    Case(
        "a file where the cache should be",
        "main.py --cache notes.txt",
        "--cache: notes.txt is no folder: give another folder, or leave --cache out",
        writes("notes.txt", "mine"),
    ),
    Case(
        "a cache that cannot be written",
        "main.py --cache notes.txt/kept",
        "--cache: notes.txt/kept cannot be written to (Not a directory): give another folder, or leave --cache out",
        writes("notes.txt", "mine"),
    ),
    Case(
        "a cache with a file that was cut short",
        "main.py --cache kept",
        "--cache: {path} is damaged (it was cut short): remove the folder kept, which is then made again",
        cut,
    ),
    Case(
        "a word that is nearly a place of the cache",
        "main.py --cache rum",
        "argument --cache: 'rum': did you mean ram? A new folder is given as ./rum (--help lists the flags)",
    ),
    Case(
        "pictures on the GPU where features are kept",
        "main.py --cache gpu --cache_features 4",
        "--cache_features 4: features are kept, pictures are read once a view: give --cache a folder, or leave it out",
    ),
    Case(
        "kept features of a backbone that is trained",
        "main.py --cache_features 4",
        "--cache_features 4: the backbone is trained (--lr_backbone 1e-05): give --lr_backbone 0",
    ),
]
