"""`python -m tools.evaluate_attribution`, end to end on a model and pictures so small that everything is measured in seconds."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import COLOURS, make_images
from PIL import Image, ImageOps

from attribution.evaluation.harness import Harness
from datasets.planes import get_preset
from datasets.planes.dataset import export
from datasets.planes.pairs import export_pairs
from flags import get_args_parser as main_args_parser
from models import build_model
from models.checkpoint_format import VERSION
from tools.evaluate_attribution import get_args_parser, main
from util.cli import launch, parse

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = "--backbone test_resnet --hidden_dim 16 --nheads 2 --enc_layers 0 --dim_feedforward 16 --feature_stride 16"
FILES = ["attribution.csv", "attribution.json", "attribution.md", "audit.md", "bars.png", "curves.png", "examples.jpg"]
DUMMIES = {"other_class", "constant"}  # controls of every evaluation that are no methods of their own
QUICK = "--device cpu --num_workers 0 --steps 4 --batch_size 4"


def checkpoint(path: Path, classes: list[str], decoder: str, size: int = 48, square: bool = True) -> Path:
    torch.manual_seed(0)
    layers = ["--dec_layers", "2"] if decoder == "detr" else []
    flags = [*TINY.split(), *layers, "--decoder", decoder, "--image_size", size, "--num_queries", len(classes)]
    args = parse(main_args_parser(), [*map(str, flags), *(["--square"] if square else []), "--backbone_norm", "frozen"])
    if decoder != "detr":
        args = args.replace(dec_layers=0)
    model = build_model(args)
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    known = {key: value for key, value in vars(args).items() if key != "explicit"}
    normalisation = model.backbone[0].normalisation
    state = {"model": model.state_dict(), "args": known, "classes": classes, "normalisation": normalisation, "version": VERSION}
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of colours (two shapes, masks of most) and planes, with a checkpoint for each decoder."""
    root = tmp_path_factory.mktemp("measured")
    make_images(root / "colours", {"val": 2}, COLOURS, (40, 48))
    for path in sorted((root / "colours").glob("val/*/*.png")):
        mask = np.zeros((40, 48), np.uint8)
        mask[10:30, 5:30] = 255
        target = root / "masks" / "val" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), mask)
    wide = root / "colours" / "val" / "red" / "wide.png"
    cv2.imwrite(str(wide), np.random.default_rng(0).integers(0, 255, (40, 70, 3), np.uint8))
    wide.rename(wide.with_name(os.fsdecode(b"caf\xe9.png")))  # no UTF-8
    for decoder in ("additive", "detr", "none"):
        checkpoint(root / f"{decoder}.pth", sorted(COLOURS), decoder)
    export(root / "planes-pair", get_preset("f8"), 64, {"val": 8}, image_format="png")
    names = list(get_preset("f8").classes)
    for decoder in ("additive", "detr"):
        checkpoint(root / f"planes-{decoder}.pth", names, decoder, 64)
    export_pairs(root / "pairs", get_preset("f8"), 2, 64)
    return root


def arguments(made: Path, out: Path, name: str, *more: object, data: str = "colours") -> list[str]:
    words = ["--resume", made / f"{name}.pth", "--dataset_path", made, "--dataset_name", data, "--output_dir", out]
    return [str(word) for word in [*words, *QUICK.split(), *more]]


def measure(made: Path, out: Path, name: str, *more: object, data: str = "colours") -> dict:
    main(parse(get_args_parser(), arguments(made, out, name, *more, data=data)))
    return json.loads((out / "attribution.json").read_text())


def test_photographs_with_masks_by_all_methods(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    found = measure(made, tmp_path, "additive", "--masks", made / "masks")
    assert sorted(path.name for path in tmp_path.iterdir()) == [*FILES, "partial"]
    methods = found["methods"]
    own = {"attention", "rollout", "relevance", "additive", "additive_softmax", "additive_pixels"}
    posthoc = {"gradcam", "finercam", "integrated_gradients_blur", "occlusion", "rise", "contrast"}
    controls = {"random", "centre", "edges", "rollout_every_class", "oracle"} | DUMMIES
    assert set(methods) == own | posthoc | controls
    assert found["ours"] == "additive" and found["settings"]["images"] == 7 and found["settings"]["grid"] == [3, 3]
    for name, entry in methods.items():
        metrics = entry["metrics"]
        assert {"srg", "insertion", "deletion", "insertion_start", "rd", "pointing", "energy", "ap", "gini", "ms"} <= set(metrics)
        srg = metrics["srg"]
        count = 6 if name == "oracle" else 7  # one picture has no mask
        assert srg["low"] <= srg["mean"] <= srg["high"] and srg["images"] == count and metrics["ap"]["images"] == 6
        assert ("difference" in srg) == (name != "additive") and set(entry["curves"]) == {"deletion", "insertion", "least_first"}
        assert len(entry["per_image"]["srg"]) == 7 and len(entry["curves"]["deletion"]["mean"]) == 5
        costly = {"integrated_gradients_blur", "occlusion", "rise"}
        assert ("srg_native" in metrics) == (name in {*costly, "additive_pixels", "contrast"})
        assert ("randomisation" in entry) == (name not in {*costly, "oracle"})
    assert methods["oracle"]["metrics"]["energy"]["mean"] > methods["centre"]["metrics"]["energy"]["mean"]
    assert methods["rise"]["passes"] == {"forward": 128, "backward": 0}
    assert methods["edges"]["randomisation"]["passed"] is False  # which the table does not say of a map without a model
    model = found["model"]
    assert {"clean", "uniform", "other_image", "other_class"} == set(model["reliance"])
    assert model["reliance"]["clean"]["mean"] == pytest.approx(model["accuracy"])
    assert 0 < model["locality"]["own"]["mean"] <= model["locality"]["ring"]["mean"] <= 1
    assert 0 < model["head_diversity"]["jsd"]["mean"] < 1
    text = (tmp_path / "attribution.md").read_text()
    assert "**evidence of each cell**" in text and "## On the object" in text
    assert "## evidence of each cell against the others" in text and "Known evidence" not in text and "nan" not in text
    assert "| does not use the model |" in next(
        line for line in text.splitlines() if "edges in the image" in line and "model |" in line
    )
    heads = [line for line in text.splitlines() if line.startswith("| map |")]
    assert len(heads) == 4 and all(line.count("|") - 1 <= 6 for line in heads) and "RD@5 %" not in "".join(heads)
    sentences = found["verdict"]["sentences"]
    assert [sentence["answer"] for sentence in sentences] == ["cannot be told from 7 images", "cannot be told from 6 images",
                                                              "cannot be told from 7 images"]  # fmt: skip
    assert text.splitlines()[2].startswith("The model's own map, **evidence of each cell** (`additive`)")
    assert "the split has 7" in sentences[2]["figures"] and "closest control" in sentences[2]["figures"]
    assert found["audit"]["rd"]["main"] is False and found["audit"]["srg"]["truth"]["map"] == "oracle"
    assert "| RD@5 % ↑ |" in (tmp_path / "audit.md").read_text() and "constant" not in text
    with (tmp_path / "attribution.csv").open(newline="") as file:
        rows = {(row["map"], row["metric"]): row for row in csv.DictReader(file)}
    row = rows["rise", "srg_native"]
    assert row["label"] == "SRG, native" and row["kind"] == "post hoc" and row["forward_passes"] == "128"
    assert float(row["mean"]) == pytest.approx(methods["rise"]["metrics"]["srg_native"]["mean"], rel=1e-4)
    assert cv2.imread(str(tmp_path / "examples.jpg")) is not None


@pytest.mark.parametrize("decoder", ["detr", "additive"])
def test_planes_have_everything_that_is_exact(made: Path, tmp_path: Path, decoder: str) -> None:
    found = measure(
        made, tmp_path, f"planes-{decoder}", "--images", 6, "--methods", "gradcam,finercam", "--pairs", made / "pairs",
        "--metrics", "faithfulness,masks,planes,pairs", data="planes-pair",
    )  # fmt: skip
    ours = {"detr": "contribution", "additive": "additive"}[decoder]
    controls = {"random", "centre", "edges", "rollout_every_class", "oracle", "evidence_oracle", "fixed_place"} | DUMMIES
    assert found["ours"] == ours and set(found["methods"]) == {ours, "gradcam", "finercam"} | controls
    slots = found["settings"]["slots"]
    for name, entry in found["methods"].items():
        metrics = entry["metrics"]
        assert {"contrast_pointing", "contrast_energy", *(f"contrast_pointing/{slot}" for slot in slots)} <= set(metrics)
        if name != "fixed_place":
            assert {"sd", "pc", "dc", "ts", "part_srg", "srg", "pointing"} <= set(metrics)
    mean = {name: entry["metrics"]["contrast_energy"]["mean"] for name, entry in found["methods"].items()}
    assert mean["evidence_oracle"] > max(mean[name] for name in ("random", "centre", "edges", "gradcam"))
    assert found["methods"]["evidence_oracle"]["metrics"]["sd"]["mean"] > 0.5
    assert set(found["pairs"]) == {ours, "gradcam", "finercam"} | controls - {"evidence_oracle", "fixed_place"}
    assert found["pairs"]["edges"]["metrics"]["hit_gap"]["mean"] == 0  # the same map for both classes
    oracle = found["pairs"]["oracle"]["metrics"]
    assert oracle["own_energy"]["mean"] > 2 * max(oracle["other_energy"]["mean"], oracle["own_area"]["mean"])
    assert oracle["own_hit"]["images"] == 2
    text = (tmp_path / "attribution.md").read_text()
    assert "## Two objects in an image" in text and "## Known evidence: pointing in each slot" in text


def test_parts_of_planes_are_known_to_the_pixel(made: Path, tmp_path: Path) -> None:
    flags = ("--metrics", "parts", "--methods", "attention")
    parts = measure(made, tmp_path, "planes-additive", *flags, data="planes-pair")["parts"]
    assert parts["images"] == 8 and parts["regions"] == 2 and {"fuselage", "nose", "tail"} <= set(parts["names"])
    names = {"attention of the heads", "evidence of the heads", "random projections of the features", "fixed grid"}
    names |= {"k-means of the features", "k-means of the object's features", "true parts at the model's grid"}
    rows = parts["rows"]
    assert set(rows) == names
    for metrics in rows.values():
        assert set(metrics) == {"pixel_nmi", "pixel_ari", "point_nmi", "point_ari", "point_error"}
        assert all(metric["low"] <= metric["high"] and np.isfinite(metric["mean"]) for metric in metrics.values())
    for name, better in (("pixel_nmi", max), ("pixel_ari", max), ("point_nmi", max), ("point_error", min)):
        assert better(rows, key=lambda row: rows[row][name]["mean"]) == "true parts at the model's grid"
    text = (tmp_path / "attribution.md").read_text()
    assert "## Parts" in text and "| k-means of the features |" in text and "nan" not in text
    again = measure(made, tmp_path, "planes-additive", *flags, data="planes-pair")["parts"]
    assert again == parts, "what is kept is the same"


def test_shortcuts_are_looked_for_where_classes_have_enough_images(made: Path, tmp_path: Path) -> None:
    flags = ("--metrics", "shortcut", "--methods", "attention", "--masks", made / "masks")
    found = measure(made, tmp_path, "additive", *flags)["shortcuts"]
    assert found["classes"] == found["images"] == 0 and found["alarms"] == []
    text = (tmp_path / "attribution.md").read_text()
    assert "## Possible shortcuts" in text and "Not searched: no class has 5 pictures" in text


def test_parts_of_photographs_are_their_key_points(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "colours", tmp_path / "cub")
    shutil.copy(made / "detr.pth", tmp_path)
    rng = np.random.default_rng(0)
    pictures = sorted(path.relative_to(tmp_path / "cub") for path in (tmp_path / "cub").glob("val/*/[01].png"))
    facts = {"box": [5, 5, 40, 35], "parts": {}}
    content = {path.as_posix(): {**facts, "parts": {"beak": [*rng.uniform(6, 34, 2)], "tail": [20, 20]}} for path in pictures}
    (tmp_path / "cub" / "annotations.json").write_text(json.dumps(content))
    parts = measure(tmp_path, tmp_path / "out", "detr", "--metrics", "parts", "--methods", "attention", data="cub")["parts"]
    assert parts["images"] == 7 and parts["key_points"] == 12 and parts["names"] == ["beak", "tail"]
    assert "evidence of the heads" not in parts["rows"] and "k-means of the object's features" not in parts["rows"]
    for metrics in parts["rows"].values():
        assert set(metrics) == {"point_nmi", "point_ari", "point_error"} and metrics["point_error"]["images"] == 6
    assert "pixels" not in (tmp_path / "out" / "attribution.md").read_text().partition("## Parts")[2].partition("##")[0]


def test_interrupted_run_goes_on_and_ends_like_one_that_was_not(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--methods", "attention", "--metrics", "srg,gini,randomisation")
    whole = measure(made, tmp_path / "whole", "additive", *flags)
    calls = []
    real = Harness.measure

    def some(harness, unit, method):
        calls.append((unit.number, method.name))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(harness, unit, method)

    monkeypatch.setattr(Harness, "measure", some)
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), arguments(made, tmp_path / "cut", "additive", *flags))
    assert stop.value.code == 130 and not (tmp_path / "cut" / "attribution.json").exists()
    resumed = measure(made, tmp_path / "cut", "additive", *flags)
    assert len(calls) == len(set(calls)) + 1, "only what was cut short is done again"
    before = len(calls)
    again = measure(made, tmp_path / "cut", "additive", *flags)
    assert len(calls) == before
    for found in (resumed, again):
        for name, entry in found["methods"].items():
            mine = {key: column for key, column in entry["per_image"].items() if key != "ms"}
            assert mine == {key: column for key, column in whole["methods"][name]["per_image"].items() if key != "ms"}


def test_results_of_another_key_are_not_used(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--methods", "attention", "--metrics", "gini")
    measure(made, tmp_path, "additive", *flags)
    assert "not used" not in capsys.readouterr().out
    measure(made, tmp_path, "detr", *flags)
    lines = [line for line in capsys.readouterr().out.splitlines() if "not used" in line]
    assert len(lines) == 1 and "partial" in lines[0]
    assert len(list((tmp_path / "partial").iterdir())) == 2
    found = measure(made, tmp_path, "detr", *flags, "--seed", 1)
    assert len(list((tmp_path / "partial").iterdir())) == 3 and found["settings"]["seed"] == 1


def test_other_pictures_of_the_same_name_and_size_and_damaged_parts_are_measured_again(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (made / "colours").glob("val/*/*.png"):
        target = tmp_path / path.relative_to(made).with_suffix(".bmp")  # whose size does not depend on its content
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    shutil.copy(made / "additive.pth", tmp_path)
    flags = ("--methods", "attention", "--metrics", "gini", "--images", 4)
    first = measure(tmp_path, tmp_path / "out", "additive", *flags)
    for part in (tmp_path / "out").glob("partial/*/*/*.pt"):
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
    capsys.readouterr()
    again = measure(tmp_path, tmp_path / "out", "additive", *flags)
    assert "is damaged" in capsys.readouterr().out
    for path in (tmp_path / "colours").glob("val/*/*.bmp"):
        ImageOps.invert(Image.open(path)).save(path)
    replaced = measure(tmp_path, tmp_path / "out", "additive", *flags)
    values = [found["methods"]["attention"]["per_image"]["gini"] for found in (first, again, replaced)]
    assert values[0] == values[1] and values[0] != values[2]


def test_pictures_of_any_shape_and_a_decoder_without_attention(made: Path, tmp_path: Path) -> None:
    path = checkpoint(made / "aspect.pth", sorted(COLOURS), "none", square=False)
    found = measure(made, tmp_path, path.stem, "--methods", "additive", "--masks", made / "masks")
    assert found["settings"]["images"] == 7 and "reliance" not in found["model"] and "locality" in found["model"]
    assert "rollout_every_class" not in found["methods"]
    assert found["methods"]["additive"]["metrics"]["srg"]["images"] == 7


def test_without_captum_its_methods_are_left_out(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = measure(made, tmp_path, "additive", "--methods", "occlusion,gradcam", "--metrics", "gini")
    assert "occlusion" not in found["methods"] and "gradcam" in found["methods"]
    line = next(line for line in capsys.readouterr().out.splitlines() if "captum" in line)
    assert "occlusion" in line and "pip install" in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--resume", ""], ["--resume"]),
        (["--resume", "absent.pth"], ["absent.pth"]),
        (["--output_dir", ""], ["--output_dir"]),
        (["--methods", "gradcamm"], ["--methods gradcamm", "gradcam"]),
        (["--methods", "contribution"], ["--methods contribution", "additive"]),
        (["--ours", "contribution"], ["--ours contribution", "additive"]),
        (["--metrics", "planes"], ["--metrics planes", "make_planes"]),
        (["--metrics", "parts"], ["--metrics parts", "annotations.json"]),
        (["--metrics", "native"], ["--metrics native", "add them"]),
        (["--ours", "oracle"], ["--ours oracle is a map of the ground truth (masks)", "choose from attention"]),
        (["--methods", "evidence_oracle"], ["--methods evidence_oracle", "removal_effects"]),
        (["--metrics", "own_hit"], ["--pairs"]),
        (["--quick", "--full"], ["--full"]),
        (["--images", "0"], ["--images: '0'"]),
        (["--steps", "0"], ["--steps: '0'"]),
        (["--costly_images", "0"], ["--costly_images: '0'"]),
        (["--batch_size", "0"], ["--batch_size: '0'"]),
        (["--seed", "-1"], ["--seed: '-1'"]),
        (["--decoder", "detr"], ["--decoder: detr", "additive"]),
    ],
)
def test_errors_are_one_line_that_names_the_flag(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), arguments(made, tmp_path / "out", "additive", *flags))
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1, lines
    assert all(re.search(re.escape(word), lines[0]) for word in words), lines[0]


def test_metrics_of_attention_are_refused_where_there_is_none(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), arguments(made, tmp_path, "none", "--metrics", "gini,reliance"))
    assert stop.value.code == 2 and "--metrics reliance is not defined for the average decoder" in capsys.readouterr().err


def test_mask_of_another_size_and_output_in_a_file(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(made / "masks", tmp_path / "masks")
    wrong = next((tmp_path / "masks" / "val" / "blue").iterdir())
    cv2.imwrite(str(wrong), np.full((10, 10), 255, np.uint8))
    (tmp_path / "file").touch()
    for flags, word in ((["--masks", tmp_path / "masks"], wrong.name), (["--output_dir", tmp_path / "file"], "--output_dir")):
        with pytest.raises(SystemExit):
            launch(main, get_args_parser(), arguments(made, tmp_path / "out", "additive", *flags))
        assert word in capsys.readouterr().err
