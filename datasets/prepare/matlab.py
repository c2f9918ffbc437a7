"""Variables of MATLAB files, read by SciPy in a process of its own.

Damaged files can end SciPy's reader with a segmentation fault, or make it ask for any amount of memory.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import resource
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import first_line

LARGEST = 2**30  # bytes of memory for the variables of a file


def read_variables(path: Path) -> dict[str, Any]:
    """Return the variables of a file: numbers and text alone where there is one, else lists, columns first; structures are dicts.

    Empty text is an empty list, as SciPy has it.

    Raises:
        ValueError: it is damaged, of a version that SciPy does not read (7.3), or takes more than 1 GiB of memory.
        OSError: it cannot be read.
    """
    path.open("rb").close()
    context = multiprocessing.get_context("fork")  # which has imported everything already
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_read, args=(path, sender), daemon=True)
    child.start()
    sender.close()
    try:
        problem, found = receiver.recv()
    except EOFError:
        problem, found = "SciPy's reader crashed", {}
    finally:
        child.join()
        receiver.close()
    if problem:
        raise ValueError(problem)
    return found


def _read(path: Path, sender: Connection) -> None:
    """Send a problem, empty if there is none, and the variables."""
    from scipy.io import loadmat

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it
    faulthandler.disable()
    if (status := Path("/proc/self/statm")).exists():  # Linux
        limit = int(status.read_text().split()[0]) * os.sysconf("SC_PAGESIZE") + LARGEST
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        content = loadmat(path, simplify_cells=True)
        answer = "", {name: _plain(value) for name, value in content.items() if not name.startswith("__")}
    except MemoryError:
        answer = f"more than {LARGEST:,} bytes", {}
    except Exception as error:  # SciPy raises anything on damaged bytes
        answer = first_line(error) or type(error).__name__, {}
    sender.send(answer)


def _plain(value: Any) -> Any:
    """Return arrays as flat lists, columns first, and text without spaces at its end."""
    if isinstance(value, np.ndarray):
        value = value.flatten(order="F").tolist()
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, str):
        return value.rstrip()
    return value.item() if isinstance(value, np.generic) else value
