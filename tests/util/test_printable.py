"""Names with line ends, escape codes or bytes that are no UTF-8, on consoles of any encoding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from util.errors import ImageError
from util.printable import printable, quoted

LATIN_1 = os.fsdecode(b"caf\xe9.png")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("straße 猫\u3000👩\u200d🚀.png", "straße 猫\u3000👩\u200d🚀.png"),
        ("a\nb\r.png", "a\\nb\\r.png"),
        ("\x1b]0;title\x07\x1b[31m\x9b", "\\x1b]0;title\\x07\\x1b[31m\\x9b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        (LATIN_1, "caf\\xe9.png"),
    ],
)
def test_what_does_not_print_is_escaped(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert str(ImageError(f"/data/{name}: is empty")) == f"/data/{shown}: is empty"
    again = f"Caught ImageError in DataLoader worker process 0.\nTraceback\nutil.errors.ImageError: {ImageError(name)}\n"
    assert str(ImageError(again)) == shown


def test_names_in_a_list() -> None:
    assert quoted(["a", "b\n"]) == "'a', 'b\\n'"
    assert quoted(list("abcdefg")) == "'a', 'b', 'c', 'd', 'e' and 2 more"


def test_a_command_prints_any_name_on_any_console() -> None:
    """Also names in its flags, in errors, and on its progress line."""
    code = """if True:
        import sys, time; from util.cli import Parser, launch, parse; from util.progress import Progress
        parser = Parser("tool"); parser.add_argument("--name")
        def main(args):
            print("", args.name, sep="\\t")
            with Progress(2, args.name) as line: line.start -= 60; line.last -= 60; line.step()
            raise ValueError(args.name)
        launch(main, parser)"""
    name = b"\xe9\x1b[31m\xc3\xa9\xe7\x8c\xab"  # Latin-1, an escape code, UTF-8
    expected = {"ascii": "\\xe9\\x1b[31m\\xe9\\u732b", "latin-1": "\\xe9\\x1b[31mé\\u732b", "utf-8": "\\xe9\\x1b[31mé猫"}
    for encoding, shown in expected.items():
        done = subprocess.run(
            [sys.executable, "-c", code, b"--name", name], cwd=Path(__file__).parents[2], capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}, timeout=60,
        )  # fmt: skip
        assert (done.stdout.decode(encoding), done.returncode) == (f"\t{shown}\n", 2)
        lines = done.stderr.decode(encoding).splitlines()
        assert lines == [f"{shown}: 1/2  1:00 elapsed, 1:00 left", f"tool: error: {shown}"]
    done = subprocess.run([sys.executable, "-c", code, b"--\x1b[31m"], cwd=Path(__file__).parents[2], capture_output=True)
    assert b"--\\x1b[31m" in done.stderr and b"\x1b" not in done.stderr


def test_quoted_names_are_cut() -> None:
    assert quoted(["a\n", "b" * 300]) == f"'a\\n', '{'b' * 255}…'" and quoted(list("abcdefg")).endswith("'e' and 2 more")
