"""The folder of drawn maps: names of the files in it, and its `index.html`."""

from __future__ import annotations

import os
import re
import unicodedata
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

OVERLAYS = "overlays"
OWN_PANEL = re.compile(r"(heads|queries|query_heads)__true-.+__pred-.+_[01]\.\d\d__(right|wrong)\.png")
OWN_OVERLAY = re.compile(r"(head_\d+|mean|query_\d+_.+)\.png")
NAME_BYTES = 64


class Row(NamedTuple):
    """One picture of the index.

    name: the picture's path below its class folder.
    folder: its panels' folder, relative to the index.
    panels: their file names, in the order of display.
    """

    name: str
    folder: str
    panels: list[str]
    predicted: str
    predicted_score: float
    true_score: float
    right: bool


def safe_name(text: str, limit: int = NAME_BYTES) -> str:
    """Return a name that every file system takes: letters and digits of any script, `.`, `-` and `_`; at most `limit` bytes."""
    text = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", text)).strip("._")
    return text.encode()[:limit].decode(errors="ignore") or "_"


def panel_name(kind: str, true: str, predicted: str, score: float, right: bool) -> str:
    """Return the file name of a panel: its kind, true and predicted class, probability of the latter, right or wrong."""
    verdict = "right" if right else "wrong"
    return f"{kind}__true-{safe_name(true)}__pred-{safe_name(predicted)}_{score:.2f}__{verdict}.png"


def clear(folder: Path) -> None:
    """Delete the panels and overlays of an earlier run from a picture's folder, and nothing else."""
    for place, own in ((folder, OWN_PANEL), (folder / OVERLAYS, OWN_OVERLAY)):
        if place.is_dir():
            for path in place.iterdir():
                if own.fullmatch(path.name) and path.is_file():
                    path.unlink()


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1400px; padding: 0 1rem; color: #191919; }
h1 { font-size: 1.5rem; margin-bottom: 0; }
p { color: #555; margin-top: .3rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .7rem .8rem; border-top: 1px solid #ddd; }
td:first-child { width: 15rem; overflow-wrap: anywhere; }
img { max-width: 100%; display: block; margin-bottom: .5rem; }
dl { margin: .5rem 0 0; } dt { color: #777; font-size: .85rem; } dd { margin: 0 0 .4rem; }
.right { color: #0a783c; } .wrong { color: #b91e1e; }
"""


def index_html(title: str, about: str, rows: list[Row]) -> str:
    """Return a page with a table row per picture; links are relative, every name is escaped.

    Args:
        title: the class.
        about: what was drawn: data, checkpoint, layer.
        rows: in the order of display.
    """
    right = sum(row.right for row in rows)
    body = "\n".join(_row_html(row) for row in rows)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p>{len(rows)} pictures, <span class="right">{right} right</span>, <span class="wrong">{len(rows) - right} wrong</span>.
{escape(about)}</p>
<table>
<thead><tr><th>picture</th><th>maps</th></tr></thead>
<tbody>
{body}
</tbody>
</table>
</body>
</html>
"""


def _row_html(row: Row) -> str:
    verdict = "right" if row.right else "wrong"
    images = "\n".join(
        f'<a href="{link}"><img src="{link}" loading="lazy" alt="{escape(panel)}"></a>'
        for panel in row.panels
        for link in [_link(row.folder, panel)]
    )
    return f"""<tr>
<td><strong>{escape(row.name)}</strong>
<dl>
<dt>verdict</dt><dd class="{verdict}">{verdict}</dd>
<dt>predicted</dt><dd>{escape(row.predicted)} ({row.predicted_score:.3f})</dd>
<dt>true class</dt><dd>{row.true_score:.3f}</dd>
<dt>files</dt><dd><a href="{_link(row.folder)}/">panels</a>, <a href="{_link(row.folder, OVERLAYS)}/">overlays</a></dd>
</dl></td>
<td>
{images}
</td>
</tr>"""


def _link(*parts: str) -> str:
    """Return a relative link, also to a name whose bytes are no UTF-8."""
    return quote(os.fsencode("/".join(parts)))
