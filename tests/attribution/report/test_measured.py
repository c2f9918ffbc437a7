"""What a report shows of an attribution.json, and of one of an older version."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from attribution.evaluation.audit import audit
from attribution.evaluation.verdict import verdict
from attribution.report.measured import measured_maps
from attribution.report.tables import markdown, section, write_json
from attribution.report.whole_table import write_whole_table
from tests.attribution.evaluation.test_verdict import content

METRICS = {"srg": (0.5, 0.1), "rd": (0.6, 0.1), "insertion": (0.4, 0.1), "deletion": (0.2, 0.1)}
BLIND = {"srg": (0.2, 0.0), "rd": (0.7, 0.0), "insertion": (0.5, 0.0), "deletion": (0.3, 0.0)}


def test_verdict_main_columns_all_columns_and_audit(tmp_path: Path) -> None:
    whole = {**content({"additive": METRICS, "gradcam": METRICS, "rollout_every_class": BLIND}), "images": [{}] * 64}
    whole["methods"]["gradcam"]["same_as"] = "additive"
    whole |= {"verdict": verdict(whole), "audit": audit(whole)}
    write_json(tmp_path / "attribution.json", whole)
    found = measured_maps(json.loads((tmp_path / "attribution.json").read_text()))
    assert [sentence["answer"] for sentence in found["verdict"]["sentences"]] == ["not measured", "not measured", "not measured"]
    assert found["main"]["columns"] == ["SRG ↑"] and len(found["all"]["columns"]) == 4
    names = [row["name"] for row in found["main"]["rows"]]
    assert names == ["map additive (also: map gradcam)", "map rollout_every_class"]
    assert found["main"]["rows"][0]["ours"] and found["main"]["rows"][1]["kind"] == "control"
    assert {row["metric"]: row["outcome"] for row in found["audit"]["rows"]}["RD@5 % ↑"] == "a dummy wins"
    older = {key: value for key, value in whole.items() if key not in ("verdict", "audit")}
    assert measured_maps(older)["verdict"] is None and measured_maps(older)["audit"]["rows"] == []


def test_parts_are_on_the_page_with_a_gap_where_a_region_has_no_score() -> None:
    rows = {
        "attention of the heads": {"pixel_nmi": {"mean": 0.2, "low": 0.1, "high": 0.3}},
        "fixed grid": {"point_nmi": {"mean": 0.4}},
    }
    parts = {"images": 9, "key_points": 30, "names": ["tail", "wing"], "regions": 4, "rows": rows}
    found = measured_maps({**content({"additive": METRICS}), "images": [{}], "parts": parts})["parts"]
    assert [column["title"] for column in found["columns"]] == ["NMI, pixels ↑", "NMI, key points ↑"]
    assert [row["values"] for row in found["rows"]] == [[0.2, None], [None, 0.4]]
    assert "9 pictures, 30 key points of 2 parts" in found["about"]


def test_a_metric_that_a_dummy_wins_is_marked_in_its_table() -> None:
    whole = content({"additive": METRICS, "rollout_every_class": BLIND})
    rows = {name: entry["metrics"] for name, entry in whole["methods"].items()}
    plain = "\n".join(section("Faithfulness", rows, ["srg", "insertion"], whole))
    assert "†" not in plain
    marked = section("Faithfulness", rows, ["srg", "insertion"], {**whole, "audit": audit(whole)})
    assert "| map | kind | SRG ↑ | insertion ↑ † |" in marked[2] and "audit.md" in marked[-2]


def test_a_map_that_equals_another_is_one_row_and_all_are_in_the_whole_table(tmp_path: Path) -> None:
    whole = content({"additive": METRICS, "gradcam": METRICS})
    whole["methods"]["gradcam"]["same_as"] = "additive"
    whole["settings"] |= {"decoder": "additive", "grid": [4, 5], "steps": 4}
    text = markdown({**whole, "model": {"accuracy": 0.5}})
    assert "| **map additive (also: map gradcam)** |" in text and "| map gradcam |" not in text
    write_whole_table(whole, tmp_path / "attribution.csv")
    with (tmp_path / "attribution.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["map"] == "gradcam"]
    assert [row["metric"] for row in rows] == list(METRICS) and {row["same_as"] for row in rows} == {"additive"}
    assert rows[0]["difference"] == "0" and rows[0]["images"] == "64"
