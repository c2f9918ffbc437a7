"""What every command line of the repository shares: one-line errors, flags that know whether they were given."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from util.errors import RunFailed
from util.launcher import ALONE, ProcessInfo, read_launcher_env
from util.stopping import Stopped


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line (exit code 2), whose help shows defaults and that reads @-files."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        kwargs.setdefault("fromfile_prefix_chars", "@")
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {_rank()}{message} (--help lists the flags)\n")

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """A line of an @-file: words as in a shell, `#` starts a comment."""
        return shlex.split(arg_line, comments=True)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse, and add `explicit`: the list of the flags (their `dest`) that stood on the command line."""
    args = parser.parse_args(argv)
    defaults, parser._defaults = parser._defaults, {}
    actions = {action: action.default for action in parser._actions}
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    try:
        args.explicit = sorted(vars(parser.parse_args(argv)))
    finally:
        parser._defaults = defaults
        for action, default in actions.items():
            action.default = default
    return args


def launch(main: Callable[[argparse.Namespace], Any], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> None:
    """Parse the command line and call `main(args)`; what a user can mend (or a disk refuses) becomes one line on stderr.

    ICN_DEBUG=1 in the environment shows the traceback instead. One of several processes names its rank.

    Raises:
        SystemExit: with code 2 after a wrong flag, a ValueError or an OSError, 1 after a RunFailed or a closed pipe, 130 after
            Ctrl-C, 143 after SIGTERM.
    """
    try:
        main(parse(parser, argv))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python will flush it once more
        parser.exit(1, f"{parser.prog}: error: what read the output is gone\n")
    except (ValueError, OSError) as error:
        if os.environ.get("ICN_DEBUG") == "1":
            raise
        parser.exit(2, f"{parser.prog}: error: {_rank()}{_message(error)}\n")
    except RunFailed as error:
        if os.environ.get("ICN_DEBUG") == "1":
            raise
        parser.exit(1, f"{parser.prog}: error: {_rank()}{error}\n")
    except Stopped as stop:
        parser.exit(stop.exit_code, f"{parser.prog}: {stop}\n" if read_launcher_env().rank == 0 else None)
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted\n")
    except Exception:  # of the program: the traceback is what its authors need
        sys.stderr.write(f"{parser.prog}: error: {rank}this was not foreseen:\n" if (rank := _rank()) else "")
        raise


def _message(error: Exception) -> str:
    """The error's own words; one that crossed a DataLoader worker arrives behind that worker's traceback."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        text = text.rsplit(f"{type(error).__name__}: ", 1)[-1]
    parameter = getattr(error, "parameter", None)  # of a model, which has a flag of that name
    return f"--{parameter}: {text.strip()}" if parameter else text.strip()


def _rank() -> str:
    """`rank 1: ` of one of several processes, nothing of one that is alone."""
    try:
        rank, size, _ = read_launcher_env()
    except ValueError:  # what the error is about
        return ""
    if rank > 0:
        time.sleep(1)  # mostly all of them fail alike: once rank 0 has said it, the launcher ends the others
    return f"rank {rank}: " if size > 1 else ""


def select_device(name: str, place: ProcessInfo = ALONE) -> torch.device:
    """The device of that name; `cuda` falls back to the CPU with a warning where there is none.

    Of several processes each takes a CUDA device of its own: the only one that it sees, or else the one of its local rank.

    Raises:
        ValueError: no such device, or too few of them.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name!r} is not a device: choose cuda, cuda:<index> or cpu") from None
    if device.type not in ("cuda", "cpu"):
        raise ValueError(f"--device {name!r} is not supported: choose cuda, cuda:<index> or cpu")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            print("warning: no CUDA device is available, running on the CPU (--device cpu says so)", file=sys.stderr)
            return torch.device("cpu")
        count = torch.cuda.device_count()
        if place.size > 1:
            if device.index is not None:
                raise ValueError(f"--device {name}: each of {place.size} processes takes a GPU of its own; say --device cuda")
            index = place.local_rank if count > 1 else 0
            if index >= count:
                raise ValueError(
                    f"process {index + 1} of this machine finds only {count} GPUs: start as many processes as there are GPUs, "
                    "or give --device cpu"
                )
            device = torch.device("cuda", index)
        if device.index is not None and device.index >= count:
            raise ValueError(f"--device {name}: there are {count} CUDA devices, numbered from 0")
        torch.cuda.set_device(device)  # else pinned memory would open a context on the first one
    return device
