"""The verdict on the map that represents ICN: three questions, answered in words that are made of the numbers.

A question has findings, each a difference with its bootstrap interval: *yes* where the interval lies above 0, *no* where it ends
below `NEGLIGIBLE`, and *open* in between or on fewer than `FEWEST` images. Findings that disagree make *partly*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from attribution.evaluation.dummies import CONSTANT, FIXED_PLACE, OTHER_CLASS
from attribution.metrics.registry import METRICS

Content = Mapping[str, Any]  # of attribution.json
FEWEST = 20  # images, below which nothing is told
NEGLIGIBLE = 0.02  # a difference of scores from -1 or 0 to 1 that is too small to matter
OF_TRUTH = 0.5  # share of what the ground truth scores at the same grid that "on the right place" takes
IMAGE_ALONE = ("random", "centre", "edges")  # controls that know the image, not the model
OUTCOMES = ("no", "open", "yes")
MEANINGS = {"open": "The differences may be chance", "partly": "Some measures say yes, others no"}
QUESTIONS = {
    "Does it depend on the class?": {
        "yes": "It shows what speaks for this class, not only where something is",
        "no": "It marks for this class no more of what the model needs than for another",
        "not measured": "Measure --metrics faithfulness, or give images with two objects and their masks (--pairs)",
    },
    "Is it on the right place?": {
        "yes": "It points at the place more often than any map that ignores the model",
        "no": "It does not point at the place as it should",
        "not measured": "There is no ground truth: give masks of the objects (--masks)",
    },
    "Is it what the model used?": {
        "yes": "The model needs what it marks more than what any map marks that ignores the model",
        "no": "A map that ignores the model marks as much of what the model needs",
        "not measured": "Measure --metrics faithfulness",
    },
}
PREFIX = {"yes": "yes: ", "no": "no: ", "open": "cannot be told: "}
RECORDED = ("metric", "against", "mean", "low", "high", "images")  # fields of a finding in attribution.json


class Finding(NamedTuple):
    """A difference that answers a question: `mean`, `low` and `high` above 0 speak for the map."""

    metric: str
    against: str  # the control that comes closest
    mean: float
    low: float
    high: float
    images: int
    words: str
    far: bool = False  # whether it is "no" though the control is beaten: the ground truth is far better
    settle: str = ""  # what would settle an open one

    @property
    def outcome(self) -> str:
        """Return `yes`, `no` or `open`."""
        if self.images < FEWEST:
            return "open"
        if self.high <= NEGLIGIBLE or self.far:
            return "no"
        return "yes" if self.low > 0 else "open"


def verdict(content: Content) -> dict[str, Any]:
    """Return the verdict on the map that represents ICN.

    Returns:
        `map`, `label`, and `sentences`, each with `question`, `answer`, `meaning` of the answer, `figures` and `findings`.
    """
    findings = (_class_specific(content), _right_place(content), _used(content))
    sentences = [_sentence(question, found) for question, found in zip(QUESTIONS, findings, strict=True)]
    ours = content["ours"]
    return {"map": ours, "label": content["methods"][ours].get("label", ours), "sentences": sentences}


def _sentence(question: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the answer to a question: its meaning in plain words, then the findings, those that agree with it first."""
    outcomes, words = {finding.outcome for finding in findings}, QUESTIONS[question] | MEANINGS
    if not findings:
        return {"question": question, "answer": "not measured", "meaning": words["not measured"], "figures": "", "findings": []}
    answer = "partly" if {"yes", "no"} <= outcomes else "yes" if "yes" in outcomes else "no" if "no" in outcomes else "open"
    ordered = sorted(findings, key=lambda finding: finding.outcome != answer)
    parts = [PREFIX[finding.outcome] * (finding.outcome != answer) + finding.words for finding in ordered]
    figures = "; ".join([*parts, *([ordered[0].settle] if answer == "open" else [])])
    recorded = [{"outcome": finding.outcome, **{key: getattr(finding, key) for key in RECORDED}} for finding in findings]
    said = f"cannot be told from {ordered[0].images} images" if answer == "open" else answer
    return {"question": question, "answer": said, "meaning": words[answer], "figures": figures, "findings": recorded}


def _class_specific(content: Content) -> list[Finding]:
    findings = [_own_and_other(content)]
    lead = "SRG {ours}, with the same map of the most similar class {theirs}"
    findings.append(_against(content, "srg", [OTHER_CLASS], lead))
    lead = "share of peaks on the part that tells the class from a similar one {ours}, closest map of another class or none "
    lead += "({label}) {theirs}"
    findings.append(_against(content, "contrast_pointing", ["rollout_every_class", OTHER_CLASS], lead))
    return [finding for finding in findings if finding]


def _right_place(content: Content) -> list[Finding]:
    controls = [*IMAGE_ALONE, CONSTANT, FIXED_PLACE]
    lead = "share of peaks on {what} {ours}, closest control ({label}) {theirs}"
    places = {
        "contrast_pointing": ("the part that tells the class from a similar one", "evidence_oracle"),
        "pointing": ("the object", "oracle"),
    }
    findings = []
    for metric, (what, oracle) in places.items():
        finding = _against(content, metric, controls, lead.replace("{what}", what))
        truth = content["methods"].get(oracle, {}).get("metrics", {}).get(metric, {})
        if finding and truth.get("images"):
            ours = content["methods"][content["ours"]]["metrics"][metric]["mean"]
            far = finding.low > 0 and ours < OF_TRUTH * truth["mean"]
            words = f"{finding.words}, ground truth at this grid {truth['mean']:.2f}" + ", of which it has less than half" * far
            finding = finding._replace(words=words, far=far)
        findings.append(finding)
    return [finding for finding in findings if finding]


def _used(content: Content) -> list[Finding]:
    lead = "{metric} {ours}, closest control ({label}) {theirs}"
    findings = [_against(content, metric, IMAGE_ALONE, lead) for metric in ("srg", "deletion", "rd")]
    return [finding for finding in findings if finding]


def _own_and_other(content: Content) -> Finding | None:
    """Return the finding of images with two objects; a map that does not depend on the class has a difference of 0."""
    metrics = content.get("pairs", {}).get(content["ours"], {}).get("metrics", {})
    gap = metrics.get("hit_gap", {"images": 0})
    if not gap["images"]:
        return None
    own, other = (100 * metrics[name]["mean"] for name in ("own_hit", "other_hit"))
    words = f"of two objects in an image its peak lies on the class's own in {own:.0f} % and on the other in {other:.0f} %"
    finding = Finding("hit_gap", "", gap["mean"], gap["low"], gap["high"], gap["images"], f"{words}, {_range(**gap)}")
    return finding._replace(settle=_settle(finding, content))


def _against(content: Content, metric: str, controls: Sequence[str], lead: str) -> Finding | None:
    """Compare the map that represents ICN with that of the controls which comes closest to it, on the same images."""
    methods, row = content["methods"], METRICS[metric]
    sign = row.better or 1
    ours = methods[content["ours"]]["metrics"].get(metric, {"images": 0})
    findings = []
    for name in controls:
        theirs = methods.get(name, {}).get("metrics", {}).get(metric, {})
        gap = theirs.get("difference", {"images": 0})
        if not gap["images"]:
            continue
        low, high = sorted((sign * gap["low"], sign * gap["high"]))
        label = methods[name].get("label", name)
        text = lead.format(metric=row.label, ours=f"{ours['mean']:.2f}", label=label, theirs=f"{theirs['mean']:.2f}")
        words = f"{text}: {_range(sign * gap['mean'], low, high, gap['images'])}"
        findings.append(Finding(metric, name, sign * gap["mean"], low, high, gap["images"], words))
    if not findings:
        return None
    closest = min(findings, key=lambda finding: (OUTCOMES.index(finding.outcome), finding.mean))
    return closest._replace(settle=_settle(closest, content))


def _range(mean: float, low: float, high: float, images: int, **more: Any) -> str:
    """Return a difference in words: how much better or worse, with its interval."""
    if mean < 0:
        mean, low, high, word = -mean, -high, -low, "worse"
    else:
        word = "better"
    return f"{_digits(mean)} {word} ({_digits(low)} to {_digits(high)}, {images} images)"


def _digits(number: float) -> str:
    """Return two digits after the point, and three where the two would be 0."""
    return f"{number:.3f}" if 0 < abs(number) < 0.01 else f"{number:.2f}"


def _settle(finding: Finding, content: Content) -> str:
    """Return how many images would settle an open finding if its mean and its spread stay as they are."""
    distance = max(finding.mean, NEGLIGIBLE - finding.mean)  # from the end of the interval at which it is yes, or no
    needed = finding.images * ((finding.high - finding.low) / 2 / distance) ** 2
    needed = max(FEWEST, _round_up(needed) if finding.images >= FEWEST else 0)
    settings, known = content["settings"], f"about {needed} images would settle it"
    if METRICS[finding.metric].scope == "pairs":
        return f"{known} (more of them in --pairs)"
    if needed > settings["split_images"]:
        return f"{known}, the split has {settings['split_images']}"
    measured_on_few = finding.images < settings["images"] and METRICS[finding.metric].family == "planes"
    return f"{known} ({'--costly_images' if measured_on_few else '--images'} {needed})"


def _round_up(number: float) -> int:
    """Round up to two digits."""
    unit = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return math.ceil(number / unit) * unit
