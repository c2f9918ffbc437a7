from __future__ import annotations

import importlib.util
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._utils import ExceptionWrapper

import datasets.decode
import datasets.jpeg
import datasets.pixels
from datasets.decode import Decoding, ImageError, check_image, decode_image, image_size
from tests.pictures import png_of

_T = Image.Transpose
_TURNS = (_T.FLIP_LEFT_RIGHT, _T.ROTATE_180, _T.FLIP_TOP_BOTTOM, _T.TRANSPOSE, _T.ROTATE_270, _T.TRANSVERSE, _T.ROTATE_90)
UPRIGHT = dict(enumerate(_TURNS, start=2))  # EXIF orientation -> what turns the picture upright


@pytest.fixture
def picture() -> Image.Image:
    """6 x 10 pixels, no two alike and no symmetry."""
    values = np.arange(6 * 10 * 3, dtype=np.uint8).reshape(6, 10, 3)
    return Image.fromarray(values)


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def error_of(function, path: Path) -> str:
    with pytest.raises(ValueError) as caught:
        function(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_layout(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    image = decode_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    assert image.shape == (3, 6, 10)
    assert torch.equal(image, pixels(picture))
    assert image.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_decoded_upright(tmp_path, picture, suffix, orientation):
    # The transform that undoes what UPRIGHT does: 6 and 8 are each other's inverse, the others their own.
    inverse = {6: UPRIGHT[8], 8: UPRIGHT[6]}.get(orientation, UPRIGHT.get(orientation))
    stored = picture if inverse is None else picture.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    assert torch.equal(decode_image(path), pixels(picture))


def test_exif_orientation_6_is_a_quarter_turn_clockwise(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(decode_image(tmp_path / "a.png"), torch.rot90(pixels(picture), -1, (1, 2)))


def test_exif_orientation_of_a_jpeg(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "plain.jpg")
    turned, plain = decode_image(tmp_path / "turned.jpg"), decode_image(tmp_path / "plain.jpg")
    assert torch.equal(turned, torch.rot90(plain, -1, (1, 2)))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 16), (90, 61)])
def test_a_jpeg_has_the_pixels_that_pil_gives(tmp_path, size, subsampling, progressive):
    path = tmp_path / "a.jpg"
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for quality in (20, 75, 95):
        Image.fromarray(values).save(path, quality=quality, subsampling=subsampling, progressive=progressive)
        with Image.open(path) as image:
            assert torch.equal(decode_image(path), pixels(image))
            assert decode_image(path).permute(1, 2, 0).is_contiguous()
    path.write_bytes(path.read_bytes() + b"trailing bytes, as some cameras write them")
    with Image.open(path) as image:
        assert torch.equal(decode_image(path), pixels(image))


def test_pil_decodes_where_simplejpeg_is_missing_or_refuses(tmp_path, picture, monkeypatch):
    picture.save(tmp_path / "a.jpg")
    expected = decode_image(tmp_path / "a.jpg")
    monkeypatch.setattr(datasets.jpeg, "simplejpeg", None)
    assert torch.equal(decode_image(tmp_path / "a.jpg"), expected)
    monkeypatch.undo()
    data = bytearray((tmp_path / "a.jpg").read_bytes())
    data[data.find(b"\xff\xc0") + 11] = 0x31  # three samples side by side, which TurboJPEG does not know
    (tmp_path / "a.jpg").write_bytes(data)
    with Image.open(tmp_path / "a.jpg") as image:
        assert torch.equal(decode_image(tmp_path / "a.jpg"), pixels(image))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_does_not_hide_the_picture(tmp_path, picture):
    picture.save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert torch.equal(decode_image(tmp_path / "a.png"), pixels(picture))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, name):
    values = np.array([[0, 128, 257, 25700, 65535]], dtype=np.uint16)
    if name == "a.pgm":
        (tmp_path / name).write_bytes(b"P5 5 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / name)
    assert decode_image(tmp_path / name).tolist() == [[[0, 0, 1, 100, 255]]] * 3
    check_image(tmp_path / name)


def test_16_bit_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tmp_path / "a.png", exif=exif)
    assert decode_image(tmp_path / "a.png")[0].tolist() == [[255, 0]]


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    red = decode_image(tmp_path / "a.jpg").float().mean((1, 2))
    assert red[0] > 245
    assert red[1:].max() < 10


def test_grey_and_black_and_white_have_three_equal_channels(tmp_path):
    Image.fromarray(np.array([[0, 100, 255]], dtype=np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bw.png")
    assert decode_image(tmp_path / "grey.png").tolist() == [[[0, 100, 255]]] * 3
    assert decode_image(tmp_path / "bw.png").tolist() == [[[0, 255]]] * 3


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], dtype=np.uint8)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "rgba.png")
    image = decode_image(tmp_path / "rgba.png")
    assert image[:, 0, 0].tolist() == [10, 20, 30]
    assert image[:, 0, 1].tolist() == [255, 255, 255]
    assert abs(int(image[0, 0, 2]) - 127) <= 1

    grey = np.array([[[7, 255], [7, 0]]], dtype=np.uint8)
    Image.fromarray(grey, "LA").save(tmp_path / "la.png")
    assert decode_image(tmp_path / "la.png")[0].tolist() == [[7, 255]]


def test_transparent_palette_is_laid_on_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.putdata([0, 1])
    image.save(tmp_path / "clear.png", transparency=1)
    image.save(tmp_path / "opaque.png")
    assert decode_image(tmp_path / "clear.png")[:, 0].T.tolist() == [[200, 0, 0], [255, 255, 255]]
    assert decode_image(tmp_path / "opaque.png")[:, 0].T.tolist() == [[200, 0, 0], [0, 200, 0]]


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp", "a.tif"):
        options = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert decode_image(tmp_path / name)[:, 0, 0].tolist() == [255, 0, 0], name


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp"])
def test_one_pixel(tmp_path, name):
    Image.new("RGB", (1, 1), "white").save(tmp_path / name)
    assert decode_image(tmp_path / name).tolist() == [[[255]]] * 3
    check_image(tmp_path / name)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("function", [decode_image, check_image])
class TestErrors:
    def test_bomb(self, tmp_path, function, monkeypatch):
        Image.new("L", (10, 10)).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
        assert "limit of 80" in error_of(function, tmp_path / "a.png")

    def test_large_picture_below_the_bomb_limit_is_accepted_silently(self, tmp_path, function, monkeypatch):
        Image.new("L", (10, 10)).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # The filters are set on import, and pytest resets them for each test: import a second copy.
            spec = importlib.util.spec_from_file_location("decode_again", datasets.decode.__file__)
            again = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(again)
            getattr(again, function.__name__)(tmp_path / "a.png")

    @pytest.mark.parametrize("name", ["a.jpg", "progressive.jpg", "a.png", "a.gif", "a.webp", "a.bmp"])
    def test_truncated(self, tmp_path, function, name):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        path = tmp_path / name
        Image.fromarray(noise).save(path, **({"progressive": True} if name == "progressive.jpg" else {}))
        whole = path.read_bytes()
        function(path)
        path.write_bytes(whole[: len(whole) * 2 // 3])
        error_of(function, path)

    def test_text(self, tmp_path, function):
        (tmp_path / "a.jpg").write_text("<html>404 Not Found</html>")
        message = error_of(function, tmp_path / "a.jpg")
        assert "is not an image" in message
        assert "JPEG" in message

    def test_postscript_is_never_interpreted(self, tmp_path, function):
        (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
        assert "PostScript" in error_of(function, tmp_path / "a.jpg")

    def test_zero_bytes(self, tmp_path, function):
        (tmp_path / "a.jpg").touch()
        assert "is empty" in error_of(function, tmp_path / "a.jpg")

    @pytest.mark.parametrize("mode", ["F", "I"])
    def test_pixels_of_unknown_range(self, tmp_path, function, mode):
        Image.new(mode, (3, 3)).save(tmp_path / "a.tif")
        assert "range" in error_of(function, tmp_path / "a.tif")

    def test_folder(self, tmp_path, function):
        (tmp_path / "a.jpg").mkdir()
        assert "is a folder" in error_of(function, tmp_path / "a.jpg")

    def test_pipe_does_not_block(self, tmp_path, function):
        os.mkfifo(tmp_path / "a.jpg")
        assert "pipe" in error_of(function, tmp_path / "a.jpg")

    def test_vanished(self, tmp_path, function):
        assert "does not exist" in error_of(function, tmp_path / "a.jpg")
        (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
        assert "link" in error_of(function, tmp_path / "link.jpg")

    def test_permission(self, tmp_path, function, monkeypatch):
        def refuse(*args, **kwargs):
            raise PermissionError(13, "Permission denied")

        Image.new("L", (1, 1)).save(tmp_path / "a.png")
        monkeypatch.setattr(Path, "open", refuse)  # root may read everything: chmod would prove nothing
        assert "permissions" in error_of(function, tmp_path / "a.png")

    @pytest.mark.parametrize("name", ["a\0b.jpg", "x" * 300, "\ud800.jpg"])
    def test_a_name_that_no_file_has(self, tmp_path, function, name):
        with pytest.raises(ImageError, match="is a name that no file has"):
            function(tmp_path / name)

    def test_size_is_bounded_by_the_header(self, tmp_path, function):
        path = tmp_path / "a.png"
        path.write_bytes(png_of(13_000, 13_000))
        message = error_of(function, path)
        assert "13,000 x 13,000" in message and "--max_image_mb 1200" in message
        Image.new("L", (1000, 1000)).save(path)
        function(path, Decoding(max_image_mb=10))
        with pytest.raises(ImageError, match="take 10 MB to decode, more than --max_image_mb 9"):
            function(path, Decoding(max_image_mb=9))


def test_a_larger_bound_is_larger_than_that_of_pil(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png_of(14_000, 14_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    assert "--max_image_mb" in error_of(image_size, tmp_path / "a.png")
    assert image_size(tmp_path / "a.png", Decoding(max_image_mb=4000)) == (14_000, 14_000)


def test_every_command_that_opens_images_sets_how_they_are_decoded():
    root = Path(__file__).resolve().parents[2]
    files = [root / "main.py", *(root / "tools").glob("*.py"), *(root / "attribution").rglob("*.py")]
    texts = [(path, path.read_text(encoding="utf-8")) for path in files]
    assert [path for path, text in texts if text.count(" open_split(") > text.count(" set_decoding(")] == []


def test_a_large_picture_is_converted_in_strips(tmp_path, monkeypatch):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (23, 17, 4), dtype=np.uint8), "RGBA")
    image.save(tmp_path / "a.png")
    image.convert("I").point(lambda value: value * 200).convert("I;16").save(tmp_path / "b.png")
    expected = [decode_image(tmp_path / name) for name in ("a.png", "b.png")]
    monkeypatch.setattr(datasets.pixels, "STRIP", 17 * 5)
    assert all(
        torch.equal(decode_image(tmp_path / name), image) for name, image in zip(("a.png", "b.png"), expected, strict=True)
    )


def test_a_png_whose_checksums_are_right_around_a_bad_stream(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", b"no deflate stream") + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    for function in (decode_image, check_image):
        with pytest.raises(ImageError, match="a.png"):
            function(tmp_path / "a.png")


def test_a_length_in_a_header_reserves_no_memory(tmp_path, picture):
    """A box of JPEG 2000 that is longer than the file by far: it is damaged, the memory is not short."""
    picture.resize((40, 30)).save(tmp_path / "a.jp2")
    data = (tmp_path / "a.jp2").read_bytes()
    start = data.find(b"colr") - 4
    box = b"\0\0\0\1colr" + (2**46).to_bytes(8, "big")
    (tmp_path / "a.jp2").write_bytes(data[:start] + box + data[start + 8 :])
    for function in (decode_image, check_image):
        with pytest.raises(ImageError, match="a.jp2: is (truncated|not an image)"):
            function(tmp_path / "a.jp2")


def test_error_is_one_line_when_a_loader_raises_it_again(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("no image")
    with pytest.raises(ValueError) as first:
        decode_image(path)
    # What a DataLoader does with a worker's error; a real worker takes five seconds to end after one.
    with pytest.raises(ValueError) as again:
        ExceptionWrapper((first.type, first.value, first.tb), where="in DataLoader worker process 0").reraise()
    assert str(again.value) == str(first.value)


def test_error_survives_pickling(tmp_path):
    with pytest.raises(ImageError) as caught:
        decode_image(tmp_path / "a.jpg")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
