"""`python -m tools.whatif`: the changes of a photograph, and what is printed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.decode import decode_image
from predictor import Predictor
from tools.whatif import changed, elsewhere, get_args_parser, main, parse_share, strongest
from util.cli import launch, parse

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def flags(*words: object) -> list[str]:
    return [*map(str, words), "--resume", "x.pth"]


def change(*words: str) -> np.ndarray:
    return changed(parse(get_args_parser(), flags("p.jpg", *words)), PICTURE)


def test_a_region_is_erased_and_nothing_else() -> None:
    result = change("--erase", "10,5,20,30")
    inside = np.zeros((40, 60), bool)
    inside[5:35, 10:30] = True
    assert (result[~inside] == PICTURE[~inside]).all()
    assert (result[inside] == PICTURE.mean((0, 1)).round()).all()


def test_a_region_is_filled_from_its_surroundings() -> None:
    flat = np.full((40, 60, 3), 70, np.uint8)
    spot = flat.copy()
    spot[10:20, 10:20] = 250
    result = changed(parse(get_args_parser(), flags("p.jpg", "--inpaint", "10,10,10,10")), spot)
    np.testing.assert_allclose(result, flat, atol=3)


def test_a_picture_is_pasted_with_its_transparency_and_cut_at_the_edge(tmp_path: Path) -> None:
    stamp = np.zeros((10, 10, 4), np.uint8)
    stamp[:, :5] = (255, 0, 0, 255)
    Image.fromarray(stamp).save(tmp_path / "a@b.png")
    result = change("--paste", f"{tmp_path}/a@b.png@58,-4")
    assert (result[:6, 58:] == (255, 0, 0)).all()
    other = result.copy()
    other[:6, 58:] = PICTURE[:6, 58:]
    np.testing.assert_array_equal(other, PICTURE)
    result = change("--paste", f"{tmp_path}/a@b.png@0,0")
    np.testing.assert_array_equal(result[:10, 5:10], PICTURE[:10, 5:10])


def test_a_pasted_picture_is_upright_and_of_any_kind(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(np.repeat(np.uint8([[[250] * 3, [0] * 3]]), 16, 0).repeat(8, 1)).save(tmp_path / "a.png", exif=exif)
    result = change("--paste", f"{tmp_path}/a.png@0,0")  # light above dark
    assert (result[:8, :16] == 250).all() and (result[8:16, :16] == 0).all()
    Image.fromarray(np.full((4, 4), 2**16 - 1, np.uint16)).save(tmp_path / "deep.png")
    assert (change("--paste", f"{tmp_path}/deep.png@0,0")[:4, :4] == 255).all()


def test_the_strongest_share_and_as_much_elsewhere() -> None:
    values = np.arange(100, dtype=np.float32).reshape(10, 10)
    mask = strongest(values, 0.05)
    assert np.argwhere(mask).tolist() == [[9, column] for column in range(5, 10)]
    other = elsewhere(mask, np.random.default_rng(0))
    assert other.sum() == mask.sum() and not (mask & other).any()
    assert strongest(np.zeros((4, 4)), 0.5).sum() == 8
    assert parse_share("5%") == parse_share("0.05") == 0.05


def run(small_run: Path, *words: object) -> None:
    main(parse(get_args_parser(), [*map(str, words), "--resume", str(small_run / "checkpoint.pth"), "--device", "cpu"]))


def test_logits_before_and_after_are_the_predictor_s(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    photo = small_run / "d" / "val" / "a" / "2.png"
    run(small_run, photo, "--erase", "0,0,300,200", "--out", tmp_path / "change.svg", "--class", "plain")
    lines = capsys.readouterr().out.splitlines()
    icn = Predictor.from_checkpoint(small_run / "checkpoint.pth")
    before = decode_image(photo).permute(1, 2, 0).numpy()
    after = before.copy()
    after[:, :300] = before.mean((0, 1)).round()
    for row in lines[2:-2]:
        name, old, new, difference = (cell.strip() for cell in row.strip("|").split("|"))
        logits = icn.logits([before, after])[:, icn.classes.index(name)].tolist()
        assert float(old.split()[0]) == pytest.approx(logits[0], abs=0.006)
        assert float(new.split()[0]) == pytest.approx(logits[1], abs=0.006)
        assert float(difference) == pytest.approx(logits[1] - logits[0], abs=0.006)
    assert any("plain" in row for row in lines) and lines[-1].endswith("change.svg")
    assert (tmp_path / "change.svg").read_text(encoding="utf-8").count("<image") == 5  # four and the colour bar


def test_a_set_is_summed_up(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(small_run, small_run / "d" / "val", "--top", "20%")
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["strongest 0.2 of the map", "as much elsewhere"]
    assert all("of 12" in line for line in lines[2:])


@pytest.mark.parametrize(("words", "message"), [
    (["--erase", "1,2,3"], "--erase 1,2,3: give 4 whole numbers"),
    (["--erase", "0,0,0,5"], "no region of the photograph, which is 96 x 64"),
    (["--erase", "0,0,96,64"], "the whole photograph"),
    (["--inpaint", "0,0,96,64"], "the whole photograph"),
    (["--paste", "x.png"], "give a file and a place"),
    (["--paste", "absent.png@1,1"], "absent.png: does not exist"),
    (["--top", "0"], "--top 0: give a share"),
    (["--top", "90%"], "--top 90%: give a share"),
    (["--erase", "0,0,5,5", "--class", "x"], "class 'x' does not exist"),
    (["--erase", "0,0,5,5", "--out", "x.xyz"], "--out x.xyz"),
    (["--top", "5%", "--out", "x.png"], "leave it out with --top"),
    (["--erase", "0,0,5,5", "--inpaint", "0,0,5,5"], "not allowed with"),
    ([], "one of the arguments --erase --inpaint --paste --top is required"),
])  # fmt: skip
def test_errors_are_one_line(
    small_run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:  # fmt: skip
    photo = str(small_run / "d" / "val" / "a" / "0.png")
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), [photo, "--resume", str(small_run / "checkpoint.pth"), "--device", "cpu", *words])
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1 and message in lines[0], lines
