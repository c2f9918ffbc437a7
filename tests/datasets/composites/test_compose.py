"""Composing: exact masks, objects that are whole, scenes that do not depend on the class, and occlusion."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.composites import compose
from datasets.composites.backgrounds import cut_background, render_background
from datasets.composites.compose import Change, Composer, Plan, Pose, blend, draw_colours, draw_pose, place, seen_masks
from tests.datasets.composites.test_cutouts import cutout

STILL = Change((0.5, 0.5), 0, False, 0, 0, 0, 0)
NONE = {"train": (), "val": ()}


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> list[Path]:
    """Rectangles of one shape in red and blue, and a slanted shape with soft edges and other colours where it is transparent."""
    folder = tmp_path_factory.mktemp("cutouts")
    red, blue = cutout(folder / "red.png"), cutout(folder / "blue.png", colour=(20, 40, 220))
    y, x = np.mgrid[:90, :120]
    alpha = np.clip(128 + 20 * (30 - np.abs(y - 45 + 0.3 * (x - 60)) - 0.2 * x), 0, 255)
    pixels = np.dstack([np.where(alpha[..., None] > 0, (180, 40, 60), (0, 255, 0)), alpha]).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "soft.png")
    return [red, blue, folder / "soft.png"]


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_a_rectangle_covers_the_pixels_that_it_should(things, share):
    thing = compose.load_object(things[0], 512)
    for corner, (top, left) in (((0, 0), (0, 0)), ((1, 0), (0, 80 - int(80 * share))), ((0, 1), (80 - int(48 * share), 0))):
        layer = place(thing, Pose(share, np.eye(3), np.array(corner)), np.eye(3), 80)
        mask = np.zeros((80, 80), bool)
        mask[top : top + int(48 * share), left : left + int(80 * share)] = True
        assert (seen_masks([layer])[0] == mask).all()
        assert np.allclose(layer[mask], (200, 30, 30, 1), atol=0.6) and not layer[~mask].any()


def test_objects_are_whole_and_turned(things):
    thing, change = compose.load_object(things[2], 512), Change(rotation=180, perspective=0.3)
    areas = []
    for z in range(30):
        pose = draw_pose(np.random.default_rng(z), change)._replace(share=0.8)
        large, small = (place(thing, pose._replace(share=share), np.eye(3), 160)[..., 3] for share in (0.8, 0.4))
        areas.append(large.sum())
        assert large.sum() == pytest.approx(4 * small.sum(), rel=0.03)
        rows, columns = (np.flatnonzero(large.max(axis) > 0.1) for axis in (1, 0))
        assert max(np.ptp(rows), np.ptp(columns)) == pytest.approx(0.8 * 160, abs=3.5)
    assert max(areas) > 1.5 * min(areas)  # as the box of a slanted shape depends on how it is turned


def test_nothing_of_what_is_transparent_is_seen(things):
    for path in things:
        layer = place(compose.load_object(path, 60), draw_pose(np.random.default_rng(3), Change()), np.eye(3), 96)
        on_black = blend(np.zeros((96, 96, 3), np.uint8), [layer])
        assert on_black.any() and (on_black[..., 1] <= on_black.max(2) // 2).all()  # no green
        noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
        picture, alpha = blend(noise, [layer]), layer[..., 3:]
        assert seen_masks([layer]).sum() == pytest.approx(alpha.sum(), rel=0.04)  # edges that are half covered even out
        assert (picture == noise)[np.broadcast_to(alpha == 0, noise.shape)].all()
        assert np.abs(picture - (noise * (1 - alpha) + on_black)).max() <= 1.01


def test_the_scene_does_not_depend_on_the_object(things):
    composer = Composer(64, Change(), NONE)
    for z in range(5):
        red, blue = (composer.compose(Plan("train", z, (path,))) for path in things[:2])
        assert (red.masks == blue.masks).all() and red.masks.any()
        differs = np.abs(red.image.astype(int) - blue.image).max(2) > 60  # more than blur and JPEG do beside it
        near = cv2.dilate(red.masks[0].astype(np.uint8), np.ones((5, 5))) > 0
        assert differs[red.masks[0]].mean() > 0.9 and not differs[~near].any()
    plans = [Plan("train", z, (things[0],)) for z in range(20)]
    assert len({composer.compose(plan).image.tobytes() for plan in plans}) == 20


def test_colours_keep_grey_grey_and_turn_the_hue():
    rng = np.random.default_rng(0)
    for _ in range(20):
        grey = draw_colours(rng, Change(hue=180)) @ np.ones(3)
        assert np.ptp(grey) < 1e-9 and 0.7 <= grey[0] <= 1.3
    assert np.allclose(draw_colours(rng, STILL), np.eye(3))

    class Third:
        def uniform(self, low: float, high: float, count: int) -> np.ndarray:
            return np.array([1, 0, 0])

    turn = draw_colours(Third(), Change(hue=120))  # type: ignore[arg-type]
    assert np.allclose(turn @ [1, 0, 0], [0, 1, 0]) and np.allclose(turn @ [0, 1, 0], [0, 0, 1])


def test_the_object_before_hides_the_one_behind():
    back, front = np.zeros((2, 4, 4, 4), np.float32)
    back[:3, ..., 3], front[1:, ..., 3] = 1, 1
    front[1, ..., 3] = 0.6
    masks = seen_masks([back, front])
    assert (masks[0] == (np.arange(4) < 1)[:, None]).all() and (masks[1] == (np.arange(4) > 0)[:, None]).all()
    assert compose.visible_shares([back, front]).tolist() == [pytest.approx(1 / 3), 1]


def test_two_objects_are_both_seen(things):
    composer, hidden = Composer(64, Change((0.8, 1.0)), NONE), 0
    for z in range(12):
        plan = Plan("val", z, (things[0], things[2]))
        layers = composer.place(plan)
        masks, shares = composer.compose(plan).masks, compose.visible_shares(layers)
        assert not (masks[0] & masks[1]).any() and (masks.sum((1, 2)) >= 16).all()
        assert shares[1] == 1 and shares[0] >= 0.75
        assert shares[0] == pytest.approx(masks[0].sum() / (layers[0][..., 3] > 0.5).sum())
        hidden += shares[0] < 1
    assert hidden > 0
    with pytest.raises(ValueError, match=r"red.png and .*blue.png: no place was found .* --scale"):
        Composer(64, Change((1, 1), 0, False, 0), NONE).place(Plan("val", 0, (square(things[0]), square(things[1]))))


def square(path: Path) -> Path:
    return cutout(path.parent / "square" / path.name, (40, 40))


def test_backgrounds_are_parts_of_photographs_or_rendered():
    y, x = np.mgrid[:50, :80].astype(np.uint8)
    photograph = np.dstack([x, y, 0 * x])
    mirrored = set()
    for z in range(20):
        cut = cut_background(photograph, np.random.default_rng(z), 40)
        across, down = cut[20, :, 0].astype(int), cut[:, 20, 1].astype(int)
        mirrored.add(bool(across[0] > across[-1]))
        assert 28 <= np.ptp(across) <= 50 and np.ptp(across) == pytest.approx(np.ptp(down), abs=2)
        assert np.ptp(cut[:, 20, 0]) <= 1 and np.ptp(cut[20, :, 1]) <= 1
    assert mirrored == {False, True}
    rendered = [render_background(np.random.default_rng(z), 48) for z in range(3)]
    assert all(one.shape == (48, 48, 3) and one.dtype == np.uint8 and one.std() > 3 for one in rendered)
