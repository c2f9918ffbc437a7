"""Read-only flags, and errors in one line."""

from __future__ import annotations

import argparse
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import main
from util.cli import Flags, Parser, launch, parse
from util.errors import RunFailed
from util.stopping import SIGNALS

ROOT = Path(__file__).parents[2]


def parser(files: bool = True, **options: Any) -> Parser:
    result = Parser("tool", **options)
    if files:
        result.add_argument("files", nargs="+")
    result.add_argument("--number", type=int, default=3)
    result.add_argument("--text", default="3")
    result.add_argument("--switch", action="store_true")
    result.add_argument("--no_default", default=argparse.SUPPRESS)
    result.set_defaults(hidden=5)
    return result


def test_explicit_flags_are_those_that_were_typed_whatever_their_value() -> None:
    args = parse(parser(), ["a", "b", "--number", "3", "--switch"])
    assert args.explicit == {"files", "number", "switch"}
    assert vars(args) == {
        "files": ["a", "b"], "number": 3, "text": "3", "switch": True, "hidden": 5, "explicit": args.explicit,
    }  # fmt: skip
    assert parse(parser(), ["a", "--no_default", "1"]).explicit == {"files", "no_default"}


def test_flags_are_read_only() -> None:
    args = parse(parser(), ["a", "--number", "4"])
    for name in ("number", "explicit", "new"):
        with pytest.raises(AttributeError, match=f"read-only after parsing: {name} cannot be set to 5; use replace"):
            setattr(args, name, 5)
    with pytest.raises(AttributeError, match="read-only after parsing: number cannot be deleted"):
        del args.number
    changed = args.replace(number=5, explicit=frozenset())
    assert (args.number, args.explicit, changed.number, changed.explicit) == (4, {"files", "number"}, 5, frozenset())
    with pytest.raises(AttributeError, match="there is no flag colour, shape"):
        args.replace(shape=1, colour=2, number=3)
    assert isinstance(changed, Flags) and pickle.loads(pickle.dumps(args)) == args


def test_errors_name_the_rank(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail(args: object) -> None:
        raise RunFailed("it broke")

    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    for rank, prefix in ((0, "rank 0: "), (1, "rank 1: "), (None, "")):
        for name, value in {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank}.items():
            monkeypatch.delenv(name, raising=False)
            if rank is not None:
                monkeypatch.setenv(name, str(value))
        with pytest.raises(SystemExit):
            launch(fail, main.get_args_parser(), [], shared=True)
        assert capsys.readouterr().err == f"main.py: error: {prefix}it broke\n"
    assert waited == [1]  # rank 0 prints first


def test_an_error_is_one_line_whatever_is_in_a_name(capsys: pytest.CaptureFixture) -> None:
    def fail(args: object) -> None:
        raise ValueError("class 'a\nb\x1b[1m' is bad\n  the list\n")

    with pytest.raises(SystemExit):
        launch(fail, parser(), ["a"])
    assert capsys.readouterr().err == "tool: error: class 'a\\nb\\x1b[1m' is bad\n  the list\n"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--numbr", "3"], "unrecognized arguments: --numbr 3; did you mean --number? (--help"),
        (["--no-default=1"], "unrecognized arguments: --no-default=1; did you mean --no_default? (--help"),
        (["\u2014number", "3"], "did you mean --number? (--help"),  # a dash of a word processor
        (["-number", "3"], "did you mean --number? (--help"),
        (["number=3"], "did you mean --number? (--help"),
        (["--num", "3"], "did you mean --number? (--help"),
        (["--elsewhere"], "unrecognized arguments: --elsewhere (--help"),
        (["--"], "unrecognized arguments: -- (--help"),
        (["--a\x1b[1m\nb"], r"unrecognized arguments: --a\x1b[1m\nb (--help"),
        (["--switch", "True"], "'True' belongs to no flag (a value with spaces needs quotation marks, a switch takes no value)"),
        (["--text", "my", "data"], "unrecognized arguments: data; 'data' belongs to no flag (a value with spaces"),
        ([""], "unrecognized arguments: ; '' belongs to no flag"),
        (["--colour", "gren"], "invalid choice: 'gren' (choose from "),
        (["--colour", "gren"], "; did you mean Green? (--help"),
        (["--number", "-1e-3"], "argument --number: invalid int value: '-1e-3'"),
    ],
)
def test_mistyped_words_are_answered_by_a_suggestion(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    tool = Parser("tool", parents=[parser(add_help=False, files=False)])
    tool.add_argument("--colour", choices=["red", "Green"])
    with pytest.raises(SystemExit) as stop:
        parse(tool, words)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_flags_of_sub_commands_are_suggested(capsys: pytest.CaptureFixture) -> None:
    tool = Parser("tool")
    tool.add_subparsers().add_parser("make").add_argument("--size", type=int)
    with pytest.raises(SystemExit):
        parse(tool, ["make", "--sise", "3"])
    assert "tool: error: unrecognized arguments: --sise 3; did you mean --size?" in capsys.readouterr().err
    assert parse(tool, ["make", "--size", "3"]).size == 3


def test_help_keeps_the_lines_of_a_description() -> None:
    tool = Parser("tool", description="Make a thing.\n\n    python -m tool 1\n    python -m tool 2\n")
    tool.add_argument("--number", default=3, help="how many")
    assert "Make a thing.\n\n    python -m tool 1\n    python -m tool 2\n" in tool.format_help()
    assert "how many (default: 3)" in tool.format_help()


@pytest.mark.parametrize("number", SIGNALS[1:])
def test_a_signal_is_one_line(number: int, capsys: pytest.CaptureFixture) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        launch(lambda args: signal.raise_signal(number), Parser("tool"), [])
    said = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    assert capsys.readouterr().err == f"tool: {said}\n" and ended.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_a_command_that_does_not_share_its_work_refuses_copies(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        launch(raising(AssertionError()), Parser("tool"), [])
    assert ended.value.code == 2 and "tool: error: rank 0: 2 processes would each do the whole work" in capsys.readouterr().err
    launch(lambda args: None, Parser("tool"), [], shared=True)


def test_what_no_flag_caused_ends_with_code_1(capsys: pytest.CaptureFixture) -> None:
    for error, line in (
        (MemoryError(), "out of memory: try a smaller --batch_size"),
        (OSError(24, "Too many open files", "a.png"), "too many open files: raise the limit"),
        (RuntimeError("DataLoader worker (pid 1) was killed by signal: Killed"), "a process that loads images died (DataLoader"),
    ):
        with pytest.raises(SystemExit) as ended:
            launch(raising(error), Parser("tool"), [])
        err = capsys.readouterr().err
        assert ended.value.code == 1 and err.startswith(f"tool: error: {line}") and err.count("\n") == 1


def raising(error: Exception) -> Callable[[Flags], None]:
    def fail(args: Flags) -> None:
        raise error

    return fail


LAUNCH = "from util.startup import *; start(); import util.cli as c; c.launch(lambda args: {}, c.Parser('tool'), [])"


@pytest.mark.parametrize(
    ("body", "streams", "code", "err"),
    [
        ("print('x')", ">/dev/full", 1, "tool: error: the output cannot be written (No space left on device)\n"),
        ("print('x')", ">&-", 0, ""),
        ("print('x', file=sys.stderr)", "2>&-", 0, ""),
        ("open('{file}', 'w').close() or c.os.write(2, b'x')", "<&- >&- 2>&-", 0, ""),
    ],
)
def test_closed_and_full_streams(body: str, streams: str, code: int, err: str, tmp_path: Path) -> None:
    """A stream that is closed loses what is written to it, and no file takes its number."""
    command = LAUNCH.format(body.format(file=tmp_path / "file"))
    shell = f'exec "$0" -c "$1" {streams}'
    done = subprocess.run(["sh", "-c", shell, sys.executable, command], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (code, err)
    assert not any(file.read_bytes() for file in tmp_path.iterdir())


def test_ctrl_c_during_imports_is_one_line() -> None:
    command = "from util.startup import start; start(); import signal; signal.raise_signal(signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")


@pytest.mark.parametrize("script", ["main.py", "run_with_submitit.py"])
def test_a_current_folder_that_is_gone_is_one_line(script: str, tmp_path: Path) -> None:
    shell = 'mkdir "$2"; cd "$2"; rmdir "$2"; exec "$0" "$1"'
    done = subprocess.run(
        ["sh", "-c", shell, sys.executable, ROOT / script, tmp_path / "gone"], capture_output=True, text=True, cwd=tmp_path
    )
    said = "error: the current folder cannot be used (No such file or directory): change to another (cd)\n"
    assert done.returncode == 2 and done.stderr.endswith(said) and "Traceback" not in done.stderr
