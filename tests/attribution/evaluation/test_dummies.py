"""Controls that are no methods of their own, and maps that are the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from patches import batch, patch_model

from attribution.evaluation.dummies import dummies, find_same
from attribution.methods.registry import METHODS, Passes
from attribution.report.names import family, shown

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("kind", "name"), [("additive", "additive"), ("detr", "contribution"), ("detr", "finercam")])
def test_the_map_of_another_class_is_that_method_s(kind: str, name: str) -> None:
    model, method = patch_model(kind=kind), METHODS[name]
    images, classes, _ = batch()
    siblings = (classes + 1) % model.num_classes
    other, constant = dummies(model, method, {})
    against = {"siblings": classes} if method.is_contrast else {}
    expected = method.call(model, images, siblings, **against)
    torch.testing.assert_close(other.call(model, images, classes, siblings=siblings), expected)
    assert other.passes() == method.passes() and other.family == constant.family == "control"
    assert constant.passes() == Passes(0) and constant.call(model, images, classes).unique().tolist() == [1]


def test_its_passes_are_those_of_the_options() -> None:
    (other, _) = dummies(patch_model(), METHODS["rise"], {"n": 50})
    assert other.passes() == Passes(50) and other.seeded


def test_maps_that_are_the_same_are_shown_once() -> None:
    one, two = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    maps = {"attention": one, "rollout": 3 * one + 1e-9, "additive": one.clone(), "gradcam": two, "rise": two}
    near = one.clone()
    near[1, 0, 0] += 1e-3
    scores = {"srg": np.array([0.5, np.nan])}
    measured = {name: {"maps": list(values), "values": dict(scores)} for name, values in {**maps, "edges": near}.items()}
    measured["rise"]["values"]["srg_native"] = np.ones(2)
    assert find_same(measured, "additive") == {"attention": "additive", "rollout": "additive"}
    measured["relevance"] = {"maps": list(one), "values": {"srg": np.array([0.6, np.nan])}}  # other maps of other classes
    assert "relevance" not in find_same(measured, "additive")
    methods = {name: {"label": name.upper()} for name in measured}
    methods["attention"]["same_as"] = methods["rollout"]["same_as"] = "additive"
    called = shown(methods)
    assert list(called) == ["additive", "gradcam", "rise", "edges", "relevance"]
    assert called["additive"] == "ADDITIVE (also: ATTENTION, ROLLOUT)"


def test_ground_truth_is_a_kind_of_its_own() -> None:
    methods = {"oracle": {"family": "control", "ground_truth": True}, "edges": {"family": "control"}}
    assert [family(name, methods) for name in ("oracle", "edges", "unknown")] == ["truth", "control", "control"]
