"""Sources of data sets made by hand, and the command that prepares them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tools.prepare_dataset import get_args_parser, main
from util.cli import launch

Files = Mapping[str, "bytes | str"]


def picture(width: int = 60, height: int = 50, kind: str = "JPEG", mode: str = "RGB", seed: int = 0, **options: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mask(grey: np.ndarray) -> bytes:
    return cv2.imencode(".png", grey.astype(np.uint8))[1].tobytes()


def mat(**variables: object) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, variables)
    return buffer.getvalue()


def cells(names: list[str]) -> np.ndarray:
    array = np.empty((len(names), 1), dtype=object)
    array[:, 0] = names
    return array


def archive(path: Path, files: Files) -> None:
    """Write a tar (.tar, .tgz, .tar.gz) or zip archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contents = {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as container:
            for name, data in contents.items():
                container.writestr(name, data)
        return
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tape:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tape.addfile(member, io.BytesIO(data))


def unpacked(source: Path, archives: dict[str, Files]) -> Path:
    for files in archives.values():
        for name, content in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return source


def packed(source: Path, archives: dict[str, Files]) -> Path:
    for name, files in archives.items():
        archive(source / name, files) if name else unpacked(source, {"": files})
    return source


def beside(source: object) -> Path:
    """Return the folder for data sets beside a source, which may have a prefix (wds:)."""
    return Path(str(source).rpartition(":")[2]).parent / "data"


def run(name: str, source: object, *more: object, out: Path | None = None) -> Path:
    """Prepare a data set beside its source; return its folder."""
    out = out or beside(source)
    launch(main, get_args_parser(), [name, "--source", str(source), "--out", str(out), *map(str, more)])
    return out / name


def error_of(capsys: pytest.CaptureFixture[str], name: str, source: object, *more: object, out: Path | None = None) -> str:
    """Return the error, of one line, of a run that leaves nothing behind."""
    with pytest.raises(SystemExit) as caught:
        run(name, source, *more, out=out)
    message = capsys.readouterr().err.splitlines()[-1]  # a slow machine shows progress before it
    assert caught.value.code == 2 and ": error: " in message, message
    folder = out or beside(source)
    assert not list(folder.rglob("*")), message
    return message
