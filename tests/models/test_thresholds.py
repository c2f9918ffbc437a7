"""Thresholds of refusal and of conformal sets: finite-sample guarantees, exact order statistics, and their measurement."""

from __future__ import annotations

import pytest
import torch

from models.checkpoint_format import KEPT, check_entries
from models.icn import ICNOutput
from models.thresholds import COVERAGES, SHARES, Thresholds, measure_batch, read_thresholds


def measured(count: int, classes: int = 4, seed: int = 0, loss: str = "ce") -> torch.Tensor:
    """What a noisy classifier gives for random images: `[N, 2 + C]`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1.5
    return measure_batch(ICNOutput(logits, logits), labels, loss, ranked=classes)


def test_rows_of_a_batch() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    (row,) = measure_batch(ICNOutput(logits, logits), torch.tensor([2]), "bce", "max_logit", ranked=2)
    sigmoids = logits.sigmoid()[0]
    assert row.tolist() == [2.0, float(sigmoids[2]), float(sigmoids[0]), float(sigmoids[1])]
    (right,) = measure_batch(ICNOutput(logits, logits), torch.tensor([0]), "bce")
    assert right.tolist() == [float(sigmoids[0]), 1.0]  # always in the set


def test_order_statistics_of_few_images_are_exact() -> None:
    """With n = 9 and a coverage of 0.9 the quantile is the ceil(10 * 0.9) = 9th score 1 - p: the least probability."""
    rows = measured(19)
    fitted = Thresholds.fit(rows, "val", "")
    true, known = rows[:, 1].double().sort().values.tolist(), rows[:, 0].double().sort().values.tolist()
    assert fitted.set_threshold(0.9) == true[1] and fitted.set_threshold(0.95) == true[0] and fitted.set_threshold(0.5) == true[9]
    assert fitted.refusal_threshold(0.05) == known[0] and fitted.refusal_threshold(0.1) == known[1]
    assert Thresholds.fit(rows[:9], "val", "").set_threshold(0.9) == rows[:9, 1].double().min()


def test_coverage_and_refusals_hold_on_average_over_calibrations() -> None:
    """Of further images the true class is in the set with a probability from 0.9 to 0.9 + 1 / (n + 1), for any classifier."""
    images, covered, refused = 49, [], []
    rows = measured(400 * (images + 1)).view(400, images + 1, -1)
    for part in rows:
        fitted = Thresholds.fit(part[:images], "val", "")
        covered.append(float(part[-1, 1]) >= fitted.set_threshold(0.9))
        refused.append(float(part[-1, 0]) < fitted.refusal_threshold(0.1))
    deviation = 4 * (0.9 * 0.1 / 400) ** 0.5
    assert 0.9 - deviation < sum(covered) / 400 < 0.92 + deviation
    assert sum(refused) / 400 < 0.1 + deviation and sum(refused) > 10


def test_of_many_images_fewer_are_kept_and_the_guarantee_stays() -> None:
    rows = measured(7321)
    fitted = Thresholds.fit(rows, "val", "")
    assert len(fitted.known) == len(fitted.true) == KEPT
    true = rows[:, 1].double().sort().values
    for coverage in COVERAGES:
        k = int((1 - coverage) * 7322 + 1e-9)
        place = int((true < fitted.set_threshold(coverage)).sum())
        assert k - 9 <= place <= k - 1  # never above the k-th smallest, and at most a kept one below


def test_too_few_images_and_impossible_values() -> None:
    fitted = Thresholds.fit(measured(18), "val", "")
    with pytest.raises(ValueError, match="coverage 0.95 needs at least 19 calibration images, the checkpoint has 18"):
        fitted.set_threshold(0.95)
    with pytest.raises(ValueError, match="refused 0.01 needs at least 99 calibration images"):
        fitted.refusal_threshold(0.01)
    for value in (0.0, 1.0, -1.0, 90.0, float("nan")):
        with pytest.raises(ValueError, match=r"coverage .* must lie between 0 and 1"):
            fitted.set_threshold(value)
        with pytest.raises(ValueError, match=r"refused .* must lie between 0 and 1"):
            fitted.refusal_threshold(value)


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_what_is_stated_is_measured_on_other_images(loss: str) -> None:
    fitted = Thresholds.fit(measured(4000, loss=loss), "val", "a")
    found = fitted.test(measured(4000, seed=1, loss=loss), "b")
    assert found.images == 4000 and not found.halved and "half" not in str(found)
    for share in SHARES:
        assert found.refused[share] == pytest.approx(share, abs=0.02)
    for coverage in COVERAGES:
        assert found.coverage[coverage] == pytest.approx(coverage, abs=0.02)
    sizes = [found.set_size[coverage] for coverage in COVERAGES]
    assert sizes == sorted(sizes) and 1 <= sizes[0] < sizes[-1] <= 4


def test_on_the_calibration_images_one_half_is_measured_by_the_other() -> None:
    rows = measured(40)
    fitted = Thresholds.fit(rows, "val", "a")
    found = fitted.test(rows, "a")
    assert found.halved and found.images == 20 and "one half of the images" in str(found)
    assert list(found.coverage) == [0.8, 0.9, 0.95] and list(found.refused) == [0.05, 0.1]  # 20 are too few for the others
    assert found.as_table()["coverage"].keys() == {"0.8", "0.9", "0.95"}
    assert str(Thresholds.fit(rows[:1], "val", "a").test(rows[:3], "b")) == "too few images"


def test_the_most_probable_class_is_in_every_set() -> None:
    rows = torch.tensor([[0.3, 1.0, 0.3, 0.25], [0.3, 0.25, 0.3, 0.25]]).repeat(5, 1)  # no probability reaches the threshold
    found = Thresholds.fit(torch.full((99, 2), 0.9), "val", "").test(rows, "b")
    assert found.set_size[0.9] == 1 and found.coverage[0.9] == 0.5 and found.refused[0.05] == 1


def test_sets_have_one_class_where_the_accuracy_is_above_the_coverage() -> None:
    accurate = measured(2000)
    accurate[: len(accurate) * 19 // 20, 1] = 1.0
    found = Thresholds.fit(accurate, "val", "a").test(accurate, "b")
    assert found.set_size[0.8] == found.set_size[0.9] == 1 and found.coverage[0.9] >= 0.95


def test_an_entry_of_a_checkpoint() -> None:
    fitted = Thresholds.fit(measured(30), "val", "a")
    check_entries({"thresholds": fitted.entry()}, "x.pth")
    assert read_thresholds(fitted.entry()) == fitted and read_thresholds(None) is None
    damaged = [
        {"known": [0.2, 0.1]}, {"true": fitted.true[:-1]}, {"known": [float("nan")] * 30}, {"images": 31}, {"images": -1},
        {"score": None}, {"more": 1}, {"known": []},
    ]  # fmt: skip
    for change in damaged:
        with pytest.raises(ValueError, match="the entry 'thresholds' is damaged"):
            check_entries({"thresholds": {**fitted.entry(), **change}}, "x.pth")
    with pytest.raises(ValueError, match="has thresholds of the score 'odin', this ICN knows max_probability"):
        read_thresholds({**fitted.entry(), "score": "odin"})
