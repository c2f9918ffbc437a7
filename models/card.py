"""The model card of a model that is published, in Markdown: what it is, its data, classes, accuracy, recipe and limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from models.architecture import ARCHITECTURE
from models.loading import CheckpointMeta

if TYPE_CHECKING:
    from models.icn import ICN

LISTED = 1000  # classes on the card
INPUT = ("image_size", "square", "bit_depth")  # flags by which the input is made
JOINERS = "\u200c\u200d"  # of Persian words and of emoji: letters that do not print, and belong to names
# Whatever is true of every model of this kind.
LIMITS = """\
- It knows the classes listed here and no other. With thresholds in the file, a prediction says "none of the known classes" of
  some pictures of something else, not of all; without them, each of these pictures gets one of the classes.
- Probabilities are those of pictures like the training data; other cameras, places or seasons need a measurement of their own.
- A map shows what the model used, not what is true: a right map proves no right class, a wrong map no wrong one."""
NOT_MEASURED = (
    "Not measured: `python main.py --eval` and `python -m tools.report` write results that `tools.export --results` takes."
)

UNKNOWN = "Not trained yet, or its training is unknown: the model has no number of epochs."


class Measured(NamedTuple):
    """What was measured of a model.

    metrics: `type` (the hub's name) to value; of the split `split`. sections: Markdown, each with its heading.
    lists_classes: a table in a section names all classes.
    """

    split: str = ""
    metrics: Mapping[str, float] = {}
    sections: Sequence[str] = (f"## Accuracy\n\n{NOT_MEASURED}",)
    lists_classes: bool = False


def model_card(model: ICN, meta: CheckpointMeta, address: str, measured: Measured | None = None) -> str:
    """Return the text of a README.md with the metadata that the Hugging Face hub reads.

    Args:
        model: what is published.
        meta: its flags, which are all printed, classes and normalisation.
        address: what the example loads, `hf://owner/repo` or the name of a folder.
        measured: of it, or None.
    """
    measured = measured or Measured()
    is_trained = meta.epoch is not None
    name = meta.args.get("dataset_name") if is_trained else None
    listed = meta.args.keys() - {"started_from"} if is_trained else meta.args.keys() & {*ARCHITECTURE, *INPUT}
    flags = [(f"`--{key}`", cell(meta.args[key], bars=True)) for key in sorted(listed) if meta.args[key] is not None]
    data = f"Trained on the data set {cell(name)}." if name else "Add what it was trained on: the file does not say."
    parts = [
        _front_matter(measured, name),
        f"# ICN: {model.num_classes} classes" + (f" of {cell(name)}" if name else ""),
        _summary(model, meta),
        f'```python\nfrom predictor import Predictor\n\npredictor = Predictor.from_checkpoint("{address}")\n'
        'predictor.predict("photo.jpg")\npredictor.explain("photo.jpg").save("map.png")\n```',
        "## Data",
        f"{data if is_trained else UNKNOWN} {_start(meta.args.get('started_from'))}",
        _classes(model, meta.classes, measured.lists_classes),
        *measured.sections,
        "## Recipe" if is_trained else "## Architecture and input",
        table(["flag", "value"], flags),
        "## Limits",
        LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(measured: Measured, name: str | None) -> str:
    """Return the table that the hub reads: JSON is YAML, and quotes what needs it."""
    entries: dict[str, Any] = {"pipeline_tag": "image-classification", "tags": ["icn", "interpretability", "attribution"]}
    if measured.metrics and name:
        data = {"name": printed(name), "type": printed(name), "split": printed(measured.split)}
        metrics = [{"type": kind, "value": round(value, 4)} for kind, value in measured.metrics.items()]
        result = {"task": {"type": "image-classification"}, "dataset": data, "metrics": metrics}
        entries["model-index"] = [{"name": "ICN", "results": [result]}]
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in entries.items()), "---"])


def _summary(model: ICN, meta: CheckpointMeta) -> str:
    """Return what the model is, and how its input is made."""
    size = meta.args.get("image_size", 800)
    shape = f"{size} x {size} pixels" if meta.args.get("square") else f"pictures with a short side of {size} pixels"
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    epoch = "" if meta.epoch is None else f" after {meta.epoch + 1} epoch{'s' * (meta.epoch > 0)}"
    network = f"backbone {meta.args['backbone']}, decoder {model.decoder_name}, {parameters:.1f} M parameters{epoch}"
    scale = f"the mean {meta.normalisation['mean']} and the standard deviation {meta.normalisation['std']}"
    return f"An image classifier that explains itself: {network}. Input: {shape}, RGB from 0 to 1 with {scale}."


def _start(source: str | None) -> str:
    """Return what the weights started from."""
    if source is None:
        return "What the weights started from is not known."
    known = {"random": "Its weights started from random ones.", "default": "Its backbone started from the published weights."}
    return known.get(source, f"Its weights started from {cell(source)}.")


def _classes(model: ICN, classes: list[str] | None, listed_below: bool) -> str:
    """Return the names of the classes, where there is no table of them below."""
    if classes is None:
        return f"The file has no names of its {model.num_classes} classes: they are numbered from 0."
    if listed_below:
        return f"{len(classes)} classes, listed below."
    more = f", and {len(classes) - LISTED} more" if len(classes) > LISTED else ""
    return f"{len(classes)} classes: {', '.join(map(cell, classes[:LISTED]))}{more}."


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts in Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (heads, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]])


def cell(value: object, bars: bool = False) -> str:
    """Return a value as text of Markdown: names are not markup. `bars`: also escape bars, which would end a cell of a table."""
    markup = "\\<>[]*_`#&" + "|" * bars
    return "".join(f"\\{letter}" if letter in markup else letter for letter in printed(value))


def printed(value: object) -> str:
    """Return a text with escapes in place of what does not print."""
    return "".join(x if x.isprintable() or x in JOINERS else ascii(x)[1:-1] for x in str(value))
