"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int | None = None) -> str:
    """Return a Markdown table; columns after the first `text_columns` (None: all) are numbers, aligned to the right."""
    count = len(heads) if text_columns is None else text_columns
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * count + "---:|" * (len(heads) - count), *lines[1:]])
