"""The registry of metrics: a row is enough for a metric to be measured, written, tabled, drawn and documented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import COLOURS, make_images

from attribution.metrics.metric import Metric
from attribution.metrics.registry import MAIN, METRICS, families, find_metric, sections
from tests.tools.test_evaluate_attribution import checkpoint
from tools.evaluate_attribution import get_args_parser, main
from util.cli import parse

pytestmark = pytest.mark.usefixtures("one_thread")


def measure(tmp_path: Path, decoder: str, methods: str, metrics: str) -> dict[str, Any]:
    """Measure the maps of an untrained model on three images; returns and writes (to `out`) what the tool does."""
    make_images(tmp_path / "colours", {"val": 1}, COLOURS, (48, 48))
    resume = checkpoint(tmp_path / f"{decoder}.pth", sorted(COLOURS), decoder)
    words = ["--resume", resume, "--dataset_path", tmp_path, "--dataset_name", "colours", "--output_dir", tmp_path / "out"]
    words += ["--device", "cpu", "--num_workers", 0, "--methods", methods, "--metrics", metrics]
    return main(parse(get_args_parser(), [str(word) for word in words]))


def test_a_metric_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Metric(
        "positive_mass", "mass", lambda batch: batch.maps.clamp(min=0).sum((1, 2)), "positive mass", "sum of the positive values",
        section="Mass", native=True, main="both", bar=True,
    )  # fmt: skip
    monkeypatch.setitem(METRICS, row.name, row)
    content = measure(tmp_path, "additive", "rise,gradcam", "mass,native")

    written = json.loads((tmp_path / "out" / "attribution.json").read_text())
    for found in (content, written):
        assert found["settings"]["metrics"] == ["mass", "native"]
        columns = found["methods"]["rise"]["per_image"]
        assert len(columns["positive_mass"]) == 3 and min(columns["positive_mass"]) > 0
        assert (
            len(columns["positive_mass_native"]) == 3 and "positive_mass_native" not in found["methods"]["gradcam"]["per_image"]
        )
    text = (tmp_path / "out" / "attribution.md").read_text()
    assert "## Mass" in text and "| map | kind | positive mass | positive mass, native |" in text
    assert "- positive mass: sum of the positive values" in text
    assert "## evidence of each cell against the others" in text and "| map | positive mass |" in text


def test_a_metric_of_models_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Metric(
        "margin", "margin", lambda batch: {"margin": {"top": batch.inference(batch.images).logits.amax(1)}}, "margin",
        "highest logit", section="The model", scope="model",
    )  # fmt: skip
    monkeypatch.setitem(METRICS, row.name, row)
    content = measure(tmp_path, "none", "additive", "margin")
    assert content["model"]["margin"]["top"]["images"] == 3
    text = (tmp_path / "out" / "attribution.md").read_text()
    assert "| margin: top |" in text and "- margin: highest logit" in text


def test_every_row_is_found_by_its_columns() -> None:
    for name, metric in METRICS.items():
        assert find_metric(name) is metric and name in families()[metric.family] and metric.meaning
    assert find_metric("pointing_native").label == "pointing, native" and find_metric("contrast_pointing/tail").label == "tail"
    with pytest.raises(KeyError):
        find_metric("nothing")


def test_tables_hold_the_main_columns_of_their_section_in_order_and_no_more_than_fit() -> None:
    tables = sections("maps")
    assert tables["Faithfulness"] == ["srg", "insertion", "deletion"]
    assert tables["On the object"] == ["pointing", "energy", "pointing_native"]
    assert sections("pairs")["Two objects in an image"] == ["own_hit", "other_hit", "hit_gap", "own_hit_native"]
    assert all(len(names) <= MAIN for scope in ("maps", "pairs") for names in sections(scope).values())
    assert sum(metric.bar for metric in METRICS.values()) <= MAIN and not METRICS["rd"].main


def test_metrics_that_share_a_function_compute_it_once() -> None:
    shared = {metric.compute for metric in METRICS.values() if metric.family == "planes"}
    assert len(shared) == 1 and METRICS["srg"].compute is METRICS["deletion"].compute
