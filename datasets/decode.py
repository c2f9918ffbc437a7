"""Decoding an image file to an upright RGB tensor, or to a one-line error that names the file."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from util.errors import ImageError
from util.failures import known_cause

Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | Tensor"

# An allow-list: without it PIL would start Ghostscript for a file named .jpg that holds PostScript.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")

ORIENTATION_TAG, SIDEWAYS = 0x0112, (5, 6, 7, 8)
_T = Image.Transpose
_TURNS = (_T.FLIP_LEFT_RIGHT, _T.ROTATE_180, _T.FLIP_TOP_BOTTOM, _T.TRANSPOSE, _T.ROTATE_270, _T.TRANSVERSE, _T.ROTATE_90)
UPRIGHT = dict(enumerate(_TURNS, start=2))  # EXIF orientation -> what turns the picture upright

PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt")
PNG_ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp")

JPEG_TO_RGB = getattr(cv2, "IMREAD_COLOR_RGB", None)  # absent in older OpenCV, whose BGR costs a copy to reverse
END_OF_JPEG = b"\xff\xd9"

# Pictures between PIL's limit and twice that are large, not hostile; catch_warnings would not be safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# EXIF that PIL cannot parse loses the orientation, nothing else, and is common in web photographs.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")


def decode_image(path: str | os.PathLike[str]) -> Tensor:
    """Decode an image file to an upright 8-bit RGB picture.

    The EXIF orientation is applied, 16-bit grey is scaled to 8 bits, transparency is composited on white, an
    animation gives its first frame.

    Returns:
        uint8 `[3, H, W]`, a view of `[H, W, 3]` memory: the layout torchvision's resize is fastest on.

    Raises:
        ImageError: (a ValueError) the file is missing, unreadable, empty, no image, truncated, larger than PIL's limit
            against decompression bombs, or has float or 32-bit integer pixels, whose range is unknown.
    """
    with _open_image(path) as image:
        if isinstance(image, JpegImageFile) and image.mode == "RGB" and _orientation(image) not in UPRIGHT:
            picture = _decode_jpeg(path)
            if picture is not None:
                return picture
        image.load()
        return _from_pil(image)


def read_picture(picture: Picture) -> Tensor:
    """Return a picture as `decode_image` does: a path, a PIL image, an array uint8 `[H, W, 3]` or a tensor uint8 `[3, H, W]`.

    Raises:
        ValueError: the file or image cannot be read (ImageError), or the array or tensor has another shape or type.
    """
    if isinstance(picture, (str, os.PathLike)):
        return decode_image(picture)
    if isinstance(picture, Image.Image):
        _check_range(picture, "the image")
        picture.load()
        return _from_pil(picture)
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
    raise ValueError(f"{given} is no picture: give a path, a PIL image, an array uint8 [H, W, 3] or a tensor uint8 [3, H, W]")


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read height and width of what `decode_image` returns from the file's header: a fraction of a millisecond.

    Raises:
        ImageError: as `decode_image`, where the header shows it.
    """
    with _open_image(path) as image:
        width, height = image.size
        if isinstance(image, PngImageFile) and _has_late_orientation(path):
            image.load()
        elif isinstance(image, TiffImageFile):  # as stored: whether .size is already turned depends on PIL's version
            width, height = image.tag_v2[256], image.tag_v2[257]
        return (width, height) if _orientation(image) in SIDEWAYS else (height, width)


def check_image(path: str | os.PathLike[str]) -> None:
    """Check that a file is a whole image, in a fraction of the time of `decode_image`.

    A JPEG is decoded at an eighth of its size (which reads all of it), the other formats at full size: a PNG's checksums
    can be right although its stream is damaged. Raises ImageError as `decode_image`.
    """
    with _open_image(path) as image:
        image.draft(None, (1, 1))
        image.load()


def _decode_jpeg(path: str | os.PathLike[str]) -> Tensor | None:
    """Decode a JPEG with OpenCV, in a quarter less time: the same libjpeg without PIL's three copies of the pixels.

    None where PIL must decide: a file without the end marker of a JPEG, which OpenCV would fill up with grey.
    """
    if JPEG_TO_RGB is None:
        return None
    data = Path(path).read_bytes()
    if not data.endswith(END_OF_JPEG):
        return None
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), JPEG_TO_RGB | cv2.IMREAD_IGNORE_ORIENTATION)  # [H, W, 3]
    except cv2.error:
        return None
    return None if picture is None else torch.from_numpy(picture).permute(2, 0, 1)


@contextmanager
def _open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image file; any error inside the block becomes an ImageError that names the file."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{path}: is a folder with an image's name; expected a file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{path}: is a device, pipe or socket; expected a file")
        if status.st_size == 0:
            raise ImageError(f"{path}: is empty (0 bytes); copy it again or remove it")
        with Path(path).open("rb") as file, Image.open(file, formats=FORMATS) as image:
            _check_range(image, f"{path}:")
            yield image
    except ImageError:
        raise
    except FileNotFoundError:
        what = "is a link to a file that does not exist" if os.path.islink(path) else "does not exist (any more)"
        raise ImageError(f"{path}: {what}") from None
    except PermissionError:
        raise ImageError(f"{path}: is not readable for this user; change its permissions") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: is not an image; allowed: {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{path}: has more pixels than the limit of {limit:,}; make it smaller or remove it") from None
    # On damaged bytes PIL's plugins raise anything: OSError, SyntaxError, struct.error, zlib.error, IndexError.
    except Exception as error:
        if known_cause(error)[0]:  # memory or file handles are spent
            raise
        detail = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: is truncated or damaged ({detail}); copy it again or remove it") from None


def _from_pil(image: Image.Image) -> Tensor:
    """Return a loaded image as uint8 `[3, H, W]`, upright."""
    orientation = _orientation(image)
    rgb = _to_rgb(image)
    if orientation in UPRIGHT:
        rgb = rgb.transpose(UPRIGHT[orientation])
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)  # [3, H, W]


def _check_range(image: Image.Image, name: str) -> None:
    """Raise an ImageError for an image with pixels of unknown range."""
    if image.mode == "F" or (image.mode == "I" and not _is_16_bit(image)):
        pixels = "float" if image.mode == "F" else "32-bit integer"
        raise ImageError(f"{name} has {pixels} pixels of unknown range; allowed: 8 or 16 bits per channel")


def _orientation(image: Image.Image) -> int:
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


def _is_16_bit(image: Image.Image) -> bool:
    # Mode "I" holds 32 bits, but PIL also uses it for 16-bit PGM and, before version 11.3, for 16-bit PNG.
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _to_rgb(image: Image.Image) -> Image.Image:
    if _is_16_bit(image):
        grey = np.asarray(image).astype(np.uint32)  # [H, W]
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[grey == clear] = 65535
        image = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        # On white, as a browser shows it: the colour of a transparent pixel is arbitrary, often black or noise.
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")
