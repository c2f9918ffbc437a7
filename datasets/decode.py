"""Decoding an image file to an upright RGB tensor, or to a one-line error that names the file."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from datasets.jpeg import Damaged, decode_jpeg, holds_second_picture
from datasets.pixels import is_deep_grey, peak_value, raw_mode, to_rgb
from datasets.unsupported import check_tiff, describe
from datasets.urls import URL, fetched
from util.errors import ImageError
from util.failures import known_cause

Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | Tensor"

# An allow-list: without it PIL would start Ghostscript for a file named .jpg that holds PostScript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")

ORIENTATION_TAG, SIDEWAYS = 0x0112, (5, 6, 7, 8)
FLIPS = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # EXIF orientation -> axis of OpenCV's flip, after a transposition if SIDEWAYS

PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")
PNG_ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp")

BYTES_PER_PIXEL = {"JPEG2000": 25, "WEBP": 20}  # that decoding takes at its peak; 10 in the other formats
LARGE = 2**27  # bytes; such images are checked one after the other

# Pictures between PIL's limit and twice that are large, not hostile; catch_warnings would not be safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# EXIF that PIL cannot parse loses the orientation, nothing else, and is common in web photographs.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

_one_large_image = threading.Lock()


class Decoding(NamedTuple):
    """How image files are decoded.

    Attributes:
        bit_depth: bits, from 9 to 16, of the values in files of 16 bits: 12 where a camera wrote 0 to 4095.
        max_image_mb: memory in MB that an image may take while it is decoded.
    """

    bit_depth: int = 16
    max_image_mb: int = 1200


_decoding = Decoding()


def set_decoding(bit_depth: int = 16, max_image_mb: int = 1200) -> None:
    """Set how this process decodes images from now on; arguments as of `Decoding`."""
    global _decoding
    _decoding = Decoding(bit_depth, max_image_mb)


def current_decoding() -> Decoding:
    return _decoding


class Finding(NamedTuple):
    """What is odd about an image file that can be used.

    Attributes:
        note: a sentence; empty if nothing is odd.
        peak: largest value, in a file of 16 bits.
    """

    note: str = ""
    peak: int | None = None


class BoundedFile(io.BufferedReader):
    """A file that is read no further than its end: for a length in a damaged header memory would be reserved."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        """Return as many bytes, at most all of the file; all that follow if negative or None."""
        return super().read(-1 if size is None else min(size, self.size))


def decode_image(path: str | os.PathLike[str], decoding: Decoding | None = None) -> Tensor:
    """Decode an image file to an upright 8-bit RGB picture.

    The EXIF orientation is applied, 16 bits are scaled to 8, transparency is composited on white, an animation gives its
    first frame. `decoding` is that of `set_decoding` by default.

    Returns:
        uint8 `[3, H, W]`, a view of `[H, W, 3]` memory: the layout torchvision's resize is fastest on.

    Raises:
        ImageError: (a ValueError) the file is missing, unreadable, empty, no image, of a kind that is not supported, truncated
            or damaged, too large, or has signed, float or 32-bit integer pixels, whose range is unknown.
    """
    decoding = decoding or _decoding
    with open_image(path, decoding) as image:
        pixels = None
        if isinstance(image, JpegImageFile):
            if image.mode in ("RGB", "L"):
                pixels, _ = decode_jpeg(Path(path).read_bytes())
            else:
                decode_jpeg(Path(path).read_bytes(), "CMYK", shrunk=True)  # raises if the file is damaged
        if pixels is None:
            raw = raw_mode(image)
            image.load()
            pixels = to_rgb(image, raw, decoding.bit_depth, path)
        return _upright(pixels, orientation(image))


def read_picture(picture: Picture, decoding: Decoding | None = None) -> Tensor:
    """Return a picture as `decode_image` does: a path or URL, a PIL image, an array uint8 `[H, W, 3]` or a tensor `[3, H, W]`.

    Raises:
        ValueError: the file or image cannot be read (ImageError), or the array or tensor has another shape or type.
    """
    if isinstance(picture, str) and URL.match(picture):
        with fetched(picture) as path:
            return decode_image(path, decoding)
    if isinstance(picture, (str, os.PathLike)):
        return decode_image(picture, decoding)
    if isinstance(picture, Image.Image):
        _check_range(picture, "the image")
        raw = raw_mode(picture)
        picture.load()
        return _upright(to_rgb(picture, raw, (decoding or _decoding).bit_depth), orientation(picture))
    given = type(picture).__name__ + (f" {picture.dtype} {list(picture.shape)}" if hasattr(picture, "shape") else "")
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3:
        picture = torch.from_numpy(picture.copy()).permute(2, 0, 1)  # [3, H, W]
    if (
        isinstance(picture, Tensor)
        and picture.dtype == torch.uint8
        and picture.ndim == 3
        and len(picture) == 3
        and picture.numel()
    ):
        return picture.cpu()
    raise ValueError(
        f"{given} is no picture: give a path or URL, a PIL image, an array uint8 [H, W, 3] or a tensor uint8 [3, H, W]"
    )


def image_size(path: str | os.PathLike[str], decoding: Decoding | None = None) -> tuple[int, int]:
    """Read height and width of what `decode_image` returns from the file's header: a fraction of a millisecond.

    Raises:
        ImageError: as `decode_image`, where the header shows it.
    """
    with open_image(path, decoding) as image:
        width, height = image.size
        if isinstance(image, PngImageFile) and _has_late_orientation(path):
            image.load()
        elif isinstance(image, TiffImageFile):  # as stored: whether .size is already turned depends on PIL's version
            width, height = image.tag_v2[256], image.tag_v2[257]
        return (width, height) if orientation(image) in SIDEWAYS else (height, width)


def decode_thumbnail(path: str | os.PathLike[str], side: int) -> Tensor:
    """Decode an image as uint8 `[3, side, side]`, whatever its shape; a JPEG at the smallest size that suffices.

    Raises:
        ImageError: as `decode_image`, but some damages of a JPEG are not noticed.
    """
    with open_image(path) as image:
        raw = raw_mode(image)
        image.draft(None, (2 * side, 2 * side))
        image.load()
        pixels = to_rgb(image, raw, _decoding.bit_depth, path)
        return _upright(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), orientation(image))


def check_image(path: str | os.PathLike[str], decoding: Decoding | None = None) -> Finding:
    """Check that a file is a whole image, in a fraction of the time of `decode_image`, and return what is odd about it.

    A JPEG is decoded at an eighth of its size (which reads all of it), the other formats at full size: a PNG's checksums
    can be right although its stream is damaged. Raises ImageError as `decode_image`.
    """
    decoding = decoding or _decoding
    with open_image(path, decoding) as image, _one_large_image if _memory(image) > LARGE else nullcontext():
        note, decoded = "", False
        if isinstance(image, JpegImageFile):
            data = Path(path).read_bytes()
            pixels, odd = decode_jpeg(data, "GRAY" if image.mode in ("RGB", "L") else "CMYK", shrunk=True)
            decoded = pixels is not None
            if holds_second_picture(data):
                note = "another picture follows the first, which is the one that is used"
            elif odd:
                note = "the decoder warns of odd bytes in the header or at the end; used as they are"
        elif isinstance(image, TiffImageFile) and image.is_animated:
            note = "there are several pages, of which the first is used"
        if decoded:
            return Finding(note)
        raw = raw_mode(image)
        image.draft(None, (1, 1))
        image.load()
        if ";16" in raw and decoding.bit_depth < 16:
            to_rgb(image, raw, decoding.bit_depth, path)  # raises for a larger value
        return Finding(note, peak_value(image, raw))


@contextmanager
def open_image(path: str | os.PathLike[str], decoding: Decoding | None = None) -> Iterator[Image.Image]:
    """Open an image file; any error inside the block becomes an ImageError that names the file."""
    decoding = decoding or _decoding
    if Image.MAX_IMAGE_PIXELS and decoding.max_image_mb > Decoding().max_image_mb:  # PIL's own limit
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, decoding.max_image_mb * 10**6)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{path}: is a folder with an image's name; expected a file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{path}: is a device, pipe or socket; expected a file")
        if status.st_size == 0:
            raise ImageError(f"{path}: is empty (0 bytes); copy it again or remove it")
        with BoundedFile(Path(path).open("rb", buffering=0)) as file, Image.open(file, formats=FORMATS) as image:
            if isinstance(image, TiffImageFile) and (wrong := check_tiff(image)):
                raise ImageError(f"{path}: has {wrong}")
            _check_range(image, f"{path}:")
            if (memory := _memory(image) / 1e6) > decoding.max_image_mb:
                size = " x ".join(f"{side:,}" for side in image.size)
                raise ImageError(
                    f"{path}: is {size} pixels, which take {memory:,.0f} MB to decode, more than --max_image_mb "
                    f"{decoding.max_image_mb}; make it smaller, remove it, or give more"
                )
            yield image
    except ImageError:
        raise
    except FileNotFoundError:
        what = "is a link to a file that does not exist" if os.path.islink(path) else "does not exist (any more)"
        raise ImageError(f"{path}: {what}") from None
    except PermissionError:
        raise ImageError(f"{path}: is not readable for this user; change its permissions") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(
            f"{path}: has more pixels than the limit of {limit:,}; make it smaller, remove it, or give a larger --max_image_mb"
        ) from None
    except Damaged as error:
        raise ImageError(f"{path}: is damaged, its decoder fills up pixels ({error}); copy it again or remove it") from None
    # On damaged bytes PIL's plugins raise anything: OSError, SyntaxError, struct.error, zlib.error, IndexError.
    except Exception as error:
        if known_cause(error)[0]:  # memory or file handles are spent
            raise
        too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG
        if "\0" in os.fspath(path) or isinstance(error, UnicodeEncodeError) or too_long:
            raise ImageError(f"{path}: is a name that no file has") from None
        if kind := describe(path, error, FORMATS):
            raise ImageError(f"{path}: {kind}") from None
        if isinstance(error, UnidentifiedImageError):
            raise ImageError(f"{path}: is not an image; allowed: {', '.join(FORMATS)}") from None
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: is truncated or damaged ({detail}); copy it again or remove it") from None


def _memory(image: Image.Image) -> int:
    """Return the bytes that decoding takes at its peak, from the header."""
    pixels = image.width * image.height
    if isinstance(image, TiffImageFile):  # a tile may be larger than the picture
        pixels = max(pixels, image.tag_v2.get(322, 0) * image.tag_v2.get(323, 0))
    return pixels * BYTES_PER_PIXEL.get(image.format or "", 10)


def _upright(pixels: np.ndarray, orientation: int) -> Tensor:
    """Return pixels uint8 `[H, W, 3]` as uint8 `[3, H, W]`, turned by their EXIF orientation."""
    return torch.from_numpy(turn_upright(pixels, orientation)).permute(2, 0, 1)


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels `[H, W, C]` by their EXIF orientation."""
    if orientation in SIDEWAYS:
        pixels = cv2.transpose(pixels)
    if orientation in FLIPS:
        pixels = cv2.flip(pixels, FLIPS[orientation])
    return pixels


def _check_range(image: Image.Image, name: str) -> None:
    """Raise an ImageError for an image with pixels of unknown range."""
    if image.mode == "F" or (image.mode == "I" and not is_deep_grey(image)):
        pixels = "float" if image.mode == "F" else "32-bit integer"
        raise ImageError(f"{name} has {pixels} pixels of unknown range; allowed: 8 or 16 bits per channel")


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an open image: 1 to 8, 1 for upright."""
    try:
        # Not image.getexif(): that of a PNG decodes the picture, to find metadata after the pixels.
        return Image.Image.getexif(image).get(ORIENTATION_TAG, 1)
    except Exception:  # unreadable EXIF does not make the picture unreadable
        return 1


def _has_late_orientation(path: str | os.PathLike[str]) -> bool:
    """Return whether a PNG may have its orientation after the pixels, which opening it does not read."""
    with Path(path).open("rb") as file:
        position, pixels_seen = 8, False
        while True:
            file.seek(position)
            head = file.read(8)
            if len(head) < 8:
                return False
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if pixels_seen and (kind == b"eXIf" or (kind in PNG_TEXT and file.read(22).startswith(PNG_ORIENTATION))):
                return True
            pixels_seen |= kind == b"IDAT"
            position += length + 12
