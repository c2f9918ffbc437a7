"""Pixels of a PIL image as 8-bit RGB: 16 bits scaled by their bit depth, transparency composited on white, in strips."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from util.errors import ImageError

STRIP = 2**20  # pixels converted at once, so that a large picture is not copied as a whole
WHITE_IS_ZERO = 0  # TIFF's photometric interpretation
PHOTOMETRIC = 262


def raw_mode(image: Image.Image) -> str:
    """Return how the file stores its pixels (`I;12`, `RGB;16B`); '' after the image is loaded."""
    if not (tiles := getattr(image, "tile", None)):
        return ""
    codec, args = tiles[0][0], tiles[0][3]
    if codec == "ppm" and args[1] == 65535:
        return f"{args[0]};16B"
    return str(args[0] if isinstance(args, tuple) else args)


def is_deep_grey(image: Image.Image) -> bool:
    # Mode "I" holds 32 bits, but PIL also uses it for 16-bit PGM and, before version 11.3, for 16-bit PNG.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def peak_value(image: Image.Image, raw: str) -> int | None:
    """Return the largest value of a loaded image whose file stores 16 bits (of colours the largest that it may be), else None."""
    if ";16" not in raw:
        return None
    if is_deep_grey(image):
        return int(np.asarray(image).max())
    bands = "CMYK" if image.mode == "CMYK" else "RGB"
    peak = max(int(image.getchannel(band).getextrema()[1]) for band in bands)  # type: ignore[arg-type]
    return peak * 256 + 255 if peak else 0


def to_rgb(image: Image.Image, raw: str, bit_depth: int, path: str | os.PathLike[str] | None = None) -> np.ndarray:
    """Return the pixels of a loaded image, uint8 `[H, W, 3]`.

    Args:
        raw: `raw_mode` of the image before it was loaded.
        bit_depth: bits that the values of a file of 16 bits have.
        path: of the image's file.

    Raises:
        ImageError: a value has more bits than `bit_depth`, or 16-bit colours cannot be read.
    """
    key = image.info.get("transparency")
    if is_deep_grey(image):
        bits = bit_depth if ";16" in raw else 12 if raw == "I;12" else 16
        white_is_zero = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
        return _in_strips(image, lambda strip: _deep_grey(np.asarray(strip), bits, white_is_zero, key, path))
    if ";16" in raw and path is not None and (bit_depth < 16 or isinstance(key, tuple)):
        return _deep_colours(image, bit_depth, key, path)
    if raw in ("L;2", "L;4") and isinstance(key, int) and key < 2 ** int(raw[2]):
        image.info["transparency"] = key * 255 // (2 ** int(raw[2]) - 1)  # as PIL scales the pixels
    return _in_strips(image, _rgb)


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """Convert an image strip by strip, uint8 `[H, W, 3]`."""
    width, height = image.size
    rows = max(1, STRIP // width)
    if rows >= height:
        return convert(image)
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        pixels[top:bottom] = convert(image.crop((0, top, width, bottom)))
    return pixels


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # On white, as a browser shows it: the colour of a transparent pixel is arbitrary, often black or noise.
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _deep_grey(
    stored: np.ndarray, bits: int, white_is_zero: bool, key: object, path: str | os.PathLike[str] | None
) -> np.ndarray:
    """Scale grey values `[h, w]` of `bits` bits; those equal to `key` are transparent."""
    grey = _scale(stored, bits, path)
    if white_is_zero:
        grey = 255 - grey
    if isinstance(key, int):
        grey[stored == key] = 255
    return np.repeat(grey[..., None], 3, axis=2)


def _deep_colours(image: Image.Image, bits: int, key: object, path: str | os.PathLike[str]) -> np.ndarray:
    """Read 16-bit colours by OpenCV, of which PIL keeps 8 bits."""
    alpha = image.mode in ("RGBA", "LA")
    flags = cv2.IMREAD_UNCHANGED if alpha else cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    stored = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)  # [H, W, 3 or 4], blue first
    if image.mode == "CMYK" or stored is None or stored.dtype != np.uint16 or stored.shape[:2] != image.size[::-1]:
        raise ImageError(
            f"{path}: is a picture of 16 bits that is not supported with --bit_depth {bits}; convert it to PNG in RGB"
        )
    colours = stored[..., 2::-1]
    if isinstance(key, tuple):
        del image.info["transparency"]
        rgb = _rgb(image) if bits == 16 else _scale(colours, bits, path)
        rgb[(colours == np.array(key)).all(2)] = 255
        return rgb
    rgb = _scale(colours, bits, path)
    if not alpha:
        return rgb
    opacity = stored[..., 3:].astype(np.float32) / 65535  # not a camera's value: of 16 bits
    return np.rint(255 - opacity * (255 - rgb.astype(np.float32))).astype(np.uint8)


def _scale(stored: np.ndarray, bits: int, path: str | os.PathLike[str] | None) -> np.ndarray:
    """Scale values of `bits` bits to uint8."""
    top = 2**bits - 1
    if (peak := int(stored.max(initial=0))) > top:
        where = "" if path is None else f"{path}: "
        raise ImageError(
            f"{where}has a value of {peak}, more than the {top} of --bit_depth {bits}; give the bits that all files have"
        )
    return ((stored.astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)
