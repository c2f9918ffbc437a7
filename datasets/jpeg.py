"""Decoding JPEG by libjpeg-turbo, which reports damaged data: PIL and OpenCV fill up what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

try:
    import simplejpeg
except ImportError:  # PIL decodes then, more slowly, and sees only where a file was cut
    simplejpeg = None

START, END = b"\xff\xd8", b"\xff\xd9"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that start a picture: SOF0 to SOF15
DECODED_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # sequential and progressive, by Huffman or arithmetic codes
SCAN, ADOBE = 0xDA, 0xEE
METADATA = frozenset({*range(0xE0, 0xF0), 0xFE}) - {ADOBE}  # the Adobe segment says what the colours are
MARKER = re.compile(rb"\xff+[^\0\xd0-\xd7\xff]")  # within a scan FF 00 is a byte, FF D0 to D7 restart its decoder

# libjpeg's warnings, where it goes on with pixels that it makes up (or metadata that it ignores).
WARNING = re.compile(r"Corrupt JPEG data|Premature end|Inconsistent progression|Invalid SOS|Warning")
LEFT_OVER = re.compile(r"data: (\d) extraneous bytes before marker 0xd9")
# Headers of files that are several pictures by design: MPO, gain maps, portraits, motion pictures.
CONTAINERS = (b"MPF\0", b"Container:", b"GCamera", b"GDepth", b"GImage")


class Damaged(ValueError):
    """libjpeg filled up pixels of a JPEG whose data are damaged."""


def decode_jpeg(data: bytes, colours: str = "RGB", shrunk: bool = False) -> tuple[np.ndarray | None, bool]:
    """Decode a JPEG, at an eighth of its size if `shrunk`.

    Returns:
        The pixels uint8 `[H, W, C]`, or None where PIL must decide, and whether libjpeg warned of something that changes no
        pixel: odd metadata, or a few bytes of padding.

    Raises:
        Damaged: (a ValueError) pixels are made up.
    """
    if simplejpeg is None:
        return None, False
    try:
        return simplejpeg.decode_jpeg(data, colours, min_height=int(shrunk), min_width=int(shrunk)), False
    except ValueError as error:
        if not WARNING.match(str(error)):
            return None, False
        _check_warning(data, colours, shrunk, str(error))
    return None, True


def _check_warning(data: bytes, colours: str, shrunk: bool, warning: str) -> None:
    """Raise Damaged unless a warning, the first of those of a file and the only one that libjpeg reports, is harmless."""
    left_over = LEFT_OVER.search(warning)
    if left_over and bytes(int(left_over[1])) + END in data:  # cameras pad so; the last warning that there can be
        return
    essential = START + b"".join(data[start:end] for kind, start, end in _segments(data) if kind not in METADATA)
    if essential == data:
        raise Damaged(warning)
    decode_jpeg(essential, colours, shrunk)  # raises if there is another warning


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment of a JPEG up to its end marker; a scan includes its pixels."""
    position = len(START)
    while found := MARKER.search(data, position):
        kind, position = data[found.end() - 1], found.end()
        if kind != END[1]:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
        if kind == SCAN:
            following = MARKER.search(data, position)
            position = following.start() if following else len(data)
        yield kind, found.end() - 2, position
        if kind == END[1]:
            return


def unsupported_frame(data: bytes) -> str:
    """Return in words why a JPEG whose header is whole is not decoded: the bits of its values or its coding; else ''."""
    for kind, start, _ in _segments(data):
        if kind in FRAMES:
            bits = data[start + 4] if start + 4 < len(data) else 8  # else it is cut off
            coding = f"process {kind - 0xC0}" if kind not in DECODED_FRAMES else ""
            return f"JPEG of {bits} bits" if bits != 8 else f"JPEG, {coding}" if coding else ""
        if kind == 0xF7:
            return "JPEG-LS"
    return ""


def holds_second_picture(data: bytes) -> bool:
    """Return whether another JPEG follows the first one in a file that does not say so in its header."""
    end = 0
    for kind, start, end in _segments(data):
        if kind in METADATA and any(name in data[start:end] for name in CONTAINERS):
            return False
    return START + b"\xff" in data[end:]
