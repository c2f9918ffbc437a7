"""What is exact on planes: judged with a classifier that is known, and maps that are right, wrong or blind by construction."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from attribution.planes.ground_truth import difference_mask, part_masks, present_parts, score_renders, sibling
from attribution.planes.metrics import PlanesMetrics
from datasets.planes import SLOTS, counterfactual, get_preset
from datasets.planes.dataset import PlanesSplit, export, is_planes, open_planes

SIZE = 48
WEIGHTS = {"nose": 3.0, "engines": 1.5, "wingtip": 1.0, "tail": 0.5}
ROUNDEL = 5.0


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for name, image_format in (("f16", "png"), ("f8", "jpg"), ("shortcut-0.5", "png"), ("pair-tail", "png"), ("f81", "png")):
        made[name] = tmp_path_factory.mktemp("planes") / name
        export(made[name], get_preset(name), SIZE, {"val": 12}, image_format=image_format)
    return made


class Ideal:
    """A classifier that sees the variants: the logit of a class is the sum of the weights of its parts that are there."""

    def __init__(self, split: PlanesSplit, monkeypatch: pytest.MonkeyPatch) -> None:
        self.split, self.seen = split, 0
        monkeypatch.setattr("attribution.planes.ground_truth.counterfactual", self.draw)

    def draw(self, record, **swap):
        """Instead of a picture: the variants and the roundel as numbers."""
        variants = {**record["variants"], **{slot: swap[slot] for slot in swap if slot in SLOTS}}
        code = [0 if variants[slot] is None else 1 + SLOTS[slot].index(variants[slot]) for slot in SLOTS]
        roundel = swap.get("roundel", record["roundel"])
        return SimpleNamespace(image=np.array([*code, 255 if roundel is None else roundel], np.uint8)[None, None])

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        codes, logits = images[:, :, 0, 0], torch.zeros(len(images), len(self.split.classes))
        self.seen += len(images)
        for index, name in enumerate(self.split.classes):
            wanted = [1 + SLOTS[slot].index(v) for slot, v in self.split.preset.classes[name].items()]
            for column, (slot, variant) in enumerate(zip(SLOTS, wanted, strict=True)):
                absent = slot == "wingtip" and variant == 1  # plain: nothing there, and none is removed
                right = codes[:, column] <= 1 if absent else codes[:, column] == variant
                logits[:, index] += WEIGHTS[slot] * right
            logits[:, index] += ROUNDEL * (codes[:, 4] == index)
        return logits

    def metrics(self, **options) -> PlanesMetrics:
        paths = sorted(self.split.root / file for file in self.split.records)
        return PlanesMetrics(self.split, paths, torch.Tensor.float, self, **options)


@pytest.fixture(scope="module")
def ideal(roots):
    """Name of a preset -> its metrics, of the ideal classifier; made once."""
    with pytest.MonkeyPatch.context() as patch:
        return {name: Ideal(open_planes(root, "val"), patch).metrics() for name, root in roots.items() if name != "f81"}


# The truth of a picture


def test_records_evidence_and_siblings(roots):
    split = open_planes(roots["f16"], "val")
    assert is_planes(roots["f16"]) and not is_planes(roots["f16"] / "val") and split.slots == tuple(SLOTS)
    for file in split.records:
        record = split.record(roots["f16"] / file)
        assert record["file"] == file and split.classes[split.label(record["variants"])] == Path(file).parent.name
        for slot in split.slots:
            other = sibling(split.preset, record, slot)
            assert [s for s in SLOTS if other[s] != record["variants"][s]] == [slot]
            region = difference_mask(record, other)
            masks = (part_masks(record).get(slot), counterfactual(record, **other).amodal.get(slot))
            assert (region == np.logical_or.reduce([mask for mask in masks if mask is not None])).all()


def test_masks_of_any_size_lie_in_the_same_place(roots):
    record = next(iter(open_planes(roots["f16"], "val").records.values()))
    near = np.ones((3, 3), np.uint8)
    for draw in (lambda size: difference_mask(record, {"nose": "pointed"}, size), lambda size: part_masks(record, size)["tail"]):
        small, large = draw(64), draw(192)
        share = large.reshape(64, 3, 64, 3).mean((1, 3))
        grown = cv2.dilate(small.astype(np.uint8), near) > 0
        assert large.shape == (192, 192) and small[share > 0.99].all() and not share[~grown].any()


def test_siblings_of_three_variants_alternate(roots):
    split = open_planes(roots["f81"], "val")
    records = [{"variants": {"nose": "round"}, "z": 3 * i} for i in range(4)]
    assert [sibling(split.preset, record, "nose")["nose"] for record in records] == ["pointed", "drooped"] * 2


def test_order_of_the_logits_is_the_models(roots):
    names = list(get_preset("f16").classes)[::-1]
    split = open_planes(roots["f16"], "val", names)
    record = next(iter(split.records.values()))
    assert names[split.label(record["variants"])] == record["class"]


@pytest.mark.parametrize("name", ["f16", "f8"])
def test_changed_picture_is_found(roots, name, tmp_path):
    shutil.copytree(roots[name], tmp_path / name)
    split = open_planes(tmp_path / name, "val")
    paths = [split.root / file for file in list(split.records)[:2]]

    def build() -> PlanesMetrics:
        return PlanesMetrics(split, paths, torch.Tensor.float, lambda images: torch.zeros(len(images), len(split.classes)))

    build()
    paths[1].write_bytes(paths[0].read_bytes())
    with pytest.raises(ValueError, match=f"{paths[1].name}: is not what its record renders to"):
        build()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "planes.json").unlink(), "planes.json: No such file"),
        (lambda root: (root / "planes.json").write_text("{"), "planes.json: is not JSON"),
        (lambda root: (root / "planes.json").write_text("[]"), "planes.json: is no JSON object"),
        (lambda root: (root / "planes.json").write_text('{"version": 0}'), "renderer version 0, not 1"),
        (lambda root: (root / "annotations" / "val.jsonl").unlink(), "val.jsonl: No such file"),
        (lambda root: (root / "annotations" / "val.jsonl").write_text(""), "has no pictures"),
        (lambda root: (root / "annotations" / "val.jsonl").write_text('{"z": 1}\n'), "a line is no record"),
    ],
)
def test_damaged_data_set_is_one_line(roots, tmp_path, damage, message):
    shutil.copytree(roots["pair-tail"], tmp_path / "p")
    damage(tmp_path / "p")
    with pytest.raises(ValueError, match=message) as error:
        open_planes(tmp_path / "p", "val")
    assert "\n" not in str(error.value)


def test_foreign_picture_and_other_classes_are_named(roots):
    with pytest.raises(ValueError, match="x.png: not in .*val.jsonl"):
        open_planes(roots["f16"], "val").record("val/a/x.png")
    with pytest.raises(ValueError, match="class '.*': the model lacks it"):
        open_planes(roots["f16"], "val", list(get_preset("f8").classes))


# Counterfactuals


def test_renders_reach_the_classifier(roots):
    split = open_planes(roots["f16"], "val")
    record = next(r for r in split.records.values() if r["variants"]["wingtip"] == "winglet")
    requests = [(record, {}), (record, {"tail": None}), (record, {"nose": "pointed"})] * 2
    seen, counts = [], []
    scores = score_renders(
        requests, torch.Tensor.float, lambda x: seen.append(x) or x.flatten(1)[:, :5], 4, lambda *at: counts.append(at)
    )
    assert scores.shape == (6, 5) and counts == [(4, 6), (6, 6)]
    pictures = torch.cat(seen).permute(0, 2, 3, 1).numpy()
    stored = cv2.imread(str(split.root / record["file"]))[..., ::-1]
    assert (pictures[0] == stored).all() and (pictures[3] == stored).all()
    assert (pictures[1] == counterfactual(record, tail=None).image).all() and (pictures[1] != stored).any()


def test_table_has_every_subset_and_an_absent_part_changes_nothing(roots, monkeypatch):
    classifier = Ideal(open_planes(roots["f16"], "val"), monkeypatch)
    known = classifier.metrics(batch_size=7)
    own, picture = known.classes[:, 0], torch.arange(len(known.records))
    assert known.table.parts == tuple(SLOTS) and known.correct.all()
    for subset in range(16):
        removed = torch.tensor([bool(subset >> i & 1) for i in range(4)])
        for n, record in enumerate(known.records):
            gone = {part for part, r in zip(known.table.parts, removed.tolist(), strict=True) if r} & set(present_parts(record))
            assert known.table.logits_without(removed.expand(12, 4))[n, own[n]] == 6 - sum(WEIGHTS[slot] for slot in gone)
    winglet = torch.tensor([record["variants"]["wingtip"] == "winglet" for record in known.records])
    assert torch.equal(known.table.present[:, 2], winglet) and known.table.present[:, [0, 1, 3]].all()
    drops = torch.tensor(list(WEIGHTS.values())).expand(12, 4) * known.table.present
    assert torch.equal(known.table.drops(own), drops) and (known.table.logits[picture, 0, own] == 6).all()
    assert classifier.seen == int((2 ** known.table.present.sum(1)).sum()) + 12 * 6


def test_wanted_classes(ideal):
    known = ideal["f16"]
    for record, row in zip(known.records, known.classes.tolist(), strict=True):
        variants = [known.split.preset.classes[known.split.classes[i]] for i in row]
        differing = [{slot for slot in SLOTS if v[slot] != record["variants"][slot]} for v in variants]
        assert differing[:5] == [set(), *({slot} for slot in SLOTS)]
        assert len(differing[5]) == len(differing[6]) == 2 and differing[5] | differing[6] == set(SLOTS)


# Maps that are known


def test_oracle_is_the_ceiling(ideal):
    known = ideal["f16"]
    fine, coarse = (known.measure(*known.oracle((g, g))) for g in (SIZE, 4))
    for name in ("contrast_pointing", "contrast_energy", "contrast_ap"):
        assert fine[name].shape == (12, 4) and (fine[name] > 0.999).all(), name
        assert coarse[name].mean() < 0.9, name
    assert (fine["sd"] > 0.9).all() and (fine["ts"] == 1).all() and (coarse["ts"] == 1).all()
    assert (fine["part_srg"] > 0).all() and fine["part_insertion"].mean() > fine["part_deletion"].mean()


def maps_of(known: PlanesMetrics, **weights: float) -> torch.Tensor:
    """Maps of all wanted classes that lie on the right slots, with these weights."""
    separating = known.difference_masks().float()
    maps = torch.zeros(*known.classes.shape, known.size, known.size)
    base = 1.0 * (known.part_masks().any(1) | separating.any(1).bool())  # what all classes share
    names = known.split.classes
    for n, record in enumerate(known.records):
        for q, label in enumerate(known.classes[n].tolist()):
            variants = known.split.preset.classes[names[label]]
            maps[n, q] = base[n]
            for k, slot in enumerate(known.slots):
                if variants[slot] == record["variants"][slot]:
                    maps[n, q] += weights[slot] * separating[n, k] / separating[n, k].sum() * known.size**2
    return maps


def test_right_maps_win_and_blind_maps_do_not(ideal):
    known = ideal["f16"]
    right = known.measure(maps_of(known, **WEIGHTS))
    blind = known.measure(torch.rand(12, 1, 8, 8).expand(-1, 7, -1, -1))  # the same map for every class
    assert (right["contrast_pointing"] == 1).all() and (right["contrast_energy"] > 0.999).all()
    assert right["ts"].nanmean() == 1 and right["sd_swap"].mean() > 0.9 and right["sd"].nanmean() > 0.9
    assert (blind["contrast_pointing"] == 0).all() and (blind["contrast_energy"] == 0).all() and (blind["ts"] == 0).all()
    swapped = maps_of(known, **WEIGHTS)[:, [0, 1, 2, 3, 4, 6, 5]]
    assert (known.measure(swapped)["ts"] == 0).all()
    upside_down = known.measure(maps_of(known, nose=0.5, engines=1.0, wingtip=1.5, tail=3.0))
    assert upside_down["sd_swap"].mean() < 0.1


def test_maps_that_rank_the_parts_as_the_classifier_does(ideal):
    known = ideal["f16"]
    masks, maps = known.part_masks().float(), torch.zeros(12, 7, SIZE, SIZE)
    share = masks / masks.sum((-2, -1), keepdim=True).clamp(min=1)
    scores = []
    for weights in ((8.0, 4.0, 2.0, 1.0), (1.0, 2.0, 4.0, 8.0)):
        maps[:, 0] = (torch.tensor(weights).view(1, 4, 1, 1) * share).sum(1)
        scores.append({name: values.nanmean() for name, values in known.measure(maps).items()})
    right, wrong = scores
    assert right["sd"] > 0.95 and wrong["sd"] < 0.05
    assert right["part_srg"] > 0.03 and wrong["part_srg"] < -0.03
    assert right["part_insertion"] > wrong["part_insertion"] and right["part_deletion"] < wrong["part_deletion"]


def test_some_pictures_at_a_time_give_the_same(ideal):
    known = ideal["f8"]
    maps = torch.randn(*known.classes.shape, 8, 8)
    assert known.classes.shape[1] == 1 + 3 + 2 and known.slots == ("nose", "engines", "tail")
    whole, pieces = known.measure(maps), [known.measure(maps[rows], rows=rows) for rows in (slice(0, 5), slice(5, None))]
    for name in set(whole) - {"part_deletion", "part_insertion", "part_srg", "pc", "dc"}:
        assert torch.allclose(torch.cat([piece[name] for piece in pieces]), whole[name], equal_nan=True), name
    assert all(len(values) == 12 for values in whole.values())


def test_one_slot_has_no_target_sensitivity(roots, monkeypatch):
    known = Ideal(open_planes(roots["pair-tail"], "val"), monkeypatch).metrics(size=96)
    assert known.classes.shape == (12, 2) and known.difference_masks().shape == (12, 1, 96, 96)
    scores = known.measure(*known.oracle((96, 96)))
    assert "ts" not in scores and (scores["contrast_pointing"] == 1).all()


def test_fixed_place_is_chosen_on_other_pictures(ideal):
    known = copy.copy(ideal["f16"])
    packed = np.zeros((12, 4, SIZE, SIZE), bool)
    packed[:, :, 10:20, 10:20] = True  # evidence that never moves: another picture tells where it is
    known._differences = np.packbits(packed, axis=-1)
    assert (known.fixed_place()["contrast_pointing"] == 1).all()
    packed[:] = False
    for n in range(12):
        packed[n, :, 5 * n : 5 * n + 3, 7] = True  # evidence that is nowhere twice
    known._differences = np.packbits(packed, axis=-1)
    scores = known.fixed_place()
    assert (scores["contrast_pointing"] == 0).all() and set(scores) == {"contrast_pointing", "contrast_energy", "contrast_ap"}


def test_wrong_predictions_are_left_out_of_what_a_prediction_does(ideal):
    known = copy.copy(ideal["f16"])
    known.correct = torch.arange(12) % 2 == 1
    scores = known.measure(torch.rand(12, 7, 8, 8))
    for name in ("pc", "dc", "part_deletion", "part_insertion", "part_srg"):
        assert scores[name][::2].isnan().all() and not scores[name][1::2].isnan().any(), name
    assert not scores["contrast_ap"].isnan().any()


def test_shortcut_recall(ideal, roots):
    known = ideal["shortcut-0.5"]
    lines = (roots["shortcut-0.5"] / "annotations" / "val.jsonl").read_text().splitlines()
    of_class = {record["file"]: record["roundel_is_of_class"] for record in map(json.loads, lines)}
    assert known.table.parts[-1] == "roundel" and known.table.present[:, -1].all()
    assert known.relies.tolist() == [of_class[record["file"]] for record in known.records] and 0 < known.relies.sum() < 12
    masks = known.part_masks().float()
    found, missed = torch.zeros(12, 7, SIZE, SIZE), torch.zeros(12, 7, SIZE, SIZE)
    found[:, 0], missed[:, 0] = masks[:, -1], masks[:, 0] * (1 - masks[:, -1])
    for maps, expected in ((found, 1), (missed, 0)):
        scores = known.measure(maps)
        for name in ("shortcut_pointing", "shortcut_energy", "shortcut_top"):
            assert (scores[name][known.relies] == expected).all() and scores[name][~known.relies].isnan().all(), name
    assert "shortcut_top" not in ideal["f16"].measure(torch.rand(12, 7, 4, 4))
