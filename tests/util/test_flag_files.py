"""Flags from @-files: what a shell would read, and errors that name file and line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from util.cli import Parser, parse
from util.flag_files import LARGEST


def parser() -> Parser:
    result = Parser("tool")
    result.add_argument("--number", type=int)
    result.add_argument("--text", default="")
    result.add_argument("--switch", action="store_true")
    return result


def error_of(capsys: pytest.CaptureFixture, *words: object) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(parser(), list(map(str, words)))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("tool: error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    "content",
    [
        b"--number 3\n--text a#b  # it's a comment\n# 'one more\n--switch",
        b"\xef\xbb\xbf--number 3\r\n--text a#b\r\n--switch\r\n",
        "--number 3\n--text 'a#b'\n--switch\n".encode("utf-16"),
        b'--number \\\n  3 \\\n--text \\\r\n"a#b" --switch \\ \n',
        b"--number=3 --text=a#b\r--switch\r",
    ],
    ids=["comments", "Windows", "UTF-16", "backslashes", "old Mac"],
)
def test_a_file_is_read_as_a_shell_reads_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.args").write_bytes(content)
    args = parse(parser(), [f"@{tmp_path}/x.args"])
    assert (args.number, args.text, args.switch, args.explicit) == (3, "a#b", True, {"number", "text", "switch"})


def test_the_last_of_two_values_counts_and_names_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "outer.args").write_text("--number 1\n@inner/inner.args\n")
    (tmp_path / "inner/inner.args").write_text("@more.args --text inner")
    (tmp_path / "inner/more.args").write_text("--number 2")
    args = parse(parser(), ["--text", "before", f"@{tmp_path}/outer.args"])
    assert (args.number, args.text) == (2, "inner")
    assert parse(parser(), [f"@{tmp_path}/outer.args", "--text", "after", "--text=@x"]).text == "@x"


def test_a_pipe_is_read_once_although_a_command_line_is_parsed_twice() -> None:
    read, write = os.pipe()
    os.write(write, b"--number 4")
    os.close(write)
    args = parse(parser(), [f"@/dev/fd/{read}"])
    os.close(read)
    assert args.number == 4 and args.explicit == {"number"}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\n--text 'a b\n", 'x.args:2: no closing quotation in "--text \'a b"'),
        (b"\n--no_such 1\n", "x.args:2: unrecognized arguments: --no_such 1"),
        (b"--switch\n\n--numbr=1\n", "x.args:3: unrecognized arguments: --numbr=1; did you mean --number?"),
        (b"--number 1\n--number=x\n", "x.args:2: argument --number: invalid int value: 'x'"),
        (b"--text my picture\n", "x.args:1: unrecognized arguments: picture; 'picture' belongs to no flag"),
        (b"--switch\n--text caf\xe9\n", "x.args:2: this is no UTF-8 text"),
        (b"--text a\0b", "is no text file of flags"),
        (b" " * (LARGEST + 1), "is no text file of flags (at most 1 MiB)"),
        (b"--switch\n@x.args", "x.args:2: @x.args includes itself: take it out"),
        (b"--switch\n@y.args", "y.args:1: @x.args includes itself: take it out"),
        (b"--switch\n@nowhere.args", "x.args:2: @nowhere.args: the file of flags"),
    ],
)
def test_errors_name_file_and_line(content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "x.args").write_bytes(content)
    (tmp_path / "y.args").write_text("@x.args\n")
    assert message in error_of(capsys, f"@{tmp_path}/x.args")


def test_what_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert f"@{tmp_path}: the file of flags '{tmp_path}' cannot be read (Is a directory)" in error_of(capsys, f"@{tmp_path}")
    assert "(No such file or directory); a value that begins with @ is given as --flag=@x" in error_of(capsys, "--text", "@x")
    assert "is no text file of flags" in error_of(capsys, "@/dev/zero")
