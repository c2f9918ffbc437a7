"""What was measured of a model, from the folders that the commands wrote, as sections of its model card."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attribution.metrics.registry import METRICS
from attribution.report import page
from attribution.report.tables import section
from models import ICN
from models.card import LISTED, Measured, cell
from models.loading import CheckpointMeta
from models.saving import public_name
from util.metrics import format_stats
from util.printable import printable
from util.tables import markdown_table

PICTURE = "maps.jpg"  # beside the card
EVAL, ATTRIBUTION = "results.json", "attribution.json"
KINDS = (
    f"{EVAL} (python main.py --eval), {page.SUMMARY} (python -m tools.report) or "
    f"{ATTRIBUTION} (python -m tools.evaluate_attribution)"
)


class Results(NamedTuple):
    """The content of folders of results, None for what is not among them.

    evaluation: results.json. per_class: rows of per_class.csv. report: the summary of a report, which is in `report_folder`.
    attribution: attribution.json.
    """

    evaluation: dict[str, Any] | None = None
    per_class: list[dict[str, str]] | None = None
    report: dict[str, Any] | None = None
    report_folder: Path | None = None
    attribution: dict[str, Any] | None = None


def read_results(folders: Sequence[Path], model: ICN, meta: CheckpointMeta) -> Results:
    """Return the results in folders of `main.py --eval`, tools.report and tools.evaluate_attribution.

    Raises:
        ValueError: a folder is none of these, or not whole, there are two of a kind, or they are of another model.
    """
    found: dict[str, Any] = {}
    for folder in folders:
        try:
            new = _read_folder(folder)
            if not new:
                raise ValueError(f"it has no {KINDS}")
            _check(new, model, meta)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or (str(error) if type(error) is ValueError else repr(error))
            raise ValueError(f"--results {folder} is no folder of results of this model: {reason}") from None
        if twice := found.keys() & new.keys():
            raise ValueError(f"--results {folder} has a second {min(twice)}: give one folder of each command")
        found |= new
    return Results(**found)


def _read_folder(folder: Path) -> dict[str, Any]:
    """Return the fields of `Results` that a folder has."""
    found: dict[str, Any] = {}
    if (folder / EVAL).exists():
        found["evaluation"] = json.loads((folder / EVAL).read_text("utf-8"))
        with (folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            found["per_class"] = [{name: str(row[name]) for name in ("class", "images", "acc1")} for row in rows]
    if (folder / page.SUMMARY).exists():
        (found["report"],) = page.read_script(folder / page.SUMMARY)
        found["report_folder"] = folder
    if (folder / ATTRIBUTION).exists():
        found["attribution"] = json.loads((folder / ATTRIBUTION).read_text("utf-8"))
    return found


def _check(found: Mapping[str, Any], model: ICN, meta: CheckpointMeta) -> None:
    """Raise a ValueError for results of another model, as far as they say it, and a KeyError or TypeError for other files."""
    if evaluation := found.get("evaluation"):
        format_stats(evaluation)
        epoch, count = evaluation.get("epoch"), len(found["per_class"])
        if count != model.num_classes:
            raise ValueError(f"it has {count} classes, the model {model.num_classes}")
        if epoch is not None and meta.epoch is not None and epoch != meta.epoch:
            raise ValueError(f"it is of epoch {epoch + 1}, the checkpoint of epoch {meta.epoch + 1}")
    if report := found.get("report"):
        report["calibration"]["ece"], report["images"]["predicted"], float(report["acc1"]), report["title"]
        if len(report["classes"]) != model.num_classes or report["classes"] != (meta.classes or report["classes"]):
            raise ValueError("its classes are not those of the model")
    if attribution := found.get("attribution"):
        settings = attribution["settings"]
        if settings["decoder"] != model.decoder_name:
            raise ValueError(f"its model has the decoder {settings['decoder']}, this one {model.decoder_name}")
        if settings["classes"] != (meta.classes or settings["classes"]):
            raise ValueError("its classes are not those of the model")


def measured(results: Results, pictured: str) -> Measured:
    """Return the sections of the card; `pictured` says what is on `PICTURE`, and is empty where there is none."""
    sections, metrics, split, lists = [], {}, "", False
    if results.evaluation is not None or results.report is not None:
        stats, rows = _accuracy_of(results)
        split, lists = str(stats["split"]), True
        metrics = {"accuracy": float(stats["acc1"]) / 100}
        if "ece" in stats:
            metrics["expected_calibration_error"] = float(stats["ece"])
        table = markdown_table(["class", "images", "accuracy in %"], rows[:LISTED], 1)
        said = format_stats(stats) if "loss" in stats else _accuracies(stats)
        sections.append(f"## Accuracy\n\nOn the {stats['images']} images of the split {cell(split)}: {said}.\n\n{table}")
    else:
        sections.extend(Measured().sections)
    if results.report is not None:
        sections.append(_calibration(results.report))
        if _report_split(results.report) == split:
            metrics["expected_calibration_error"] = float(results.report["calibration"]["ece"])
    if pictured:
        sections.append(f"## Maps\n\n![Photographs and their attribution maps]({PICTURE})\n\n{pictured}")
    if results.attribution is not None:
        sections.append(_attribution(results.attribution))
    return Measured(split, metrics, sections, lists)


def _accuracy_of(results: Results) -> tuple[dict[str, Any], list[tuple[str, ...]]]:
    """Return the accuracies and a row per class, of the evaluation, else of the report."""
    if results.evaluation is not None and results.per_class is not None:
        return results.evaluation, [tuple(cell(row[name]) for name in ("class", "images", "acc1")) for row in results.per_class]
    assert results.report is not None
    labels, predicted = (np.array(results.report["images"][name]) for name in ("label", "predicted"))
    count = len(results.report["classes"])
    images, right = np.bincount(labels, minlength=count), np.bincount(labels[labels == predicted], minlength=count)
    rows: list[tuple[str, ...]] = [
        (cell(name), str(images[i]), f"{100 * right[i] / images[i]:.2f}" if images[i] else "")
        for i, name in enumerate(results.report["classes"])
    ]
    stats = {name: results.report[name] for name in ("acc1", "acc5")}
    return stats | {"split": _report_split(results.report), "images": len(labels)}, rows


def _report_split(report: Mapping[str, Any]) -> str:
    return str(report["title"]).rpartition(", ")[2]


def _accuracies(stats: Mapping[str, Any]) -> str:
    acc5 = "" if stats["acc5"] is None else f"  acc@5 {stats['acc5']:.2f} %"
    return f"acc@1 {stats['acc1']:.2f} %{acc5}"


def _calibration(report: Mapping[str, Any]) -> str:
    """Return the expected calibration error, and the bins of the reliability diagram that have images."""
    bins, ece = report["calibration"]["bins"], report["calibration"]["ece"]
    rows = [
        (f"{row['low']:.2f} to {row['high']:.2f}", str(row["count"]), f"{row['confidence']:.3f}", f"{row['accuracy']:.3f}")
        for row in bins
        if row["count"]
    ]
    about = (
        f"On the split {cell(_report_split(report))}, in {len(bins)} bins: an expected calibration error of {ece:.3f}, the mean "
        "distance between the probability of the predicted class and how often that class is the true one."
    )
    return f"## Calibration\n\n{about}\n\n" + markdown_table(["probability", "images", "mean probability", "right"], rows, 1)


def _attribution(content: Mapping[str, Any]) -> str:
    """Return the headline metrics of all maps with their intervals."""
    settings, pairs = content["settings"], content.get("pairs", {})
    rows = {name: {**entry["metrics"], **pairs.get(name, {}).get("metrics", {})} for name, entry in content["methods"].items()}
    names = [metric.name for metric in METRICS.values() if metric.bar]
    data = f"{settings['images']} images of {cell(public_name(settings['dataset']))}, split {cell(settings['split'])}"
    ours = f"the model is represented by **{printable(content['ours'])}**"
    about = f"{data}; mean and 95 % bootstrap interval over images; {ours}."
    heading, _, *lines = section("Attribution", rows, names, content) or [
        "## Attribution",
        "",
        "No headline metric was measured.",
    ]
    return "\n".join([heading, "", about, "", *lines]).rstrip()
