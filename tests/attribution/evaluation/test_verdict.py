"""The verdict: every answer that its sentences can have, from numbers whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attribution.evaluation.audit import audit
from attribution.evaluation.summary import summarise
from attribution.evaluation.verdict import FEWEST, verdict
from attribution.report.tables import plain
from attribution.report.verdict import audit_markdown, audit_summary, verdict_lines

Scores = dict[str, tuple[float, float]]  # of a metric: mean and spread over images


def content(methods: dict[str, Scores], images: int = 64, pairs: dict[str, Scores] | None = None) -> dict[str, Any]:
    """Return the parts of an attribution.json with normal scores of each map; `additive` represents the model."""

    def values(scores: Scores) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        noise = rng.normal(size=images)
        noise = (noise - noise.mean()) / noise.std()
        return {name: mean + spread * noise for name, (mean, spread) in scores.items()}

    def entries(rows: dict[str, Scores]) -> dict[str, Any]:
        made = {name: values(scores) for name, scores in rows.items()}
        others = {name: made["additive"] if name != "additive" else None for name in made}
        return {name: {"metrics": summarise(made[name], None, others[name]), "per_image": made[name]} for name in made}

    kinds = {name: "own" if name == "additive" else "posthoc" if name == "gradcam" else "control" for name in methods}
    found = {name: {"label": f"map {name}", "family": kinds[name], "ground_truth": "oracle" in name, **entry}
             for name, entry in entries(methods).items()}  # fmt: skip
    settings = {"images": images, "split_images": 1000, "checkpoint": "c", "dataset": "d", "split": "val"}
    parts = {"settings": settings, "ours": "additive", "methods": found}
    return parts | ({"pairs": entries(pairs)} if pairs else {})


def answers(*arguments: Any, **options: Any) -> list[str]:
    return [sentence["answer"] for sentence in verdict(content(*arguments, **options))["sentences"]]


def test_a_good_map_a_bad_one_and_one_of_which_nothing_is_known() -> None:
    good = {"additive": {"srg": (0.5, 0.1), "pointing": (0.9, 0.1)}, "oracle": {"pointing": (1.0, 0.0)}}
    dummies = {name: {"srg": (0.1, 0.0), "pointing": (0.3, 0.0)} for name in ("other_class", "random", "centre", "edges")}
    assert answers({**good, **dummies}) == ["yes", "yes", "yes"]
    bad = {"additive": {"srg": (0.1, 0.01), "pointing": (0.3, 0.01)}}
    assert answers({**bad, **dummies}) == ["no", "no", "no"]
    assert answers({"additive": {"gini": (0.5, 0.1)}}) == ["not measured"] * 3
    assert answers({**good, **dummies}, images=FEWEST - 1) == [f"cannot be told from {FEWEST - 1} images"] * 3
    vague = {"additive": {"srg": (0.15, 1.0), "pointing": (0.35, 1.0)}}
    assert answers({**vague, **dummies}) == ["cannot be told from 64 images"] * 3


def test_the_control_that_comes_closest_decides_and_is_named_with_its_numbers() -> None:
    methods = {"additive": {"srg": (0.5, 0.1)}, "random": {"srg": (0.0, 0.0)}, "edges": {"srg": (0.6, 0.0)}}
    (_, _, used) = verdict(content(methods))["sentences"]
    assert used["answer"] == "no"
    assert used["meaning"] == "A map that ignores the model marks as much of what the model needs"
    assert used["figures"] == "SRG 0.50, closest control (map edges) 0.60: 0.10 worse (0.07 to 0.12, 64 images)"
    assert used["findings"][0]["against"] == "edges" and used["findings"][0]["mean"] == pytest.approx(-0.1)


def test_lower_deletion_is_better_and_findings_that_disagree_make_partly() -> None:
    methods = {"additive": {"srg": (0.5, 0.1), "deletion": (0.4, 0.1)}, "centre": {"srg": (0.2, 0.0), "deletion": (0.3, 0.0)}}
    (_, _, used) = verdict(content(methods))["sentences"]
    assert used["answer"] == "partly" and used["figures"].startswith("yes: SRG 0.50") and "; no: deletion 0.40" in used["figures"]
    assert "0.10 worse" in used["figures"]


def test_better_than_dummies_but_far_from_the_ground_truth_is_not_the_right_place() -> None:
    methods = {"additive": {"contrast_pointing": (0.24, 0.1)}, "random": {"contrast_pointing": (0.05, 0.0)}}
    assert answers(methods)[1] == "yes"
    (_, place, _) = verdict(content({**methods, "evidence_oracle": {"contrast_pointing": (0.94, 0.0)}}))["sentences"]
    assert place["answer"] == "no" and place["figures"].endswith("ground truth at this grid 0.94, of which it has less than half")


def test_images_with_two_objects_say_whether_a_map_depends_on_the_class() -> None:
    methods = {"additive": {"gini": (0.5, 0.1)}}
    for own, other, answer in ((0.95, 0.01, "yes"), (0.4, 0.4, "no")):
        scores = {"own_hit": (own, 0.1), "other_hit": (other, 0.1), "hit_gap": (own - other, 0.01)}
        found = verdict(content(methods, pairs={"additive": scores}))["sentences"][0]
        assert found["answer"] == answer and f"{100 * own:.0f} %" in found["figures"]


def test_how_many_images_would_settle_it() -> None:
    def text(mean: float, spread: float, images: int) -> str:
        methods = {"additive": {"srg": (mean, spread)}, "centre": {"srg": (0.0, 0.0)}}
        return verdict(content(methods, images=images))["sentences"][2]["figures"]

    (needed,) = [int(word.strip(")")) for word in text(0.1, 0.8, 64).split("--images ")[1:]]
    assert 1.96 * 0.8 / needed**0.5 == pytest.approx(0.1, rel=0.1)  # the end of the interval would be at 0
    assert "the split has 1000" in text(0.1, 3.0, 64)
    assert f"--images {FEWEST})" in text(0.5, 0.1, 5)


def test_the_audit_finds_the_dummy_that_wins() -> None:
    metrics: dict[str, Scores] = {
        "additive": {"srg": (0.5, 0.1), "rd": (0.6, 0.1), "deletion": (0.2, 0.1), "pointing": (0.4, 0.1)},
        "gradcam": {"srg": (0.4, 0.1), "rd": (0.5, 0.1), "deletion": (0.1, 0.1), "pointing": (0.2, 0.1)},
        "random": {"srg": (0.0, 0.0), "rd": (0.0, 0.0), "deletion": (0.11, 0.0), "pointing": (0.1, 0.0)},
        "rollout_every_class": {"srg": (0.3, 0.0), "rd": (0.7, 0.0), "deletion": (0.5, 0.0), "pointing": (0.5, 0.0)},
        "oracle": {"pointing": (1.0, 0.0)},
    }
    whole = content(metrics)
    whole["audit"] = found = audit(whole)
    assert {name: row["outcome"] for name, row in found.items()} == {
        "srg": "told apart", "rd": "dummy wins", "deletion": "open", "pointing": "dummy wins",
    }  # fmt: skip
    assert found["rd"]["best"]["map"] == "additive" and found["rd"]["dummy"]["map"] == "rollout_every_class"
    assert found["deletion"]["best"]["map"] == "gradcam" and found["deletion"]["difference"]["mean"] == pytest.approx(0.01)
    assert found["srg"]["main"] and not found["rd"]["main"]
    text = audit_markdown(whole)
    assert "| **a dummy wins** † |" in text and "the maps are at fault" in text  # the ground truth beats the dummy by `pointing`
    summary = audit_summary(whole)[2]
    assert "1 of 4 metrics" in summary and "A dummy wins: RD@5 %." in summary and "not the metric: pointing." in summary
    assert audit(plain(whole)).keys() == found.keys()  # from the file as from the arrays
    both = {name: {key: scores[key] for key in ("srg", "rd")} for name, scores in metrics.items() if "srg" in scores}
    few = audit(content(both, images=5))
    assert few["srg"]["outcome"] == "open" and few["rd"]["outcome"] == "dummy wins"


def test_sentences_in_markdown_and_nothing_of_older_files() -> None:
    whole = content({"additive": {"srg": (0.5, 0.1)}, "centre": {"srg": (0.2, 0.0)}})
    lines = verdict_lines({**whole, "verdict": verdict(whole)})
    assert lines[0] == "The model's own map, **map additive** (`additive`):"
    assert lines[4].startswith("3. **Is it what the model used? Yes.** The model needs what it marks more than what any map")
    assert "SRG 0.50, closest control (map centre) 0.20: 0.30 better (" in lines[4]
    assert "--masks" in lines[3] and "Not measured" in lines[3]
    assert verdict_lines(whole) == [] and audit_summary(whole) == []
