"""`python -m tools.check_dataset`: what is found in a data set with every kind of fault, and the page in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import cv2
import numpy as np
import pytest
from PIL import Image

from predictor import Predictor
from tests.tools.test_report import Tab
from tools.check_dataset import Score, find_suspects, get_args_parser, main
from util.cli import launch

EVIL = "<script>document.title='x'<"
BAD_BYTES = os.fsdecode(b"caf\xe9\n\x1b[1m\"'&.png")


def picture(seed: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Smooth noise uint8 [H, W, 3]: no two seeds look alike."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)


def save(path: Path, pixels: np.ndarray, mode: str = "RGB", **options: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, **options)


def run(root: Path, name: str, out: Path, *more: object) -> Any:
    words = ["--dataset_path", root, "--dataset_name", name, "--out", out, "--device", "cpu", "--num_workers", 0, *more]
    launch(main, get_args_parser(), [str(word) for word in words])
    return json.loads((out / "check.json").read_text())


def error_of(capsys: pytest.CaptureFixture[str], code: int, root: Path, name: str, out: Path, *more: object) -> str:
    with pytest.raises(SystemExit) as stop:
        run(root, name, out, *more)
    lines = capsys.readouterr().err.splitlines()
    assert stop.value.code == code and ": error: " in lines[-1], lines
    return lines[-1]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<root>/sound/{train,val}/{a,b}`, four and two pictures of each class."""
    root = tmp_path_factory.mktemp("datasets")
    for seed in range(12):
        save(root / "sound" / ("train" if seed < 8 else "val") / "ab"[seed % 2] / f"{seed}.png", picture(seed))
    return root


@pytest.fixture(scope="module")
def faulty(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data set with one fault of each kind, and with names that are hostile."""
    root = tmp_path_factory.mktemp("faulty")
    shutil.copytree(sound / "sound", root / "birds")
    train, val = root / "birds" / "train", root / "birds" / "val"
    shutil.copy(train / "a" / "0.png", val / "a" / "copy.png")
    shutil.copy(train / "a" / "2.png", train / "b" / "copy.png")
    shutil.copy(train / "b" / "1.png", train / "b" / "again.png")
    save(val / "b" / "resaved.jpg", picture(3, (48, 36)), quality=60)
    save(train / "a" / "similar.jpg", picture(5), quality=60)
    save(train / "b" / "similar.jpg", picture(7), quality=60)
    (train / "a" / "cut.png").write_bytes((train / "a" / "0.png").read_bytes()[:400])
    (train / "a" / "photo.heic").write_bytes(b"x")
    for seed, name in enumerate((BAD_BYTES, "100%25#?&.png", "grey.png", "strip.png"), start=20):
        wide = (4000, 20) if name == "strip.png" else (64, 48)
        save(train / EVIL / name, picture(seed, wide), "L" if name == "grey.png" else "RGB")
    save(train / EVIL / "flat.png", np.full((20, 20, 3), 200, dtype=np.uint8))
    save(val / "unknown" / "0.png", picture(30))
    (train / "void").mkdir()
    return root


@pytest.fixture(scope="module")
def checked(faulty: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of the page, and check.json."""
    out = tmp_path_factory.mktemp("out") / "page"
    with pytest.raises(SystemExit) as stop:
        run(faulty, "birds", out)
    assert stop.value.code == 1
    return out, json.loads((out / "check.json").read_text())


def test_a_sound_data_set_has_no_faults(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = run(sound, "sound", tmp_path / "page")
    assert content["faults"] == content["remarks"] == [] and content["suspects"] is None
    assert content["classes"] == [{"name": name, "images": [4, 2]} for name in "ab"]
    assert content["kinds"] == {"PNG, colour": 12}
    assert content["sizes"]["most_common"] == {"height": 48, "width": 64, "images": 12}
    out = capsys.readouterr().out
    assert "12 pictures (train 8, val 4) of 2 classes" in out and "faults: none" in out and "index.html" in out


def test_every_fault_is_named(checked: tuple[Path, Any]) -> None:
    _, content = checked
    (unusable,) = content["unusable"]
    assert unusable["file"] == "train/a/cut.png" and unusable["reason"].startswith("is truncated or damaged")
    assert [(each["files"], each["splits"], each["classes"]) for each in content["identical"]] == [
        (["train/a/0.png", "val/a/copy.png"], 2, 1),
        (["train/a/2.png", "train/b/copy.png"], 1, 2),
        (["train/b/1.png", "train/b/again.png"], 1, 1),
    ]
    near = {key: [(pair["file"], pair["other"]) for pair in content[key]] for key in ("near_across", "near_classes")}
    assert near["near_across"] == [("val/b/resaved.jpg", "train/b/3.png")]
    assert near["near_classes"] == [("train/b/5.png", "train/a/similar.jpg")]
    assert content["near_groups"] == [["train/b/7.png", "train/b/similar.jpg"]]
    assert content["flat"] == [f"train/{EVIL}/flat.png"]
    assert content["kinds"]["PNG, grey"] == 1 and content["kinds"]["JPEG, colour"] == 3
    extremes = content["sizes"]["extremes"]
    assert extremes["widest"][0] == {"file": f"train/{EVIL}/strip.png", "height": 20, "width": 4000}
    assert sum(each["images"] for each in content["sizes"]["aspect_ratio"]["bins"]) == content["images"] - 1
    wanted = (
        "no image in class 'void'", "not among those of train: 'unknown'", "1 file cannot be used: 'train/a/cut.png'",
        "1 group of equal files in two splits", "1 group of equal files in two classes of a split",
        "1 picture of val has a near-duplicate in an earlier split: 'val/b/resaved.jpg = train/b/3.png'",
    )  # fmt: skip
    assert len(content["faults"]) == len(wanted)
    assert all(words in line for words, line in zip(wanted, content["faults"], strict=True)), content["faults"]
    remarks = "\n".join(content["remarks"])
    wanted = ("photo.heic", "of a single colour", "2 of 5 classes have no picture in val", "1 group of equal files in a class")
    assert all(words in remarks for words in wanted), remarks


def test_without_near_duplicates_nothing_is_compared(faulty: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run(faulty, "birds", tmp_path / "page", "--duplicate_bits", -1)
    content = json.loads((tmp_path / "page" / "check.json").read_text())
    assert content["near_across"] == content["near_classes"] == content["near_groups"] == [] and content["identical"]


def test_doubts_are_those_of_the_checkpoint(small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error_of(capsys, 1, small_run, "d", tmp_path / "page", "--resume", small_run / "checkpoint.pth")
    content = json.loads((tmp_path / "page" / "check.json").read_text())
    files = sorted((small_run / "d").rglob("*.png"))
    predictions = Predictor.from_checkpoint(small_run / "checkpoint.pth").predict(list(files), topk=4)
    expected = {}
    for path, (names, p, *_) in zip(files, predictions, strict=True):
        if names[0] != path.parent.name:
            expected[str(path.relative_to(small_run / "d"))] = (names[0], p[0] - p[names.index(path.parent.name)])
    suspects = content["suspects"]
    assert {each["file"]: each["predicted"] for each in suspects} == {file: name for file, (name, _) in expected.items()}
    margins = [each["p_predicted"] - each["p_label"] for each in suspects]
    assert margins == sorted(margins, reverse=True) == pytest.approx([expected[each["file"]][1] for each in suspects], abs=1e-5)
    assert content["scored"] == 12 and "there is no folder train" in content["faults"][0]
    assert "taken for another class" in content["remarks"][-1]


def test_confident_is_at_least_the_mean_of_the_class() -> None:
    rows = [("1", "a", "a", 0.9, 0.9), ("2", "a", "b", 0.3, 0.6), ("3", "b", "b", 0.5, 0.5), ("4", "b", "a", 0.4, 0.55)]
    scores = [Score(*row) for row in (*rows, ("5", "b", "c", 0.0, 0.9))]
    found = find_suspects(scores)
    assert [(each["file"], each["confident"]) for each in found["suspects"]] == [("5", False), ("2", True), ("4", False)]
    assert found["examples"] == {"a": "1", "b": "3"}


@pytest.mark.parametrize(("more", "code", "words"), [
    (["--dataset_name", "absent"], 2, ["absent", "sound"]),
    (["--dataset_name", "."], 2, ["train"]),
    (["--resume", "absent.pth"], 2, ["absent.pth"]),
    (["--duplicate_bits", "64"], 2, ["--duplicate_bits", "at most 16"]),
])  # fmt: skip
def test_errors_are_one_line(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, words: list[str]
) -> None:
    line = error_of(capsys, code, sound, "sound", tmp_path / "page", *more)
    assert all(word in line for word in words), line
    assert not any(tmp_path.iterdir())


def test_nothing_else_is_overwritten(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "lies in the data set" in error_of(capsys, 2, sound, "sound", sound / "sound" / "page")
    (tmp_path / "mine.txt").write_text("mine")
    assert "not overwritten" in error_of(capsys, 2, sound, "sound", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_checkpoint_of_other_classes_is_refused(
    sound: Path, tmp_path: Path, save_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_checkpoint(tmp_path / "other.pth", ["x", "y"])
    line = error_of(capsys, 2, sound, "sound", tmp_path / "page", "--resume", other)
    assert "none of the classes of the data set ('a', 'b'), but 'x', 'y'" in line
    numbered = save_checkpoint(tmp_path / "intr.pth", 2)  # INTR's have no names: the classes are those of train
    content = run(sound, "sound", tmp_path / "page", "--resume", numbered)
    assert content["scored"] == 12 and {each["predicted"] for each in content["suspects"]} <= {"a", "b"}


def test_the_page_shows_what_is_named_and_no_name_is_markup(browser: Any, checked: tuple[Path, Any]) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed (requirements-dev.txt)")
    out, content = checked
    tab = Tab(browser, out, viewport={"width": 390, "height": 800})
    page = tab.open()
    assert page.title() == "Check of birds" and page.locator("main script").count() == 0
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    words = page.inner_text("main")
    assert all(each["file"] in words for each in content["unusable"]) and "caf\\xe9\\n\\x1b[1m" in page.content()
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    loaded = "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    # wait_for_function would poll by eval, which the page's policy forbids.
    assert any(page.evaluate(loaded) or page.wait_for_timeout(100) for _ in range(300))
    assert page.locator("img").count() > 10
    page.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    faults = page.evaluate("axe.run()")["violations"]
    assert [fault["id"] for fault in faults if fault["impact"] in ("serious", "critical")] == []
    page.context.close()
    assert tab.complaints == []


def test_links_of_the_page_lead_to_the_pictures(checked: tuple[Path, Any], faulty: Path) -> None:
    out, _ = checked
    links = {unquote_to_bytes(link) for link in re.findall(r'<li><a href="([^"]*)"', (out / "index.html").read_text())}
    assert os.fsencode(f"{EVIL}/flat.png") in b" ".join(links) and len(links) > 10
    assert all((out / os.fsdecode(link)).is_file() for link in links)
