"""Damaged pictures: a picture or one line, in bounded memory."""

from __future__ import annotations

import io
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

import datasets.decode
from datasets.decode import check_image, decode_image, decode_thumbnail, image_size
from tests.fuzz.harness import damaged, examples, is_one_line, watched
from tests.pictures import png_of, tiff
from util.errors import ImageError

FORMATS = {
    "png": {}, "apng": {"save_all": True}, "jpeg": {}, "progressive jpeg": {"progressive": True}, "gif": {"save_all": True},
    "tiff": {}, "lzw tiff": {"compression": "tiff_lzw", "save_all": True}, "jpeg tiff": {"compression": "jpeg"}, "webp": {},
    "animated webp": {"save_all": True}, "bmp": {}, "ppm": {}, "jpeg2000": {},
}  # fmt: skip


def pictures() -> dict[str, list[bytes]]:
    """Return small files of each format; those of several modes where it has them."""
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    picture, exif = Image.fromarray(values), Image.Exif()
    exif[0x0112] = 6
    files: dict[str, list[bytes]] = {}
    for name, options in FORMATS.items():
        form = {"apng": "png"}.get(name, name.split()[-1])
        more = {"append_images": [picture.rotate(90)]} if "save_all" in options else {}
        for mode in ("RGB", "L", "P", "RGBA", "CMYK", "I;16") if not options else ("RGB",):
            file = io.BytesIO()
            try:
                source = Image.fromarray(values[..., 0].astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
                source.save(file, form, exif=exif, **options, **more)
            except (OSError, ValueError, KeyError):  # the format has no such mode
                continue
            files.setdefault(form, []).append(file.getvalue())
    files["tiff"].append(tiff(bytes(24), 2, 2, bits=[16] * 3, photometric=2))
    files["png"].append(png_of(13_000, 13_000))
    return files


FILES = pictures()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", FILES)
def test_damaged_pictures(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    monkeypatch.setattr(datasets.decode, "_decoding", datasets.decode.Decoding(max_image_mb=50))

    @examples(60)
    @given(damaged(FILES[form]))
    def read(content: bytes) -> None:
        path.write_bytes(content)
        for function in (decode_image, check_image, image_size, partial(decode_thumbnail, side=16)):
            with watched(tmp_path, 200), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    function(path)  # type: ignore[operator]
                except ImageError as error:
                    assert is_one_line(error) and str(error).startswith(f"{path}: ")

    read()
