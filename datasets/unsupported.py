"""Naming what a file is that holds no image, or an image of a kind that is not decoded: convert it, rather than copy it again."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from datasets.folders import CONVERTER
from datasets.jpeg import unsupported_frame

PREFIX = 2**16  # bytes read to see what a file is

# First bytes (as a pattern) -> extension of the format, whose converters datasets/folders.py lists.
SIGNATURES = {
    rb"....ftyp(avif|avis)": ".avif",
    rb"....ftyp(hei.|hev.|mif1|msf1)": ".heic",
    rb"....ftypcrx |II\*\0....CR|II\x1a\0\0\0HEAPCCDR|FUJIFILMCCD-RAW|IIU\0|IIR[OS]|MMOR|FOVb": ".raw",
    rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI ": ".mp4",
    rb"\xff\x0a|\0\0\0\x0cJXL ": ".jxl",
    rb"8BPS": ".psd",
    rb"%PDF|%!PS|\xc5\xd0\xd3\xc6": ".pdf",
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>|<!--.*?-->|<!DOCTYPE svg[^>]*>|\s)*<svg": ".svg",
    rb"gimp xcf|\0\0\x01\0|v/1\x01|#\?R|DDS |.{128}DICM|II\xbc|\x0a[\x00-\x05]\x01[\1-\x08]": ".ico",
}
KINDS = {".raw": "a camera's RAW file", ".mp4": "a video", ".pdf": "PDF or PostScript", ".ico": "an image of another format"}
UNSUPPORTED = re.compile(
    "unsupported|not supported|cannot handle|unknown (pixel mode|data organization|compression)|not implemented|not available",
    re.IGNORECASE,
)
TIFF_COMPRESSIONS = range(32766, 2**16)  # those that are not of the standard
SIGNED, REDUCED, SUBFILE, SAMPLE_FORMAT, PLANAR, DNG, BITS = 2, 1, 254, 339, 284, 50706, 258


def describe(path: str | os.PathLike[str], error: Exception, formats: Sequence[str]) -> str:
    """Return what to do about a file of a kind that PIL's `formats` do not decode; '' if it is damaged or no image at all."""
    with Path(path).open("rb") as file:
        start = file.read(PREFIX)
        for pattern, extension in SIGNATURES.items():
            if re.match(pattern, start, re.DOTALL):
                kind = KINDS.get(extension, extension[1:].upper())
                return f"is {kind} under another name, which is not supported; convert it with {CONVERTER[extension]}"
        reason = unsupported_frame(start) if start.startswith(b"\xff\xd8\xff") else ""
        if isinstance(error, UnidentifiedImageError):
            error = _first_error(file, start, formats) or error
    unknown = error.__cause__.args[0] if isinstance(error.__cause__, KeyError) else 0
    if start[:2] in (b"II", b"MM") and unknown in TIFF_COMPRESSIONS:
        reason = f"TIFF, compression {unknown}"
    if not reason and (isinstance(error, NotImplementedError) or UNSUPPORTED.search(str(error))):
        reason = " ".join(str(error).split())
    return (
        f"is an image of a kind that is not supported ({reason}); convert it to PNG (ImageMagick: magick OLD NEW.png)"
        if reason
        else ""
    )


def _first_error(file: BinaryIO, start: bytes, formats: Sequence[str]) -> Exception | None:
    """Return what the format of a file's first bytes has against it: Image.open keeps that to itself."""
    for name in formats:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(start) is True:
            file.seek(0)
            try:
                factory(file, "")
            except Exception as error:
                return error
    return None


def check_tiff(image: TiffImageFile) -> str:
    """Return why PIL would decode a TIFF to wrong pixels; '' where it decodes it right."""
    tags = image.tag_v2
    if SIGNED in _values(tags.get(SAMPLE_FORMAT)):
        return "signed pixels, whose range is unknown; convert it to unsigned pixels of 8 or 16 bits"
    if tags.get(PLANAR) == 2 and max(_values(tags.get(BITS)), default=8) > 8 and image.tile and image.tile[0][0] == "raw":
        return "planes of 16 bits without compression, which are not supported; convert it to PNG"
    if DNG in tags or (tags.get(SUBFILE, 0) & REDUCED):
        return f"a thumbnail as its first picture, as a camera's RAW file; convert it with {CONVERTER['.raw']}"
    return ""


def _values(tag: object) -> tuple[int, ...]:
    return tag if isinstance(tag, tuple) else () if tag is None else (int(tag),)  # type: ignore[call-overload]
