"""Tables, files and the plot of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.benchmark.cases import BACKBONE_ONLY, ICN, WITH_MAPS, Case, Series, quartiles, time_ratio
from tools.benchmark.meters import BACKWARD, OPTIMIZER, PARTS, REST, describe
from tools.benchmark.runner import MAX_CONTENTION
from util.atomic import atomic_write
from util.tables import markdown_table

GIB = 2**30
MARKERS = "osD^v"
NOTES = """
- ICN is given uint8 images on the CPU, as its loader makes them: their transfer to the device and their normalisation count.
  The others are given normalised images, as their loaders make them; their transfer to the device counts.
- Evaluation is `engine.evaluate` on the model of `models.for_inference`; the training step is `trainer.Trainer.step`. The
  others: forward without gradients; forward, cross-entropy, backward, clipping at 0.1, AdamW.
- `backbone only` is the backbone of the very model that is evaluated, on images that are on the device: the lower bound of
  any head's time.
- Peak memory is what a process holds above what it held before the model was built.
- Weights and images are random; every number is the median over the rounds, which alternate between the implementations.
""".strip()


@dataclass(frozen=True)
class Report:
    """Writer of the results: `benchmark.{json,md}`, or `scale.{json,md,png}` where `axes` are given.

    Attributes:
        folder: of the files; None writes none.
        axes: the cases against the number of classes, and against the number of pixels.
    """

    folder: Path | None
    machine: Mapping[str, Any]
    rounds: int
    flags: Mapping[str, Any]
    axes: tuple[Sequence[Case], Sequence[Case]] | None = None

    def write(
        self, results: Sequence[Series], loading: Sequence[Mapping[str, Any]] = (), startup: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """Write the files; return the text of the Markdown file."""
        by_axis = [[series for case in axis for series in results if series.case == case] for axis in self.axes or ()]
        numbers, tables = scale_report(*by_axis) if self.axes else grid_report(results, loading, startup)
        text = "\n\n".join([self.heading(results), tables, *([NOTES] if results else [])]) + "\n"
        if self.folder is not None:
            numbers = {"machine": self.machine, "rounds": self.rounds, "flags": self.flags, **numbers}
            stem = self.folder / ("scale" if self.axes else "benchmark")
            for suffix, content in ((".json", json.dumps(numbers, indent=1) + "\n"), (".md", text)):
                with atomic_write(stem.with_suffix(suffix)) as file:
                    file.write(content)
            if self.axes:
                plot_scale(stem.with_suffix(".png"), *by_axis)
        return text

    def heading(self, results: Sequence[Series]) -> str:
        """Return machine, rounds and the largest contention in one line."""
        worst = max((share for series in results for share in series.contention), default=0.0)
        contention = f"; other processes had up to {worst:.0%} of the processors" if worst > MAX_CONTENTION else ""
        return f"{describe(self.machine)}; {self.rounds} rounds{contention}."


def grid_report(
    results: Sequence[Series], loading: Sequence[Mapping[str, Any]], startup: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], str]:
    """Return what goes into the JSON file, and the tables."""
    tables = {
        "": speed_table(results) if results else "",
        "Share of each part in the time of a step:\n\n": share_table(results),
        "From files to normalised batches:\n\n": loading_table(loading, results) if loading else "",
        "Start-up of the command line:\n\n": startup_table(startup) if startup else "",
    }
    numbers = {"results": [series.as_json() for series in results], "loading": list(loading), "startup": list(startup)}
    return numbers, "\n\n".join(title + table for title, table in tables.items() if table)


def scale_report(by_classes: Sequence[Series], by_size: Sequence[Series]) -> tuple[dict[str, Any], str]:
    """Return what goes into the JSON file, and the tables: evaluation against classes and against pixels."""
    tables = []
    for results, axis, title in (
        (by_classes, "classes", "classes, at {size}"),
        (by_size, "size", "pixels, with {classes} classes"),
    ):
        if results:
            case = results[0].case
            fixed = title.format(size=case.size, classes=case.classes)
            tables.append(f"Evaluation against {fixed}, batch {case.batch_size}:\n\n{scale_table(results, axis)}")
    numbers = {"by_classes": [series.as_json() for series in by_classes], "by_size": [series.as_json() for series in by_size]}
    return numbers, "\n\n".join(tables)


def speed_table(results: Sequence[Series]) -> str:
    """Return a row for every series, with its time over that of the backbone, and the speed-up over each peer."""
    peers = list(dict.fromkeys(series.implementation.name for series in results if series.implementation.name != ICN))
    heads = ["", "precision", "image", "batch", "classes", "img/s", "s / step", "quartiles", "peak memory"]
    columns: dict[str, Callable[[Series], str]] = {}
    if any(series.variant == BACKBONE_ONLY for series in results):
        columns["time / backbone"] = lambda series: over_backbone(series, results)
    for peer in peers:
        columns[f"times as fast as {peer}"] = lambda series, peer=peer: speedup(series, peer, results)  # type: ignore[misc]
    if any(series.implementation.compiled for series in results):
        columns["compile"] = lambda series: "" if series.compile_seconds is None else f"{series.compile_seconds:.0f} s"
    rows = []
    for series in results:
        row = _labels(series)
        if series.failed:
            row += [f"failed: {series.failed}", *[""] * (len(heads) - len(row) - 1 + len(columns))]
        else:
            low, high = map(format_seconds, quartiles(series.seconds))
            row += [f"{series.images_per_second:.2f}", format_seconds(series.median), f"{low} - {high}"]
            row += [format_memory(series.peak_memory), *(column(series) for column in columns.values())]
        rows.append(row)
    return markdown_table([*heads, *columns], rows, text_columns=3)


def speedup(series: Series, peer: str, results: Sequence[Series]) -> str:
    """Return how many times as fast as `peer` in the same case; empty for the peer itself and for the backbone."""
    if series.variant == BACKBONE_ONLY or series.implementation.name == peer:
        return ""
    others = (s for s in results if (s.case, s.implementation.name, s.variant) == (series.case, peer, series.case.mode))
    return _ratio(next(others, None), series)


def over_backbone(series: Series, results: Sequence[Series]) -> str:
    """Return the time of an evaluation over that of its own backbone, compiled alike; empty for anything else."""
    if series.variant not in ("evaluation", WITH_MAPS):
        return ""
    key = (series.case, series.implementation, BACKBONE_ONLY)
    return _ratio(series, next((s for s in results if (s.case, s.implementation, s.variant) == key), None))


def _ratio(slow: Series | None, fast: Series | None) -> str:
    ratio = time_ratio(slow, fast) if slow and fast else None
    return "" if ratio is None else f"{ratio:.2f}"


def share_table(results: Sequence[Series]) -> str:
    """Return the share of each part of the network in a step; empty when it was not measured."""
    timed = [series for series in results if series.shares]
    parts = [part for part in (*PARTS, BACKWARD, OPTIMIZER, REST) if any(part in series.shares for series in timed)]
    rows = []
    for series in timed:
        total = sum(series.shares.values())
        rows.append(_labels(series) + [f"{series.shares[part] / total:.1%}" if part in series.shares else "" for part in parts])
    return markdown_table(["", "precision", "image", "batch", "classes", *parts], rows, text_columns=3) if rows else ""


def loading_table(rows: Sequence[Mapping[str, Any]], results: Sequence[Series]) -> str:
    """Return the images per second of one worker, and how many workers keep ICN's steps supplied.

    Args:
        rows: of `tools.benchmark.loading.measure_loading`.
    """
    icn = [s for s in results if s.implementation.name == ICN and s.variant == s.case.mode and not s.failed]
    precisions = list(dict.fromkeys(s.implementation.precision for s in icn if not s.implementation.compiled))
    lines = []
    for row in rows:
        _, pixels, mode = row["recipe"].split()
        line = [row["recipe"], f"{row['width']}x{row['height']}"]
        for name in ("icn", "pil"):
            line.append(f"{row[name]['median']:.1f} ({row[name]['low']:.1f} - {row[name]['high']:.1f})")
        line.append(f"{row['ratio']:.2f}")
        for precision in precisions:
            # Images that keep their aspect ratio count as squares of the same short side, which are a little smaller.
            key = (mode, int(pixels), precision)
            rates = [s.images_per_second for s in icn if (s.case.mode, s.case.height, s.implementation.precision) == key]
            line.append(f"{max(rates) / row['icn']['median']:.2f}" if rates else "")
        lines.append(line)
    needed = [f"workers needed in {precision}" for precision in precisions]
    return markdown_table(["loading by one worker", "JPEG", "ICN, img/s", "PIL, img/s", "ratio", *needed], lines, text_columns=2)


def startup_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the CPU seconds of each command line of `tools.benchmark.startup.measure_startup`."""
    lines = [[f"`python {row['command']}`", f"{row['median']:.2f}", str(row["exit_code"])] for row in rows]
    return markdown_table(["command", "CPU seconds", "exit code"], lines, text_columns=1)


def scale_table(results: Sequence[Series], axis: str) -> str:
    """Return a row for each value of `axis` (`classes` or `size`), with time and memory of each implementation."""
    cells = {(getattr(s.case, axis), s.implementation.name, s.implementation.precision): s for s in reversed(results)}
    columns = list(dict.fromkeys((series.implementation.name, series.implementation.precision) for series in results))
    rows = []
    for value in dict.fromkeys(getattr(series.case, axis) for series in results):
        row = [f"{value:,}" if isinstance(value, int) else value]
        for column in columns:
            cell = cells.get((value, *column))
            time = "" if cell is None else cell.failed or format_seconds(_per_image(cell))
            row += [time, format_memory(cell.peak_memory if cell else None)]
        rows.append(row)
    heads = ["classes" if axis == "classes" else "image"]
    for name, precision in columns:
        heads += [f"{name} {precision}, s / image", "peak memory"]
    return markdown_table(heads, rows, text_columns=1)


def plot_scale(path: Path, by_classes: Sequence[Series], by_size: Sequence[Series]) -> None:
    """Write a PNG: seconds per image above, peak memory below, against classes on the left, against pixels on the right."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col")
    for column, (results, title) in enumerate(((by_classes, "classes"), (by_size, "pixels"))):
        if not results:
            continue
        case = results[0].case
        _plot_lines(axes[0, column], results, title, _per_image)
        _plot_lines(axes[1, column], results, title, lambda series: (series.peak_memory or 0) / GIB)
        fixed = f"{case.size} pixels" if title == "classes" else f"{case.classes} classes"
        axes[0, column].set_title(f"{fixed}, batch {case.batch_size}")
        axes[1, column].set_xlabel(title)
    axes[0, 0].set_ylabel("evaluation, seconds per image")
    axes[1, 0].set_ylabel("peak memory, GiB")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def _plot_lines(axes: Axes, results: Sequence[Series], axis: str, quantity: Callable[[Series], float]) -> None:
    lines = dict.fromkeys((series.implementation.name, series.implementation.precision) for series in results)
    for marker, line in zip(MARKERS * len(lines), lines, strict=False):
        points = [s for s in results if (s.implementation.name, s.implementation.precision) == line and not s.failed]
        x = [s.case.classes if axis == "classes" else s.case.height * s.case.width for s in points]
        axes.plot(x, [quantity(s) for s in points], marker=marker, label=", ".join(line))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(True, which="major", alpha=0.3)


def _labels(series: Series) -> list[str]:
    """Return the first five cells of a row: what was run."""
    precision = series.implementation.precision + (" compiled" if series.implementation.compiled else "")
    name = f"{series.implementation.name}, {series.variant}"
    return [name, precision, series.case.size, str(series.case.batch_size), str(series.case.classes)]


def _per_image(series: Series) -> float:
    return series.median / series.case.batch_size


def format_seconds(value: float) -> str:
    """Return three digits, from microseconds to minutes."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def format_memory(size: int | None) -> str:
    """Return bytes as GiB."""
    return "" if size is None else f"{size / GIB:.2f} GiB"
