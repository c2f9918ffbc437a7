"""Scenes with two aeroplanes: apart, of opposite classes, the same for the same seed, and whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.planes import get_preset
from datasets.planes import pairs as planes_pairs
from datasets.planes.pairs import opposite, render_pair
from tools import make_planes
from util.cli import launch

F16 = get_preset("f16")
FIRST, SECOND = list(F16.classes.values())[0], list(F16.classes.values())[-1]


def main(*arguments: str) -> None:
    launch(make_planes.main, make_planes.get_args_parser(), [*map(str, arguments)])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pairs")
    main("--preset", "f81", "--out", out, "--pairs", "3", "--size", "64")
    return out / "planes-f81-pairs"


def test_aeroplanes_do_not_touch_and_are_inside():
    near = np.ones((3, 3), np.uint8)
    for z in range(6):
        drawn = render_pair(FIRST, SECOND, z, 96)
        assert drawn.image.shape == (96, 96, 3) and drawn.masks.shape == (2, 96, 96)
        first, second = drawn.masks
        assert not (cv2.dilate(first.astype(np.uint8), near) & second).any()
        assert (drawn.masks.mean((1, 2)) > 0.01).all()
        assert not drawn.masks[:, [0, -1]].any() and not drawn.masks[:, :, [0, -1]].any()


def test_masks_lie_on_the_aeroplanes():
    """The class of one aeroplane changes its pixels, not those of the other."""
    third = list(F16.classes.values())[3]
    for z in range(4):
        drawn, changed = render_pair(FIRST, SECOND, z, 96), render_pair(FIRST, third, z, 96)
        differs = np.abs(drawn.image.astype(int) - changed.image).max(2) > 60  # more than a JPEG does
        assert differs.any() and not (differs & drawn.masks[0]).any()
        assert (drawn.masks[0] == changed.masks[0]).all() and (drawn.masks[1] != changed.masks[1]).any()


def test_first_is_anywhere():
    left = [np.argwhere(mask)[:, 1].mean() for mask in (render_pair(FIRST, SECOND, z, 48).masks[0] for z in range(24))]
    assert 4 < sum(x < 24 for x in left) < 20


@pytest.mark.parametrize(("preset", "slots"), [("f16", 4), ("f81", 4), ("f8", 3), ("pair-tail", 1)])
def test_classes_share_no_slot_that_varies(preset, slots):
    rng, chosen = np.random.default_rng(0), get_preset(preset)
    for variants in chosen.classes.values():
        other = opposite(chosen, variants, rng)
        assert sum(variants[slot] != other[slot] for slot in variants) == slots
        assert other in chosen.classes.values()


def test_same_seed_same_bytes_other_seed_other_picture(made, tmp_path):
    arguments = ("--preset", "f81", "--out", tmp_path, "--pairs", "3", "--size", "64", "--name")
    main(*arguments, "again")
    main(*arguments, "other", "--seed", "1")
    pictures = {root: {p.name: p.read_bytes() for p in root.iterdir()} for root in (made, tmp_path / "again", tmp_path / "other")}
    assert pictures[made] == pictures[tmp_path / "again"]
    assert len(set(pictures[made]) & set(pictures[tmp_path / "other"])) == 2  # pairs.json and settings.json


def test_folder_holds_pictures_masks_and_list(made):
    entries = json.loads((made / "pairs.json").read_text())
    assert len(entries) == 3 == len({entry["file"] for entry in entries})
    for entry in entries:
        classes = [get_preset("f81").classes[entry[side]] for side in "AB"]
        drawn = render_pair(*classes, entry["z"], entry["size"])
        assert (cv2.imread(str(made / entry["file"]))[..., ::-1] == drawn.image).all()
        for side, mask in zip("AB", drawn.masks, strict=True):
            stored = cv2.imread(str((made / entry["file"]).with_suffix(f".{side}.png")), cv2.IMREAD_UNCHANGED)
            assert (stored == 255 * mask).all()
    assert not list(made.parent.glob(".*"))


def test_made_once_and_never_over_something_else(made, capsys):
    before = {p.name: p.read_bytes() for p in made.iterdir()}
    main("--preset", "f81", "--out", made.parent, "--pairs", "3", "--size", "64")
    assert "already there" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main("--preset", "f81", "--out", made.parent, "--pairs", "4", "--size", "64")
    assert "holds something else" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in made.iterdir()} == before


def test_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(planes_pairs, "render_pair", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit):
        main("--out", tmp_path, "--pairs", "2", "--size", "64")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pairs", "3", "--sheet", "s.png"], "--pairs needs --out"),
        (["--pairs", "0", "--out", "x"], "--pairs: '0' must be a whole number of at least 1"),
        (["--pairs", "1", "--out", "x", "--preset", "shortcut-0.9"], "has a roundel"),
        (["--pairs", "1", "--out", "x", "--size", "20"], "at least 48"),
    ],
)
def test_wrong_command_lines(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(*arguments)
    error = capsys.readouterr().err
    assert message in error and error.strip().count("\n") == 0
    with pytest.raises(ValueError, match="give two classes"):
        render_pair(FIRST, FIRST, 1)
