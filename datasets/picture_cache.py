"""Decoded pictures that are kept, so that a training decodes each file once: in memory or in a file, shared by all processes."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from util.errors import CacheError

IDENTITY, HEADER = 16, 32  # bytes: of the hash of a file's path, size and time; of what precedes the pixels in the cache


class Preparation(Protocol):
    """What a picture goes through before it is kept: a function of the picture alone, whose output size is known before."""

    def output_size(self, height: int, width: int) -> tuple[int, int]: ...

    def __call__(self, image: Tensor) -> Tensor: ...


class Slots(NamedTuple):
    """Where the N pictures of a data set lie in its cache.

    identities: uint8 `[N, 16]`, a hash of path, size and modification time of each file.
    offsets: int64 `[N]`, in bytes.
    sizes: int32 `[N, 2]`, height and width as they are kept.
    end: bytes of the whole cache.
    """

    identities: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    end: int


def slot_bytes(height: int, width: int) -> int:
    """Return the bytes of a kept picture."""
    return HEADER + -(-3 * height * width // HEADER) * HEADER


class PictureCache:
    """The pictures of a data set as they are after `prepare`, kept when they are first needed.

    A kept picture counts only with the identity of its file and the checksum of its pixels. Processes may read and write at
    once: all write the same, and what is half written has another checksum.

    Args:
        path: of the file, or of memory as `/proc/<pid>/fd/<number>`.
        place: its name in messages.
        slots: where each picture lies.
        prepare: what a picture goes through before it is kept.
    """

    def __init__(self, path: str, place: str, slots: Slots, prepare: Preparation) -> None:
        self.path, self.place, self.slots, self.prepare = path, place, slots, prepare
        self.verified = bytearray(len(slots.offsets))  # a checksum is compared once in a process
        self.handle = os.open(path, os.O_RDWR)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "handle": None}  # a process that is not forked opens the file again

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, handle=os.open(state["path"], os.O_RDWR))

    def picture(self, index: int, decode: Callable[[], Tensor]) -> Tensor:
        """Return a prepared picture uint8 `[3, h, w]`, in memory of its own; `decode` is called where it is not kept yet.

        Raises:
            CacheError: it cannot be written, or the file was cut short.
        """
        picture = self._read(index)
        if picture is None:
            picture = self.prepare(decode())
            self._write(index, picture)
        return picture

    def _read(self, index: int) -> Tensor | None:
        height, width = self.slots.sizes[index].tolist()
        header = self._pread(np.empty(HEADER, np.uint8), int(self.slots.offsets[index]))
        if header[:IDENTITY].tobytes() != self.slots.identities[index].tobytes():
            return None
        pixels = self._pread(np.empty((height, width, 3), np.uint8), int(self.slots.offsets[index]) + HEADER)
        if not self.verified[index] and header[IDENTITY:].tobytes() != _checksum(pixels):
            return None
        self.verified[index] = True
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _pread(self, array: np.ndarray, offset: int) -> np.ndarray:
        assert self.handle is not None
        if os.preadv(self.handle, [array.data.cast("B")], offset) != array.nbytes:
            raise CacheError(f"--cache: {self.place} was cut short during the run: remove it, and pictures are decoded again")
        return array

    def _write(self, index: int, picture: Tensor) -> None:
        pixels = picture.permute(1, 2, 0).contiguous().numpy()  # [h, w, 3]
        if pixels.shape[:2] != tuple(self.slots.sizes[index]):  # the file was changed during the run
            return
        offset, header = int(self.slots.offsets[index]), self.slots.identities[index].tobytes() + _checksum(pixels)
        try:
            self._pwrite(pixels.data.cast("B"), offset + HEADER)
            self._pwrite(memoryview(header), offset)
        except OSError as error:
            raise CacheError(
                f"--cache: {self.place} cannot be written ({error.strerror}): make room, or leave --cache out; nothing is lost"
            ) from None

    def _pwrite(self, data: memoryview, offset: int) -> None:
        assert self.handle is not None
        while data:
            count = os.pwrite(self.handle, data, offset)
            data, offset = data[count:], offset + count


def _checksum(pixels: np.ndarray) -> bytes:
    return zlib.crc32(pixels.data.cast("B")).to_bytes(HEADER - IDENTITY, "little")


def lay_out(sizes: Sequence[tuple[int, int]], start: int = 0) -> tuple[list[int], int]:
    """Return the offset of each picture, one behind the other from `start`, and the end of the last."""
    offsets = []
    for height, width in sizes:
        offsets.append(start)
        start += slot_bytes(height, width)
    return offsets, start
