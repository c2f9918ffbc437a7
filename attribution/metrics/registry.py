"""The metrics of attribution maps and of models: a registry of what each is called, means and is computed by.

To add a metric of maps, write a function of a `MapBatch` that returns one number per image, `[B]`, and give it a row in
`METRICS`, both in this file: the flag `--metrics`, attribution.json, the tables, the plots and the documentation follow from it.
Metrics that share a costly computation share one function, which returns a column for each of their names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from attribution.metrics import localisation, model, pairs
from attribution.metrics.batch import Columns, MapBatch, leading
from attribution.metrics.faithfulness import insertion_scores, removal_scores
from attribution.metrics.metric import Metric
from attribution.metrics.randomisation import randomisation_columns
from attribution.metrics.robustness import gini, max_sensitivity


def _removal(batch: MapBatch) -> Columns:
    scores = removal_scores(batch.perturbation("mean"), batch.maps, batch.siblings, seed=batch.seed)
    if not batch.native:
        batch.curves |= {"deletion": scores.deletion_curve, "least_first": scores.least_first_curve}
    return {"srg": scores.srg, "rd": scores.relative_drop, "deletion": scores.deletion}


def _insertion(batch: MapBatch) -> Columns:
    scores = insertion_scores(batch.perturbation("blur"), batch.maps, seed=batch.seed)
    batch.curves["insertion"] = scores.curve
    return {"insertion": scores.insertion, "insertion_start": scores.start}


def _on_mask(metric: Callable[[Tensor, Tensor], Tensor]) -> Callable[[MapBatch], Tensor | Columns]:
    """Return the metric of a map and a mask, nan for images without an object."""

    def compute(batch: MapBatch) -> Tensor | Columns:
        masks = batch.unit.masks
        return {} if masks is None else metric(batch.maps, masks).masked_fill(~masks.flatten(1).any(1), torch.nan)

    return compute


def _max_sensitivity(batch: MapBatch) -> Tensor | Columns:
    if batch.method.knows_ground_truth:
        return {}
    count = 0 if batch.costly else batch.unit.first(batch.budget["sensitivity_images"])
    images, classes = batch.unit.images[:count], batch.unit.classes[:count]
    if not count:
        return leading(images.new_empty(0), len(batch.unit))
    samples = batch.budget["sensitivity_samples"]
    scores = max_sensitivity(lambda noisy: batch.explain(noisy, classes), images, samples=samples, seed=batch.seed)
    return leading(scores, len(batch.unit))


def _planes(batch: MapBatch) -> Columns:
    return {} if batch.planes is None else batch.planes(batch)


def _pairs(batch: MapBatch) -> Columns:
    assert batch.unit.masks is not None
    return {name: scores.mean(1) for name, scores in pairs.pair_scores(batch.maps, batch.unit.masks).items()}


_faithfulness = partial(Metric, family="faithfulness", section="Faithfulness")
_mask = partial(Metric, family="masks", better=1, section="On the object")
_evidence = partial(Metric, family="planes", compute=_planes, better=1, section="Known evidence: class against sibling")
_part = partial(Metric, family="planes", compute=_planes, better=1, section="Known evidence: parts")
_pair = partial(Metric, family="pairs", compute=_pairs, section="Two objects in a picture", scope="pairs")
_model = partial(Metric, section="The model", scope="model")

_ALL = [
    _faithfulness(
        "srg", compute=_removal, label="SRG", better=1, native="beside", bar=True, paired=True,
        meaning="area with the least relevant pixels removed first, less that with the most relevant; random 0",
    ),
    _faithfulness(
        "rd", compute=_removal, label="RD@5 %", better=1, native="beside", bar=True, paired=True,
        meaning="drop of the class's probability less that of its sibling's without the top 5 % of the pixels",
    ),
    _faithfulness(
        "insertion", compute=_insertion, label="insertion", better=1, paired=True,
        meaning="area under the probability while pixels come back into the blurred picture",
    ),
    _faithfulness(
        "insertion_start", compute=_insertion, label="s_0",
        meaning="probability of the blurred picture, where insertion starts",
    ),
    _faithfulness(
        "deletion", compute=_removal, label="deletion", better=-1, paired=True,
        meaning="area under the probability while the most relevant pixels turn to the mean colour",
    ),
    _mask(
        "pointing", compute=_on_mask(localisation.pointing), label="pointing", native="last", bar=True, paired=True,
        meaning="share of pictures whose peak lies on the object",
    ),
    _mask(
        "energy", compute=_on_mask(localisation.energy), label="energy", native="last", paired=True,
        meaning="share of the positive mass on the object",
    ),
    _mask(
        "energy_gain", compute=_on_mask(localisation.energy_gain), label="gain", native="json",
        meaning="energy over the share of the picture that the object covers",
    ),
    _mask(
        "ap", compute=_on_mask(localisation.average_precision), label="AP", native="json", paired=True,
        meaning="average precision of the map as a score for the object's pixels",
    ),
    _evidence(
        "contrast_pointing", label="evidence pointing", native="last", bar=True, paired=True,
        meaning="is the peak of class less sibling where the two differ, mean over slots",
    ),
    _evidence(
        "contrast_energy", label="evidence energy", native="last", paired=True,
        meaning="mass of class less sibling where the two differ",
    ),
    _evidence(
        "contrast_ap", label="evidence AP", native="json", meaning="average precision for the pixels in which the two differ"
    ),
    _part(
        "sd", label="SD", bar=True, paired=True,
        meaning="rank correlation of a part's mass and the drop of the logit without the part",
    ),
    _part("sd_swap", label="SD swap", meaning="the same for slots that are swapped for a sibling's"),
    _part("pc", label="PC", meaning="the prediction stays when only the most important parts are kept"),
    _part("dc", label="DC", meaning="the prediction changes when the most important parts are removed"),
    _part(
        "ts", label="TS", paired=True,
        meaning="maps of two classes that share disjoint parts with the picture lie on those parts",
    ),
    _part("part_srg", label="part SRG", meaning="SRG with whole parts, rendered again without them"),
    _part("part_insertion", label="part insertion", meaning="insertion of whole parts"),
    _part("part_deletion", label="part deletion", better=-1, meaning="deletion of whole parts"),
    _part("shortcut_pointing", label="roundel pointing", meaning="is the peak on the roundel that the model relies on"),
    _part("shortcut_energy", label="roundel energy", meaning="mass on that roundel"),
    _part(
        "shortcut_top", label="roundel top", meaning="share of pictures in which no part is more important than that roundel"
    ),
    Metric(
        "gini", "gini", lambda batch: gini(batch.maps), "Gini", section="Description",
        meaning="0 spread evenly, towards 1 on few cells",
    ),
    Metric(
        "max_sensitivity", "sensitivity", _max_sensitivity, "max-sens.", better=-1, section="Description",
        meaning="largest relative change of the map under noise of +-0.02; constant maps score 0",
    ),
    _pair(
        "own_hit", label="own hit", better=1, native="last", bar=True,
        meaning="the peak of a class's map lies on its own object",
    ),
    _pair("other_hit", label="other hit", better=-1, native="last", meaning="it lies on the object of the other class"),
    _pair("own_energy", label="own energy", better=1, native="json", meaning="mass on the class's own object"),
    _pair("other_energy", label="other energy", better=-1, native="json", meaning="mass on the other object"),
    _pair(
        "own_area", label="area",
        meaning="share of the picture that the own object covers: the own energy of a constant map",
    ),
    _pair("other_area", label="other area", section="", meaning="share of the picture that the other object covers"),
    _model(
        "reliance", "reliance", model.reliance_columns, "reliance", labelled=True, images="reliance_images",
        applies=model.has_attention,
        meaning="accuracy with the class queries' attention as it is, and replaced: if it survives, the map is decoration",
    ),
    _model(
        "locality", "locality", model.locality_columns, "locality", images="locality_images",
        meaning="share of the gradient energy of a cell that lies on its own patch, and with the cells around it",
    ),
    _model(
        "head_diversity", "head_diversity", model.diversity_columns, "head_diversity", applies=model.has_attention,
        meaning="mean Jensen-Shannon divergence between heads, over ln 2",
    ),
    _model(
        "randomisation", "randomisation", randomisation_columns, "all weights random", images="randomised_images",
        meaning="rank correlation with the trained model's map while its weights become random, from the head down",
    ),
]  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
