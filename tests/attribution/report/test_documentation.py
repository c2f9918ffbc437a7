"""docs/attribution.md holds the tables of the registries as they are."""

from __future__ import annotations

import pytest

from attribution.methods.registry import METHODS
from attribution.metrics.registry import METRICS
from attribution.report import documentation


def test_the_page_is_up_to_date() -> None:
    page = documentation.PAGE.read_text(encoding="utf-8")
    assert documentation.update(page) == page, "run `python -m attribution.report.documentation`"
    assert all(f"| `{name}` |" in page for name in (*METRICS, *METHODS))


def test_tables_are_put_between_their_markers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documentation, "tables", lambda: {"metrics": "| new |", "methods": "| other |"})
    text = "1\n<!-- metrics:begin -->\n{}<!-- metrics:end -->\n2\n<!-- methods:begin -->\n{}<!-- methods:end -->\n3\n"
    expected = text.format("| new |\n", "| other |\n")
    assert documentation.update(text.format("old\nold\n", "")) == documentation.update(expected) == expected
