"""Command-line parsing and one-line errors, shared by main.py and every tool."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .errors import DISK_FULL, RunFailed, did_you_mean, message_of
from .failures import known_cause
from .flag_files import expand_files
from .launcher import read_launcher_env, report_to_torchrun
from .printable import OutputLost, make_output_printable, printable
from .processes import ending_children
from .stopping import Stopped, StopRequest

DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212"  # word processors put others in the place of "-"


def comma_separated(text: str) -> list[str]:
    """Split a list of names at commas, as `type` of a flag."""
    return [name.strip() for name in text.split(",") if name.strip()]


class Flags(argparse.Namespace):
    """Parsed flags, read-only; `explicit` are the names (argparse's `dest`) of those that the user typed."""

    explicit: frozenset[str]

    def __init__(self, **values: Any) -> None:
        self.__dict__.update({"explicit": frozenset(), **values})

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"flags are read-only after parsing: {name} cannot be set to {value!r}; use replace({name}=...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"flags are read-only after parsing: {name} cannot be deleted")

    def replace(self, **changes: Any) -> Flags:
        """Return a copy with other values of existing flags; AttributeError where there is no flag of that name."""
        if unknown := changes.keys() - vars(self).keys():
            raise AttributeError(f"there is no flag {', '.join(sorted(unknown))}")
        return Flags(**{**vars(self), **changes})


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Formatter of --help: defaults of all flags, and a description in the lines that it was written in."""


class Parser(argparse.ArgumentParser):
    """Argument parser with one-line errors (exit code 2) that suggest a name, defaults in the help, and flags from @-files."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = {"formatter_class": HelpFormatter, "allow_abbrev": False, "exit_on_error": False}
        super().__init__(*args, **{**options, **kwargs})
        self._negative_number_matcher = re.compile(r"-\.?\d|-(inf|nan)", re.IGNORECASE)  # argparse's leaves -1e-3 out

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {_rank_prefix()}{printable(message)} (--help lists the flags)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse a command line, @-files included; also return the words that no flag takes."""
        try:
            words = list(expand_files(sys.argv[1:] if args is None else args))
        except ValueError as error:
            self.error(str(error))
        self.places = {word.split("=")[0]: place for word, place in words}  # the last counts, as for values
        try:
            return super().parse_known_args([word for word, _ in words], namespace)
        except argparse.ArgumentError as error:
            names = (error.argument_name or "").split("/")
            self.error(f"{next((self.places[name] for name in names if name in self.places), '')}{error}")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse a command line; words that no flag takes are an error, which suggests the flag that was meant."""
        namespace, unknown = self.parse_known_args(args, namespace)
        if unknown:
            place, advice = self.places.get(unknown[0].split("=")[0], ""), self._advice(unknown[0])
            self.error(f"{place}unrecognized arguments: {' '.join(unknown)}{advice}")
        return namespace

    def _advice(self, word: str) -> str:
        """Return what may have been meant by a word that no flag takes."""
        actions = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        commands: dict[str, Any] = {command: parser for action in actions for command, parser in action.choices.items()}
        parsers = [self, *commands.values()]
        if owners := [command for command, parser in commands.items() if word.split("=")[0] in parser._option_string_actions]:
            return f"; it belongs to {', '.join(owners[:3])}{' and others' * (len(owners) > 3)}"
        names = {flag[2:] for parser in parsers for flag in parser._option_string_actions if flag.startswith("--")}
        name = word.split("=")[0].lstrip(DASHES).replace("-", "_")
        if word.startswith(tuple(DASHES)) or name in names:
            return did_you_mean(name, names, "--")
        return f"; {word!r} belongs to no flag (a value with spaces needs quotation marks, a switch takes no value)"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            hint = did_you_mean(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{hint}") from None

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        if status and message:
            report_to_torchrun(message.strip())
        super().exit(status, message)

    def group(self, title: str) -> argparse._ArgumentGroup:
        """Return the argument group of that title; create it if there is none."""
        groups = {group.title: group for group in self._action_groups}
        return groups.get(title) or self.add_argument_group(title)

    def flags_of(self, *titles: str) -> list[argparse.Action]:
        """Return the flags of the argument groups of these titles."""
        return [action for group in self._action_groups if group.title in titles for action in group._group_actions]


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> Flags:
    """Parse a command line into read-only flags that know which of them were typed (`explicit`)."""
    if argv is None:  # the command line of this process
        make_output_printable()
    values = vars(parser.parse_args(argv))
    unset = object()  # argparse keeps the value of a name that has one, unless the flag is typed
    typed = vars(parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(values, unset))))
    return Flags(**values, explicit=frozenset(name for name, value in typed.items() if value is not unset))


def launch(
    main: Callable[[Flags], Any], parser: argparse.ArgumentParser, argv: Sequence[str] | None = None, args: Flags | None = None,
    shared: bool = False,
) -> None:  # fmt: skip
    """Parse the command line (unless `args` are given) and call `main(args)`; an error that the user can fix becomes one line.

    With ICN_DEBUG=1 in the environment the traceback is shown instead. With several processes the line starts with the rank.
    A signal to stop ends `main` at once, unless it handles signals itself; an error or a signal ends daemonic children.
    Unless the processes of a launcher share the work of `main` (`shared`), several of them are an error.

    Raises:
        SystemExit: with code 2 after a wrong flag, a ValueError or an OSError, 1 after a RunFailed, a lack of memory or the like,
            or output that cannot be written, 128 + number after a signal.
    """
    make_output_printable()
    try:
        with ending_children(), StopRequest(read_launcher_env()) as request, request.reacting(request.stop):
            args = parse(parser, argv) if args is None else args
            if not shared and (size := read_launcher_env().size) > 1:
                raise ValueError(
                    f"{size} processes would each do the whole work: start this command once, without torchrun or srun"
                )
            main(args)
            if sys.stdout is not None:
                sys.stdout.flush()  # where it fails, it fails here
    except (Stopped, KeyboardInterrupt) as stop:
        code, message = (stop.exit_code, str(stop)) if isinstance(stop, Stopped) else (130, "interrupted")
        parser.exit(code, f"{parser.prog}: {message}\n" if read_launcher_env().rank == 0 else None)
    except Exception as error:
        if os.environ.get("ICN_DEBUG") == "1":
            report_to_torchrun(traceback.format_exc())
            raise
        code, message = _describe(error)
        prefix = _rank_prefix()
        if not message:  # a fault of the program: its authors need the traceback
            sys.stderr.write(f"{parser.prog}: error: {prefix}unexpected error:\n" if prefix else "")
            report_to_torchrun(traceback.format_exc())
            raise
        parser.exit(code, f"{parser.prog}: error: {prefix}{message}\n")


def _describe(error: Exception) -> tuple[int, str]:
    """Return the exit code for an error, and its message; '' for one that is not foreseen.

    It is one line, which indented lines may follow: other line ends are those of a name, and are escaped.
    """
    cause, advice = known_cause(error)
    if cause:
        return 1, f"{cause}: {advice}"
    if not isinstance(error, (ValueError, OSError, RunFailed)):
        return 1, ""
    parameter = getattr(error, "parameter", None)  # models name a parameter, not a flag
    text = re.sub(r"\n(?! )", r"\\n", message_of(error))
    failed = isinstance(error, (RunFailed, OutputLost)) or getattr(error, "errno", None) in DISK_FULL
    return 1 if failed else 2, f"--{parameter}: {text}" if parameter else text


def _rank_prefix() -> str:
    """Return `rank 1: ` with several processes, else an empty string."""
    try:
        rank, size, _ = read_launcher_env()
    except ValueError:  # this is the error
        return ""
    if rank > 0:
        time.sleep(1)  # all usually fail alike: once rank 0 has printed its error, the launcher ends the others
    return f"rank {rank}: " if size > 1 else ""
