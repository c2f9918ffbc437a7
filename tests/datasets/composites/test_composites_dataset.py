"""Composites on disk: the ground truth that attribution evaluation reads, the same whatever the workers, resumed, and safe."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.composites.compose import Change, Composer, Plan
from datasets.decode import image_size
from datasets.image_folder import open_split
from datasets.masks import check_masks, read_mask, read_pairs
from datasets.prepare import writing
from tests.datasets.composites.test_cutouts import cutout
from tools.make_composites import get_args_parser, main
from util.cli import launch

SMALL = ["--size", "48", "--train", "9", "--val", "6", "--pairs", "5", "--num_workers", "1"]


def run(cutouts: Path, out: Path, *more: object) -> Path:
    launch(main, get_args_parser(), ["--cutouts", str(cutouts), "--out", str(out), *SMALL, *map(str, more)])
    return out / "composites"


def fails(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        launch(main, get_args_parser(), [*map(str, arguments)])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("make_composites: error: ") and error.count("\n") == 1
    return error


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory) -> Path:
    """Three classes: four red cut-outs, of other shapes, two blue ones, and a single grey one."""
    folder = tmp_path_factory.mktemp("things") / "cutouts"
    for index, size in enumerate(((40, 20), (20, 40), (30, 30), (50, 12))):
        cutout(folder / "red" / f"{index}.png", size)
    for index, size in enumerate(((40, 24), (18, 36))):
        cutout(folder / "blue" / f"{index}.png", size, (20, 40, 220))
    cutout(folder / "grey" / "one.png", (32, 28), (128, 128, 128))
    return folder


@pytest.fixture(scope="module")
def made(cutouts, tmp_path_factory) -> Path:
    return run(cutouts, tmp_path_factory.mktemp("out"))


def test_a_data_set_with_masks_and_pairs_that_the_evaluation_reads(made):
    train = open_split(made.parent, "composites", "train")
    val = open_split(made.parent, "composites", "val", classes=train.classes)
    assert train.classes == ["blue", "grey", "red"] and set(Counter(p.parent.name for p in train.paths).values()) == {3}
    assert (len(train), len(val)) == (9, 6) and check_masks(made / "masks", made / "val", val.paths) == 6
    assert check_masks(made / "masks", made / "train", train.paths) == 9
    for path in train.paths:
        mask = read_mask(made / "masks" / path.relative_to(made)).numpy()
        assert image_size(path) == (48, 48) and 0.02 < mask.mean() < 0.6
        if path.parent.name != "grey":
            colour = cv2.imread(str(path))[cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) > 0].mean(0)  # BGR
            assert colour.argmax() == (2 if path.parent.name == "red" else 0)
    pairs = read_pairs(made / "pairs", train.classes)
    entries = json.loads((made / "pairs" / "pairs.json").read_text())
    assert len(pairs) == len(entries) == 5
    for pair, entry in zip(pairs, entries, strict=True):
        masks = [read_mask(path).numpy() for path in pair.masks]
        assert not (masks[0] & masks[1]).any() and min(entry["visible"]) >= 0.75 and entry["in_front"] in ("A", "B")
        assert [name.split("/")[0] for name in entry["cutouts"]] == [entry["A"], entry["B"]]
        image = cv2.imread(str(pair.path))
        for mask, label in zip(masks, (entry["A"], entry["B"]), strict=True):
            inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) > 0
            if label != "grey" and inner.sum() > 8:
                assert image[inner].mean(0).argmax() == (2 if label == "red" else 0)


def test_some_cutouts_are_those_of_val_alone(made):
    shown = {"train": set(), "val": set(), "pairs": set()}
    facts = json.loads((made / "annotations.json").read_text())
    assert len(facts) == 15 and set(facts) == {name for name in tree(made) if name.startswith(("train/", "val/"))}
    for name, about in facts.items():
        assert about["background"] is None and f"{about['z']:012x}" == Path(name).stem
        shown[name.split("/")[0]] |= set(about["cutouts"])
    for pair in json.loads((made / "pairs" / "pairs.json").read_text()):
        shown["pairs"] |= set(pair["cutouts"])
    assert shown["train"] & (shown["val"] | shown["pairs"]) <= {"grey/one.png"} and "grey/one.png" in shown["val"]
    record = json.loads((made / "dataset.json").read_text())
    assert record["cutouts"] == {"train": 5, "val": 3} and record["images"]["val"] == {"images": 6, "classes": 3}
    assert record["notes"] == ["val shows the same cut-outs as train of 1 of 3 classes, for want of others: 'grey'"]
    assert record["settings"]["scale"] == [0.4, 0.8] and record["source"][0].endswith("cutouts")


def test_made_once_and_never_over_something_else(made, cutouts, tmp_path, capsys):
    before = tree(made)
    run(cutouts, made.parent)
    assert "already there" in capsys.readouterr().out and tree(made) == before
    command = ["--cutouts", cutouts, "--out", made.parent, *SMALL]
    assert "with hue 15.0, not with hue 20.0" in fails(capsys, *command, "--hue", 20)
    (tmp_path / "composites").mkdir()
    assert "without the dataset.json" in fails(capsys, "--cutouts", cutouts, "--out", tmp_path)
    assert "would lie in" in fails(capsys, "--cutouts", cutouts, "--out", cutouts / "red")
    with writing.locked(tmp_path / "new"):
        assert "another process prepares" in fails(capsys, "--cutouts", cutouts, "--out", tmp_path, "--name", "new")
    assert tree(made) == before and not list(tmp_path.rglob("*.png"))


def test_interrupted_and_resumed_by_more_workers_it_is_the_same(made, cutouts, tmp_path, monkeypatch, capsys):
    write_files, calls = writing.write_files, []

    def interrupt(*args):
        calls.append(args)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return write_files(*args)

    monkeypatch.setattr(writing, "CHUNK", 5)
    with monkeypatch.context() as context:
        context.setattr(writing, "write_files", interrupt)
        with pytest.raises(SystemExit) as caught:
            run(cutouts, tmp_path)
    assert caught.value.code == 130 and [path.name for path in tmp_path.iterdir()] == [".composites.unfinished"]
    assert tree(run(cutouts, tmp_path, "--num_workers", 3)) == tree(made)
    assert "15 files of an interrupted run" in capsys.readouterr().out


def test_photographs_of_train_and_val_differ(cutouts, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(4):
        (tmp_path / "photos" / "deep").mkdir(parents=True, exist_ok=True)
        pixels = cv2.resize(rng.integers(0, 256, (4, 6, 3), np.uint8), (90, 60), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(tmp_path / "photos" / "deep" / f"{index}.jpg"), pixels)
    root = run(cutouts, tmp_path, "--backgrounds", tmp_path / "photos", "--format", "jpg", "--name", "composites", "--seed", 1)
    shown = {"train": set(), "val": set()}
    for name, about in json.loads((root / "annotations.json").read_text()).items():
        assert name.endswith(".jpg")
        shown[name.split("/")[0]].add(about["background"])
    assert shown["train"] and shown["val"] and not shown["train"] & shown["val"]
    assert shown["train"] | shown["val"] <= {f"deep/{index}.jpg" for index in range(4)}
    assert json.loads((root / "dataset.json").read_text())["backgrounds"] == {"train": 3, "val": 1}


def test_a_planted_mark_is_its_classes_at_the_rate(made, cutouts, tmp_path):
    root = run(cutouts, tmp_path, "--shortcut", 0.7, "--train", 60, "--pairs", 1)
    facts = json.loads((root / "annotations.json").read_text())
    own = [about["mark"] == name.split("/")[1] for name, about in facts.items()]
    assert 0.5 < np.mean(own) < 0.9 and {about["mark"] for about in facts.values()} == {"blue", "grey", "red"}
    colours: dict[str, list[np.ndarray]] = {}
    for name, about in facts.items():
        mark, mask = (read_mask(root / kind / name).numpy() for kind in ("marks", "masks"))
        rows, columns = np.nonzero(mark)
        assert rows.min() > 36 and columns.max() < 12 and mark.sum() >= 20 and not (mark & mask).any()
        colours.setdefault(about["mark"], []).append(cv2.imread(str(root / name))[mark].mean(0))
    means = {label: np.mean(found, 0) for label, found in colours.items()}
    for label, found in colours.items():
        for colour in found:
            assert min(means, key=lambda other: np.abs(means[other] - colour).sum()) == label
    assert not list((root / "marks").rglob("pairs")) and not (made / "marks").exists()
    composer, red = Composer(48, Change(), {"val": ()}), (cutouts / "red" / "0.png",)
    without, with_mark = (composer.compose(Plan("val", 5, red, mark)) for mark in (None, 1))
    assert len(without.masks) == 1 and len(with_mark.masks) == 2
    differs = np.abs(with_mark.image.astype(int) - without.image).max(2) > 60
    near = cv2.dilate(with_mark.masks[1].astype(np.uint8), np.ones((5, 5))) > 0
    assert differs.any() and not differs[~near].any()


def test_hostile_names(tmp_path):
    for name in ("a, b/x\n\u202e.png", "c\u0301/x.png", "-d/x;rm -rf.png", "e" * 200 + "/x.png", "日本/x.png"):
        cutout(tmp_path / "cutouts" / name)
    os.rename(cutout(tmp_path / "cutouts" / "日本" / "y.png"), os.fsencode(tmp_path / "cutouts" / "日本") + b"/\xff.png")
    root = run(tmp_path / "cutouts", tmp_path / "out")
    classes = open_split(root.parent, "composites", "train").classes
    assert len(classes) == 5 and {"a, b", "ć", "-d", "日本"} <= set(classes)
    assert len(read_pairs(root / "pairs", classes)) == 5 and len(json.loads((root / "annotations.json").read_text())) == 15


def test_sheet_shows_every_class(cutouts, tmp_path, capsys):
    launch(main, get_args_parser(), ["--cutouts", str(cutouts), "--sheet", str(tmp_path / "sheet.png"), "--size", "64"])
    assert "'grey'" in capsys.readouterr().out and [path.name for path in tmp_path.iterdir()] == ["sheet.png"]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    red, blue = ((sheet[..., i] - sheet[..., [j for j in range(3) if j != i]].max(2) > 60).sum() for i in (0, 2))
    assert red > 200 and blue > 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to do: give --out"),
        (["--out", "x", "--name", "a/b"], "--name 'a/b' must be the name of one folder"),
        (["--out", "x", "--scale", "0.8", "0.4"], "give the smaller one first"),
        (["--out", "x", "--scale", "0.4", "1.4"], "--scale: '1.4' must be a number of at least 0.05 and at most 1"),
        (["--out", "x", "--train", "2"], "train is 2: it must be at least 3"),
        (["--out", "x", "--backgrounds", "nowhere"], "--backgrounds nowhere: no such folder"),
        (["--out", "x", "--backgrounds", "texts"], "texts: no image in it (left out are 1 not named like an image"),
        (["--out", "x", "--backgrounds", "damaged"], "damaged/a.jpg: is not an image"),
        (["--out", "texts/a.txt"], "texts/a.txt"),
        (["--sheet", "x.gif"], "give a file that ends in .png"),
        (["--sheet", "nowhere/x.png"], "the folder nowhere does not exist"),
        (["--out", "x", "--num_workers", "0"], "--num_workers: '0' must be"),
        (["--out", "x", "--val_share", "1"], "--val_share: '1' must be"),
    ],
)
def test_wrong_command_lines(arguments, message, cutouts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("texts/a.txt", "damaged/a.jpg"):
        Path(name).parent.mkdir()
        Path(name).write_text("a text that is no picture")
    assert message in fails(capsys, "--cutouts", cutouts, *arguments)
    assert sorted(tree(tmp_path)) == ["damaged/a.jpg", "texts/a.txt"] and not list(tmp_path.rglob(".*"))
