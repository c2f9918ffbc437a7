from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.decode import Decoding, ImageError, check_image, decode_image
from tests.pictures import tiff

RNG = np.random.default_rng(0)


def png(bits: int, colour: int, values: np.ndarray, transparent: bytes = b"") -> bytes:
    """Write values `[H, W, C]` as a PNG without filters."""
    kinds = {8: "u1", 16: ">u2"}
    rows = b""
    for row in values:
        packed = row.astype(kinds[bits]) if bits in kinds else np.packbits((row.reshape(-1, 1) >> np.arange(bits)[::-1]) & 1)
        rows += b"\0" + packed.tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", values.shape[1], len(values), bits, colour, 0, 0, 0)
    clear = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + clear + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def decoded(path: Path, content: bytes, bit_depth: int = 16) -> np.ndarray:
    path.write_bytes(content)
    check_image(path, Decoding(bit_depth))
    return decode_image(path, Decoding(bit_depth)).permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_transparent_grey_of_a_png_is_white(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    values = RNG.integers(0, top, (7, 9, 1), endpoint=True)
    for key in {0, 1, top // 2, top}:
        values[0, 0] = key
        expected = np.where(values == key, 255, np.rint(values / top * 255))
        content = png(bits, 0, values, struct.pack(">H", key))
        assert np.array_equal(decoded(tmp_path / "a.png", content), expected.repeat(3, 2)), key


def test_a_transparent_colour_of_16_bits_is_compared_with_all_its_bits(tmp_path: Path) -> None:
    values = np.array([[[0x0102, 0x0304, 0x0506], [0x0103, 0x0304, 0x0506], [1, 2, 3]]])
    image = decoded(tmp_path / "a.png", png(16, 2, values, struct.pack(">HHH", *values[0, 0])))
    assert image.tolist() == [[[255] * 3, [1, 3, 5], [0, 0, 0]]]


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_bit_depth_scales_files_of_16_bits(tmp_path: Path, colour: int, channels: int) -> None:
    values = RNG.integers(0, 4096, (7, 9, channels))
    opacity = np.ones((7, 9, 1))
    if channels in (2, 4):
        values[..., -1] = RNG.integers(0, 65536, (7, 9))
        opacity, values_of = values[..., -1:] / 65535, values[..., :-1]
    else:
        values_of = values
    expected = np.broadcast_to(np.rint(255 - opacity * (255 - np.rint(values_of / 4095 * 255))), (7, 9, 3))
    image = decoded(tmp_path / "a.png", png(16, colour, values), bit_depth=12)
    assert np.abs(image - expected).max() <= (channels in (2, 4))
    with pytest.raises(ImageError, match="--bit_depth 9"):
        decoded(tmp_path / "a.png", png(16, colour, values), bit_depth=9)


def test_bit_depth_of_other_formats(tmp_path: Path) -> None:
    values = RNG.integers(0, 4096, (5, 4), dtype=np.uint16)
    expected = np.rint(values / 4095 * 255)
    for content in (
        tiff(values.tobytes(), 4, 5, bits=[16]),
        tiff(values.astype(">u2").tobytes(), 4, 5, bits=[16], order=">"),
        b"P5 4 5 65535\n" + values.astype(">u2").tobytes(),
        b"P5 4 5 4095\n" + values.astype(">u2").tobytes(),
    ):
        assert np.abs(decoded(tmp_path / "a.tif", content, bit_depth=12)[..., 0] - expected).max() <= 1
    colours = values[..., None].repeat(3, 2)
    image = decoded(tmp_path / "a.tif", tiff(colours.tobytes(), 4, 5, bits=[16] * 3, photometric=2), bit_depth=12)
    assert np.array_equal(image, expected[..., None].repeat(3, 2))


def test_kinds_of_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    assert decoded(path, tiff(bytes([0xFF, 0xF0, 0x00, 0x80, 0x00, 0x00]), 4, 1, bits=[12]))[0, :, 0].tolist() == [255, 0, 128, 0]
    black_is_high = tiff(struct.pack("<3H", 0, 65535, 25700), 3, 1, bits=[16], photometric=0)
    assert decoded(path, black_is_high)[0, :, 0].tolist() == [255, 0, 155]
    colours = tiff(struct.pack(">6H", 65535, 0, 257, 0, 65535, 0), 2, 1, bits=[16] * 3, photometric=2, order=">")
    assert decoded(path, colours).tolist() == [[[255, 0, 1], [0, 255, 0]]]


@pytest.mark.parametrize(("mode", "stored"), [("I;16", 4000), ("I;16", 70), ("I;16", 0), ("RGB", 4000)])
def test_the_largest_value_of_a_file_of_16_bits_is_found(tmp_path: Path, mode: str, stored: int) -> None:
    values = np.full((3, 3, 1 if mode == "I;16" else 3), stored)
    (tmp_path / "a.png").write_bytes(png(16, 0 if mode == "I;16" else 2, values))
    peak = check_image(tmp_path / "a.png").peak
    assert peak is not None and peak.bit_length() == stored.bit_length()
    Image.new("L", (3, 3), 9).save(tmp_path / "a.png")
    assert check_image(tmp_path / "a.png").peak is None
