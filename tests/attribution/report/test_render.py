"""What the drawing must keep: a map lands where it belongs, no map and no name breaks a panel, names are safe."""

from __future__ import annotations

import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest

from attribution.report import html as report
from attribution.report import panels, render

NOTE = "a note"


def peaked(height: int, width: int, row: int, column: int) -> np.ndarray:
    maps = np.zeros((1, height, width), np.float32)
    maps[0, row, column] = 1
    return maps


def whole(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps of an unpadded picture."""
    return render.display_maps(maps, (32 * maps.shape[1], 32 * maps.shape[2]), (32 * maps.shape[1], 32 * maps.shape[2]), size)


@pytest.mark.parametrize("value", [0.0, 1 / 49, 3.0])
def test_constant_map_is_drawn_as_zero(value: float) -> None:
    with np.errstate(all="raise"):
        maps = whole(np.full((2, 7, 7), value, np.float32), (50, 60))
    assert maps.shape == (2, 50, 60)
    assert (maps == 0).all()


def test_rounding_noise_on_a_constant_map_is_no_pattern() -> None:
    noise = np.random.default_rng(0).uniform(-1e-8, 1e-8, (1, 7, 7))
    assert (whole((1 / 49 + noise).astype(np.float32), (40, 40)) == 0).all()


def test_maps_are_scaled_one_by_one_to_zero_and_one() -> None:
    maps = np.random.default_rng(0).random((3, 5, 6)).astype(np.float32) * np.array([1, 10, 1e-4], np.float32)[:, None, None]
    scaled = whole(maps, (200, 240))
    assert scaled.min((1, 2)) == pytest.approx(0, abs=0.02)
    assert scaled.max((1, 2)) == pytest.approx(1, abs=0.02)
    assert ((scaled >= 0) & (scaled <= 1)).all()


def test_enlarging_is_opencv_s_cubic() -> None:
    maps = np.random.default_rng(0).random((1, 7, 9)).astype(np.float32)
    maps[0, 0, :2] = 0, 1
    expected = cv2.resize(maps[0], (130, 100), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    np.testing.assert_allclose(whole(maps, (100, 130))[0], expected, atol=1e-5)


@pytest.mark.parametrize("valid", [(320, 200), (320, 321), (150, 480), (33, 31)])
def test_padding_does_not_leak_into_the_picture(valid: tuple[int, int]) -> None:
    """A map that is one value on the cells of the picture and another on the padding is constant over the picture."""
    padded = 320, 480
    mask = np.ones(padded, np.uint8)
    mask[: valid[0], : valid[1]] = 0
    cells = cv2.resize(mask, (15, 10), interpolation=cv2.INTER_NEAREST)  # how the model masks its grid
    inside = 0.3 * (cells == 0)[None].astype(np.float32)
    marked = inside.copy()
    marked[0, 0, 0] = 0.6
    assert (render.display_maps(inside, padded, valid, (90, 70)) == 0).all()
    heat = render.display_maps(marked, padded, valid, (90, 70))[0]
    assert heat[0, 0] == pytest.approx(1, abs=0.02)
    if valid[0] > 64 and valid[1] > 64:
        assert (heat[-10:] == 0).all() and (heat[:, -10:] == 0).all()


def test_padded_map_equals_the_map_of_the_picture_alone() -> None:
    alone = np.random.default_rng(0).random((2, 6, 5)).astype(np.float32)
    padded = np.zeros((2, 10, 8), np.float32)
    padded[:, :6, :5] = alone
    expected = render.display_maps(alone, (192, 160), (192, 160), (120, 100))
    np.testing.assert_allclose(render.display_maps(padded, (320, 256), (192, 160), (120, 100)), expected, atol=1e-6)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 8), (6, 0), (6, 8), (2, 5)])
def test_overlay_reddens_where_the_map_peaks(row: int, column: int) -> None:
    picture = np.full((210, 270, 3), 128, np.uint8)
    drawn = render.overlay(picture, whole(peaked(7, 9, row, column), (210, 270))[0]).astype(int)
    redness = drawn[..., 0] - drawn[..., 2]
    y, x = row * 30 + 15, column * 30 + 15
    assert redness[y, x] > 60
    far = np.hypot(*(np.indices((210, 270)) - np.array([y, x])[:, None, None])) > 75
    assert (redness[far] <= 0).all()


def test_overlay_shows_the_picture_through() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for value, weight in zip((0, 1), render.WEIGHT, strict=True):
        drawn = render.overlay(picture, np.full((40, 50), value, np.float32)).astype(float)
        spread = (drawn - picture * (1.0 - weight)).reshape(-1, 3)
        assert np.ptp(spread, axis=0) == pytest.approx(0, abs=2)  # one colour was added everywhere


@pytest.mark.parametrize(("shape", "longest", "enlarge", "expected"), [
    ((100, 200), 50, True, (25, 50)),
    ((100, 200), 400, True, (200, 400)),
    ((100, 200), 400, False, (100, 200)),
    ((3, 2000), 448, True, (1, 448)),
])  # fmt: skip
def test_fit(shape: tuple[int, int], longest: int, enlarge: bool, expected: tuple[int, int]) -> None:
    assert render.fit(np.zeros((*shape, 3), np.uint8), longest, enlarge).shape == (*expected, 3)


@pytest.mark.parametrize("heads", [1, 2, 3, 7, 12, 64])
@pytest.mark.parametrize("shape", [(60, 80), (80, 8)])
def test_panel_holds_any_number_of_tiles(heads: int, shape: tuple[int, int]) -> None:
    tiles = [render.Tile(np.full((*shape, 3), (1, 2, 3), np.uint8), (f"head {head}",)) for head in range(heads)]
    sheet = render.panel("t", "v", True, [render.Section("", tiles), render.Section("again", tiles)], NOTE)
    assert sheet.shape[1] <= render.MAX_WIDTH
    assert (sheet == (1, 2, 3)).all(2).sum() == 2 * heads * shape[0] * shape[1]  # every tile, whole and unscaled


def test_panel_colours_the_verdict() -> None:
    tiles = [render.Section("", [render.Tile(np.zeros((20, 20, 3), np.uint8), ("x",))])]
    for right, present, absent in ((True, render.GREEN, render.RED), (False, render.RED, render.GREEN)):
        sheet = render.panel("title", "verdict", right, tiles, NOTE)
        assert (sheet == present).all(2).any() and not (sheet == absent).all(2).any()


@pytest.mark.parametrize("name", ["Ærø <Östlich> & Ко", "飛行機", "a\nb\x00c", "\udcff.jpg", "", "W" * 3000])
def test_any_text_can_be_drawn_and_stays_in_its_column(name: str) -> None:
    tile = render.Tile(np.zeros((40, 60, 3), np.uint8), (name, name), render.GREEN)
    sheet = render.panel(name, name, False, [render.Section(name, [tile, tile])], name)
    assert sheet.shape[1] < 1000
    assert (sheet[:, -render.MARGIN // 2 :] == render.BACKGROUND).all()


def test_shorten_keeps_what_fits() -> None:
    assert [run for run, _ in render.shorten("Boeing 737", 1000)] == ["Boeing 737"]
    ((cut, font),) = render.shorten("Boeing 737-800 " * 20, 200)
    assert cut.endswith("…") and "Boeing 737-800".startswith(cut[:14])
    assert font.getlength(cut) <= 200


def explained(queries: int, heads: int, shape: tuple[int, int] = (60, 90)) -> panels.Explained:
    """An image in the upper left of a padded input; every map peaks in its upper left cell, and higher on the padding."""
    maps = np.full((queries, heads, 4, 6), 0.01, np.float32)
    maps[..., 0, 0] = 0.3
    maps[..., 3, 5] = 0.9
    order = list(range(queries))
    return panels.Explained(
        picture=np.full((*shape, 3), 128, np.uint8),
        padded_size=(128, 192),
        valid_size=(96, 144),
        true=queries - 1,
        predicted=0,
        predicted_score=0.9,
        classes=order,
        ranks=[index + 1 for index in order],
        logits=[1.0] * queries,
        scores=[0.9] * queries,
        maps=maps,
    )


@pytest.mark.parametrize(("queries", "heads"), [(1, 1), (2, 3), (5, 8), (3, 16)])
def test_panels_and_overlays_of_any_model(queries: int, heads: int) -> None:
    one = explained(queries, heads)
    names = [f"class {index}" for index in range(queries)]
    drawn = panels.draw_panels(one, names, "title", "layer 0")
    assert list(drawn) == ["heads", "queries", "query_heads"]
    assert list(panels.draw_panels(one, names, "title", "layer 0", heads=False, query_heads=False)) == ["queries"]
    overlays = panels.draw_overlays(one, names)
    expected = [f"head_{head}" for head in range(heads)] + ["mean"] + [f"query_{q + 1}_class_{q}" for q in range(queries)]
    assert list(overlays) == expected and all(report.OWN_OVERLAY.fullmatch(f"{stem}.png") for stem in expected)
    for picture in overlays.values():
        redness = picture[..., 0].astype(int) - picture[..., 2]
        assert redness[5, 5] > 60 and redness[-5, -5] <= 0
    frame = drawn["queries"][render.MARGIN + 60 :]  # below the title, which has one of these colours too
    assert (frame == render.GREEN).all(2).any()  # round the true class
    assert (frame == render.RED).all(2).any() == (queries > 1)  # round the wrong prediction


def test_overlays_keep_the_size_of_their_picture_and_panels_do_not() -> None:
    for shape in ((30, 20), (500, 700)):
        one = explained(2, 2, shape)
        assert all(picture.shape[:2] == shape for picture in panels.draw_overlays(one, ["a", "b"]).values())
    small, large = (panels.draw_panels(explained(2, 2, shape), ["a", "b"], "t", "l")["heads"] for shape in ((30, 20), (600, 400)))
    assert small.shape == large.shape


def test_peak_is_relative_to_the_mean_over_the_picture() -> None:
    """0.3 in one of 3 x 5 cells (4.5 wide: the fifth lies partly on the picture), 0.01 in the others."""
    one = explained(1, 2)
    assert panels._peaks(one, one.maps[0]) == [f"peak {0.3 / ((0.3 + 14 * 0.01) / 15):.1f}"] * 2


@pytest.mark.parametrize("name", ['a/b\\c:d*?"<>|', "..", "", "Ünïcode 飛行機", "x" * 500, "é" * 500, "/etc/passwd", "a\0b"])
def test_safe_names(name: str) -> None:
    safe = report.safe_name(name)
    assert safe and len(safe.encode()) <= panels.NAME_BYTES
    assert not re.search(r'[\s/\\:*?"<>|\0]', safe) and not safe.startswith(".")


def test_panel_names_are_legible_distinct_and_recognised() -> None:
    assert report.panel_name("heads", "Boeing 737", "Airbus A320", 0.814, False) == (
        "heads__true-Boeing_737__pred-Airbus_A320_0.81__wrong.png"
    )
    names = {
        report.panel_name(kind, "long " * 100, "ü" * 300, score, right)
        for kind in ("heads", "queries", "query_heads") for score in (0.0, 1.0) for right in (True, False)
    }  # fmt: skip
    assert len(names) == 12
    assert all(report.OWN_PANEL.fullmatch(name) and len(name.encode()) < 255 for name in names)


def test_clear_deletes_only_what_a_run_made(tmp_path: Path) -> None:
    (tmp_path / "overlays").mkdir()
    made = [report.panel_name("heads", "a", "b", 0.5, True), "overlays/head_0.png", "overlays/mean.png", "overlays/query_1_x.png"]
    kept = ["notes.txt", "heads.png", "overlays/mine.png"]
    for name in made + kept:
        (tmp_path / name).touch()
    report.clear(tmp_path)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)
    report.clear(tmp_path / "absent")


class Page(HTMLParser):
    """Links, images and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for key, value in attrs if key in ("href", "src") and value]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_index_escapes_names_and_links_to_its_files(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>&amp; #1?%20"\'é.jpg'
    folder = evil.replace("/", "_")
    (tmp_path / folder / "overlays").mkdir(parents=True)
    (tmp_path / folder / "p.png").touch()
    rows = [
        report.Row(evil, folder, ["p.png"], evil, 0.75, 0.125, False),
        report.Row("b.jpg", folder, ["p.png"], "B", 0.5, 0.5, True),
    ]
    page = Page(report.index_html(evil, evil, rows))
    assert "script" not in page.tags
    assert page.text.count(evil) == 5  # <title>, heading, about, name, prediction
    assert unicodedata.is_normalized("NFC", page.text)
    assert "2 pictures" in page.text and "1 right" in page.text and "1 wrong" in page.text
    assert "0.750" in page.text and "0.125" in page.text
    assert page.links and all((tmp_path / unquote(link)).exists() for link in page.links)
