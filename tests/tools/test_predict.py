"""`python -m tools.predict`: predictions as the Predictor's, files, panels, and photographs that cannot be read."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.thresholds import BEST_SCORE
from predictor import Predictor
from tools.predict import get_args_parser, main, set_and_family
from util.cli import launch, parse

CLASSES = ["a", "=b", "c", "d"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, save_checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint of each kind of decoder."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for decoder in ("detr", "additive", "average"):
        layers = "--dec_layers 1" if decoder == "detr" else ""
        save_checkpoint(folder / f"{decoder}.pth", CLASSES, f"--decoder {decoder} {layers}")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 90, 3)), ("a.jpg", (90, 60, 3)), ("=b.png", (60, 90, 3))):
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(folder / name)
    return folder


def predict(checkpoint: Path, *words: object) -> None:
    argv = [*map(str, words), "--resume", str(checkpoint), "--device", "cpu", "--num_workers", "0"]
    main(parse(get_args_parser(), argv))


def test_files_hold_what_the_predictor_says(
    checkpoints: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(checkpoints / "detr.pth", photos, "--topk", 2, "--csv", tmp_path / "p.csv", "--json", tmp_path / "p.json")
    paths = sorted(photos.iterdir())
    expected = Predictor.from_checkpoint(checkpoints / "detr.pth").predict(list(paths), topk=2)
    table = json.loads((tmp_path / "p.json").read_text())
    assert [row["file"] for row in table] == [str(path) for path in paths]
    for row, said in zip(table, expected, strict=True):
        assert row["classes"] == said.names and row["probabilities"] == pytest.approx(said.probabilities, abs=1e-6)
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    assert list(rows[0]) == ["file", "class_1", "probability_1", "class_2", "probability_2"]
    assert [float(row["probability_1"]) for row in rows] == pytest.approx([row["probabilities"][0] for row in table])
    assert {row["class_1"] for row in rows} <= {"a", "'=b", "c", "d"}  # no formula
    out = capsys.readouterr().out
    assert all(f"{path}  " in out for path in paths) and f"3 predictions: {tmp_path / 'p.csv'}" in out


@pytest.mark.parametrize(("decoder", "format"), [("detr", "png"), ("additive", "svg"), ("average", "png")])
def test_a_panel_for_each_photograph(checkpoints: Path, photos: Path, tmp_path: Path, decoder: str, format: str) -> None:
    predict(checkpoints / f"{decoder}.pth", photos, "--panels", tmp_path / "out", "--format", format)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [f"a.{format}", f"a_2.{format}", f"b.{format}"]
    if format == "svg":
        text = (tmp_path / "out" / "a.svg").read_text(encoding="utf-8")
        assert "contrast of the two" in text and "head 1" in text and text.count("<image") == 9  # 6 tiles and 3 colour bars


def test_what_cannot_be_read_is_named_and_the_rest_is_classified(
    checkpoints: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes(b"no image")
    command = [str(photos), "absent.jpg", "--resume", str(checkpoints / "detr.pth"), "--device", "cpu", "--num_workers", "0"]
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), command)
    assert stop.value.code == 2 and "absent.jpg" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), [command[0], *command[2:], "--json", str(tmp_path / "p.json")])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 1 and "broken.jpg" in lines[-2] and "1 of 4 photographs" in lines[-1]
    assert len(json.loads((tmp_path / "p.json").read_text())) == 3


def test_names_that_are_not_utf_8(
    checkpoints: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = bytes(photos) + b"/caf\xe9\x1b[1m.png"
    (photos / "a.png").rename(os.fsdecode(name))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(name + b"\n")))
    monkeypatch.chdir(photos)
    predict(checkpoints / "average.pth", "-", "--json", "p.json", "--csv", "p.csv", "--panels", "panels")
    shown = f"{photos}/caf\\xe9\\x1b[1m.png"
    assert shown in capsys.readouterr().out and Path("p.csv").read_text("utf-8").splitlines()[1].startswith(f"{shown},")
    assert os.fsencode(json.loads(Path("p.json").read_text("utf-8"))[0]["file"]) == name
    assert len(os.listdir("panels")) == 1


def test_a_data_set_for_fiftyone(checkpoints: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.open(photos / "a.png").save(photos / "a_2.tif")  # no browser shows TIFF, and the second a.* has this stem, too
    predict(checkpoints / "additive.pth", photos, "--topk", 3, "--fiftyone", tmp_path / "out" / "set")
    folder = tmp_path / "out" / "set"
    assert f"4 photographs for FiftyOne: {folder}" in capsys.readouterr().out
    assert json.loads((folder / "metadata.json").read_text()) == {
        "media_type": "image", "info": {"model": "additive.pth", "classes": CLASSES, "map": "additive"},
    }  # fmt: skip
    samples = {sample["filepath"]: sample for sample in json.loads((folder / "samples.json").read_text())["samples"]}
    assert set(samples) == {"data/a.jpg", "data/a_2.png", "data/b.png", "data/a_2_2.png"}
    assert (folder / "data/a.jpg").read_bytes() == (photos / "a.jpg").read_bytes()
    for file, sample in samples.items():
        picture = np.array(Image.open(folder / file))
        names = [label["label"] for label in sample["top"]["classifications"]]
        assert names[0] == sample["prediction"]["label"] and names[1] == sample["runner_up"]["label"] and len(names) == 3
        maps = {}
        for field in ("map", "map_runner_up", "contrast"):
            assert sample[field]["_cls"] == "Heatmap" and sample[field]["range"] == [0, 255]
            assert sample[field]["map_path"].startswith(f"fields/{field}/")
            maps[field] = np.array(Image.open(folder / sample[field]["map_path"])).astype(float) / 127.5 - 1
            assert maps[field].shape == picture.shape[:2]
        # The signed values come back from the scales, and the contrast is the difference of the two maps.
        difference = (maps["map"] - maps["map_runner_up"]) * sample["map_scale"]
        assert difference == pytest.approx(maps["contrast"] * sample["contrast_scale"], abs=0.02 * sample["map_scale"])
    with pytest.raises(ValueError, match=r"--fiftyone .*set holds something already: choose a new folder"):
        predict(checkpoints / "additive.pth", photos, "--fiftyone", folder)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["set"]


def test_an_interrupted_data_set_for_fiftyone_leaves_nothing(
    checkpoints: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attribution.report.fiftyone_dataset.png", lambda pixels: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises((ValueError, OSError)):
        predict(checkpoints / "detr.pth", photos, "--fiftyone", tmp_path / "set")
    assert not (tmp_path / "set").exists() and not (tmp_path / ".set.unfinished").exists()


def test_what_is_said_besides_the_classes(
    checkpoints: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    icn = Predictor.from_checkpoint(checkpoints / "detr.pth")
    paths = sorted(photos.iterdir())
    p = icn.model.probabilities(icn.logits(list(paths))).amax(1).sort().values.tolist()  # of the three photographs
    between = (p[0] + p[1]) / 2  # the least probable one is refused; and every class is in the sets
    thresholds = {
        "score": "max_probability",
        "split": "val",
        "files": "",
        "images": 19,
        "known": [between] * 19,
        "true": [0.0] * 19,
    }
    content = torch.load(checkpoints / "detr.pth", weights_only=True)
    torch.save({**content, "thresholds": thresholds}, tmp_path / "calibrated.pth")
    (tmp_path / "f.csv").write_text("class,family\na,x\n=b,x\nc,x\nd,y\n")
    words = [
        "--topk",
        1,
        "--coverage",
        0.9,
        "--families",
        tmp_path / "f.csv",
        "--csv",
        tmp_path / "p.csv",
        "--json",
        tmp_path / "p.json",
    ]
    predict(tmp_path / "calibrated.pth", photos, *words)
    rows = list(csv.DictReader((tmp_path / "p.csv").open()))
    added = ["answer", "known", "conformal_set", "family", "family_probability"]
    assert list(rows[0]) == ["file", "class_1", "probability_1", *added]
    assert sorted(row["answer"] for row in rows) == ["none of the known classes", *["one of 4 classes"] * 2]
    assert all((row["known"] == "False") == (row["answer"] == "none of the known classes") for row in rows)
    assert all(sorted(row["conformal_set"].split("; ")) == sorted(CLASSES) for row in rows)
    table = json.loads((tmp_path / "p.json").read_text())
    expected = Predictor.from_checkpoint(tmp_path / "calibrated.pth").predict(
        list(paths), topk=1, coverage=0.9, families=tmp_path / "f.csv"
    )
    for row, said in zip(table, expected, strict=True):
        assert [row[name] for name in added[:4]] == [said.answer, said.known, said.conformal_set, said.family]
        assert row["family_probability"] == pytest.approx(said.family_probability, abs=1e-6)
    out, err = capsys.readouterr()
    assert out.count("  none of the known classes: ") == 1 and out.count("  one of 4 classes: ") == 2
    assert err == f"photographs are refused by max_probability; calibrated {BEST_SCORE}\n"
    lines = [line for line in out.splitlines() if "  set: " in line]
    for line, said in zip(lines, expected, strict=True):
        assert line.endswith(f"  set: {'; '.join(said.conformal_set)}  family: {said.family} {said.family_probability:.1%}")
    monkeypatch.setattr("tools.predict.IN_SET", 3)
    assert set_and_family(expected[0]._replace(family=None)).endswith(f"; {expected[0].conformal_set[2]} and 1 more")
    predict(tmp_path / "calibrated.pth", photos, "--refused", 0, "--csv", tmp_path / "p.csv")
    assert list(csv.DictReader((tmp_path / "p.csv").open()).fieldnames or ())[-1] == "probability_4"
    out, err = capsys.readouterr()
    assert "set: " not in out and not err
    predict(checkpoints / "detr.pth", photos)
    err = capsys.readouterr().err
    assert "every photograph gets a class: no threshold is known" in err and BEST_SCORE in err
