"""Photographs that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest
from photographs import write_picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures in a flat folder, without a list."""
    for index in range(12):
        write_picture(tmp_path / "photos" / f"{index:02}.jpg", index)
    return tmp_path / "photos"
