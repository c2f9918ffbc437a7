"""Tiny data sets in the layouts of the official ones, as archives and unpacked, with their traps."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from PIL import Image
from sources import Files, cells, error_of, mask, mat, packed, picture, run, unpacked

from datasets.decode import decode_image
from datasets.image_folder import open_split
from datasets.masks import check_masks, read_mask
from datasets.prepare import SOURCES
from datasets.prepare.cutting import square_around
from datasets.prepare.names import picture_names


def aircraft() -> dict[str, Files]:
    data = "fgvc-aircraft-2013b/data"
    names = {
        "trainval": ["0000001 F/A-18", "0000002 Cessna 172", "0000003 747-100"],
        "test": ["0000004 F/A-18", "0000005 747-100"],
    }
    lists = {f"{data}/images_variant_{split}.txt": "\n".join(rows) + "\n" for split, rows in names.items()}
    makers = {
        f"{data}/images_manufacturer_{split}.txt": f"000000{number} McDonnell Douglas\n"
        for split, number in (("trainval", 1), ("test", 4))
    }
    images = {f"{data}/images/000000{n}.jpg": picture(100, 70 + n, mode="L" if n == 2 else "RGB", seed=n) for n in range(1, 6)}
    boxes = {f"{data}/images_box.txt": "".join(f"000000{n} 11 6 50 30\n" for n in range(1, 6))}
    return {"fgvc-aircraft-2013b.tar.gz": {**lists, **makers, **images, **boxes}}


def birds(root: str, keys: list[str], ids: list[str], names: list[str]) -> Files:
    pictures = [f"{ids[index % 2]}.class/bird_{index}.jpg" for index in range(4)]
    turned = Image.Exif()
    turned[0x0112] = 6
    images = {
        f"{root}/images/{name}": picture(mode="L" if i == 1 else "RGB", seed=i, exif=turned if i == 2 else b"")
        for i, name in enumerate(pictures)
    }
    rows = {
        "images.txt": pictures,
        "image_class_labels.txt": [ids[index % 2] for index in range(4)],
        "train_test_split.txt": ["1", "1", "0", "0"],
        "bounding_boxes.txt": ["10.0 5.0 20.0 30.0"] * 4,
    }
    lists = {name: "".join(f"{key} {value}\n" for key, value in zip(keys, values, strict=True)) for name, values in rows.items()}
    lists |= {"classes.txt": "".join(f"{key} {name}\n" for key, name in zip([*ids, "900"], [*names, "Birds"], strict=True))}
    lists |= {"parts/parts.txt": "1 back\n2 left eye\n"}
    lists |= {"parts/part_locs.txt": f"{keys[0]} 1 12.0 13.5 1\n{keys[0]} 2 0.0 0.0 0\n"}
    return {**images, **{f"{root}/{name}": text for name, text in lists.items()}}


def cub() -> dict[str, Files]:
    files = birds("CUB_200_2011", ["1", "2", "3", "4"], ["1", "2"], ["001.Black_footed_Albatross", "002.Laysan_Albatross"])
    votes = np.zeros((50, 60))
    votes[10:20, 30:60], votes[20:30, 30:60] = 255, 102
    segmentations = {f"segmentations/{i % 2 + 1}.class/bird_{i}.png": mask(votes) for i in range(4)}
    return {"CUB_200_2011.tgz": {**files, "attributes.txt": "1 has_bill\n"}, "segmentations.tgz": segmentations}


def nabirds() -> dict[str, Files]:
    keys = [f"0000139e-21dc-4d0c-bfe1-4cae3c85c82{n}" for n in range(4)]
    return {"nabirds.tar.gz": birds("nabirds", keys, ["817", "860"], ["Eider (Immature/Eclipse male)", "Birds, other"])}


def cars() -> dict[str, Files]:
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]

    def annotations(*labels: int) -> bytes:
        rows = [(11, 6, 50, 30, label, f"{number:05}.jpg") for number, label in enumerate(labels, 1)]
        return mat(annotations=np.array(rows, dtype=[(field, object) for field in fields])[None])

    names = cells(["Ram C/V Cargo Van Minivan 2012", "AM General Hummer SUV 2000"]).T
    return {
        "cars_train.tgz": {f"cars_train/{n:05}.jpg": picture(seed=n) for n in (1, 2, 3)},
        "cars_test.tgz": {f"cars_test/{n:05}.jpg": picture(seed=9 + n, mode="L") for n in (1, 2)},
        "car_devkit.tgz": {"devkit/cars_meta.mat": mat(class_names=names), "devkit/cars_train_annos.mat": annotations(1, 2, 2)},
        "": {"cars_test_annos_withlabels.mat": annotations(2, 1)},
    }


def dogs() -> dict[str, Files]:
    names = [f"n0208562{n % 2}-{'Chihuahua' if n % 2 else 'wire-haired_fox_terrier'}/n0208562{n % 2}_{n}" for n in range(4)]
    box = "<object><bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>{}</xmax><ymax>30</ymax></bndbox></object>"
    xml = f"<annotation>{box.format(10, 20)}{box.format(30, 50)}</annotation>"
    lists = {"train_list.mat": names[:2], "test_list.mat": names[2:]}
    return {
        "images.tar": {f"Images/{name}.jpg": picture(mode="L" if n == 1 else "RGB") for n, name in enumerate(names)},
        "annotation.tar": {f"Annotation/{name}": xml for name in names},
        "lists.tar": {name: mat(file_list=cells([f"{item}.jpg" for item in items])) for name, items in lists.items()},
    }


def pets() -> dict[str, Files]:
    trimap = np.full((50, 60), 2)
    trimap[10:20, 10:30], trimap[20:30, 10:30] = 1, 3
    names = ["Abyssinian_1", "american_bulldog_2", "Abyssinian_3", "american_bulldog_4"]
    rows = [f"{name} {n % 2 + 1} 1 1\n" for n, name in enumerate(names)]
    lists = {"list.txt": "#Image CLASS-ID\n", "trainval.txt": "".join(rows[:2]), "test.txt": "".join(rows[2:])}
    trimaps = {f"annotations/trimaps/{mark}{name}.png": mask(trimap) for name in names for mark in ("", "._")}
    return {
        "images.tar.gz": {f"images/{name}.jpg": picture(kind="GIF" if name.endswith("_3") else "JPEG") for name in names},
        "annotations.tar.gz": {**trimaps, **{f"annotations/{name}": text for name, text in lists.items()}},
    }


def flowers() -> dict[str, Files]:
    return {
        "102flowers.tgz": {f"jpg/image_{n:05}.jpg": picture(seed=n) for n in range(1, 7)},
        "": {
            "imagelabels.mat": mat(labels=[[77, 1, 77, 1, 77, 1]]),
            "setid.mat": mat(trnid=[[1, 2]], valid=[[4]], tstid=[[3, 5, 6]]),
        },
    }


def split_tree(root: str, splits: Mapping[str, list[str]], kind: str) -> Files:
    """Class folders of splits, three pictures in each of train and one in the others."""
    counts = {split: 3 if split == "train" else 1 for split in splits}
    names = [f"{split}/{label}/{n:03}" for split in splits for label in splits[split] for n in range(counts[split])]
    return {f"{root}{name}.{kind}": picture(seed=seed) for seed, name in enumerate(names)}


def birds_525() -> dict[str, Files]:
    looney = "LOONEY BIRDS"
    splits = {"train": ["PARAKETT  AUKLET", looney], "valid": ["PARAKETT AUKLET", looney], "test": ["PARAKETT  AUKLET", looney]}
    row = "0,train/PARAKETT  AKULET/001.jpg,PARAKETT  AKULET,train,AETHIA PSITTACULA\n"
    model = "EfficientNetB0-525-(224 X 224)- 98.97.h5"
    return {"archive.zip": {**split_tree("", splits, "jpg"), "birds.csv": f"class id,filepaths,labels\n{row}", model: "weights"}}


def butterflies() -> dict[str, Files]:
    classes = ["Heliconius erato", "Heliconius melpomene ssp. (malleti x plesseni)"]
    tree = split_tree("butterfly/", {"train": classes, "val": classes}, "jpeg")
    return {"butterfly.zip": {**tree, "butterfly/train/.DS_Store": "x", "__MACOSX/butterfly/train/x/._001.jpeg": "x"}}


def fish_vista() -> dict[str, Files]:
    files: dict[str, bytes | str] = {}
    for split, count in {"train": 4, "val": 2, "test": 2}.items():
        rows = []
        for n in range(count):
            name = f"INHS_FISH_{split}{n}.jpg"
            place = f"Images/chunk_{n % 2 + 1}/{name}"
            files[place] = picture(seed=len(files))
            species = ["notropis atherinoides", "amia calva"][n % 2]
            rows.append(f'{name},source.jpg,"Museum, Illinois",{species},{place}\n')
        files[f"classification_{split}.csv"] = "filename,source_filename,owner,standardized_species,file_name\n" + "".join(rows)
    return {"": files}


# Classes, images of each split, pixels of the mask of each picture (0: it has none).
SETS: dict[str, tuple[Callable[[], dict[str, Files]], list[str], dict[str, int], int]] = {
    "fgvc-aircraft": (aircraft, ["747-100", "Cessna 172", "F_A-18"], {"train": 3, "val": 2}, 40 * 25),
    "cub": (cub, ["001.Black_footed_Albatross", "002.Laysan_Albatross"], {"train": 2, "val": 2}, 10 * 30),
    "nabirds": (nabirds, ["Birds, other", "Eider (Immature_Eclipse male)"], {"train": 2, "val": 2}, 20 * 30),
    "stanford-cars": (cars, ["AM General Hummer SUV 2000", "Ram C_V Cargo Van Minivan 2012"], {"train": 3, "val": 2}, 40 * 25),
    "stanford-dogs": (dogs, ["Chihuahua", "wire-haired_fox_terrier"], {"train": 2, "val": 2}, 30 * 25),
    "oxford-pets": (pets, ["Abyssinian", "american_bulldog"], {"train": 2, "val": 2}, 10 * 20),
    "birds-525": (birds_525, ["LOONEY BIRDS", "PARAKETT AUKLET"], {"train": 6, "val": 2, "test": 2}, 0),
    "butterflies": (
        butterflies,
        ["Heliconius erato", "Heliconius melpomene ssp. (malleti x plesseni)"],
        {"train": 6, "val": 2},
        0,
    ),
    "fish-vista": (fish_vista, ["amia calva", "notropis atherinoides"], {"train": 4, "val": 2, "test": 2}, 0),
    "oxford-flowers": (flowers, ["passion flower", "pink primrose"], {"train": 2, "val": 1, "test": 3}, 0),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("place", [packed, unpacked])
def test_official_layout(name, place, tmp_path, capsys):
    make, classes, counts, covered = SETS[name]
    source = place(tmp_path / "source", make())
    target = run(name, source, "--partial")
    train = open_split(target.parent, name, "train")
    assert train.classes == classes
    for split, count in counts.items():
        images = open_split(target.parent, name, split, classes)
        assert len(images) == count
        assert all(decode_image(path).shape[0] == 3 for path in images.paths)
        if covered:
            assert check_masks(target / "masks", images.root, images.paths) == count
            sizes = [int(read_mask(path).sum()) for path in sorted((target / "masks" / split).glob("*/*.png"))]
            assert sizes == [covered] * count
    assert not any(path.is_symlink() for path in target.rglob("*"))
    record = json.loads((target / "dataset.json").read_text())
    assert {split: value["images"] for split, value in record["images"].items()} == counts
    assert record["split"].startswith("official") and record["licence"] and record["url"].startswith("http")
    assert [path.name for path in target.parent.iterdir()] == [name]
    assert "the official set has" in capsys.readouterr().out
    run(name, source, "--partial")
    assert "already there" in capsys.readouterr().out


def test_numbers_of_pictures_that_no_site_gives(tmp_path, capsys):
    message = error_of(capsys, "butterflies", packed(tmp_path / "source", butterflies()))
    assert "train: 6 images of 2 classes, the official set has 6 of 65" in message


def test_fishes_in_one_folder_and_those_that_are_not_served(tmp_path, capsys):
    files = dict(fish_vista()[""])
    moved = {name.replace("chunk_1/", "").replace("chunk_2/", ""): content for name, content in files.items()}
    del moved["Images/INHS_FISH_test1.jpg"]
    source = unpacked(tmp_path / "source", {"": moved})
    assert "1 of 8 listed pictures are missing: 'INHS_FISH_test1.jpg'" in error_of(capsys, "fish-vista", source)
    assert len(list(run("fish-vista", source, "--partial").glob("*/*/*.jpg"))) == 7


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("classification_val.csv", "a,b\n1,2\n", "is not Fish-Vista's list ('filename')"),
        ("classification_val.csv", "filename,standardized_species\nx.jpg\n", "is not Fish-Vista's list"),
        ("classification_val.csv", "filename,standardized_species\n../x.jpg,a\n", "'../x.jpg' leads out of its folder"),
        ("classification_train.csv", "version https://git-lfs.github.com/spec/v1\nsize 9\n", "is not Fish-Vista's list"),
        ("Images/chunk_1/INHS_FISH_val0.jpg", "version https://git-lfs.github.com/spec/v1\nsize 9\n", "pointer of Git LFS"),
    ],
)
def test_wrong_lists_and_pointers_of_fishes(name, content, expected, tmp_path, capsys):
    source = unpacked(tmp_path / "source", {"": {**fish_vista()[""], name: content}})
    assert expected in error_of(capsys, "fish-vista", source, "--partial")


def test_every_set_has_a_layout_here():
    assert SETS.keys() == SOURCES.keys() - {"folder", "fashion-mnist"}


def test_one_file_in_two_splits_is_said(tmp_path, capsys):
    source = unpacked(tmp_path / "source", flowers())
    (source / "jpg" / "image_00004.jpg").write_bytes((source / "jpg" / "image_00002.jpg").read_bytes())
    run("oxford-flowers", source, "--partial")
    said = "1 of 6 pictures are the same file in another split: 'image_00002.jpg (train) = image_00004.jpg (val)'; kept"
    assert said in capsys.readouterr().out


def test_numbers_are_those_of_the_official_set(tmp_path, capsys, monkeypatch):
    source = packed(tmp_path / "source", cub())
    message = error_of(capsys, "cub", source)
    assert "train: 2 images of 2 classes, the official set has 5,994 of 200; get the whole set, or give --partial" in message
    about = SOURCES["cub"].ABOUT._replace(official={"train": (2, 2), "val": (2, 2)})
    monkeypatch.setattr(SOURCES["cub"], "ABOUT", about)
    assert json.loads((run("cub", source) / "dataset.json").read_text())["notes"] == []


def test_banner_is_cut_off_and_the_rest_stays(tmp_path):
    files = aircraft()["fgvc-aircraft-2013b.tar.gz"]
    target = run("fgvc-aircraft", packed(tmp_path / "source", aircraft()), "--partial")
    path = target / "train" / "F_A-18" / "0000001.jpg"
    (tmp_path / "whole.jpg").write_bytes(files["fgvc-aircraft-2013b/data/images/0000001.jpg"])
    whole, cut = decode_image(tmp_path / "whole.jpg").float(), decode_image(path).float()
    assert whole.shape[1:] == (71, 100) and cut.shape[1:] == (51, 100)
    assert (whole[:, :51] - cut).abs().mean() < 1
    assert read_mask(target / "masks" / "train" / "F_A-18" / "0000001.png")[5:30, 10:50].all()
    assert json.loads((target / "dataset.json").read_text())["class_names"] == {"F_A-18": "F/A-18"}
    target = run("fgvc-aircraft", tmp_path / "source", "--partial", "--level", "manufacturer", "--name", "makers").with_name(
        "makers"
    )
    assert [path.name for path in (target / "train").iterdir()] == ["McDonnell Douglas"]
    with pytest.raises(SystemExit):
        run("fgvc-aircraft", tmp_path / "source", "--partial", "--level", "manufacturer")


def test_squares_around_boxes(tmp_path, capsys):
    target = run("fgvc-aircraft", packed(tmp_path / "source", aircraft()), "--partial", "--square_crop", "boxes")
    path = target / "train" / "747-100" / "0000003.jpg"
    whole = aircraft()["fgvc-aircraft-2013b.tar.gz"]["fgvc-aircraft-2013b/data/images/0000003.jpg"]
    (tmp_path / "whole.jpg").write_bytes(whole)
    difference = decode_image(path).float() - decode_image(tmp_path / "whole.jpg")[:, :48, 6:54].float()
    assert difference.abs().mean() < 4
    found = read_mask(target / "masks" / "train" / "747-100" / "0000003.png")
    assert found.shape == (48, 48) and found[5:30, 4:44].all() and found.sum() == 40 * 25
    annotations = json.loads((target / "annotations.json").read_text())
    assert annotations["train/747-100/0000003.jpg"] == {"box": [4.0, 5.0, 44.0, 30.0]}
    assert "5 of 5 pictures are cut to the square around their box" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 10, 20, 20), (9, 9, 21, 21)),
        ((0, 0, 10, 5), (0, 0, 12, 12)),
        ((90, 40, 100, 50), (88, 38, 100, 50)),
        ((0, 0, 100, 50), (0, 0, 100, 50)),
        ((20, 0, 80, 50), (14, 0, 86, 50)),
        ((5, 5, 5, 5), (4, 4, 5, 5)),
        ((500, 500, 510, 510), (88, 38, 100, 50)),
    ],
)
def test_a_square_lies_in_the_picture(box, expected, tmp_path):
    (tmp_path / "picture.jpg").write_bytes(picture(100, 70))
    assert square_around(tmp_path / "picture.jpg", box, banner=20) == expected


def test_a_mask_of_another_size_is_left_out(tmp_path, capsys):
    archives = cub()
    segmentations = {**archives["segmentations.tgz"], "segmentations/1.class/bird_0.png": mask(np.eye(30) * 255)}
    target = run("cub", packed(tmp_path / "source", {**archives, "segmentations.tgz": segmentations}), "--partial")
    assert len(list((target / "masks").rglob("*.png"))) == 3
    assert "1 masks left out, of another size than their picture" in capsys.readouterr().out


def test_boxes_and_parts_are_kept(tmp_path):
    archives = cub()
    del archives["segmentations.tgz"]
    target = run("cub", packed(tmp_path / "source", archives), "--partial")
    annotations = json.loads((target / "annotations.json").read_text())
    first = annotations["train/001.Black_footed_Albatross/bird_0.jpg"]
    assert first == {"box": [10.0, 5.0, 30.0, 35.0], "parts": {"back": [12.0, 13.5]}}
    turned = read_mask(next((target / "masks" / "val").glob("*/bird_2.png")))  # turned by EXIF, as its picture is read
    assert turned.shape == (60, 50) and turned[10:30, 15:45].all()


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("images.txt", "1.class/bird_0.jpg", "../../bird.jpg", "'../../bird.jpg' leads out of its folder"),
        ("images.txt", "1.class/bird_0.jpg", "1.class/bird_2.jpg", "is listed with the splits 'train' and 'val'"),
        ("images.txt", "1.class/bird_0.jpg", "1.class/gone.jpg", "1 of 4 listed pictures are missing: '1.class/gone.jpg'"),
        ("image_class_labels.txt", "1 1\n", "", "the lists disagree about picture 1"),
        ("image_class_labels.txt", "1 1\n2 2\n", "1 1\n2 1\n", "1 of 2 classes have no training picture: '002.Laysan_Albatross'"),
        ("classes.txt", "002.Laysan_Albatross", "001.Black_footed_Albatross", "the official set has 5,994 of 200"),
        ("classes.txt", "2 002.Laysan_Albatross", "2", "row 2 is '2'; expected 2 columns"),
        ("bounding_boxes.txt", "10.0 5.0", "nan x", "'nan' is no number"),
        ("train_test_split.txt", "1 1\n", "1 7\n", "the lists disagree about picture 1"),
    ],
)
def test_wrong_lists_are_refused(name, old, new, expected, tmp_path, capsys):
    archives = cub()
    files = dict(archives["CUB_200_2011.tgz"])
    text = files[f"CUB_200_2011/{name}"]
    assert isinstance(text, str) and old in text
    files[f"CUB_200_2011/{name}"] = text.replace(old, new, 1)
    assert expected in error_of(capsys, "cub", packed(tmp_path / "source", {**archives, "CUB_200_2011.tgz": files}))


def test_a_missing_picture_and_a_class_of_test_alone_are_left_out_of_a_part(tmp_path, capsys):
    source = unpacked(tmp_path / "source", pets())
    (source / "images" / "Abyssinian_1.jpg").unlink()
    target = run("oxford-pets", source, "--partial")
    out = capsys.readouterr().out
    assert "1 of 4 listed pictures are missing: 'Abyssinian_1.jpg'" in out
    assert "1 of 2 classes have no training picture: 'Abyssinian'; left out" in out
    assert sorted(path.name for path in target.glob("*/*/*.jpg")) == ["american_bulldog_2.jpg", "american_bulldog_4.jpg"]


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("stanford-cars", "cars_meta.mat"),
        ("oxford-flowers", "jpg/"),
        ("cub", "train_test_split.txt"),
        ("birds-525", "train/"),
        ("fish-vista", "classification_train.csv"),
    ],
)
def test_what_is_missing_is_named(name, missing, tmp_path, capsys):
    (tmp_path / "source").mkdir()
    assert f"no {missing}" in error_of(capsys, name, tmp_path / "source")
    assert "no such folder or archive" in error_of(capsys, name, tmp_path / "source" / "nowhere")


def test_a_damaged_matlab_file_and_one_without_labels(tmp_path, capsys):
    source = unpacked(tmp_path / "source", cars())
    (source / "devkit" / "cars_train_annos.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(300))
    assert "cars_train_annos.mat: is damaged or no MATLAB file" in error_of(capsys, "stanford-cars", source, "--partial")
    (source / "devkit" / "cars_train_annos.mat").write_bytes(mat(other=1))
    assert "cars_train_annos.mat: has no 'annotations'" in error_of(capsys, "stanford-cars", source, "--partial")
    rows = np.array([("00001.jpg",)], dtype=[("fname", object)])[None]
    (source / "devkit" / "cars_train_annos.mat").write_bytes(mat(annotations=rows))
    assert "an annotation lacks its name, class or box" in error_of(capsys, "stanford-cars", source, "--partial")
    source = unpacked(tmp_path / "source", flowers())
    (source / "imagelabels.mat").write_bytes(mat(labels=[[77, 1]])[:170])
    assert "imagelabels.mat: is damaged or no MATLAB file (could not read bytes" in error_of(capsys, "oxford-flowers", source)
    (source / "imagelabels.mat").write_bytes(mat(labels=[[103, 1]]))
    assert "103 is not a whole number from 1 to 102" in error_of(capsys, "oxford-flowers", source, "--partial")


@pytest.mark.parametrize(("name", "size"), [("stanford-dogs", 48), ("oxford-pets", 24), ("stanford-cars", 48), ("cub", 36)])
def test_squares_of_other_sets(name, size, tmp_path, capsys):
    target = run(name, packed(tmp_path / "source", SETS[name][0]()), "--partial", "--square_crop", "boxes")
    assert {decode_image(path).shape[1:] for path in target.glob("[tv]*/*/*.jpg")} == {(size, size)}
    assert check_masks(target / "masks", target / "train", sorted(target.glob("train/*/*.jpg"))) > 0


def test_a_set_without_boxes_has_no_squares(tmp_path, capsys):
    source = packed(tmp_path / "source", flowers())
    assert "no picture has a box" in error_of(capsys, "oxford-flowers", source, "--partial", "--square_crop", "boxes")


def test_a_part_of_an_official_set(tmp_path, capsys):
    source = packed(tmp_path / "source", cars())
    target = run("stanford-cars", source, "--partial", "--min_per_class", 3, "--limit_per_class", 1)
    assert [path.name for path in (target / "train").iterdir()] == ["AM General Hummer SUV 2000"]
    assert len(list(target.glob("[tv]*/*/*.jpg"))) == 2
    out = capsys.readouterr().out
    assert "1 of 2 classes have fewer than 3 pictures: 'Ram C/V Cargo Van Minivan 2012'; left out" in out
    assert "2 of 3 pictures are taken: at most 1 of each class" in out
    run("stanford-cars", source, "--partial", "--min_per_class", 3, "--limit_per_class", 1)
    assert "already there" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("stanford-cars", source, "--partial")
    assert "prepared with limit_per_class 1, min_per_class 3, not with" in capsys.readouterr().err


def test_names_within_a_class_are_unique():
    assert picture_names(["a/1.jpg", "b/1.png", "b/2.jpg", "a/.x.jpg"]) == ["a_1.jpg", "b_1.png", "2.jpg", "_.x.jpg"]
    assert picture_names(["a/b/1.jpg", "a_b/1.jpg", "a/b_1.jpg"]) == ["a_b_1.jpg", "a_b_1-2.jpg", "b_1.jpg"]
    assert picture_names([f"{'x' * 300}.jpg", f"{'x' * 300}y.jpg"]) == [f"{'x' * 180}.jpg", f"{'x' * 180}-2.jpg"]
