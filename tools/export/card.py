"""The model card of a model that is published: data, recipe, accuracy and limits, in Markdown."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from models import ICN
from util.metrics import format_stats
from util.printable import printable
from util.tables import markdown_table

LISTED = 1000  # classes on the card
# Whatever is true of every model of this kind.
LIMITS = """\
- It knows the classes listed here and no other: a picture of anything else gets one of them, too.
- Probabilities are those of pictures like the training data; other cameras, places or seasons need a measurement of their own.
- A map shows what the model used, not what is true: a right map proves no right class, a wrong map no wrong one."""


class Results(NamedTuple):
    """What `python main.py --eval` wrote: the numbers of results.json, and the rows of per_class.csv."""

    stats: dict[str, Any]
    per_class: list[dict[str, str]]


def read_results(folder: Path) -> Results:
    """Return the results in a folder; ValueError where they are not there or not whole."""
    try:
        stats = json.loads((folder / "results.json").read_text("utf-8"))
        with (folder / "per_class.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return Results({name: stats[name] for name in ("split", "loss", "acc1", "acc5")}, [
            {name: row[name] for name in ("class", "images", "acc1")} for row in rows
        ])  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ValueError(f"--results {folder} is no folder of results ({reason}): python main.py --eval writes one") from None


def model_card(model: ICN, description: dict[str, Any], results: Results | None, address: str) -> str:
    """Return the card of a model.

    Args:
        model: the weights.
        description: the entries of its checkpoint (`models.saving.describe_model`).
        results: of an evaluation, or None.
        address: what the example loads, `hf://owner/repo` or the name of the folder.
    """
    args = description["args"]
    name = args.get("dataset_name")
    parts = [
        _front_matter(results, name),
        f"# ICN: {model.num_classes} classes" + (f" of {_cell(name)}" if name else ""),
        _summary(model, description),
        f'```python\nfrom predictor import Predictor\n\npredictor = Predictor.from_checkpoint("{address}")\n'
        'predictor.predict("photo.jpg")\npredictor.explain("photo.jpg").save("map.png")\n```',
        "## Data",
        f"Trained on the data set {_cell(name) if name else 'that its authors name (the file does not say)'}.",
        _classes(model, description["classes"], results),
        "## Accuracy",
        _accuracy(results),
        "## Recipe",
        markdown_table(["flag", "value"], [(f"`--{key}`", _cell(value)) for key, value in args.items() if value is not None]),
        "## Limits",
        LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(results: Results | None, name: str | None) -> str:
    """Return the table that the hub reads: JSON is YAML, and quotes what needs it."""
    entries: dict[str, Any] = {"pipeline_tag": "image-classification", "tags": ["icn", "interpretability", "attribution"]}
    if results is not None and name:
        metric = {"type": "accuracy", "value": round(float(results.stats["acc1"]) / 100, 4)}
        data = {"name": printable(name), "type": printable(name), "split": printable(str(results.stats["split"]))}
        result = {"task": {"type": "image-classification"}, "dataset": data, "metrics": [metric]}
        entries["model-index"] = [{"name": "ICN", "results": [result]}]
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in entries.items()), "---"])


def _summary(model: ICN, description: dict[str, Any]) -> str:
    """Return what the model is, and how its input is made."""
    args, normalisation = description["args"], description["normalisation"]
    size = args.get("image_size", 800)
    shape = f"{size} x {size} pixels" if args.get("square") else f"pictures with a short side of {size} pixels"
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    epoch = "" if description["epoch"] is None else f" after {description['epoch'] + 1} epochs"
    network = f"backbone {args['backbone']}, decoder {model.decoder_name}, {parameters:.1f} M parameters{epoch}"
    scale = f"the mean {normalisation['mean']} and the standard deviation {normalisation['std']}"
    return f"An image classifier that explains itself: {network}. Input: {shape}, RGB from 0 to 1 with {scale}."


def _classes(model: ICN, classes: list[str] | None, results: Results | None) -> str:
    """Return the names of the classes, where there is no table of them below."""
    if classes is None:
        return f"The file has no names of its {model.num_classes} classes: they are numbered from 0."
    if results is not None:
        return f"{len(classes)} classes, listed below."
    more = f", and {len(classes) - LISTED} more" if len(classes) > LISTED else ""
    return f"{len(classes)} classes: {', '.join(map(_cell, classes[:LISTED]))}{more}."


def _accuracy(results: Results | None) -> str:
    """Return the accuracy, in all and per class."""
    if results is None:
        return "Not measured: `python main.py --eval` writes the results that `--results` takes."
    stats, rows = results
    total = f"On the split {_cell(stats['split'])}: {format_stats(stats)}."
    table = markdown_table(["class", "images", "accuracy in %"], [tuple(map(_cell, row.values())) for row in rows[:LISTED]], 1)
    return f"{total}\n\n{table}"


def _cell(value: object) -> str:
    """Return a value as text of Markdown: names are not markup; bars are left to the tables."""
    text = printable(str(value))
    return "".join(f"\\{letter}" if letter in "\\<>[]*_`#&" else letter for letter in text)
