"""The table of expected hours and memory in docs/training.md."""

from __future__ import annotations

import pytest

from tools import recipe_costs
from tools.recipe_costs import DataSet, Network, hours, memory, read_numbers, recipe


def test_the_table_in_the_documentation_is_that_of_the_recipes() -> None:
    page = recipe_costs.PAGE.read_text(encoding="utf-8")
    rows = recipe_costs.table(["cub"]).splitlines()
    assert all(row in page for row in rows), "run `python -m tools.recipe_costs`"
    assert all(f"| `{name}` |" in page for name in recipe_costs.SETS)


def test_numbers_come_from_the_page_on_data() -> None:
    assert read_numbers("fgvc-aircraft") == DataSet(6667, 3333, 100) and read_numbers("oxford-flowers").scored == 1020


def test_hours_and_memory_by_hand() -> None:
    args = recipe("one_gpu_448", "cub")
    data, network = DataSet(16_000, 0, 100), Network(20e9, 40_000_000)
    assert hours(args, network, data) == pytest.approx(100 * 16_000 * 120e9 / 30e12 / 3600)
    assert hours(args.replace(num_workers=1), network, data) == pytest.approx(100 * 16_000 * 0.040 / 3600)  # waits for images
    four = recipe("four_gpus_448", "cub").replace(num_workers=16)  # 12 ms of exchange, 16 ms of computing
    assert hours(four, network, data, 4) == pytest.approx(100 * 1000 * (0.016 / 3 + 0.012) / 3600)
    assert memory(args, network, data) == pytest.approx(2.47 + 0.16e9 / 2**30 + 1)
    assert memory(args, network, data._replace(classes=555)) == pytest.approx(2.47 + 4 * 0.47 + 0.16e9 / 2**30 + 1)
