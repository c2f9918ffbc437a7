"""Reading the IDX format, in which the MNIST family of data sets is published."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

UINT8 = 0x08


def read_idx(path: Path) -> np.ndarray:
    """Read a uint8 array from an IDX file, plain or gzipped.

    IDX: two zero bytes, the type, the number of dimensions, the dimensions as big-endian uint32, the data.

    Raises:
        ValueError: damaged gzip, another magic number or type, or data shorter or longer than the shape says.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); copy it again") from None
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError(f"{path}: is not an IDX file; its first four bytes are {data[:4].hex() or 'missing'}")
    if data[2] != UINT8:
        raise ValueError(f"{path}: holds IDX type 0x{data[2]:02x}; expected 0x08, unsigned bytes")
    start = 4 + 4 * data[3]
    shape = tuple(int.from_bytes(data[i : i + 4], "big") for i in range(4, min(start, len(data)), 4))
    if len(data) != start + math.prod(shape):
        raise ValueError(f"{path}: is {len(data)} bytes long; its header {shape} means {start + math.prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
