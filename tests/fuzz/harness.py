"""Fuzzing: how many inputs are drawn, and what must not happen while one is read.

ICN_FUZZ=100 python -m pytest tests/fuzz      # 100 times as many, other ones at each call; at a failure, the smallest is shown
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from util.printable import printable

FACTOR = int(os.environ.get("ICN_FUZZ", "1"))
SECONDS = 30  # of CPU time for one input
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# Events of the interpreter (sys.addaudithook): what starts a program or changes a name, and which of its arguments are paths.
PROGRAMS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pickle.find_class",
)
CHANGES = {
    **dict.fromkeys(("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.utime"), (0,)),
    **dict.fromkeys(("os.symlink", "os.link"), (1,)),
    "os.rename": (0, 1),
}


def examples(count: int) -> Callable[[Any], Any]:
    """Return the settings of a test: `count` inputs, always the same ones, unless ICN_FUZZ asks for more."""
    return settings(
        max_examples=count * FACTOR,
        derandomize=FACTOR == 1,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=FACTOR > 1,
    )


class Misdeed(BaseException):
    """A program was started, or a file outside the allowed folder was changed; no `except Exception` hides it."""


class _Watch:
    """The folder in which files may be changed; None: everywhere."""

    folder: str | None = None


def _is_inside(path: object) -> bool:
    if isinstance(path, int):  # an open file
        return True
    assert _Watch.folder is not None
    real = os.path.join(os.path.realpath(os.fsdecode(path)), "")  # type: ignore[call-overload]
    return real.startswith(_Watch.folder) or path == os.devnull


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _Watch.folder is None:
        return
    if event in PROGRAMS:
        raise Misdeed(f"{event}{arguments}")
    paths = [arguments[index] for index in CHANGES.get(event, ())]
    if event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
        paths = [arguments[0]]
    if not all(map(_is_inside, paths)):
        raise Misdeed(f"{event}{arguments}, outside {_Watch.folder}")


sys.addaudithook(_audit)


@contextmanager
def watched(folder: Path, megabytes: int = 300) -> Iterator[None]:
    """Run the enclosed reading: it must start no program, change files in `folder` alone, and end within time and memory.

    Raises:
        Misdeed: it starts a program or changes a file elsewhere.
        TimeoutError: it takes more than `SECONDS` of CPU time.
        AssertionError: it takes more memory than `megabytes`.
    """
    before = _peak_memory(reset=True)
    handler = signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    _Watch.folder = os.path.join(os.path.realpath(folder), "")
    try:
        yield
    finally:
        _Watch.folder = None
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        taken = _peak_memory() - before
    assert taken < megabytes, f"{taken:.0f} MB of memory, more than {megabytes}"


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s of CPU time")


def _peak_memory(reset: bool = False) -> float:
    """Return the peak of the memory of this process in MB, since the last `reset`; 0 where the system does not tell."""
    try:
        if reset:
            CLEAR.write_text("5")
        return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmHWM")) / 1e3
    except OSError:
        return 0.0


def is_one_line(error: BaseException) -> bool:
    """Return whether the message of an error is one line that prints, and not of a page's length."""
    text = str(error)
    return bool(text) and printable(text) == text and len(text) < 2500


DAMAGES = ("bit", "byte", "number", "delete", "insert", "copy", "cut")
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Draw one of some files with a few bits, bytes, numbers or runs of bytes changed, deleted, inserted, copied or cut off."""
    content = bytearray(draw(st.sampled_from(originals)))
    place = st.integers(0, len(content) - 1) | st.integers(0, min(len(content) - 1, 200))  # headers matter most
    for kind in draw(
        st.lists(st.sampled_from(["bit", "byte", "number", "delete", "insert", "copy", "cut"]), min_size=1, max_size=5)
    ):
        start = draw(place) % max(len(content), 1)
        if kind == "bit":
            content[start : start + 1] = bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in content[start : start + 1])
        elif kind == "byte":
            content[start : start + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "number":
            size, order = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from(["little", "big"]))
            number = draw(st.sampled_from(NUMBERS)) & (256**size - 1)
            content[start : start + size] = number.to_bytes(size, order)  # type: ignore[arg-type]
        elif kind == "delete":
            del content[start : start + draw(st.integers(1, 40))]
        elif kind == "insert":
            content[start:start] = draw(st.binary(min_size=1, max_size=8))
        elif kind == "copy":
            source, length = draw(place), draw(st.integers(1, 40))
            content[start : start + length] = content[source : source + length]
        else:
            del content[max(start, 8) :]
    return bytes(content)


# Any value of JSON, with numbers that are hard to compute with.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.sampled_from([10**400, -1, 0, 1])
    | st.floats()
    | st.text(max_size=20)
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=12
)
HOSTILE = (
    "../x", "/tmp/x", "a/../../x", "..", ".", "", "-rf", ".hidden", "a\0b", "a\nb", "\x1b[1m", "CON", "x" * 300,
    "ä" * 200 + ".jpg", "\ud800", "wren\u200b", "Thumbs.db", "a/b", "a\\b", "C:\\x", "~", "$HOME", "%s", "{}", " ", "\u202e",
)  # fmt: skip
NAMES = st.sampled_from(HOSTILE) | st.text(max_size=30) | st.builds("/".join, st.lists(st.sampled_from(HOSTILE), max_size=3))
