"""The tables of docs/attribution.md, made of the registries: `python -m attribution.report.documentation` writes them anew."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from attribution.methods.registry import METHODS, Method
from attribution.metrics.registry import METRICS
from util.atomic import atomic_write
from util.tables import markdown_table, replace_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "attribution.md"


def tables() -> dict[str, str]:
    """Return the tables of metrics (an arrow: the better direction) and of methods (passes: of a map of 224 x 224 pixels)."""
    metrics = [[f"`{metric.name}`", metric.title, f"`{metric.family}`", metric.meaning] for metric in METRICS.values()]
    methods = [[f"`{m.name}`", m.title, m.family, str(m.passes()), _meaning(m)] for m in METHODS.values()]
    heads = {
        "metrics": ["column", "in tables", "`--metrics`", "meaning"],
        "methods": ["method", "in tables", "family", "passes", "map"],
    }
    return {name: markdown_table(heads[name], rows) for name, rows in (("metrics", metrics), ("methods", methods))}


def _meaning(method: Method) -> str:
    """Return the first line of the docstring of the method's function, with the options that are fixed."""
    function, options = method.call, ""
    if isinstance(function, partial):
        options = ", ".join(f"{name}={value!r}" for name, value in function.keywords.items())
        function = function.func
    line = (function.__doc__ or "").strip().splitlines()[0].replace("|", "\\|")
    return f"{line} (`{options}`)" if options else line


def update(text: str) -> str:
    """Return the page with the tables between their markers, `<!-- metrics:begin -->` and `<!-- metrics:end -->`, made anew."""
    for name, table in tables().items():
        text = replace_table(text, name, table)
    return text


if __name__ == "__main__":
    page = update(PAGE.read_text(encoding="utf-8"))
    with atomic_write(PAGE) as file:
        file.write(page)
