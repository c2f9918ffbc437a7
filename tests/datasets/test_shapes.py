from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from torch.utils.data import DataLoader

import datasets.scan
from datasets import EvalSampler, ImageError, ImageFolder, collate, decode_image, eval_shapes, eval_transform, image_size

SIZES = [(1, 1), (1, 90), (90, 1), (37, 53), (53, 37), (64, 64), (48, 64), (333, 500), (21, 211)]


def save(path: Path, size: tuple[int, int] = (7, 5), orientation: int | None = None, **options) -> None:
    """A picture of (height, width), stored so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    Image.fromarray(np.zeros((*size, 3), dtype=np.uint8)).save(path, **options)


def real_size(path: Path) -> tuple[int, int]:
    return tuple(decode_image(path).shape[1:])


@pytest.fixture
def mixed(tmp_path) -> ImageFolder:
    """Pictures of many sizes, each upright and turned; some sizes several times."""
    for i, size in enumerate(SIZES):
        save(tmp_path / f"a/{i}.png", size)
        save(tmp_path / f"b/{i}.jpg", size, orientation=6)
        save(tmp_path / f"b/{i}.png", size)
    return ImageFolder(tmp_path, transform=eval_transform(64))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", [None, *range(10)])
def test_size_of_every_orientation(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    save(path, orientation=orientation)
    assert image_size(path) == real_size(path) == ((5, 7) if orientation in (5, 6, 7, 8) else (7, 5))


@pytest.mark.parametrize("name", ["a.gif", "a.bmp", "a.ppm", "a.tif"])
def test_size_of_other_formats(tmp_path, name):
    save(tmp_path / name)
    assert image_size(tmp_path / name) == (7, 5)


def test_frames_of_an_animation_may_be_larger_than_its_canvas(tmp_path):
    save(tmp_path / "a.gif", (4, 9))
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[6:10] = struct.pack("<HH", 2, 2)  # the canvas that the header tells
    (tmp_path / "a.gif").write_bytes(data)
    assert image_size(tmp_path / "a.gif") == real_size(tmp_path / "a.gif")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
TURNED = Image.Exif()
TURNED[0x0112] = 6
EXIF = TURNED.tobytes().removeprefix(b"Exif\0\0")


@pytest.mark.parametrize(
    ("late", "size"),
    [
        (chunk(b"eXIf", EXIF), (5, 7)),
        (chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), (5, 7)),
        (chunk(b"tEXt", b"date:create\x002020-02-02"), (7, 5)),
        (b"", (7, 5)),
    ],
    ids=["exif", "xmp", "date", "nothing"],
)
@pytest.mark.parametrize("early", [False, True])
def test_metadata_before_and_behind_the_pixels_of_a_png(tmp_path, late, size, early):
    save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    where = data.index(b"IDAT" if early else b"IEND") - 4
    (tmp_path / "a.png").write_bytes(data[:where] + late + data[where:])
    assert image_size(tmp_path / "a.png") == real_size(tmp_path / "a.png") == size


def test_the_pixels_are_not_read(tmp_path, monkeypatch):
    for name in ("a.png", "a.jpg", "a.tif", "a.webp"):
        save(tmp_path / name, (300, 200), orientation=6)

    def refuse(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", refuse)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", refuse)
    for name in ("a.png", "a.jpg", "a.tif"):
        assert image_size(tmp_path / name) == (200, 300), name


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", None])
def test_a_broken_file_is_the_same_line_as_in_decoding(tmp_path, content):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    messages = []
    for function in (decode_image, image_size):
        with pytest.raises(ImageError) as caught:
            function(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{path}: ")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_headers_never_escape_as_another_exception(tmp_path):
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg", "gif", "tif", "webp", "bmp", "ppm"):
        save(tmp_path / f"a.{suffix}")
        whole = np.frombuffer((tmp_path / f"a.{suffix}").read_bytes(), np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[rng.integers(0, min(len(whole), 200), 4)] = rng.integers(0, 256, 4)
            (tmp_path / "b").write_bytes(damaged.tobytes())
            try:
                size = image_size(tmp_path / "b")
                assert size == real_size(tmp_path / "b")
            except ImageError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_shapes_are_those_of_the_pictures_that_come(mixed, square, workers):
    mixed.transform = eval_transform(64, square)
    assert eval_shapes(mixed, workers) == [tuple(image.shape[1:]) for image, _, _ in map(mixed.__getitem__, range(len(mixed)))]


def test_squares_need_no_file(mixed, monkeypatch):
    mixed.transform = eval_transform(96, square=True)
    monkeypatch.setattr(datasets.scan, "image_size", None)
    assert eval_shapes(mixed) == [(96, 96)] * len(mixed)


def test_the_first_broken_file_is_named(mixed):
    for path in mixed.paths[5:9:2]:
        path.write_text("no picture")
    with pytest.raises(ImageError, match=f"^{mixed.paths[5]}: is not an image"):
        eval_shapes(mixed)


def test_progress_is_shown_when_it_takes_long(mixed, monkeypatch, capsys):
    progress_clock = iter(range(0, 10_000, 100))
    monkeypatch.setattr("util.progress.time.monotonic", lambda: next(progress_clock))
    eval_shapes(mixed)
    assert f"{len(mixed)}/{len(mixed)}" in capsys.readouterr().err


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 40])
def test_every_image_once_and_no_batch_padded(mixed, batch_size, world_size):
    shapes = eval_shapes(mixed)
    samplers = [EvalSampler(len(mixed), batch_size, rank, world_size, shapes) for rank in range(world_size)]
    batches = [batch for sampler in samplers for batch in sampler]
    assert sorted(index for batch in batches for index in batch) == list(range(len(mixed)))
    assert all(1 <= len(batch) <= batch_size and len({shapes[index] for index in batch}) == 1 for batch in batches)
    lengths = [len(sampler) for sampler in samplers]
    assert lengths == [len(list(sampler)) for sampler in samplers]
    assert max(lengths) - min(lengths) <= 1
    again = [EvalSampler(len(mixed), batch_size, rank, world_size, shapes) for rank in range(world_size)]
    assert [list(sampler) for sampler in samplers] == [list(sampler) for sampler in again]


def test_batches_of_a_loader_are_not_padded(mixed):
    sampler = EvalSampler(len(mixed), 4, shapes=eval_shapes(mixed))
    batches = list(DataLoader(mixed, batch_sampler=sampler, collate_fn=collate))
    assert all(batch.padding_mask is None for batch in batches)
    assert max(len(batch) for batch in batches) > 1
    # The test can fail: in the order of the files, pictures of several shapes meet.
    assert any(batch.padding_mask is not None for batch in DataLoader(mixed, batch_size=4, collate_fn=collate))


def test_full_batches_where_shapes_allow():
    shapes = [(64, 64), (64, 85)] * 10
    assert sorted(len(batch) for batch in EvalSampler(20, 4, shapes=shapes)) == [2, 2, 4, 4, 4, 4]
