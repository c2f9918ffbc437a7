"""The harness and what stands behind it: one rule for all maps, answers from memory, the choice of pictures, what is said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from patches import batch, patch_model

from attribution.evaluation.cache import CachedModel, ResultCache, cache_key
from attribution.evaluation.harness import Harness, slot_columns
from attribution.evaluation.measure import _reporting, concatenate, measure_model
from attribution.evaluation.protocol import FULL, QUICK, Budget, alternate_classes, choose_methods, most_confused
from attribution.evaluation.summary import curve_summary, summarise
from attribution.methods.registry import METHODS, Passes
from attribution.metrics.metric import Unit, pooled
from attribution.metrics.registry import chosen_families, families
from attribution.report.figures import choose
from attribution.report.tables import markdown, plain, write_json
from attribution.resize import pool_to
from models import for_inference
from util.errors import RunFailed
from util.progress import Progress

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Budget("small", 4, 4, {"rise": {"n": 40}}, sensitivity_samples=2, sensitivity_images=2)
SIBLINGS = torch.tensor([1, 2, 3, 4, 0])


def harness(kind: str = "additive", *groups: str, budget: Budget = SMALL, **changes) -> Harness:
    model = patch_model(kind=kind, encoder=0)

    def score(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(images).logits.softmax(1)

    return Harness(model, for_inference(model), score, SIBLINGS, budget, chosen_families(groups or None), batch_size=8, **changes)


def unit(masks: bool = True) -> Unit:
    images, classes, _ = batch()
    mask = torch.zeros(3, 32, 40, dtype=torch.bool)
    mask[:2, 8:16, 8:24] = True  # the third picture has none
    return Unit(0, slice(0, 3), images, classes, mask if masks else None)


def test_names_of_metrics_lead_to_their_groups() -> None:
    assert chosen_families(["srg", "gini", "locality"]) == {"faithfulness", "gini", "locality"}
    assert chosen_families(["pointing_native", "native"]) == {"native", "masks"}
    assert chosen_families(None) == set(families())
    with pytest.raises(ValueError, match=r"--metrics srgg.*faithfulness.*deletion"):
        chosen_families(["srgg"])
    with pytest.raises(ValueError, match=r"--metrics native measures others .*: add them"):
        chosen_families(["native"])


def test_every_map_is_pooled_to_the_grid_of_the_model() -> None:
    able, one = harness("additive", "faithfulness", "native", "masks", "gini"), unit()
    assert able.grid(one.images) == (4, 5)
    for name in ("additive", "gradcam", "rise", "random", "edges", "oracle"):
        found = able.measure(one, METHODS[name])
        assert found["maps"].shape == (3, 4, 5), name
        assert ("srg_native" in found["values"]) == (name == "rise")
        assert ("energy_native" in found["values"]) == (name == "rise")
        assert found["curves"]["deletion"].shape == (3, 5)
    native = able.maps(METHODS["rise"], one.images, one.classes)
    torch.testing.assert_close(able.measure(one, METHODS["rise"])["maps"], pool_to(native, (4, 5)))


def test_pooled_keeps_leading_axes_and_maps_that_fit() -> None:
    maps = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(pooled(maps, (4, 4)), torch.stack([pool_to(one, (4, 4)) for one in maps]))
    assert pooled(maps, (8, 8)) is maps


def test_numbers_of_the_additive_map_are_those_of_its_definition() -> None:
    """SRG and the drop without the top pixels agree with the model asked by hand."""
    able, one = harness("additive", "faithfulness", "masks"), unit()
    found = able.measure(one, METHODS["additive"])
    curves, values = found["curves"], found["values"]
    with torch.no_grad():
        clean = able.model(one.images).logits.softmax(1)[torch.arange(3), one.classes]
    for name in ("deletion", "least_first"):
        torch.testing.assert_close(curves[name][:, 0], clean)
    areas = {name: curve[:, 1:-1].sum(1) + (curve[:, 0] + curve[:, -1]) / 2 for name, curve in curves.items()}
    torch.testing.assert_close(values["srg"], (areas["least_first"] - areas["deletion"]) / 4)
    torch.testing.assert_close(values["insertion_start"], curves["insertion"][:, 0])
    assert values["pointing"][2].isnan() and values["pointing"][:2].isfinite().all()


def test_the_oracle_counts_only_where_there_is_a_mask() -> None:
    values = harness("none", "faithfulness", "masks").measure(unit(), METHODS["oracle"])["values"]
    assert all(column[2].isnan() and column[:2].isfinite().all() for name, column in values.items())


def test_evidence_oracle_draws_the_effects_of_removals() -> None:
    one = unit(masks=False)
    one.removal_effects = torch.rand(3, 32, 40)
    found = harness("none", "gini").measure(one, METHODS["evidence_oracle"])
    torch.testing.assert_close(found["maps"], pool_to(one.removal_effects, (4, 5)))
    assert "max_sensitivity" not in found["values"]


def test_sensitivity_is_of_the_first_pictures_and_of_no_costly_method() -> None:
    able = harness("detr", "sensitivity", budget=SMALL)
    values = able.measure(unit(), METHODS["contribution"])["values"]["max_sensitivity"]
    assert values[:2].isfinite().all() and (values[:2] > 0).all() and values[2].isnan()
    assert able.measure(unit(), METHODS["rise"])["values"]["max_sensitivity"].isnan().all()
    later = unit()
    later.rows = slice(2, 5)
    assert later.first(2) == 0 and later.first(4) == 2 and later.first(None) == 3


def test_maps_of_many_classes_are_those_of_each() -> None:
    able, one = harness("additive"), unit()
    classes = torch.tensor([[0, 1], [2, 3], [4, 0]])
    for name in ("rise", "attention", "finercam", "contrast"):
        together = able.maps_of_classes(METHODS[name], one.images, classes)
        each = torch.stack([able.maps(METHODS[name], one.images, column) for column in classes.unbind(1)], 1)
        torch.testing.assert_close(together, each, atol=1e-5, rtol=1e-4)


def test_memory_answers_without_the_model_and_forgets() -> None:
    model, calls = patch_model(), []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    memory, images = CachedModel(model), batch()[0]
    with torch.no_grad():
        first = memory(images).logits
        torch.testing.assert_close(memory(images.clone()).logits, first)
        assert len(calls) == 1
        assert not torch.allclose(memory(images.flip(0)).logits, first), "the same pictures in another order"
        memory(images + 1e-3)
        memory.known.clear()
        memory(images)
    assert len(calls) == 4
    handle.remove()


def test_effort_states_the_passes_of_its_options() -> None:
    assert QUICK.passes(METHODS["rise"], torch.empty(1, 3, 32, 40)) == Passes(128)
    assert QUICK.passes(METHODS["integrated_gradients_blur"], torch.empty(1, 3, 32, 40)) == Passes(20, 20)
    assert FULL.passes(METHODS["rise"], torch.empty(1, 3, 32, 40)) == METHODS["rise"].passes()
    for budget in (QUICK, FULL):
        costly = {name for name, method in METHODS.items() if budget.costly(method, torch.empty(1, 3, 128, 128))}
        assert costly == {"integrated_gradients_blur", "integrated_gradients_mean", "occlusion", "rise"}
        limit = budget.costly_images
        few = {name for name, method in METHODS.items() if budget.class_images(method, torch.empty(1, 3, 128, 128), 11) == limit}
        assert few == ({*METHODS} if limit is None else {*costly, "contrast", "additive_pixels"})  # eleven maps of an image
        assert budget.class_images(METHODS["contrast"], torch.empty(1, 3, 128, 128), 2) is None


def test_methods_of_more_passes_are_more_work_and_every_pass_shows_that_it_goes_on() -> None:
    able, images = harness("additive", "faithfulness"), torch.zeros(1, 3, 32, 40)
    work = {name: able.work(METHODS[name], (32, 40), 64) for name in ("centre", "attention", "gradcam", "rise")}
    assert work == {"centre": 13, "attention": 14, "gradcam": 16, "rise": 53}
    able.planes = SimpleNamespace(classes=torch.zeros(64, 10), slots=("tail", "wing"))  # type: ignore[assignment]
    on_planes = {name: able.work(METHODS[name], (32, 40), 64) for name in ("attention", "rise", "finercam")}
    # Eleven maps of an image; of a costly method two, as all classes share its passes; of a contrast also one for each slot.
    assert on_planes == {"attention": 13 + 11, "rise": 13 + 40 * 2, "finercam": 13 + 3 * 13}
    with Progress(1, "maps") as progress, _reporting(able, progress):
        steps = []
        progress.step = lambda *args: steps.append(args)  # type: ignore[method-assign]
        able.maps(METHODS["contrast"], images, torch.zeros(1, dtype=torch.long))
        able.grid(images)
    assert steps == [(0,)] * 19
    able.grid(images)
    assert len(steps) == 19


def test_siblings_are_the_most_confused() -> None:
    confusion = torch.tensor([[9.0, 0.2, 0.8], [0.9, 8.0, 0.1], [0.1, 0.0, 5.0]])
    assert most_confused(confusion).tolist() == [1, 0, 0]
    absent = torch.tensor([[9.0, 0.2, 0.8], [0.9, 8.0, 0.3], [0.0, 0.0, 0.0]])
    assert most_confused(absent).tolist() == [1, 0, 0]
    assert (most_confused(torch.zeros(4, 4)) != torch.arange(4)).all()


def test_classes_take_turns() -> None:
    labels = [0] * 10 + [1] * 10 + [2] * 2
    order = alternate_classes(labels)
    assert sorted(order) == list(range(22))
    assert [sorted(labels[place] for place in order[start : start + 3]) for start in (0, 3)] == [[0, 1, 2]] * 2
    assert order == alternate_classes(labels) and order != alternate_classes(labels, seed=1)


def test_a_key_is_of_content(tmp_path: Path) -> None:
    """Of the weights, the structure of the model, the bytes of the files, the options and the code: not of places and times."""
    model, path = patch_model(), tmp_path / "picture.png"
    path.write_bytes(b"1234")
    files, options = {"a/picture.png": path}, {"steps": 28}
    key = cache_key(model, files, options)
    moved = tmp_path / "moved.png"
    moved.write_bytes(b"1234")
    assert key == cache_key(patch_model(), {"a/picture.png": moved}, options)
    others = [cache_key(model, files, {"steps": 29}), cache_key(model, {}, options), cache_key(model, {"b.png": path}, options)]
    path.write_bytes(b"1243")  # of the same size
    others.append(cache_key(model, files, options))
    path.write_bytes(b"1234")
    model.transformer.decoder.layers[0].multihead_attn.num_heads = 4  # which no weight shows
    others.append(cache_key(model, files, options))
    model = patch_model()
    with torch.no_grad():
        model.query_embed.weight[0, 0] += 1e-3
    others.append(cache_key(model, files, options))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attribution.evaluation.cache.code_version", lambda: "another")
        others.append(cache_key(patch_model(), files, options))
    assert len({key, *others}) == 8
    with pytest.raises(ValueError, match=r"absent.png: cannot be read \(No such file"):
        cache_key(model, {"a": tmp_path / "absent.png"}, options)


def test_a_part_that_is_damaged_or_of_another_place_is_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = ResultCache(tmp_path, "key")
    part = {"values": torch.ones(2)}
    assert kept.load("attention", 3) is None
    kept.save(part, "attention", 3)
    kept.save(part, "attention", 4)
    file, other = (kept.folder / "attention" / f"0000{number}.pt" for number in (3, 4))
    content, printed = file.read_bytes(), capsys.readouterr().out
    assert kept.load("attention", 3)["values"].tolist() == [1, 1] and printed == ""
    flipped = bytearray(content)
    for position in range(0, len(content), len(content) // 40):
        flipped[position] ^= 1
        file.write_bytes(flipped)
        assert kept.load("attention", 3) is None
        flipped[position] ^= 1
    for damaged in (b"", b"cut short", content[:-1], other.read_bytes()):
        capsys.readouterr()
        file.write_bytes(damaged)
        assert kept.load("attention", 3) is None
        (line,) = capsys.readouterr().out.splitlines()
        assert "00003.pt is damaged" in line and "measured again" in line
    file.unlink()
    file.mkdir()
    assert kept.load("attention", 3) is None and "Is a directory" in capsys.readouterr().out
    with pytest.raises(RunFailed, match=r"00003.pt was removed or changed"):
        kept.read("attention", 3)
    with pytest.raises(RunFailed, match="cannot be written .* give another --output_dir"):
        kept.save(part, "attention", 3)
    assert ResultCache(tmp_path, "other").others == ["key"] and kept.others == []


def test_what_is_said_of_numbers_that_are_missing() -> None:
    nan, right = np.nan, np.array([True, True, False, True])
    values = {"srg": np.array([1.0, 2.0, 3.0, nan]), "gini": np.ones(4), "ts": np.full(4, nan)}
    ours = {"srg": np.array([2.0, nan, 5.0, 1.0]), "gini": np.ones(4), "ts": np.full(4, nan)}
    found = summarise(values, right, ours)
    assert found["srg"]["mean"] == 2 and found["srg"]["images"] == 3 and found["srg"]["low"] < 2 < found["srg"]["high"]
    assert found["srg"]["right"] == 1.5 and found["srg"]["wrong"] == 3
    assert found["srg"]["difference"]["mean"] == 1.5 and found["srg"]["difference"]["images"] == 2
    assert found["ts"] == {"images": 0, "difference": {"images": 0}} and found["gini"]["difference"]["low"] == 0
    together = concatenate([{"a": torch.ones(2)}, {"b": torch.zeros(3, 2)}], [2, 3])
    assert np.isnan(together["a"][2:]).all() and together["b"].shape == (5, 2) and np.isnan(together["b"][:2]).all()
    columns = slot_columns({"contrast_pointing": torch.tensor([[1.0, 0.0]])}, ["nose", "tail"], 2)
    assert columns["contrast_pointing"][0] == 0.5 and columns["contrast_pointing/tail"][0] == 0
    assert all(column[1].isnan() for column in columns.values())
    assert curve_summary(np.zeros((3, 4)))["high"] == [0, 0, 0, 0]


def test_json_has_no_nan(tmp_path: Path) -> None:
    assert plain({"a": np.array([1 / 3, np.nan]), "b": (torch.tensor([2]), np.inf)}) == {"a": [0.333333, None], "b": [[2], None]}
    write_json(tmp_path / "x.json", {"a": np.array([np.nan]), "ü": []})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n "a": [null],\n "ü": []\n}\n'


def test_examples_are_best_and_worst_and_none_twice() -> None:
    metric, best, worst = choose({"srg": np.array([0.1, 0.9, np.nan, 0.5])}, 3)
    assert (metric, best, worst) == ("srg", [1, 3], [0])
    assert choose({"gini": np.zeros(2)}, 3) == ("", [0, 1], [])


def test_unknown_numbers_are_dashes_and_fewer_pictures_are_said() -> None:
    nothing = {"images": 0}
    some = {"mean": 0.5, "low": 0.4, "high": 0.6, "images": 2}
    entry = {
        "family": "own",
        "passes": {"forward": 1, "backward": 1},
        "metrics": {"srg": {**some, "images": 4}, "deletion": some},
    }
    other = {
        "family": "posthoc",
        "passes": {"forward": 9, "backward": 0},
        "metrics": {"srg": {**some, "images": 4}, "deletion": nothing},
    }
    settings = {"checkpoint": "c", "dataset": "d", "split": "val", "decoder": "detr", "images": 4, "split_images": 9}
    found = {
        "settings": {**settings, "grid": [4, 5], "steps": 4},
        "model": {"accuracy": 0.5},
        "methods": {"a": entry, "b": other},
        "ours": "a",
    }
    text = markdown(found)
    row = next(line for line in text.splitlines() if line.startswith("| **a**"))
    assert "0.500 (0.400 to 0.600) n=2" in row and "1 + 1 back" in row
    assert "–" in next(line for line in text.splitlines() if line.startswith("| b |")) and "## The model" not in text


def test_randomised_maps_are_compared_with_the_trained_model_s() -> None:
    able = harness("additive", "randomisation")
    one = unit(masks=False)
    methods = [METHODS["additive"], METHODS["centre"], METHODS["rise"]]
    images: Any = SimpleNamespace(units=[3], load=lambda number: one)
    found = measure_model(able, methods, lambda count: [], images)
    assert set(found) == {"randomisation/additive", "randomisation/centre"}
    assert list(found["randomisation/additive"]) == ["head", "decoder", "queries", "encoder", "backbone"]
    assert found["randomisation/centre"]["backbone"].tolist() == pytest.approx([1, 1, 1])
    assert (found["randomisation/additive"]["backbone"] < 0.99).all()


def test_methods_of_gigabytes_are_measured_where_they_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = patch_model()  # 5 classes, 2 heads, 2 layers
    assert "rollout" in {method.name for method in choose_methods(model, None, None, SMALL)[0]}
    monkeypatch.setattr("attribution.evaluation.protocol.MAX_CLASS_WEIGHTS", 99)
    assert "rollout" not in capsys.readouterr().out
    names = {method.name for method in choose_methods(model, ["relevance", "attention"], None, SMALL)[0]}
    assert {"relevance", "attention", "contribution", "centre"} <= names and "rollout_every_class" not in names
    lines = [line for line in capsys.readouterr().out.splitlines() if "package" not in line]  # captum may not be installed
    assert len(lines) == 1 and "--methods" in lines[0]
    assert lines[0].startswith("rollout_every_class left out: 5 classes would take")
    model = patch_model(kind="additive")  # whose classes do not attend to each other
    assert "rollout_every_class" in {method.name for method in choose_methods(model, None, None, SMALL)[0]}
