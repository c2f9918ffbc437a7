from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.decode import ImageError, check_image, decode_image

KINDS = {
    "baseline": {}, "444": {"quality": 95, "subsampling": 0}, "progressive": {"progressive": True},
    "optimised": {"optimize": True},
    "restarts": {"restart_marker_rows": 1}, "progressive restarts": {"progressive": True, "restart_marker_blocks": 5},
    "grey": {"mode": "L"}, "CMYK": {"mode": "CMYK"}, "turned": {"exif": {0x0112: 6}},
}  # fmt: skip


def jpeg(mode: str = "RGB", exif: dict | None = None, **options) -> bytes:
    """96 x 80 pixels of smooth noise."""
    noise = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    tags = Image.Exif()
    for tag, value in (exif or {}).items():
        tags[tag] = value
    file = io.BytesIO()
    Image.fromarray(noise).resize((96, 80)).convert(mode).save(file, "JPEG", exif=tags, **options)
    return file.getvalue()


def spoil(whole: bytes, damage: str, rng: np.random.Generator) -> bytes:
    scan = whole.find(b"\xff\xda") + 14
    start, end = sorted(rng.integers(scan, len(whole) - 2, 2))
    end = max(end, start + 30)
    return {
        "hole": whole[:start] + whole[end:],
        "zeros": whole[:start] + bytes(end - start) + whole[end:],
        "early end": whole[:start] + b"\xff\xd9",
        "zeros to the end": whole[:start] + bytes(len(whole) - start),
        "no end": whole[: len(whole) - 2],
    }[damage]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_data_are_refused(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture) -> None:
    rng, path, whole = np.random.default_rng(0), tmp_path / "a.jpg", jpeg(**KINDS[kind])
    path.write_bytes(whole)
    assert check_image(path).note == ""
    missed = 0
    for damage in ("hole", "zeros", "early end", "zeros to the end", "no end"):
        for _ in range(8):
            path.write_bytes(spoil(whole, damage, rng))
            for function in (decode_image, check_image):
                try:
                    function(path)
                    missed += 1
                except ImageError as error:
                    assert str(error).startswith(f"{path}: ") and "damaged" in str(error) and "copy it again" in str(error)
    assert missed <= 2, "of 80: the codes of a JPEG have no checksum"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_no_false_alarm(tmp_path: Path, mode: str, progressive: bool) -> None:
    for quality in (1, 50, 100):
        for size in ((1, 1), (7, 5), (17, 16), (90, 61)):
            for restarts in (0, 1):
                image = Image.effect_noise(size, 80).convert(mode)
                image.save(tmp_path / "a.jpg", quality=quality, progressive=progressive, restart_marker_blocks=restarts)
                assert check_image(tmp_path / "a.jpg").note == ""
                with Image.open(tmp_path / "a.jpg") as expected:
                    assert np.array_equal(decode_image(tmp_path / "a.jpg").permute(1, 2, 0), np.array(expected.convert("RGB")))


def test_a_harmless_warning_is_a_note_and_hides_no_damage(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.jpg", jpeg()
    path.write_bytes(whole)
    expected, middle = decode_image(path), len(whole) * 2 // 3
    icc = b"\xff\xe2\0\x14ICC_PROFILE\0\x05\x03abcd"
    for odd in (
        whole.replace(b"JFIF\0\1", b"JFIF\0\x09"),
        whole[:2] + icc + whole[2:],
        whole[:20] + bytes(12) + whole[20:],
        whole[:-2] + bytes(8) + whole[-2:],
    ):
        path.write_bytes(odd)
        assert torch.equal(decode_image(path), expected)
        assert "decoder warns" in check_image(path).note
        path.write_bytes(odd[:middle] + odd[middle + 99 :])
        with pytest.raises(ImageError, match="damaged"):
            check_image(path)


def test_another_picture_behind_the_first_is_a_note(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.jpg", jpeg()
    for tail, note in ((whole, True), (b"\0" * 7 + whole, True), (b"trailing bytes", False), (bytes(100), False)):
        path.write_bytes(whole + tail)
        assert ("another picture" in check_image(path).note) == note
    path.write_bytes(whole)
    with Image.open(path) as first:
        first.save(path, "MPO", save_all=True, append_images=[first])
    assert check_image(path).note == "", "the header of a camera's file announces the second picture"
