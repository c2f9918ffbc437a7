"""Image files made by hand, of kinds that PIL does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence


def tiff(
    pixels: bytes, width: int, height: int, bits: Sequence[int], photometric: int = 1, order: str = "<",
    tags: dict[int, int] | None = None,
) -> bytes:  # fmt: skip
    """Return a TIFF of one strip without compression, of `len(bits)` channels."""
    channels = struct.pack(f"{order}{len(bits)}H", *bits)
    start = 8 + len(channels)
    entries = {
        256: width, 257: height, 258: 8 if len(bits) > 2 else 0, 259: 1, 262: photometric, 273: start, 277: len(bits),
        278: height, 279: len(pixels),
    } | (tags or {})  # fmt: skip
    directory = struct.pack(f"{order}H", len(entries))
    for tag, value in sorted(entries.items()):
        if tag == 258:
            inline = struct.pack(f"{order}I", value) if value else channels.ljust(4, b"\0")
            directory += struct.pack(f"{order}HHI", tag, 3, len(bits)) + inline
        else:
            directory += struct.pack(f"{order}HHII", tag, 4, 1, value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start + len(pixels))
    return head + channels + pixels + directory + bytes(4)


def png_of(width: int, height: int) -> bytes:
    """Return the beginning of a PNG of that size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\x01IDAT\0"
