"""The metrics of attribution maps and of models: a registry of what each is called, means and is computed by.

To add a metric of maps, write a function of a `MapBatch` that returns one number per image, `[B]`, and give it a row in
`METRICS`, both in this file: the flag `--metrics`, attribution.json, the tables, the plots and the documentation follow from it.
Metrics that share a costly computation share one function, which returns a column for each of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from attribution.metrics.faithfulness import insertion_scores, removal_scores
from attribution.metrics.localisation import average_precision, energy, energy_gain, pair_scores, pointing
from attribution.metrics.metric import Columns, MapBatch, Metric, pad_with_nan
from attribution.metrics.model import diversity, locality, randomisation, reliance
from attribution.metrics.parts import adjusted_rand, mutual_information
from attribution.metrics.robustness import gini, max_sensitivity
from attribution.metrics.shortcuts import find_shortcuts

NATIVE = "_native"
MAIN = 4  # columns of numbers in a table of attribution.md, beside the map and its kind
NATIVE_FAMILY = "native"  # asks for the maps at the methods' own resolutions, too


def _removal(batch: MapBatch) -> Columns:
    scores, curves = removal_scores(batch.perturbation("mean"), batch.maps, batch.siblings, seed=batch.seed)
    batch.curves |= {} if batch.native else curves
    return scores


def _insertion(batch: MapBatch) -> Columns:
    scores, curves = insertion_scores(batch.perturbation("blur"), batch.maps, seed=batch.seed)
    batch.curves |= curves
    return scores


def _on_mask(metric: Callable[[Tensor, Tensor], Tensor]) -> Callable[[MapBatch], Tensor | Columns]:
    """Return the metric of a map and a mask, nan for images without an object."""

    def compute(batch: MapBatch) -> Tensor | Columns:
        masks = batch.unit.masks
        return {} if masks is None else metric(batch.maps, masks).masked_fill(~masks.flatten(1).any(1), torch.nan)

    return compute


def _max_sensitivity(batch: MapBatch) -> Tensor | Columns:
    if batch.method.knows_ground_truth:
        return {}
    count = 0 if batch.costly else batch.unit.first(batch.budget.sensitivity_images)
    images, classes = batch.unit.images[:count], batch.unit.classes[:count]
    sizes = {"samples": batch.budget.sensitivity_samples, "seed": batch.seed}
    scores = max_sensitivity(lambda x: batch.explain(x, classes), images, **sizes) if count else images.new_empty(0)
    return pad_with_nan(scores, len(batch.unit))


def _planes(batch: MapBatch) -> Columns:
    return {} if batch.planes is None else batch.planes(batch)


def _pairs(batch: MapBatch) -> Columns:
    assert batch.unit.masks is not None
    columns = {name: scores.mean(1) for name, scores in pair_scores(batch.maps, batch.unit.masks).items()}
    return columns | {"hit_gap": columns["own_hit"] - columns["other_hit"]}


_faithfulness = partial(Metric, family="faithfulness", section="Faithfulness")
_mask = partial(Metric, family="masks", better=1, section="On the object")
_evidence = partial(Metric, family="planes", compute=_planes, better=1, section="Known evidence: class against sibling")
_part = partial(Metric, family="planes", compute=_planes, better=1, section="Known evidence: parts")
_pair = partial(Metric, family="pairs", compute=_pairs, section="Two objects in an image", scope="pairs")
_regions = partial(Metric, family="parts", section="Parts", scope="parts", applies=lambda model: model.num_decoder_layers > 0)
_model = partial(Metric, section="The model", scope="model")
_attention = partial(_model, applies=lambda model: model.num_decoder_layers > 0)

_ALL = [
    _faithfulness("srg", compute=_removal, label="SRG", better=1, native=True, bar=True,
                  meaning="area with the least relevant pixels removed first, less that with the most relevant; random 0"),
    _faithfulness("rd", compute=_removal, label="RD@5 %", better=1, native=True, main="",
                  meaning="drop of the class's probability less that of its sibling's without the top 5 % of the pixels"),
    _faithfulness("insertion", compute=_insertion, label="insertion", better=1,
                  meaning="area under the probability while pixels come back into the blurred image"),
    _faithfulness("insertion_start", compute=_insertion, label="s_0", main="",
                  meaning="probability of the blurred image, where insertion starts"),
    _faithfulness("deletion", compute=_removal, label="deletion", better=-1,
                  meaning="area under the probability while the most relevant pixels turn to the mean colour"),
    _mask("pointing", compute=_on_mask(pointing), label="pointing", native=True, main="both", bar=True,
          meaning="share of images whose peak lies on the object"),
    _mask("energy", compute=_on_mask(energy), label="energy", native=True,
          meaning="share of the positive mass on the object"),
    _mask("energy_gain", compute=_on_mask(energy_gain), label="gain", native=True, main="",
          meaning="energy over the share of the image that the object covers"),
    _mask("ap", compute=_on_mask(average_precision), label="AP", native=True, main="",
          meaning="average precision of the map as a score for the object's pixels"),
    _evidence("contrast_pointing", label="evidence pointing", native=True, main="both", bar=True,
              meaning="is the peak of class less sibling where the two differ, mean over slots"),
    _evidence("contrast_energy", label="evidence energy", native=True,
              meaning="mass of class less sibling where the two differ"),
    _evidence("contrast_ap", label="evidence AP", native=True, main="",
              meaning="average precision for the pixels in which the two differ"),
    _part("sd", label="SD", meaning="rank correlation of a part's mass and the drop of the logit without the part"),
    _part("sd_swap", label="SD swap", main="", meaning="the same for slots that are swapped for a sibling's"),
    _part("pc", label="PC", main="", meaning="the prediction stays when only the most important parts are kept"),
    _part("dc", label="DC", main="", meaning="the prediction changes when the most important parts are removed"),
    _part("ts", label="TS", meaning="maps of two classes that share disjoint parts with the image lie on those parts"),
    _part("part_srg", label="part SRG", meaning="SRG with whole parts, rendered again without them"),
    _part("part_insertion", label="part insertion", main="", meaning="insertion of whole parts"),
    _part("part_deletion", label="part deletion", better=-1, main="", meaning="deletion of whole parts"),
    _part("shortcut_pointing", label="roundel pointing", main="", meaning="is the peak on the roundel that the model relies on"),
    _part("shortcut_energy", label="roundel energy", main="", meaning="mass on that roundel"),
    _part("shortcut_top", label="roundel top", main="",
          meaning="share of images in which no part is more important than that roundel"),
    Metric("gini", "gini", lambda b: gini(b.maps), "Gini", "0 spread evenly, towards 1 on few cells", section="Description"),
    Metric("max_sensitivity", "sensitivity", _max_sensitivity, "max-sens.", better=-1, main="", section="Description",
           meaning="largest relative change of the map under noise of +-0.02; constant maps score 0"),
    _pair("own_hit", label="own hit", better=1, native=True, main="both", bar=True,
          meaning="the peak of a class's map lies on its own object"),
    _pair("other_hit", label="other hit", native=True, meaning="it lies on the object of the other class"),
    _pair("hit_gap", label="own less other hit", better=1, native=True,
          meaning="the former less the latter; 0 for a map that does not depend on the class"),
    _pair("own_energy", label="own energy", better=1, native=True, main="", meaning="mass on the class's own object"),
    _pair("other_energy", label="other energy", native=True, main="", meaning="mass on the other object"),
    _pair("own_area", label="area", main="",
          meaning="share of the image that the own object covers: the own energy of a constant map"),
    _pair("other_area", label="other area", main="", meaning="share of the image that the other object covers"),
    _regions("pixel_nmi", compute=lambda p: mutual_information(p.pixels), label="NMI, pixels", better=1,
             meaning="normalised mutual information of the heads' regions and the parts, at the object's pixels; planes"),
    _regions("pixel_ari", compute=lambda p: adjusted_rand(p.pixels), label="ARI, pixels", better=1,
             meaning="their adjusted Rand index: 1 for equal partitions, 0 by chance"),
    _regions("point_nmi", compute=lambda p: mutual_information(p.points), label="NMI, key points", better=1,
             meaning="normalised mutual information at the key points of the object"),
    _regions("point_ari", compute=lambda p: adjusted_rand(p.points), label="ARI, key points", better=1,
             meaning="adjusted Rand index at the key points"),
    _regions("point_error", compute=lambda p: p.errors, label="key-point error", better=-1,
             meaning="of key points that are regressed from the regions' centres, in sides of the object's box"),
    Metric("shortcut", "shortcut", lambda found: find_shortcuts(*found), "possible shortcuts", section="Possible shortcuts",
           scope="classes",
           meaning="classes whose evidence lies at one place of the frame, or outside of the object, more than that of others"),
    _attention("reliance", "reliance", lambda b: {"reliance": reliance(b.inference, b.images, b.classes, seed=b.seed)},
               "reliance", labelled=True, images="reliance_images", meaning=
               "accuracy with the class queries' attention as it is, and replaced: if it survives, the map is decoration"),
    _model("locality", "locality",
           lambda b: {"locality": locality(b.model, b.images, cells=b.budget.locality_cells, seed=b.seed)}, "locality",
           "share of the gradient energy of a cell that lies on its own patch, and with the cells around it",
           images="locality_images"),
    _attention("head_diversity", "head_diversity",
               lambda b: {"head_diversity": {"jsd": diversity(b.inference, b.images, b.classes)}}, "head_diversity",
               "mean Jensen-Shannon divergence between heads, over ln 2"),
    _model("randomisation", "randomisation", randomisation, "all weights random", images="randomised_images",
           meaning="rank correlation with the trained model's map while its weights become random, from the head down"),
]  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}


def find_metric(column: str) -> Metric:
    """Return the row of a column, of its native twin `<name>_native` or of one slot of planes `<name>/<slot>`; or a KeyError."""
    name, _, slot = column.partition("/")
    if name not in METRICS and name.endswith(NATIVE):
        metric = METRICS[name.removesuffix(NATIVE)]
        return replace(
            metric, label=f"{metric.label}, native", meaning="the same, of the map at its own resolution (–: the model's)"
        )
    return replace(METRICS[name], label=slot) if slot else METRICS[name]


def families() -> dict[str, tuple[str, ...]]:
    """Return the columns of each family, in the order of the registry; native twins are a family of their own."""
    columns: dict[str, tuple[str, ...]] = {}
    for metric in METRICS.values():
        columns[metric.family] = (*columns.get(metric.family, ()), metric.name)
    twins = tuple(metric.name + NATIVE for metric in METRICS.values() if metric.native)
    first, *rest = columns.items()
    return dict([first, (NATIVE_FAMILY, twins), *rest])


def chosen_families(names: Iterable[str] | None) -> frozenset[str]:
    """Return the families of `names`, each a family or a column (None: all); raise a ValueError for an unknown one."""
    known = families()
    if names is None:
        return frozenset(known)
    chosen = set()
    for name in names:
        home = next((family for family, columns in known.items() if name == family or name in columns), None)
        if home is None:
            choice = ", ".join(dict.fromkeys([*known, *(column for columns in known.values() for column in columns)]))
            raise ValueError(f"--metrics {name}: there is no such metric; choose from {choice}")
        chosen.add(home)
        if home == NATIVE_FAMILY and name != NATIVE_FAMILY:
            chosen.add(find_metric(name).family)
    if chosen == {NATIVE_FAMILY}:
        raise ValueError(
            f"--metrics {NATIVE_FAMILY} measures others at the maps' own resolutions: add them, as faithfulness,masks"
        )
    return frozenset(chosen)


def sections(scope: str) -> dict[str, list[str]]:
    """Return the columns of each table of attribution.md, by its title: at most `MAIN` of single maps and of pairs."""
    tables: dict[str, list[str]] = {}
    shown = [metric for metric in METRICS.values() if metric.section and metric.scope == scope and metric.main]
    for metric in shown:
        tables.setdefault(metric.section, []).append(metric.name)
    for metric in shown:
        if metric.main == "both":
            tables[metric.section].append(metric.name + NATIVE)
    return tables


def compute_columns(batch: MapBatch, chosen: frozenset[str], scope: str = "maps") -> Columns:
    """Compute the metrics of a batch that are in the `chosen` families, each shared function once, in the registry's order."""
    metrics = [metric for metric in METRICS.values() if metric.scope == scope and metric.family in chosen]
    columns = _columns(batch, metrics)
    if batch.native_maps is not None and NATIVE_FAMILY in chosen:
        twins = _columns(replace(batch, maps=batch.native_maps, native=True), [metric for metric in metrics if metric.native])
        columns |= {name + NATIVE: column for name, column in twins.items() if name in METRICS and METRICS[name].native}
    return columns


def _columns(batch: MapBatch, metrics: Sequence[Metric]) -> Columns:
    columns: Columns = {}
    for compute in dict.fromkeys(metric.compute for metric in metrics):
        result = compute(batch)
        if isinstance(result, Tensor):
            result = {metric.name: result for metric in metrics if metric.compute is compute}
        unknown = [name for name in result if name.partition("/")[0] not in METRICS]
        assert not unknown, f"columns without a row in the registry: {unknown}"
        columns |= result
    return columns
