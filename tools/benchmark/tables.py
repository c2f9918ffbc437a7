"""The measurements as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tools.benchmark.cases import FLOOR, Ratio, Series, ratio
from tools.benchmark.goals import ICN, Outcome
from tools.benchmark.shares import BACKWARD, OPTIMIZER, PARTS, REST

GIB = 2**30


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table whose first `words` columns are text (to the left) and the others numbers (to the right)."""
    lines = [header, ["---" if i < words else "---:" for i in range(len(header))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def speed_table(found: Sequence[Series]) -> str:
    """Every series, with how many times as fast as each peer ICN is in the same case."""
    peers = list(dict.fromkeys(one.contestant.name for one in found if one.contestant.name != ICN))
    header = ["", "precision", "image", "batch", "classes", "img/s", "s / step", "quartiles", "peak memory"]
    header += [f"times as fast as {peer}" for peer in peers]
    compiled = any(one.contestant.compiled for one in found)
    if compiled:
        header += ["compile"]
    rows = []
    for one in found:
        case = one.case
        kind = one.contestant.precision + (" compiled" if one.contestant.compiled else "")
        row = [label(one), kind, case.size, str(case.batch_size), str(case.classes)]
        if one.failed:
            rows.append([*row, f"failed: {one.failed}", *[""] * (len(header) - len(row) - 1)])
            continue
        low, high = one.as_json()["seconds"]["q1"], one.as_json()["seconds"]["q3"]  # type: ignore[index]
        row += [f"{one.images_per_second:.2f}", seconds(one.median), f"{seconds(low)} - {seconds(high)}", memory(one.peak_memory)]
        row += [speedup(one, peer, found) for peer in peers]
        if compiled:
            row.append("" if one.compile_seconds is None else f"{one.compile_seconds:.0f} s")
        rows.append(row)
    return markdown(header, rows, words=3)


def speedup(one: Series, peer: str, found: Sequence[Series]) -> str:
    """How many times as fast as `peer` in the same case; empty for the peer itself and for the bare backbone."""
    if one.variant == FLOOR or one.contestant.name == peer:
        return ""
    other = next((s for s in found if s.case == one.case and s.contestant.name == peer and s.variant == one.case.mode), None)
    measured = None if other is None else ratio(other, one)
    return "" if measured is None else f"{measured.value:.2f}"


def share_table(found: Sequence[Series]) -> str:
    """How the time of a step is spent; empty when it was not measured."""
    timed = [one for one in found if one.shares]
    parts = [part for part in (*PARTS, BACKWARD, OPTIMIZER, REST) if any(part in one.shares for one in timed)]
    rows = []
    for one in timed:
        total = sum(one.shares.values())
        row = [label(one), one.contestant.precision, one.case.size, str(one.case.batch_size), str(one.case.classes)]
        rows.append(row + [f"{one.shares[part] / total:.1%}" if part in one.shares else "" for part in parts])
    return markdown(["", "precision", "image", "batch", "classes", *parts], rows, words=3) if rows else ""


def goal_table(answers: Sequence[Outcome]) -> str:
    """Goals and what was measured; empty when the grid answers none."""
    rows = []
    for one in answers:
        limit = f"{'>=' if one.at_least else '<='} {one.limit:g}"
        rows.append([one.what, one.case, limit, spread(one.measured), "yes" if one.met else "**no**"])
    return markdown(["", "case", "goal", "measured (quartiles)", "met"], rows, words=2) if rows else ""


def data_table(rows: Sequence[Mapping[str, Any]], found: Sequence[Series]) -> str:
    """Rows of `tools.benchmark.data.measure`: images per second of one worker, and how many workers keep ICN's steps fed."""
    ours = [one for one in found if one.contestant.name == ICN and one.variant == one.case.mode and not one.failed]
    precisions = list(dict.fromkeys(one.contestant.precision for one in ours if not one.contestant.compiled))
    lines = []
    for row in rows:
        _, pixels, mode = row["recipe"].split()
        line = [row["recipe"], f"{row['width']}x{row['height']}"]
        for name in ("icn", "pil"):
            line.append(f"{row[name]['median']:.1f} ({row[name]['low']:.1f} - {row[name]['high']:.1f})")
        line.append(f"{row['ratio']:.2f}")
        for precision in precisions:
            # Pictures that keep their shape are taken for squares of the same short side: a little less than they are.
            rates = [
                one.images_per_second
                for one in ours
                if (one.case.mode, one.case.height, one.contestant.precision) == (mode, int(pixels), precision)
            ]
            line.append(f"{max(rates) / row['icn']['median']:.2f}" if rates else "")
        lines.append(line)
    needed = [f"workers to feed {precision}" for precision in precisions]
    return markdown(["loading by one worker", "JPEG", "ICN, img/s", "PIL, img/s", "ratio", *needed], lines, words=2)


def scale_table(found: Sequence[Series], axis: str) -> str:
    """Evaluation against `axis`, `classes` or `size`: a row for each value, time and memory for each contestant."""
    columns = list(dict.fromkeys((one.contestant.name, one.contestant.precision) for one in found))
    values = list(dict.fromkeys(getattr(one.case, axis) for one in found))
    rows = []
    for value in values:
        row = [f"{value:,}" if isinstance(value, int) else value]
        for column in columns:
            one = next(
                (s for s in found if getattr(s.case, axis) == value and (s.contestant.name, s.contestant.precision) == column),
                None,
            )
            row += ["", ""] if one is None else [one.failed or seconds(one.median / one.case.batch_size), memory(one.peak_memory)]
        rows.append(row)
    header = ["classes" if axis == "classes" else "image"]
    for name, precision in columns:
        header += [f"{name} {precision}, s / image", "peak memory"]
    return markdown(header, rows, words=1)


def label(one: Series) -> str:
    """Who and what."""
    return f"{one.contestant.name}, {one.variant}"


def spread(measured: Ratio) -> str:
    if measured.low == measured.high:
        return f"{measured.value:.2f}"
    return f"{measured.value:.2f} ({measured.low:.2f} - {measured.high:.2f})"


def seconds(value: float) -> str:
    """Three digits, from microseconds to minutes."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def memory(size: int | None) -> str:
    return "" if size is None else f"{size / GIB:.2f} GiB"
