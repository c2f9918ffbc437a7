"""Command-line parsing and one-line errors, shared by main.py and every tool."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .errors import RunFailed
from .launcher import read_launcher_env
from .stopping import Stopped


class Flags(argparse.Namespace):
    """Parsed flags, read-only: an assignment raises AttributeError; `replace` returns a changed copy.

    Attributes:
        explicit: names of the flags (argparse's `dest`) that the user typed, as opposed to defaults.
    """

    explicit: frozenset[str]

    def __init__(self, **values: Any) -> None:
        self.__dict__.update({"explicit": frozenset(), **values})

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"flags are read-only after parsing: {name} cannot be set to {value!r}; use replace({name}=...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"flags are read-only after parsing: {name} cannot be deleted")

    def replace(self, **changes: Any) -> Flags:
        """Return a copy with other values of existing flags.

        Raises:
            AttributeError: there is no flag of that name.
        """
        if unknown := changes.keys() - vars(self).keys():
            raise AttributeError(f"there is no flag {', '.join(sorted(unknown))}")
        return Flags(**{**vars(self), **changes})


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line (exit code 2), whose help shows defaults and that reads @-files."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        kwargs.setdefault("fromfile_prefix_chars", "@")
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {_rank_prefix()}{message} (--help lists the flags)\n")

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """Split a line of an @-file into words as a shell does; `#` starts a comment."""
        return shlex.split(arg_line, comments=True)

    def group(self, title: str) -> argparse._ArgumentGroup:
        """Return the argument group of that title; create it if there is none."""
        groups = {group.title: group for group in self._action_groups}
        return groups.get(title) or self.add_argument_group(title)

    def flags_of(self, *titles: str) -> list[argparse.Action]:
        """Return the flags of the argument groups of these titles."""
        return [action for group in self._action_groups if group.title in titles for action in group._group_actions]


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> Flags:
    """Parse a command line into read-only flags that know which of them were typed (`explicit`)."""
    values = vars(parser.parse_args(argv))
    defaults, parser._defaults = parser._defaults, {}
    actions = {action: action.default for action in parser._actions}
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    try:
        explicit = frozenset(vars(parser.parse_args(argv)))
    finally:
        parser._defaults = defaults
        for action, default in actions.items():
            action.default = default
    return Flags(**values, explicit=explicit)


def launch(
    main: Callable[[Flags], Any],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
    args: Flags | None = None,
) -> None:
    """Parse the command line and call `main(args)`; an error that the user can fix becomes one line on stderr.

    ICN_DEBUG=1 in the environment shows the traceback instead. One of several processes names its rank.

    Args:
        main: the program.
        parser: its flags.
        argv: the command line; None: that of the process.
        args: the flags, where they are parsed already.

    Raises:
        SystemExit: with code 2 after a wrong flag, a ValueError or an OSError, 1 after a RunFailed or a closed pipe, 130 after
            Ctrl-C, 143 after SIGTERM.
    """
    try:
        main(parse(parser, argv) if args is None else args)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at exit
        parser.exit(1, f"{parser.prog}: error: the reader of the output closed it\n")
    except (ValueError, OSError, RunFailed) as error:
        if os.environ.get("ICN_DEBUG") == "1":
            raise
        parser.exit(1 if isinstance(error, RunFailed) else 2, f"{parser.prog}: error: {_rank_prefix()}{_message(error)}\n")
    except Stopped as stop:
        parser.exit(stop.exit_code, f"{parser.prog}: {stop}\n" if read_launcher_env().rank == 0 else None)
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted\n")
    except Exception:  # a fault of the program: its authors need the traceback
        sys.stderr.write(f"{parser.prog}: error: {prefix}unexpected error:\n" if (prefix := _rank_prefix()) else "")
        raise


def _message(error: Exception) -> str:
    """Return an error's own words; one raised in a DataLoader worker arrives behind that worker's traceback."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:
        text = text.rsplit(f"{type(error).__name__}: ", 1)[-1]
    parameter = getattr(error, "parameter", None)  # of a model, in whose words the message is
    return f"--{parameter}: {text.strip()}" if parameter else text.strip()


def _rank_prefix() -> str:
    """Return `rank 1: ` in one of several processes, an empty string in a single one."""
    try:
        rank, size, _ = read_launcher_env()
    except ValueError:  # what the error is about
        return ""
    if rank > 0:
        time.sleep(1)  # mostly all of them fail alike: once rank 0 has printed it, the launcher ends the others
    return f"rank {rank}: " if size > 1 else ""
