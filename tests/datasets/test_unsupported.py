from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from datasets.decode import ImageError, check_image, decode_image, image_size
from tests.pictures import tiff


def jpeg_of(frame: int, bits: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("L", (16, 16), 90).save(file, "JPEG")
    data = bytearray(file.getvalue())
    place = data.find(b"\xff\xc0")
    data[place + 1], data[place + 4] = frame, bits
    return bytes(data)


def bmp_of(masks: tuple[int, int, int]) -> bytes:
    """Return a BMP of 16 bits per pixel with bit fields."""
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 16, 3, 8, 0, 0, 0, 0) + struct.pack("<3I", *masks)
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + 8, 0, 0, 14 + len(header)) + header + bytes(8)


FILES = {
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    "AVIF": (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
    "JPEG XL": (b"\xff\x0a\x7f\x02", "JXL"),
    "PSD": (b"8BPS\0\1", "PSD"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "PDF": (b"%PDF-1.7\n", "PDF"),
    "Canon": (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "RAW"),
    "Fuji": (b"FUJIFILMCCD-RAW 0201", "RAW"),
    "DNG": (tiff(bytes(4), 2, 2, bits=[8], tags={50706: 0x401}), "RAW"),
    "video": (b"\0\0\0\x18ftypisom\0\0\0\0", "video"),
    "12-bit JPEG": (jpeg_of(0xC1, bits=12), "JPEG of 12 bits"),
    "lossless JPEG": (jpeg_of(0xC3, bits=16), "JPEG of 16 bits"),
    "hierarchical JPEG": (jpeg_of(0xC5), "process 5"),
    "JPEG-LS": (jpeg_of(0xF7), "JPEG-LS"),
    "BMP": (bmp_of((0x0F00, 0x00F0, 0x000F)), "bitfields"),
    "10-bit TIFF": (tiff(bytes(5), 4, 1, bits=[10]), "not supported"),
    "float TIFF": (tiff(bytes(8), 2, 1, bits=[32], tags={339: 3}), "float"),
    "double TIFF": (tiff(bytes(16), 2, 1, bits=[64], tags={339: 3}), "not supported"),
    "compression": (tiff(bytes(8), 2, 1, bits=[8], tags={259: 50002}), "not supported"),
    "int8 TIFF": (tiff(bytes(4), 2, 2, bits=[8], tags={339: 2}), "signed"),
    "int16 TIFF": (tiff(bytes(8), 2, 2, bits=[16], tags={339: 2}), "signed"),
    "planar TIFF": (tiff(bytes(24), 2, 2, bits=[16] * 3, photometric=2, tags={284: 2}), "not supported"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_of_another_kind_is_to_be_converted(tmp_path: Path, name: str) -> None:
    content, words = FILES[name]
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for function in (decode_image, check_image, image_size):
        try:
            function(path)
        except ImageError as error:
            assert words in str(error) and ("convert" in str(error) or "allowed" in str(error)), error
            assert "copy it again" not in str(error) and "\n" not in str(error)
        else:
            assert function is image_size


def test_a_damaged_file_of_a_kind_that_is_decoded_is_not_to_be_converted(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.webp", "a.gif", "a.tif", "a.bmp"):
        Image.effect_noise((40, 40), 90).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        for length in (5, 20, len(content) // 2):
            (tmp_path / name).write_bytes(content[:length])
            with pytest.raises(ImageError) as caught:
                decode_image(tmp_path / name)
            assert "convert" not in str(caught.value), (name, length)


def test_a_jpeg_that_ends_in_the_header_of_its_picture(tmp_path: Path) -> None:
    whole = jpeg_of(0xC0)
    (tmp_path / "a.jpg").write_bytes(whole[: whole.find(b"\xff\xc0") + 3])
    with pytest.raises(ImageError, match=r"a\.jpg: "):
        decode_image(tmp_path / "a.jpg")
