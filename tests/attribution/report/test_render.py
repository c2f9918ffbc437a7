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
from attribution.report import overlay as heat
from attribution.report import panels, render
from attribution.report.overlay import Scale

NOTE = "a note"


def peaked(height: int, width: int, row: int, column: int) -> np.ndarray:
    maps = np.zeros((1, height, width), np.float32)
    maps[0, row, column] = 1
    return maps


def whole(maps: np.ndarray, size: tuple[int, int], cells: bool = False) -> np.ndarray:
    """Maps of an unpadded picture."""
    network = 32 * maps.shape[1], 32 * maps.shape[2]
    return heat.at_pixels(maps, network, network, size, cells=cells)


def test_the_first_and_last_colour_stand_for_the_ends_of_the_scale_and_zero_is_the_middle_of_a_signed_one() -> None:
    assert Scale(1, 3).place(np.array([0, 1, 2, 3, 4.0])).tolist() == [0, 0, 0.5, 1, 1]
    signed = heat.common_scale(np.array([[-4.0, 1]]), signed=True)
    assert signed == Scale(-4, 4, True) and signed.place(np.array([-4, 0, 2.0])).tolist() == [0, 0.5, 0.75]
    assert heat.common_scale(np.array([0.2, 0.5])) == (0, 0.5, False)


@pytest.mark.parametrize("value", [0.0, 1 / 49, 3.0])
def test_a_constant_map_on_its_own_scale_is_no_pattern(value: float) -> None:
    noise = np.random.default_rng(0).uniform(-1e-8, 1e-8, (7, 7))
    for values in (np.full((7, 7), value, np.float32), (value + noise * (value > 0)).astype(np.float32)):
        assert (heat.own_scale(values).place(values) == 0).all()
    assert (heat.own_scale(np.zeros((7, 7)), signed=True).place(np.zeros((7, 7))) == 0.5).all()


def test_a_flat_head_is_weak_beside_a_sharp_one_unless_each_has_its_own_scale() -> None:
    one = explained(1, 2)
    one.maps[0, 0] = 0.01  # flat; the other has a cell of 0.3
    sharp, flat = ((panels.Style(own_scale=own).draw(one, one.picture, one.maps[0])) for own in (False, True))
    assert sharp[1] == Scale(0, pytest.approx(0.3)) and flat[1] is None
    weakest = heat.overlay(one.picture, np.full(one.picture.shape[:2], 0.01, np.float32), Scale(0, 0.3))
    np.testing.assert_array_equal(sharp[0][0], weakest)


def test_enlarging_is_opencv_s_cubic_within_the_values_of_the_map() -> None:
    maps = np.random.default_rng(0).random((1, 7, 9)).astype(np.float32)
    expected = cv2.resize(maps[0], (130, 100), interpolation=cv2.INTER_CUBIC).clip(maps.min(), maps.max())
    np.testing.assert_allclose(whole(maps, (100, 130))[0], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(70, 90), (71, 93), (7, 9), (3, 5)])
def test_cells_are_drawn_as_they_are(size: tuple[int, int]) -> None:
    maps = np.arange(63, dtype=np.float32).reshape(1, 7, 9)
    expected = cv2.resize(maps[0], size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    np.testing.assert_array_equal(whole(maps, size, cells=True)[0], expected)


@pytest.mark.parametrize("valid", [(320, 200), (320, 321), (150, 480), (33, 31)])
@pytest.mark.parametrize("cells", [False, True])
def test_padding_does_not_leak_into_the_picture(valid: tuple[int, int], cells: bool) -> None:
    """A map that is one value on the cells of the picture and another on the padding is constant over the picture."""
    padded = 320, 480
    mask = np.ones(padded, np.uint8)
    mask[: valid[0], : valid[1]] = 0
    grid = cv2.resize(mask, (15, 10), interpolation=cv2.INTER_NEAREST)  # how the model masks its grid
    inside = 0.3 * (grid == 0)[None].astype(np.float32)
    marked = inside.copy()
    marked[0, 0, 0] = 0.6
    np.testing.assert_allclose(heat.at_pixels(inside, padded, valid, (90, 70), cells=cells), 0.3, atol=1e-6)
    pixels = heat.at_pixels(marked, padded, valid, (90, 70), cells=cells)[0]
    assert pixels[0, 0] == pytest.approx(0.6, abs=0.01)
    if valid[0] > 64 and valid[1] > 64:
        np.testing.assert_allclose(pixels[-10:], 0.3, atol=1e-6)
        np.testing.assert_allclose(pixels[:, -10:], 0.3, atol=1e-6)


def test_padded_map_equals_the_map_of_the_picture_alone() -> None:
    alone = np.random.default_rng(0).random((2, 6, 5)).astype(np.float32)
    padded = np.zeros((2, 10, 8), np.float32)
    padded[:, :6, :5] = alone
    expected = heat.at_pixels(alone, (192, 160), (192, 160), (120, 100))
    np.testing.assert_allclose(heat.at_pixels(padded, (320, 256), (192, 160), (120, 100)), expected, atol=1e-6)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 8), (6, 0), (6, 8), (2, 5)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_known_cell_is_found_at_its_pixels(row: int, column: int, sign: int) -> None:
    """With --grid the pixels that differ from the picture are those of the cell, exactly; the colour tells the sign."""
    picture = np.full((210, 270, 3), 128, np.uint8)
    maps = sign * peaked(7, 9, row, column)
    drawn = heat.overlay(picture, whole(maps, (210, 270), cells=True)[0], heat.common_scale(maps, signed=True)).astype(int)
    inside = np.zeros((210, 270), bool)
    inside[row * 30 : row * 30 + 30, column * 30 : column * 30 + 30] = True
    changed = np.abs(drawn - picture).max(2) > 1
    np.testing.assert_array_equal(changed, inside)
    assert (np.sign(drawn[..., 0] - drawn[..., 2])[inside] == sign).all()  # red for, blue against
    smooth = heat.overlay(picture, whole(peaked(7, 9, row, column), (210, 270))[0], Scale(0, 1)).astype(int)
    strength = np.abs(smooth - smooth[-1 if row < 3 else 0, -1 if column < 4 else 0]).sum(2)
    assert inside[np.unravel_index(strength.argmax(), strength.shape)]


def test_overlay_shows_the_picture_through() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    for value, weight in zip((0, 1), heat.WEIGHT, strict=True):
        drawn = heat.overlay(picture, np.full((40, 50), value, np.float32), Scale(0, 1)).astype(float)
        spread = (drawn - picture * (1.0 - weight)).reshape(-1, 3)
        assert np.ptp(spread, axis=0) == pytest.approx(0, abs=2)  # one colour was added everywhere
    zero = heat.overlay(picture, np.zeros((40, 50), np.float32), Scale(-1, 1, True))
    assert np.abs(zero.astype(int) - picture).max() <= 2  # no evidence either way: the picture as it is


@pytest.mark.parametrize(("shape", "longest", "enlarge", "expected"), [
    ((100, 200), 50, True, (25, 50)),
    ((100, 200), 400, True, (200, 400)),
    ((100, 200), 400, False, (100, 200)),
    ((3, 2000), 448, True, (1, 448)),
])  # fmt: skip
def test_fit(shape: tuple[int, int], longest: int, enlarge: bool, expected: tuple[int, int]) -> None:
    assert heat.fit(np.zeros((*shape, 3), np.uint8), longest, enlarge).shape == (*expected, 3)


@pytest.mark.parametrize("heads", [1, 2, 3, 7, 12, 64])
@pytest.mark.parametrize("shape", [(60, 80), (80, 8)])
def test_panel_holds_any_number_of_tiles(heads: int, shape: tuple[int, int]) -> None:
    tiles = [render.Tile(np.full((*shape, 3), (1, 2, 3), np.uint8), (f"head {head}",)) for head in range(heads)]
    sheet = render.panel("t", "v", True, [render.Section("", tiles), render.Section("again", tiles)], NOTE).array()
    assert sheet.shape[1] <= render.MAX_WIDTH
    assert (sheet == (1, 2, 3)).all(2).sum() == 2 * heads * shape[0] * shape[1]  # every tile, whole and unscaled


def test_panel_colours_the_verdict() -> None:
    tiles = [render.Section("", [render.Tile(np.zeros((20, 20, 3), np.uint8), ("x",))])]
    for right, present, absent in ((True, render.GREEN, render.RED), (False, render.RED, render.GREEN)):
        sheet = render.panel("title", "verdict", right, tiles, NOTE).array()
        assert (sheet == present).all(2).any() and not (sheet == absent).all(2).any()


@pytest.mark.parametrize("name", ["Ærø <Östlich> & Ко", "飛行機", "a\nb\x00c", "\udcff.jpg", "", "W" * 3000])
def test_any_text_can_be_drawn_and_stays_in_its_column(name: str) -> None:
    tile = render.Tile(np.zeros((40, 60, 3), np.uint8), (name, name), render.GREEN)
    sheet = render.panel(name, name, False, [render.Section(name, [tile, tile])], name).array()
    assert sheet.shape[1] < 1000
    assert (sheet[:, -render.MARGIN // 2 :] == render.BACKGROUND).all()


def test_a_sheet_is_written_as_png_and_as_pdf_and_svg_with_text_that_stays_text(tmp_path: Path) -> None:
    tile = render.Tile(np.full((40, 60, 3), 200, np.uint8), ("head 0", "$x_1$ & <b>"), render.GREEN)
    sheet = render.panel("Ærø", "right", None, [render.Section("maps", [tile, tile], Scale(-2, 2, True))], NOTE)
    for suffix in render.FORMATS:
        for name in ("a", "b"):
            sheet.save(tmp_path / f"{name}.{suffix}")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"))[..., ::-1], sheet.array())
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    for text in (">Ærø<", ">head 0<", ">$x_1$ &amp; &lt;b&gt;<", ">a note<", ">-2<", ">2<"):
        assert text in svg
    assert svg.count("<image") == 3  # two tiles and the colour bar
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


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
    drawn = panels.draw_panels(one, names, "title", "layer 0", panels.Style())
    assert list(drawn) == ["heads", "queries", "query_heads"]
    assert list(panels.draw_panels(one, names, "title", "layer 0", panels.Style(), heads=False, query_heads=False)) == ["queries"]
    overlays = panels.draw_overlays(one, names, panels.Style())
    expected = [f"head_{head}" for head in range(heads)] + ["mean"] + [f"query_{q + 1}_class_{q}" for q in range(queries)]
    assert list(overlays) == expected and all(report.OWN_OVERLAY.fullmatch(f"{stem}.png") for stem in expected)
    for picture in overlays.values():
        assert picture[5, 5].sum() > picture[-5, -5].sum() + 100  # inferno is bright where the map is high
    frame = drawn["queries"].array()[render.MARGIN + 60 :]  # below the title, which has one of these colours too
    assert (frame == render.GREEN).all(2).any()  # round the true class
    assert (frame == render.RED).all(2).any() == (queries > 1)  # round the wrong prediction


def test_overlays_keep_the_size_of_their_picture_and_panels_do_not() -> None:
    for shape in ((30, 20), (500, 700)):
        one = explained(2, 2, shape)
        assert all(picture.shape[:2] == shape for picture in panels.draw_overlays(one, ["a", "b"], panels.Style()).values())
    small, large = (
        panels.draw_panels(explained(2, 2, shape), ["a", "b"], "t", "l", panels.Style())["heads"]
        for shape in ((30, 20), (600, 400))
    )
    assert (small.width, small.height) == (large.width, large.height)


def test_peak_is_relative_to_the_mean_over_the_picture() -> None:
    """0.3 in one of 3 x 5 cells (4.5 wide: the fifth lies partly on the picture), 0.01 in the others."""
    one = explained(1, 2)
    assert panels._peaks(one, one.maps[0]) == [f"peak {0.3 / ((0.3 + 14 * 0.01) / 15):.1f}"] * 2


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "zero everywhere"), (0.2, "the same everywhere"), (np.nan, "not finite"), (np.inf, "not finite")]
)
def test_maps_that_show_nothing_are_drawn_and_say_so(value: float, words: str) -> None:
    one = explained(1, 2)
    one.maps[0, 0] = value
    with np.errstate(all="raise"):
        (empty, drawn), _ = panels.Style().draw(one, one.picture, one.maps[0])
        assert panels._peaks(one, one.maps[0]) == [words, "peak 10.2"]
        assert set(panels.draw_panels(one, ["a"], "t", "l", panels.Style())) == {"heads", "queries", "query_heads"}
    assert len(np.unique(empty.reshape(-1, 3), axis=0)) == 1 < len(np.unique(drawn.reshape(-1, 3), axis=0))


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
    assert "2 images" in page.text and "1 right" in page.text and "1 wrong" in page.text
    assert "0.750" in page.text and "0.125" in page.text
    assert page.links and all((tmp_path / unquote(link)).exists() for link in page.links)
