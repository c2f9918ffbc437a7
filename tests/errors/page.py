"""docs/errors.md: wrong inputs and the lines that answer them; `python -m tests.errors.page` writes it from the cases."""

from __future__ import annotations

import re
from pathlib import Path

from tests.errors.caches import CACHES
from tests.errors.checkpoints import CHECKPOINTS
from tests.errors.checks import CHECKS
from tests.errors.command_line import COMMAND_LINE
from tests.errors.data_sets import DATA_SETS, PICTURES
from tests.errors.launching import OUTPUT, PROCESSES
from tests.errors.pairs import EXPORT, PAIRS
from tests.errors.preparation import PREPARATION
from tests.errors.unknown import UNKNOWN
from tests.errors.world import Case
from util.atomic import atomic_write

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
SECTIONS: dict[str, list[Case]] = {
    "Command line": COMMAND_LINE,
    "Data set": DATA_SETS,
    "Pictures": PICTURES,
    "Photographs, lists and archives": PREPARATION,
    "Cut-outs and checks of a data set": CHECKS,
    "Checkpoints": CHECKPOINTS,
    "None of the known classes": UNKNOWN,
    "Several processes": PROCESSES,
    "Output": OUTPUT,
    "Cache of decoded pictures": CACHES,
    "Pairs and masks": PAIRS,
    "Export and hub": EXPORT,
}
# Parts of a line that vary: name -> what it stands for, and a pattern of what it may be.
PLACEHOLDERS = {
    "n": ("a number", r"\d[\d,]*"),
    "picture": ("the path of the picture", r"datasets/birds/\w+/wren/bad\.\w+"),
    "path": ("a path", r"[^\s']*/[^\s']+"),
    "list": ("what there is to choose from", r".+"),
    "reason": ("what a library or the system says", r".+"),
}
PLACEHOLDER = re.compile(rf"\{{({'|'.join(PLACEHOLDERS)})\}}")
INTRODUCTION = """# Errors

This page lists {count} wrong inputs, and the line that answers each. Search it for a few words of the line that you got.

The line is printed on standard error behind the program's name, as in `main.py: error: `, and with several processes behind the
rank. The exit code is 2 where the input is wrong (1 where the row says so), and nothing has been written. A failure in the middle
of a run, such as a full disk, has the exit code 1, and its line names the last checkpoint. With `ICN_DEBUG=1` in the environment
the traceback is shown instead.

In the lines, some parts vary:

{placeholders}

In the commands, `datasets` holds a data set of three birds, `photos` holds photographs, `model.pth` is a checkpoint of the birds,
and flags that do not matter are left out. `tests/errors/` tries each row; `python -m tests.errors.page` writes this page from it.
"""


def pattern(message: str) -> str:
    """Return the regular expression of a message with placeholders."""
    parts = PLACEHOLDER.split(message)  # text and names in turn
    return "".join(PLACEHOLDERS[part][1] if index % 2 else re.escape(part) for index, part in enumerate(parts))


def code(text: str) -> str:
    """Return a text as code in a cell of a table."""
    return f"`{text}`".replace("|", "\\|")


def command(case: Case) -> str:
    """Return the command of a case as it is typed."""
    variables = [f"{name}={value}" for name, value in case.environment.items()]
    python = "python" if case.command.partition(" ")[0].endswith(".py") else "python -m"
    return " ".join([*variables, python, case.command])


def given(case: Case) -> str:
    """Return what is wrong, and the exit code where it is not 2."""
    return case.given + f" (exit code {case.code})" * (case.code != 2)


def render() -> str:
    """Return the page."""
    cases = [case for section in SECTIONS.values() for case in section]
    varying = "\n".join(f"- `{{{name}}}`: {meaning}" for name, (meaning, _) in PLACEHOLDERS.items())
    text = INTRODUCTION.replace("{count}", str(len(cases))).replace("{placeholders}", varying)
    for title, section in SECTIONS.items():
        rows = [f"| {given(case)} | {code(command(case))} | {code(case.message)} |" for case in section]
        text += "\n".join(["", f"## {title}", "", "| wrong | command | answer |", "|---|---|---|", *rows, ""])
    return text


if __name__ == "__main__":
    with atomic_write(PAGE) as file:
        file.write(render())
