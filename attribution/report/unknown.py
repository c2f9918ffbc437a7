"""The files of `tools.evaluate_unknown`: unknown.json, the tables of unknown.md, and histograms of the scores in unknown.png."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attribution.report.tables import write_json
from util.atomic import atomic_write, replacing
from util.plotting import Figure, FigureCanvasAgg
from util.roc import Estimate
from util.tables import markdown_table

SOURCES = {
    "max_probability": "largest probability (Hendrycks & Gimpel, ICLR 2017)",
    "max_logit": "largest logit (Hendrycks et al., ICML 2022)",
    "energy": "energy (Liu et al., NeurIPS 2020; of sigmoids Wang et al., NeurIPS 2021)",
    "positive_evidence": "positive evidence of the most probable class",
    "mahalanobis": "Mahalanobis distance of pooled features (Lee et al., NeurIPS 2018)",
    "relative_mahalanobis": "the same, relative to all images (Ren et al. 2021)",
}
BINS = 40
COLUMNS = 3  # of histograms


def write_unknown(
    content: Mapping[str, Any], known: Mapping[str, np.ndarray], unknown: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Write what was measured, and the histograms of the scores of known and unknown images, each `[N]`."""
    scores = {name: {key: value._asdict() for key, value in each.items()} for name, each in content["scores"].items()}
    write_json(folder / "unknown.json", {**content, "scores": scores})
    with atomic_write(folder / "unknown.md") as file:
        file.write(markdown(content))
    draw_histograms(content, known, unknown, folder / "unknown.png")


def markdown(content: Mapping[str, Any]) -> str:
    """Return the text of unknown.md: a table of the scores, and the AUROC of each unknown class."""
    settings, scores = content["settings"], content["scores"]
    heads = ["score", "AUROC ↑", "above the largest probability", "FPR at 95 % TPR ↓"]
    rows = [[SOURCES[name], *(_cell(values[key]) for key in ("auroc", "gain", "fpr"))] for name, values in scores.items()]
    classes = [
        [name, str(each["images"]), *(f"{each[score]:.3f}" for score in scores)] for name, each in content["classes"].items()
    ]
    model = (
        f"{settings['checkpoint']} (loss {settings['loss']}, decoder {settings['decoder']}, accuracy {settings['acc1']:.1f} %)"
    )
    known = f"{settings['known_images']} images of the {settings['known_classes']} classes of {model}"
    unknown = f"{settings['unknown_images']} of {len(content['classes'])} others, which it was not trained on"
    about = (
        f"{known} and {unknown}; {settings['dataset']}, {settings['split']}. AUROC: the probability that a known image scores "
        "above an unknown one; FPR: share of unknown images that are taken for known where 95 % of the known ones are; in "
        "brackets 95 % bootstrap intervals over images."
    )
    if not settings["train_images"]:
        about += " Without a folder train there are no distances of features."
    parts = ["# None of the known classes", about, markdown_table(heads, rows, text_columns=1)]
    parts += ["## AUROC of each unknown class", markdown_table(["class", "images", *scores], classes, text_columns=1)]
    return "\n\n".join(parts) + "\n"


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def draw_histograms(
    content: Mapping[str, Any], known: Mapping[str, np.ndarray], unknown: Mapping[str, np.ndarray], path: Path
) -> None:
    """Draw the histogram of each score, of known and of unknown images."""
    rows = -(-len(known) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.8 * rows), layout="constrained")
    for place, name in enumerate(known, 1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        edges = np.histogram_bin_edges(np.concatenate([known[name], unknown[name]]), BINS)
        for values, colour, label in ((known[name], "tab:blue", "known classes"), (unknown[name], "tab:red", "unknown classes")):
            axes.hist(values, edges.tolist(), weights=np.full(len(values), 1 / len(values)), color=colour, alpha=0.5, label=label)
        axes.set_title(f"{name}: AUROC {content['scores'][name]['auroc'].value:.3f}", fontsize=9)
        axes.set_ylabel("share of images", fontsize=8)
        axes.tick_params(labelsize=7)
        if place == 1:
            axes.legend(fontsize=7)
    with replacing(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))
