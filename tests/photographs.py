"""Small photographs with a list beside them, and what tools.prepare_dataset makes of them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tools.prepare_dataset import get_args_parser, main
from util.cli import launch

TWELVE = [(f"{index:02}.jpg", "cat" if index < 6 else "dog") for index in range(12)]


def write_picture(path: Path, seed: int, **options: int) -> Path:
    """A picture of smooth noise: no two seeds look alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    pixels = cv2.resize(small, (options.get("width", 64), 48), interpolation=cv2.INTER_CUBIC)
    encoded = cv2.imencode(path.suffix, pixels, [cv2.IMWRITE_JPEG_QUALITY, options.get("quality", 95)])[1]
    path.write_bytes(encoded.tobytes())
    return path


def listed(photos: Path, rows: str, name: str = "list.csv", encoding: str = "utf-8") -> Path:
    (photos / name).write_bytes(rows.encode(encoding))
    return photos


def run(source: Path, *more: object) -> Path:
    out = source.parent / "data"
    launch(main, get_args_parser(), ["folder", "--source", str(source), "--out", str(out), "--name", "own", *map(str, more)])
    return out / "own"


def error_of(capsys: pytest.CaptureFixture[str], source: Path, *more: object) -> str:
    with pytest.raises(SystemExit) as caught:
        run(source, *more)
    message = capsys.readouterr().err.splitlines()[-1]  # a slow machine shows progress before it
    assert caught.value.code == 2 and ": error: " in message, message
    assert not (source.parent / "data" / "own").exists()
    return message


def contents(target: Path) -> set[str]:
    return {str(path.relative_to(target)) for path in target.glob("*/*/*")}
