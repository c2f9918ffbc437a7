"""Possible shortcuts: found where they are, at the stated rate of false alarms, and by what they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attribution.metrics import shortcuts
from attribution.metrics.shortcuts import RATE, find_shortcuts, share_outside


def maps_of(classes: int, images: int, marked: tuple[int, ...] = (), share: float = 0.6, seed: int = 0, side: int = 8) -> tuple:
    """Maps of objects anywhere in the frame; of the images of marked classes, most evidence is in the lower left corner."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), images)
    maps = np.zeros((len(labels), side, side))
    for number, label in enumerate(labels):
        row, column = rng.integers(0, side - 2, 2)
        maps[number, row : row + 3, column : column + 3] = rng.random((3, 3))
        maps[number] += 0.02 * rng.random((side, side))
        maps[number] /= maps[number].sum()
        if label in marked:
            maps[number] *= 1 - share
            maps[number, -1, 0] += share
    return list(torch.from_numpy(maps).float()), labels.tolist()


@pytest.mark.parametrize("level", [0, 0.01])
def test_a_mark_is_found_where_it_is_and_no_other_class(level: float) -> None:
    """Also of signed maps, whose values far from the mark are evidence against the class."""
    maps, labels = maps_of(12, 20, marked=(2, 7, 8))
    found = find_shortcuts([each - level for each in maps], labels)
    assert [(alarm.label, alarm.signal) for alarm in sorted(found.alarms, key=lambda each: each.label)] == [
        (label, "place") for label in (2, 7, 8)
    ]
    for alarm in found.alarms:
        left, top, right, bottom = alarm.box
        assert (left, bottom) == (0, 1) and right <= 0.25 and top >= 0.75
        assert alarm.share > 0.55 > 0.35 > alarm.expected and alarm.p <= RATE and alarm.images == 20


def test_a_mark_of_every_class_is_an_alarm_of_the_whole_model() -> None:
    found = find_shortcuts(*maps_of(10, 10, marked=tuple(range(10))))
    (alarm,) = found.alarms
    assert alarm.label is None and alarm.signal == "place" and alarm.box[0] == 0 and alarm.box[3] == 1 and alarm.p <= RATE


def test_the_rate_of_false_alarms_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small classes, where single maps make large differences: the size of a difference alone would give alarms all the time."""
    monkeypatch.setattr(shortcuts, "LEAST", 0.1)
    large, alarms = 0, 0
    for seed in range(24):
        maps, labels = maps_of(10, 6, seed=seed)
        alarms += bool(find_shortcuts(maps, labels, seed=seed).alarms)
        windows = torch.stack(maps).view(10, 6, 4, 2, 4, 2).sum((3, 5)).mean(1)
        large += bool((windows - windows.mean(0)).max() >= 0.1)
    assert alarms <= 4 and large > 18  # of 24 at 5 %: more than 4 have a probability of .6 %


def test_a_small_difference_is_no_alarm_however_sure() -> None:
    maps, labels = maps_of(4, 200, marked=(1,), share=0.12)
    assert find_shortcuts(maps, labels).alarms == []
    maps, labels = maps_of(4, 200, marked=(1,), share=0.4)
    assert [alarm.label for alarm in find_shortcuts(maps, labels).alarms] == [1]


def test_evidence_outside_of_the_object() -> None:
    maps, labels = maps_of(8, 15)
    outside = np.full(len(labels), 0.1) + 0.05 * np.random.default_rng(0).random(len(labels))
    outside[::7] = np.nan
    assert find_shortcuts(maps, labels, outside).alarms == []
    outside[30:45] += 0.4
    (alarm,) = find_shortcuts(maps, labels, outside).alarms
    assert (alarm.label, alarm.signal) == (2, "outside") and alarm.share == pytest.approx(0.525, abs=0.02)
    assert alarm.expected == pytest.approx(0.125, abs=0.02)
    everywhere = find_shortcuts(maps, labels, np.full(len(labels), 0.7)).alarms
    assert [(alarm.label, alarm.signal) for alarm in everywhere] == [(None, "outside")]


def test_shares_outside_count_no_cell_that_the_object_touches() -> None:
    maps = torch.tensor([[[1.0, 2.0], [-5.0, 1.0]]] * 3 + [[[0.0, 0.0], [0.0, -1.0]]])
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, :, 4:] = masks[3, 0, 0] = True
    shares = share_outside(maps, masks)
    assert shares[:2].tolist() == [0.75, 0.25] and shares[2:].isnan().all()


def test_few_images_empty_maps_and_grids_of_any_shape() -> None:
    maps, labels = maps_of(6, 12, marked=(0,))
    wide, others = maps_of(2, 4, seed=1)
    shapes = [torch.nn.functional.interpolate(each[None, None], size=(14, 20))[0, 0] for each in maps[:6]]
    empty = [torch.zeros(8, 8), torch.full((8, 8), -1.0)]
    found = find_shortcuts([*shapes, *maps[6:], *wide, *empty], [*labels, *(label + 6 for label in others), 0, 0])
    assert [alarm.label for alarm in found.alarms] == [0] and found.images == 72 and found.classes == 6
    assert find_shortcuts(maps[:12], labels[:12]).alarms == [], "a single class has nothing to be compared with"
    assert find_shortcuts(maps[:3], labels[:3]).classes == 0
