"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int | None = None) -> str:
    """Return a Markdown table, without a newline at its end.

    Args:
        heads: the title of each column.
        rows: one cell for each column.
        text_columns: how many of the first columns are aligned to the left; the others, numbers, to the right. None: all.
    """
    count = len(heads) if text_columns is None else text_columns
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * count + "---:|" * (len(heads) - count), *lines[1:]])
