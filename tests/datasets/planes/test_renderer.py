"""Factorial planes: what is said to be known about the pictures is so, and nothing but the parts tells the class."""

from __future__ import annotations

import itertools
from collections import Counter

import cv2
import numpy as np
import pytest

from datasets.planes import PARTS, SLOTS, counterfactual, get_preset, render
from datasets.planes.presets import ROUNDELS
from datasets.planes.renderer import Render, difference_mask
from datasets.planes.scene import draw_scene

F16 = get_preset("f16")
BASE = {"nose": "round", "engines": "underwing", "wingtip": "winglet", "tail": "low"}
PROBE_SIZE = 64


@pytest.fixture(scope="module")
def renders() -> list[Render]:
    """The classes of f16 in turn, each picture with its own seed."""
    classes = list(F16.classes.values())
    return [render(classes[i % len(classes)], 10_000 + i, PROBE_SIZE) for i in range(960)]


def colour_histogram(image: np.ndarray) -> np.ndarray:
    """Share of the pixels in each of 4 x 4 x 4 colour bins: [64]."""
    bins = (image >> 6).reshape(-1, 3) @ np.array([16, 4, 1])
    return np.bincount(bins, minlength=64) / bins.size


def probe(features: np.ndarray, labels: np.ndarray) -> float:
    """Held-out accuracy of a linear probe (ridge regression on one-hot labels), four folds. features [N, F], labels [N]."""
    x = (features - features.mean(0)) / (features.std(0) + 1e-9)
    x, y = np.column_stack([x, np.ones(len(x))]), np.eye(labels.max() + 1)[labels]
    fold, correct = np.arange(len(x)) * 4 // len(x), 0
    for held in range(4):
        seen, unseen = x[fold != held], x[fold == held]
        weight = np.linalg.solve(seen.T @ seen + np.eye(x.shape[1]), seen.T @ y[fold != held])  # [F + 1, classes]
        correct += int(((unseen @ weight).argmax(1) == labels[fold == held]).sum())
    return correct / len(x)


# Presets


@pytest.mark.parametrize(
    ("name", "count"), [("f16", 16), ("f81", 81), ("f8", 8), ("pair-nose", 2), ("pair-tail", 2), ("shortcut-0.9", 16)]
)
def test_classes_are_the_full_factorial(name, count):
    classes = get_preset(name).classes
    assert len(classes) == count == len({tuple(v.values()) for v in classes.values()})
    assert list(classes) == sorted(classes)
    for slot, variants in get_preset(name).slots.items():
        uses = Counter(v[slot] for v in classes.values())
        assert set(uses) == set(variants) and len(set(uses.values())) == 1
        for v in classes.values():  # a sibling that differs in this slot alone
            siblings = [w for w in classes.values() if all((w[s] != v[s]) == (s == slot) for s in SLOTS)]
            assert len(siblings) == len(variants) - 1


@pytest.mark.parametrize("name", ["f17", "", "pair-wing", "shortcut", "shortcut-2", "shortcut-nan", "F16"])
def test_wrong_preset_says_what_is_allowed(name):
    with pytest.raises(ValueError, match="f16, f81, f8, pair-nose.*shortcut-<rate>"):
        get_preset(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({**BASE, "nose": "flat"}, 1), "round, pointed, drooped"),
        (({**BASE, "wheels": "two"}, 1), "unknown slot 'wheels'"),
        (({"nose": "round"}, 1), "lack engines, wingtip, tail"),
        ((BASE, -1), "z is -1"),
        ((BASE, 1, 20), "at least 48"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        render(*arguments)


def test_roundel_goes_with_the_class_at_its_rate():
    preset = get_preset("shortcut-0.8")
    names = list(preset.classes)
    worn = [(i % 16, preset.roundel_of(names[i % 16], i)) for i in range(4000)]
    assert np.mean([c == r for c, r in worn]) == pytest.approx(0.8, abs=0.025)
    strangers = Counter(r for c, r in worn if c != r)
    assert len(strangers) == len(ROUNDELS) and max(strangers.values()) < 3 * min(strangers.values())
    assert F16.roundel_of(names[0], 1) is None


# Ground truth


def footprint(difference: np.ndarray, z: int) -> np.ndarray:
    """How far a change inside `difference` [H, W] reaches in the final picture: grown by the blur, then to JPEG blocks of 8."""
    radius = draw_scene(z).sensor.blur_radius
    grown = cv2.dilate(difference.astype(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    height, width = grown.shape
    padded = np.pad(grown, ((0, -height % 8), (0, -width % 8)))
    blocks = padded.reshape(padded.shape[0] // 8, 8, -1, 8).max(axis=(1, 3)) > 0
    return np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1)[:height, :width]


def swaps() -> list[tuple[str, str | None, str | None]]:
    variants = {slot: (*options, None) for slot, options in SLOTS.items()}
    return [(slot, a, b) for slot, options in variants.items() for a, b in itertools.combinations(options, 2)]


@pytest.mark.parametrize(("slot", "first", "second"), swaps())
def test_outside_the_evidence_pixels_are_identical(slot, first, second):
    rng = np.random.default_rng(len(slot))
    for z in rng.integers(2**48, size=8).tolist():
        others = {s: options[rng.integers(3)] for s, options in SLOTS.items()}
        a, b = {**others, slot: first}, {**others, slot: second}
        clean = render(a, z, 80, sensor=False)
        evidence = difference_mask(clean.record, b)
        changed = (clean.image != render(b, z, 80, sensor=False).image).any(axis=2)
        assert not changed[~evidence].any()
        final = (render(a, z, 80).image != render(b, z, 80).image).any(axis=2)
        reach = footprint(evidence, z)
        assert not final[~reach].any() and not evidence[~reach].any()
        if {first, second} == {"plain", None}:  # an absence and a removal are the same picture
            assert not evidence.any() and not final.any()
        else:
            assert changed.any() and changed.sum() > 0.15 * evidence.sum()


def test_evidence_is_the_union_of_the_masks_of_both_renders():
    a, b = render(BASE, 5, 96), render({**BASE, "nose": "pointed", "tail": "twin"}, 5, 96)
    expected = a.amodal["nose"] | b.amodal["nose"] | a.amodal["tail"] | b.amodal["tail"]
    assert (difference_mask(a.record, b.record["variants"]) == expected).all()
    plain = counterfactual(a.record, wingtip="plain")
    assert "wingtip" not in plain.amodal and "wingtip" not in plain.record["boxes"]
    assert (difference_mask(plain.record, {"wingtip": "winglet"}) == a.amodal["wingtip"]).all()


def test_siblings_differ_by_enough_pixels_at_128():
    for slot, (first, second) in ((s, v) for s, v in F16.slots.items()):
        areas = []
        for z in range(30):
            a = render({**BASE, slot: first}, z, 128, sensor=False).image.astype(int)
            b = render({**BASE, slot: second}, z, 128, sensor=False).image.astype(int)
            areas.append((np.abs(a - b).max(axis=2) > 16).sum())
        assert np.median(areas) > 12 * 12, slot


def test_removed_part_is_gone_and_nothing_else_changes():
    full = render({**BASE, "wingtip": "fence"}, 11, 96, sensor=False)
    for slot in SLOTS:
        bare = counterfactual(full.record, **{slot: None})
        assert slot not in bare.amodal and PARTS.index(slot) + 1 not in bare.parts
        outside = ~full.amodal[slot]
        assert (bare.image == full.image)[outside].all() and (bare.parts == full.parts)[outside].all()
        for part in bare.amodal:
            assert (bare.amodal[part] == full.amodal[part]).all()


def test_roundel_changes_only_its_own_pixels():
    clean = render(BASE, 3, 96, sensor=False)
    worn = counterfactual(clean.record, roundel=4)
    changed = (clean.image != worn.image).any(axis=2)
    assert changed.any() and not changed[~worn.amodal["roundel"]].any()
    assert worn.record["roundel"] == 4 and "roundel" not in clean.amodal


# Parts


def test_every_part_is_seen_and_inside_the_frame():
    rng = np.random.default_rng(3)
    diagonals = [{slot: options[i] for slot, options in SLOTS.items()} for i in range(3)]
    for z, variants in itertools.product(rng.integers(2**48, size=100).tolist(), diagonals):
        drawn = render(variants, z, PROBE_SIZE, roundel=0, sensor=False)
        for part, share in drawn.record["visible"].items():
            assert share >= 0.6 or part in ("fuselage", "wings"), (part, variants, z)
            x0, y0, x1, y1 = drawn.record["boxes"][part]
            assert 0 < x0 < x1 < PROBE_SIZE and 0 < y0 < y1 < PROBE_SIZE


def test_maps_boxes_and_key_points_agree(renders):
    for drawn in renders[:64]:
        assert drawn.image.shape == (PROBE_SIZE, PROBE_SIZE, 3) and drawn.image.dtype == drawn.parts.dtype == np.uint8
        for part, mask in drawn.amodal.items():
            assert not ((drawn.parts == PARTS.index(part) + 1) & ~mask).any()
            ys, xs = np.nonzero(mask)
            assert drawn.record["boxes"][part] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            x, y = drawn.record["keypoints"][part]
            assert mask[int(y), int(x)]
        assert (drawn.mask == (drawn.parts > 0)).all()


# Nothing but the parts tells the class


def test_colours_do_not_tell_the_class(renders):
    features = np.array([colour_histogram(r.image) for r in renders])
    labels = np.arange(len(renders)) % 16
    assert probe(features, labels) < 1 / 16 + 0.035
    for slot, options in F16.slots.items():
        assert probe(features, np.array([options.index(r.record["variants"][slot]) for r in renders])) < 0.57, slot
    leaking = features.copy()
    leaking[np.arange(len(labels)), 4 * labels] += 0.01  # the probe would see a colour of its own for each class
    assert probe(leaking, labels) > 0.3


def test_silhouette_area_hardly_tells_the_class(renders):
    """A winglet adds a tenth to an aeroplane, which the scale drowns: a bound on what is left."""
    area, powers = np.array([[r.mask.mean()] for r in renders]), np.array([[0.5, 1.0, 2.0]])
    assert probe(area**powers, np.arange(len(renders)) % 16) < 1 / 16 + 0.06
    for slot, options in F16.slots.items():
        assert probe(area**powers, np.array([options.index(r.record["variants"][slot]) for r in renders])) < 0.64, slot
    round_nose = np.array([r.record["variants"]["nose"] == "round" for r in renders]).astype(int)
    leaking = area * (1 + 0.6 * round_nose[:, None])  # the probe would see a leak
    assert probe(leaking**powers, round_nose) > 0.66


def test_the_mean_position_of_the_evidence_does_not_hit_it(renders):
    """A map that always points where the evidence is on average: at most .15 above the evidence's share of the area in a slot
    (engines are never far from the middle), and at most .05 above it over the slots."""
    gains = []
    for slot, options in F16.slots.items():
        records = [r.record for r in renders[:320]]
        masks = np.array([difference_mask(r, {slot: options[r["variants"][slot] == options[0]]}) for r in records])
        centres = [np.argwhere(mask).mean(axis=0) for mask in masks]
        y, x = np.mean(centres, axis=0).round().astype(int)
        gains.append(masks[:, y, x].mean() - masks.mean())
        assert gains[-1] < 0.15, slot
    assert np.mean(gains) < 0.05


# Determinism


def test_same_seed_same_bytes_other_seed_other_picture():
    first = render(BASE, 2**52 + 1, 96)
    cv2.setRNGSeed(7)
    np.random.seed(7)
    second = render(BASE, 2**52 + 1, 96)
    assert first.image.tobytes() == second.image.tobytes() and first.parts.tobytes() == second.parts.tobytes()
    assert first.record == second.record
    assert (render(BASE, 2**52 + 2, 96).parts != first.parts).any()


def test_scene_does_not_depend_on_the_size():
    small, large = render(BASE, 9, 64), render(BASE, 9, 192)
    for part, (x0, y0, x1, y1) in small.record["boxes"].items():
        assert np.abs(np.array(large.record["boxes"][part]) / 3 - (x0, y0, x1, y1)).max() < 1.7
