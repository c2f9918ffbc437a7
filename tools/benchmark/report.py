"""Tables, files and the plot of a benchmark."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.benchmark.cases import BACKBONE_ONLY, ICN, WITH_MAPS, Case, Series, quartiles
from tools.benchmark.meters import BACKWARD, OPTIMIZER, PARTS, REST, describe
from tools.benchmark.runner import MAX_CONTENTION
from util.atomic import atomic_write
from util.plotting import Figure
from util.tables import markdown_table

GIB = 2**30
Rows = Sequence[Mapping[str, Any]]  # of `measure_loading` or `measure_startup`
NOTES = """
- ICN is given uint8 images on the CPU, as its loader makes them: their transfer to the device and their normalisation count.
  The others are given normalised images, as their loaders make them; their transfer to the device counts.
- Evaluation is `engine.evaluate` on the model of `models.for_inference`; the training step is `trainer.Trainer.step`. The
  others: forward without gradients; forward, cross-entropy, backward, clipping at 0.1, AdamW.
- `backbone only` is the backbone of the model that is evaluated, on images on the device: the lower bound of any head's time.
- Peak memory is what a process holds above what it held before the model was built.
- Weights and images are random; every number is the median over the rounds, which alternate between the implementations.
""".strip()


@dataclass(frozen=True)
class Report:
    """Writer of the results: `benchmark.{json,md}`, or `scale.{json,md,png}` where `axes` are given."""

    folder: Path | None  # None writes no files
    machine: Mapping[str, Any]
    rounds: int
    flags: Mapping[str, Any]
    axes: Mapping[str, Sequence[Case]]  # of `scale_cases`, or none

    def write(self, results: Sequence[Series], loading: Rows = (), startup: Rows = ()) -> str:
        """Write the files; return the text of the Markdown file: machine, rounds and contention in a line, tables, notes."""
        by_axis = {axis: [s for case in cases for s in results if s.case == case] for axis, cases in self.axes.items()}
        numbers: dict[str, Any] = {"machine": self.machine, "rounds": self.rounds, "flags": self.flags}
        if self.axes:
            numbers |= {f"by_{axis}": [series.as_json() for series in part] for axis, part in by_axis.items()}
            tables = [f"{_scale_title(part, axis)}:\n\n{scale_table(part, axis)}" for axis, part in by_axis.items() if part]
        else:
            numbers |= {"results": [series.as_json() for series in results], "loading": loading, "startup": startup}
            tables = grid_tables(results, loading, startup)
        worst = max((share for series in results for share in series.contention), default=0.0)
        contention = f"; other processes had up to {worst:.0%} of the processors" if worst > MAX_CONTENTION else ""
        heading = f"{describe(self.machine)}; {self.rounds} rounds{contention}."
        text = "\n\n".join([heading, *tables, *([NOTES] if results else [])]) + "\n"
        if self.folder is not None:
            stem = self.folder / ("scale" if self.axes else "benchmark")
            for suffix, content in ((".json", json.dumps(numbers, indent=1) + "\n"), (".md", text)):
                with atomic_write(stem.with_suffix(suffix)) as file:
                    file.write(content)
            if self.axes:
                plot_scale(stem.with_suffix(".png"), by_axis)
        return text


def grid_tables(results: Sequence[Series], loading: Rows, startup: Rows) -> list[str]:
    """Return the tables of what was measured, with their titles."""
    commands = [[f"`python {row['command']}`", f"{row['median']:.2f}", str(row["exit_code"])] for row in startup]
    tables = {
        "": speed_table(results) if results else "",
        "Share of each part in the time of a step:\n\n": share_table(results),
        "From files to normalised batches:\n\n": loading_table(loading, results) if loading else "",
        "Start-up of the command line:\n\n": markdown_table(["command", "CPU seconds", "exit code"], commands, 1)
        if startup
        else "",
    }
    return [title + table for title, table in tables.items() if table]


def speed_table(results: Sequence[Series]) -> str:
    """Return a row for every series, with its time over that of the backbone, and the speed-up over each peer."""
    heads = ["", "precision", "image", "batch", "classes", "img/s", "s / step", "quartiles", "peak memory"]
    columns: dict[str, Callable[[Series], str]] = {}
    if any(series.variant == BACKBONE_ONLY for series in results):
        columns["time / backbone"] = lambda series: over_backbone(series, results)
    for peer in dict.fromkeys(series.implementation.name for series in results if series.implementation.name != ICN):
        columns[f"times as fast as {peer}"] = lambda series, peer=peer: speedup(series, peer, results)  # type: ignore[misc]
    if any(series.implementation.compiled for series in results):
        columns["compile"] = lambda series: "" if series.compile_seconds is None else f"{series.compile_seconds:.0f} s"
    rows = []
    for series in results:
        row = _labels(series)
        if series.failed:
            row += [f"failed: {series.failed}", *[""] * (len(heads) - len(row) - 1 + len(columns))]
        else:
            low, median, high = map(format_seconds, quartiles(series.seconds))
            row += [f"{series.images_per_second:.2f}", median, f"{low} - {high}", format_memory(series.peak_memory)]
            row += [column(series) for column in columns.values()]
        rows.append(row)
    return markdown_table([*heads, *columns], rows, text_columns=3)


def speedup(series: Series, peer: str, results: Sequence[Series]) -> str:
    """Return how many times as fast as `peer` in the same case; empty for the peer itself and for the backbone."""
    if series.variant == BACKBONE_ONLY or series.implementation.name == peer:
        return ""
    others = (s for s in results if (s.case, s.implementation.name, s.variant) == (series.case, peer, series.case.mode))
    return time_ratio(next(others, None), series)


def over_backbone(series: Series, results: Sequence[Series]) -> str:
    """Return the time of an evaluation over that of its own backbone, compiled alike; empty for anything else."""
    if series.variant not in ("evaluation", WITH_MAPS):
        return ""
    key = (series.case, series.implementation, BACKBONE_ONLY)
    return time_ratio(series, next((s for s in results if (s.case, s.implementation, s.variant) == key), None))


def time_ratio(slow: Series | None, fast: Series | None) -> str:
    """Return the median time of `slow` over that of `fast`; empty if either has no numbers."""
    return f"{slow.median / fast.median:.2f}" if slow and fast and slow.seconds and fast.seconds else ""


def share_table(results: Sequence[Series]) -> str:
    """Return the share of each part of the network in a step; empty when it was not measured."""
    timed = [series for series in results if series.shares]
    parts = [part for part in (*PARTS, BACKWARD, OPTIMIZER, REST) if any(part in series.shares for series in timed)]
    rows = []
    for series in timed:
        total = sum(series.shares.values())
        rows.append(_labels(series) + [f"{series.shares[part] / total:.1%}" if part in series.shares else "" for part in parts])
    return markdown_table(["", "precision", "image", "batch", "classes", *parts], rows, text_columns=3) if rows else ""


def loading_table(rows: Rows, results: Sequence[Series]) -> str:
    """Return the images per second of one worker, and how many workers keep ICN's steps supplied."""
    icn = [s for s in results if s.implementation.name == ICN and s.variant == s.case.mode and not s.failed]
    precisions = list(dict.fromkeys(s.implementation.precision for s in icn if not s.implementation.compiled))
    lines = []
    for row in rows:
        _, pixels, mode = row["recipe"].split()
        rates = [f"{row[name]['median']:.1f} ({row[name]['low']:.1f} - {row[name]['high']:.1f})" for name in ("icn", "pil")]
        line = [row["recipe"], f"{row['width']}x{row['height']}", *rates, f"{row['ratio']:.2f}"]
        for precision in precisions:
            # Images that keep their aspect ratio count as squares of the same short side, which are a little smaller.
            key = (mode, int(pixels), precision)
            steps = [s.images_per_second for s in icn if (s.case.mode, s.case.height, s.implementation.precision) == key]
            line.append(f"{max(steps) / row['icn']['median']:.2f}" if steps else "")
        lines.append(line)
    heads = ["loading by one worker", "JPEG", "ICN, img/s", "PIL, img/s", "ratio"]
    return markdown_table([*heads, *(f"workers needed in {precision}" for precision in precisions)], lines, text_columns=2)


def scale_table(results: Sequence[Series], axis: str) -> str:
    """Return a row for each value of `axis` (`classes` or `size`), with time and memory of each implementation."""
    cells = {(getattr(s.case, axis), *_name_and_precision(s)): s for s in reversed(results)}
    columns = list(dict.fromkeys(map(_name_and_precision, results)))
    rows = []
    for value in dict.fromkeys(getattr(series.case, axis) for series in results):
        row = [f"{value:,}" if isinstance(value, int) else value]
        for column in columns:
            cell = cells.get((value, *column))
            time = "" if cell is None else cell.failed or format_seconds(_seconds_per_image(cell))
            row += [time, format_memory(cell.peak_memory if cell else None)]
        rows.append(row)
    heads = [head for name, precision in columns for head in (f"{name} {precision}, s / image", "peak memory")]
    return markdown_table(["classes" if axis == "classes" else "image", *heads], rows, text_columns=1)


def plot_scale(path: Path, by_axis: Mapping[str, Sequence[Series]]) -> None:
    """Write a PNG: seconds per image above, peak memory below, against classes on the left, against pixels on the right."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col")
    for column, (axis, results) in zip(panels.T, by_axis.items(), strict=True):
        for axes, quantity in zip(column, (_seconds_per_image, lambda s: (s.peak_memory or 0) / GIB), strict=True):
            for marker, line in zip(itertools.cycle("osD^v"), dict.fromkeys(map(_name_and_precision, results)), strict=False):
                points = [s for s in results if _name_and_precision(s) == line and not s.failed]
                x = [s.case.classes if axis == "classes" else s.case.height * s.case.width for s in points]
                axes.plot(x, [quantity(s) for s in points], marker=marker, label=", ".join(line))
            axes.set(xscale="log", yscale="log")
            axes.grid(True, which="major", alpha=0.3)
        column[0].set_title(_scale_title(results, axis) if results else "", fontsize=9)
        column[1].set_xlabel("classes" if axis == "classes" else "pixels")
    panels[0, 0].set_ylabel("evaluation, seconds per image")
    panels[1, 0].set_ylabel("peak memory, GiB")
    panels[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def _scale_title(results: Sequence[Series], axis: str) -> str:
    """Return what varies and what is the same in all results."""
    case = results[0].case
    fixed = f"classes, at {case.size}" if axis == "classes" else f"pixels, with {case.classes} classes"
    return f"Evaluation against {fixed}, batch {case.batch_size}"


def _name_and_precision(series: Series) -> tuple[str, str]:
    return series.implementation.name, series.implementation.precision


def _labels(series: Series) -> list[str]:
    """Return the first five cells of a row: what was run."""
    precision = series.implementation.precision + (" compiled" if series.implementation.compiled else "")
    name = f"{series.implementation.name}, {series.variant}"
    return [name, precision, series.case.size, str(series.case.batch_size), str(series.case.classes)]


def _seconds_per_image(series: Series) -> float:
    return series.median / series.case.batch_size


def format_seconds(value: float) -> str:
    """Return three digits, from microseconds to minutes."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def format_memory(size: int | None) -> str:
    """Return bytes as GiB."""
    return "" if size is None else f"{size / GIB:.2f} GiB"
