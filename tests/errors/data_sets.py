"""Wrong data sets and pictures."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.errors.world import Case, picture, writes
from tests.pictures import png_of

BIRDS = Path("datasets/birds")


def only(*kept: str) -> None:
    """Leave these classes in the data set."""
    for folder in BIRDS.glob("*/*"):
        if folder.name not in kept:
            shutil.rmtree(folder)


def flat() -> None:
    """Put the pictures into the split, without folders of classes."""
    shutil.rmtree(BIRDS / "train")
    shutil.copytree(BIRDS / "val/wren", BIRDS / "train")


def add_class(name: str | bytes, split: str = "train") -> None:
    """Add the folder of another class."""
    folder = os.fsencode(BIRDS / split) + b"/" + os.fsencode(name)
    shutil.copytree(os.fsencode(BIRDS / split / "wren"), folder)


DATA_SETS = [
    Case(
        "no folder of data sets",
        "main.py --dataset_path nowhere",
        "--dataset_path: no folder nowhere; expected "
        "<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>; folders in .: 'datasets', "
        "'output', 'pairs', 'photos'",
    ),
    Case(
        "a data set that does not exist",
        "main.py --dataset_name brids",
        "--dataset_name: no folder datasets/brids; expected "
        "<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>; folders in datasets: 'birds'; did you mean birds?",
    ),
    Case(
        "a split that does not exist",
        "main.py --test test",
        "split: no folder datasets/birds/test; expected "
        "<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>; folders in datasets/birds: "
        "'train', 'val'",
    ),
    Case(
        "pictures without folders of classes",
        "main.py",
        "datasets/birds/train: no class folder; expected "
        "<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>; 1 images lie in it directly: "
        "move each into a folder named by its class",
        flat,
    ),
    Case(
        "a single class", "main.py", "datasets/birds/train has a single class, wren: a classifier needs two", lambda: only("wren")
    ),
    Case(
        "a class without pictures",
        "main.py",
        "datasets/birds/train: no image in class 'stork'; expected files ending in .bmp .gif .jfif .jp2 "
        ".jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp",
        lambda: (BIRDS / "train/stork").mkdir(),
    ),
    Case(
        "a class in val that is not in train",
        "main.py",
        "datasets/birds/val: folder 'wrens' is not among the 3 classes of the training split or "
        "checkpoint ('finch', 'robin', 'wren'); remove or rename it",
        lambda: add_class("wrens", "val"),
    ),
    Case(
        "two classes that look alike",
        "main.py",
        "datasets/birds/train: the class folders 'wren' and 'wren\\u200b' have names that look alike; merge them, or rename one",
        lambda: add_class("wren\u200b"),
    ),
    Case(
        "a name that is not UTF-8",
        "main.py",
        "datasets/birds/train: the name of the class folder 'm\\xf6we' is not UTF-8; rename it",
        lambda: add_class(b"m\xf6we"),
    ),
    Case(
        "a link that leads nowhere",
        "main.py",
        "datasets/birds/train: 'stork' is a link to '/nowhere', which cannot be opened: a class would "
        "be lost; repair or remove the link",
        lambda: (BIRDS / "train/stork").symlink_to("/nowhere"),
    ),
    Case(
        "a class that is a link to another",
        "main.py",
        "datasets/birds/train: 'stork' is a link to {path}, whose images have another class, too; remove it",
        lambda: (BIRDS / "train/stork").symlink_to("wren"),
    ),
    Case(
        "other classes than the checkpoint has",
        "main.py --resume model.pth",
        "--resume model.pth was trained on 3 classes (finch, robin, wren), the data set has 4 (finch, "
        "robin, stork, ...): they must be the same (other classes: --finetune)",
        lambda: add_class("stork"),
    ),
    Case(
        "other classes than the checkpoint has, in an evaluation",
        "main.py --eval --resume model.pth",
        "datasets/birds/val: folder 'stork' is not among the 3 classes of the training split or "
        "checkpoint ('finch', 'robin', 'wren'); remove or rename it",
        lambda: add_class("stork", "val"),
    ),
]


def noise(mode: str = "RGB") -> Image.Image:
    """Return a picture of noise."""
    return Image.effect_noise((64, 64), 90).convert(mode)


def encoded(form: str) -> bytes:
    """Return the file of a picture of noise."""
    file = io.BytesIO()
    noise().save(file, form)
    return file.getvalue()


def deep() -> None:
    """Add a picture of 16 bits."""
    Image.fromarray(np.full((40, 48), 4000, np.uint16)).save(BIRDS / "train/wren/bad.png")


def two_bad() -> None:
    """Add two files that are no pictures."""
    picture("text")()
    picture("text", "worse.jpg")()


def link() -> None:
    """Add a link to a picture that is gone."""
    (BIRDS / "train/wren/bad.jpg").symlink_to("gone.jpg")


PICTURES = [
    Case(
        "a text with a picture's name",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: is not an image; allowed: JPEG, PNG, GIF, BMP, TIFF, WEBP, PPM, JPEG2000",
        picture("not a picture"),
    ),
    Case(
        "an empty file",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: is empty (0 bytes); copy it again or remove it",
        picture(""),
    ),
    Case(
        "a picture that was cut off",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: is damaged, its decoder fills up pixels "
        "({reason}); copy it again or remove it",
        picture(encoded("JPEG")[:-800]),
    ),
    Case(
        "a picture that was cut off, in an evaluation",
        "main.py --eval --resume model.pth",
        "{picture}: is truncated or damaged ({reason}); copy it again or remove it",
        picture(encoded("PNG")[:-800], "bad.png", "val"),
    ),
    Case(
        "a picture of float numbers",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: has float pixels of unknown range; allowed: 8 or 16 bits per channel",
        picture(Image.new("F", (30, 30), 0.5), "bad.tif"),
    ),
    Case(
        "more pixels than are allowed",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: has more pixels than the limit of 178,956,970; "
        "make it smaller, remove it, or give a larger --max_image_mb",
        picture(png_of(16_000, 16_000), "bad.png"),
    ),
    Case(
        "more memory than is allowed",
        "main.py --max_image_mb 1",
        "{n} of {n} images cannot be used; {picture}: is 400 x 400 pixels, which take 2 MB to decode, "
        "more than --max_image_mb 1; make it smaller, remove it, or give more",
        picture(Image.new("L", (400, 400))),
    ),
    Case(
        "a photograph of a telephone",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: is HEIC under another name, which is not "
        "supported; convert it with heif-convert (package libheif-examples), or Python's pillow-heif",
        picture(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "bad.jpg"),
    ),
    Case(
        "a camera's RAW file",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: is a camera's RAW file under another name, which "
        "is not supported; convert it with darktable-cli, or Python's rawpy",
        picture(b"II*\0\x10\0\0\0CR\2\0" + bytes(40)),
    ),
    Case(
        "a video",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: is a video under another name, which is not "
        "supported; convert it with ffmpeg, which writes the frames of a video",
        picture(b"\0\0\0\x18ftypisom\0\0\0\0"),
    ),
    Case(
        "a drawing",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: is SVG under another name, which is not "
        "supported; convert it with inkscape --export-type=png",
        picture('<svg xmlns="http://www.w3.org/2000/svg"/>'),
    ),
    Case(
        "a program in PostScript, which is not run",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: is PDF or PostScript under another name, which is "
        "not supported; convert it with inkscape --export-type=png",
        picture("%!PS-Adobe-3.0 EPSF-3.0\nshowpage\n"),
    ),
    Case(
        "a link to a picture that is gone",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: is a link to a file that does not exist",
        link,
    ),
    Case(
        "a pipe",
        "main.py",
        "{n} of {n} images cannot be used; {picture}: is a device, pipe or socket; expected a file",
        lambda: os.mkfifo(BIRDS / "train/wren/bad.jpg"),
    ),
    Case(
        "values of more bits than said",
        "main.py --bit_depth 10",
        "{n} of {n} images cannot be used; {picture}: has a value of 4000, more than the 1023 of "
        "--bit_depth 10; give the bits that all files have",
        deep,
    ),
    Case(
        "several bad pictures",
        "main.py",
        "{n} of {n} images cannot be used; the first: {picture}: is not an image; allowed: JPEG, PNG, "
        "GIF, BMP, TIFF, WEBP, PPM, JPEG2000",
        two_bad,
    ),
    Case(
        "a photograph that does not exist",
        "tools.predict photo.jpg --resume model.pth",
        "photo.jpg: no such file: name photographs, folders of them, or a pattern such as 'photos/*.jpg'",
    ),
    Case(
        "a folder without photographs",
        "tools.predict datasets --resume model.pth",
        "datasets: no image in it: name photographs, folders of them, or a pattern such as 'photos/*.jpg'",
        lambda: shutil.rmtree(BIRDS),
    ),
    Case(
        "a photograph among others that cannot be read",
        "tools.predict photos --resume model.pth",
        "1 of 9 photographs cannot be read",
        writes("photos/bad.jpg", "x"),
        code=1,
    ),
]
