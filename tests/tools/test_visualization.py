"""`python -m tools.visualization`: what is read, what is written where, and what it says when it cannot."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attribution.report.panels import Item, collate_items, explain_classes, safe_name
from datasets import collate, eval_transform, open_split
from main import get_args_parser as main_args_parser
from models import build_model, load_checkpoint
from models.checkpoint_format import VERSION
from tools.visualization import get_args_parser, main
from util.cli import launch, parse

CLASSES = ["Airbus <A320>", "Boeing 737", "Çessna", "Tu-154"]
TINY = "--backbone test_resnet --hidden_dim 16 --nheads 2 --enc_layers 1 --dec_layers 2 --dim_feedforward 16 --num_queries 4"
ORIENTATION = 0x0112


def picture(path: Path, size: tuple[int, int] = (40, 30), orientation: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.indices((size[1], size[0]))
    image = Image.fromarray(np.stack([rows * 255 // size[1], columns * 255 // size[0], rows * 0 + 90], 2).astype(np.uint8))
    exif = Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    image.save(path, exif=exif)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ICN's file `icn.pth`, the same as INTR writes it in `intr.pth`, and one with weights that are not numbers."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    flags = parse(main_args_parser(), [*TINY.split(), "--image_size", "64", "--backbone_norm", "frozen"])
    model = build_model(flags)
    weights = model.state_dict()
    args = {key: value for key, value in vars(flags).items() if key != "explicit"}
    normalisation = model.backbone[0].normalisation
    icn = {"model": weights, "args": args, "classes": CLASSES, "normalisation": normalisation, "version": VERSION, "epoch": 2}
    torch.save(icn, folder / "icn.pth")
    intr_args = {key: value for key, value in args.items() if key not in ("image_size", "square", "backbone_norm")}
    torch.save({"model": weights, "args": argparse.Namespace(**intr_args), "epoch": 2}, folder / "intr.pth")
    nan = {**weights, "presence_vector.bias": torch.full((1,), float("nan"))}
    torch.save({**icn, "model": nan}, folder / "nan.pth")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set whose second class has four pictures, and whose other classes hold files that are no pictures."""
    for split in ("train", "val"):
        for name in CLASSES:
            broken = tmp_path / "data" / "planes" / split / name / "broken.jpg"
            broken.parent.mkdir(parents=True)
            broken.write_bytes(b"no picture")
    folder = tmp_path / "data" / "planes" / "val" / CLASSES[1]
    (folder / "broken.jpg").unlink()
    picture(folder / "a.jpg")
    picture(folder / "a.png", (30, 50))
    picture(folder / "sub" / "a.jpg", (60, 20))
    picture(folder / "turned.JPG", (40, 30), orientation=6)
    picture(folder / "long.name.jpeg", (36, 24))
    return tmp_path


FOLDERS = ["a.jpg", "a.png", "long.name.jpeg", "sub/a.jpg", "turned.JPG"]


def arguments(data: Path, resume: Path, *more: object) -> list[str]:
    words = ["--eval", "--resume", resume, "--dataset_path", data / "data", "--dataset_name", "planes"]
    words += ["--output_dir", data / "out", "--device", "cpu", "--num_workers", "0", "--class_index", "1", *more]
    return [str(word) for word in words]


def visualize(data: Path, resume: Path, *more: object) -> Path:
    """Run the tool; the folder of the class."""
    main(parse(get_args_parser(), arguments(data, resume, *more)))
    return data / "out" / "visualization" / "planes" / "val" / "1_Boeing_737"


def keep_one(data: Path) -> None:
    """Leave `a.jpg` alone in its class."""
    source = data / "data" / "planes" / "val" / CLASSES[1]
    for name in FOLDERS[1:]:
        (source / name).unlink()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def error_of(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """The one line that the tool ends with."""
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), argv)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and len(lines) == 1, lines
    return lines[0]


def test_the_documented_command(data: Path, checkpoints: Path) -> None:
    """As it is typed, in a process of its own, with workers; the files of the other classes are no pictures."""
    command = "--eval --resume {} --dataset_path {} --dataset_name planes --class_index 1"
    words = command.format(checkpoints / "icn.pth", data / "data").split()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "CUDA_VISIBLE_DEVICES": "", "ICN_DEBUG": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tools.visualization", *words], cwd=data, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if " elapsed" not in line]  # a slow machine shows progress
    assert len(said) == 1 and said[0].startswith("warning: no CUDA"), said
    index = checkpoints / "visualization_val_planes_icn" / "1_Boeing_737" / "index.html"
    counts = re.fullmatch(r"5 images of class 1 \(Boeing 737\): (\d) right, (\d) wrong\nopen (.*)\n", done.stdout)
    assert counts and int(counts[1]) + int(counts[2]) == 5 and counts[3] == str(index)
    assert (data / index).is_file()


def test_every_image_has_its_own_folder_with_all_panels(data: Path, checkpoints: Path) -> None:
    folder = visualize(data, checkpoints / "icn.pth", "--batch_size", 3)
    made = files(folder)
    assert {name.rsplit("/overlays/")[0] for name in made if "/overlays/" in name} == set(FOLDERS)
    for name in FOLDERS:
        panels = sorted(path.name for path in (folder / name).glob("*.png"))
        pattern = r"{}__true-Boeing_737__pred-(Airbus_A320|Boeing_737|Çessna|Tu-154)_0\.\d\d__(right|wrong)\.png"
        assert [re.fullmatch(pattern.format(kind), panel) is not None for kind, panel in zip(
            ("heads", "queries", "query_heads"), panels, strict=True
        )] == [True] * 3  # fmt: skip
        assert {("pred-Boeing_737" in panel) == panel.endswith("__right.png") for panel in panels} == {True}
        overlays = {path.stem for path in (folder / name / "overlays").iterdir()}
        assert {"head_0", "head_1", "mean"} <= overlays
        # --top_q is 5 by default, and there are 4 classes: each once
        assert {stem.split("_")[1] for stem in overlays if stem.startswith("query")} == {"1", "2", "3", "4"}
    html = (folder / "index.html").read_text()
    assert html.count("<img") == 3 * len(FOLDERS)
    assert html.count("<A320>") == 0


def test_overlays_have_the_upright_size_of_their_picture(data: Path, checkpoints: Path) -> None:
    picture(data / "data" / "planes" / "val" / CLASSES[1] / "long.name.jpeg", (1500, 900))
    folder = visualize(data, checkpoints / "icn.pth", "--batch_size", 5, "--sim_query_heads", 0)
    sizes = {name: Image.open(folder / name / "overlays" / "mean.png").size for name in FOLDERS}
    assert sizes == {
        "a.jpg": (40, 30),
        "a.png": (30, 50),
        "long.name.jpeg": (1024, 614),
        "sub/a.jpg": (60, 20),
        "turned.JPG": (30, 40),
    }


def test_overlay_shows_the_turned_picture(data: Path, checkpoints: Path) -> None:
    """The picture's own colours, turned as its EXIF says, shine through."""
    folder = visualize(data, checkpoints / "icn.pth", "--sim_query_heads", 0)
    path = data / "data" / "planes" / "val" / CLASSES[1] / "turned.JPG"
    overlay = np.asarray(Image.open(folder / "turned.JPG" / "overlays" / "head_0.png")).astype(float)
    upright = np.asarray(Image.open(path).transpose(Image.Transpose.ROTATE_270)).astype(float)
    assert np.corrcoef(overlay[..., 1].ravel(), upright[..., 1].ravel())[0, 1] > 0.3


def test_batches_draw_what_single_images_draw(data: Path, checkpoints: Path) -> None:
    keep_one(data)
    picture(data / "data" / "planes" / "val" / CLASSES[1] / "b.png", (40, 30))
    folder = visualize(data, checkpoints / "icn.pth", "--batch_size", 1)
    single = {name: np.asarray(Image.open(folder / name)).astype(int) for name in files(folder) if name.endswith(".png")}
    visualize(data, checkpoints / "icn.pth", "--batch_size", 12, "--num_workers", 2)
    assert {name for name in files(folder) if name.endswith(".png")} == set(single)
    for name, expected in single.items():
        assert np.abs(np.asarray(Image.open(folder / name)).astype(int) - expected).mean() < 1


def test_second_run_replaces_its_own_files_only(data: Path, checkpoints: Path) -> None:
    folder = visualize(data, checkpoints / "icn.pth")
    mine = [folder / "notes.txt", folder / "a.jpg" / "heads.png", folder / "a.jpg" / "overlays" / "figure.png"]
    for path in mine:
        path.write_text("mine")
    stale = folder / "a.jpg" / "queries__true-x__pred-y_0.50__wrong.png"
    stale.touch()
    (data / "data" / "planes" / "val" / CLASSES[1] / "a.png").unlink()
    other = files(folder / "a.png")

    visualize(data, checkpoints / "icn.pth", "--gt_query_heads", 0, "--sim_query_heads", 0, "--top_q", 1)
    assert all(path.read_text() == "mine" for path in mine) and not stale.exists()
    assert files(folder / "a.png") == other
    left = [name for name in files(folder / "a.jpg") if folder / "a.jpg" / name not in mine]
    assert len(left) == 2 and left[0].startswith("overlays/query_") and left[1].startswith("queries__true-Boeing_737")
    html = (folder / "index.html").read_text()
    assert html.count("<img") == 4 and "a.png" not in html


def test_layers_are_counted_from_either_end(data: Path, checkpoints: Path) -> None:
    keep_one(data)

    def drawn(*flags: object) -> np.ndarray:
        folder = visualize(data, checkpoints / "icn.pth", "--sim_query_heads", 0, *flags)
        return np.asarray(Image.open(folder / "a.jpg" / "overlays" / "head_0.png"))

    last = drawn()
    assert np.array_equal(last, drawn("--dec_layer_index", 1)) and np.array_equal(last, drawn("--dec_layer_index", -1))
    first = drawn("--dec_layer_index", 0)
    assert np.array_equal(first, drawn("--dec_layer_index", -2)) and not np.array_equal(first, last)


def test_true_class_is_put_in_with_its_rank(checkpoints: Path) -> None:
    model, meta = load_checkpoint(checkpoints / "icn.pth")
    model.eval()
    torch.manual_seed(0)
    items = [
        Item(torch.randint(0, 256, size, dtype=torch.uint8), np.zeros((4, 4, 3), np.uint8), Path("x"), 0, place)
        for place, size in enumerate(((3, 64, 96), (3, 64, 64)))
    ]
    batch, _ = collate_items(items)
    output = model(batch.normalise(**meta.normalisation), batch.padding_mask, attention=0)
    for true in range(4):
        labelled = [item._replace(label=true) for item in items]
        for b, found in enumerate(explain_classes(model, meta.normalisation, batch, labelled, 2, "attention", 0)):
            order = output.logits[b].argsort(descending=True).tolist()
            assert found.predicted == order[0] and found.right == (order[0] == true)
            assert found.classes == (order[:2] if true in order[:2] else [order[0], true])
            assert found.ranks == [order.index(index) + 1 for index in found.classes]
            assert found.true_score == pytest.approx(output.logits[b].softmax(0)[true].item(), abs=1e-5)
            np.testing.assert_allclose(found.maps, output.attention[0, b, :, found.classes].transpose(0, 1).detach(), atol=1e-5)
            assert found.valid_size == tuple(items[b].input.shape[1:]) and found.padded_size == (64, 96)


def test_names_of_an_intr_file_come_from_the_data(data: Path, checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep_one(data)
    folder = visualize(data, checkpoints / "intr.pth", "--image_size", 64)
    assert (folder / "index.html").is_file()
    extra = data / "data" / "planes" / "train" / "Fokker" / "x.jpg"
    extra.parent.mkdir()
    extra.touch()
    capsys.readouterr()
    message = error_of(capsys, arguments(data, checkpoints / "intr.pth"))
    assert " 4 " in message and " 5 " in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--class_index", "4"], ["--class_index", "'4'", "0 to 3", "3 Tu-154"]),
        (["--class_index", "-1"], ["--class_index", "'-1'", "0 to 3", "0 Airbus"]),
        (["--class_index", "1", "Boeing 737"], ["--class_index", "Boeing 737", "twice"]),
        (["--map", "oracle"], ["--map oracle", "ground truth"]),
        (["--map", "additive"], ["additive", "detr"]),
        (["--map", "contribution", "--dec_layer_index", "0"], ["--dec_layer_index", "--map attention"]),
        (["--limit", "0"], ["--limit: '0'"]),
        (["--class_index", "2"], ["broken.jpg"]),
        (["--dec_layer_index", "-3"], ["--dec_layer_index -3", "-2 to -1"]),
        (["--top_q", "0"], ["--top_q: '0' must be"]),
        (["--top_q", "5"], ["--top_q 5", "1 to 4"]),
        (["--top_q", "x"], ["--top_q"]),
        (["--gt_query_heads", "2"], ["--gt_query_heads"]),
        (["--backbone", "resnet50"], ["--backbone: resnet50", "test_resnet"]),
        (["--batch_size", "0"], ["--batch_size: '0'"]),
        (["--num_workers", "-1"], ["--num_workers: '-1'"]),
        (["--output_dir", ""], ["--output_dir"]),
        (["--resume", ""], ["--resume"]),
        (["--test", "test"], ["test"]),
    ],
)
def test_errors_are_one_line_that_names_the_flag(
    data: Path, checkpoints: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: list[str]
) -> None:
    message = error_of(capsys, arguments(data, checkpoints / "icn.pth", *flags))
    assert all(word in message for word in words), message


def test_class_without_images_and_output_in_a_file(data: Path, checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "data" / "planes" / "val" / CLASSES[3] / "broken.jpg").unlink()
    assert "Tu-154" in error_of(capsys, arguments(data, checkpoints / "icn.pth", "--class_index", 3))
    (data / "file").touch()
    message = error_of(capsys, arguments(data, checkpoints / "icn.pth", "--output_dir", data / "file"))
    assert "--output_dir" in message and str(data / "file") in message
    assert "not finite" in error_of(capsys, arguments(data, checkpoints / "nan.pth"))


def test_outputs_stay_below_the_output_folder(data: Path, checkpoints: Path) -> None:
    """A data set given by its absolute path is not written into."""
    keep_one(data)
    before = files(data / "data")
    main(parse(get_args_parser(), arguments(data, checkpoints / "icn.pth", "--dataset_name", data / "data" / "planes")))
    assert files(data / "data") == before
    assert len(list((data / "out").rglob("index.html"))) == 1


def test_flags_of_intr_are_understood() -> None:
    """Its names and defaults, but for what now comes from the checkpoint: number of queries and last layer."""
    defaults = {
        "lr_backbone": 1e-5, "batch_size": 1, "backbone": "resnet50", "dilation": False, "position_embedding": "sine",
        "class_index": ["0"], "dec_layer_index": None, "top_q": 5, "gt_query_heads": 1, "sim_query_heads": 1, "test": "val",
        "resume": "", "enc_layers": 6, "dec_layers": 6, "dim_feedforward": 2048, "hidden_dim": 256, "dropout": 0.1,
        "nheads": 8, "num_queries": None, "pre_norm": False, "dataset_name": "cub", "output_dir": "output",
        "device": "cuda", "eval": False, "num_workers": 2, "world_size": 1, "dist_url": "env://",
    }  # fmt: skip
    args = vars(parse(get_args_parser(), []))
    assert {key: args[key] for key in defaults} == defaults


@pytest.mark.parametrize("kind", ["additive", "none"])
def test_a_logit_that_is_a_sum_is_drawn_as_what_the_cells_added(data: Path, tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    flags = parse(main_args_parser(), [*TINY.split(), "--decoder", kind, "--image_size", "64", "--backbone_norm", "frozen"])
    flags = flags.replace(dec_layers=0)
    model = build_model(flags)
    args = {key: value for key, value in vars(flags).items() if key != "explicit"}
    normalisation = model.backbone[0].normalisation
    torch.save(
        {"model": model.state_dict(), "args": args, "classes": CLASSES, "normalisation": normalisation}, tmp_path / "sum.pth"
    )
    words = ["--eval", "--resume", tmp_path / "sum.pth", "--dataset_path", data / "data", "--dataset_name", "planes"]
    words += ["--class_index", 1, "--output_dir", tmp_path / "maps", "--device", "cpu", "--num_workers", 0]
    main(parse(get_args_parser(), [str(word) for word in words]))
    (index,) = (tmp_path / "maps").rglob("index.html")
    page = index.read_text(encoding="utf-8")
    assert "evidence: what each cell adds to the logit" in page and "cross-attention" not in page
    assert len(list(index.parent.rglob("queries__*.png"))) == 5
    with pytest.raises(ValueError, match="--dec_layer_index .* --map attention"):
        main(parse(get_args_parser(), [*map(str, words), "--dec_layer_index", "0"]))


@pytest.fixture
def two_classes(data: Path) -> Path:
    """As `data`, with whole images in every class."""
    for name in CLASSES:
        folder = data / "data" / "planes" / "val" / name
        (folder / "broken.jpg").unlink(missing_ok=True)
        for place in range(2):
            picture(folder / f"{place}.png", (40 + 5 * place, 30))
    return data


def test_classes_are_chosen_by_name_and_index_and_their_images_by_prediction(two_classes: Path, checkpoints: Path) -> None:
    base = visualize(two_classes, checkpoints / "icn.pth", "--class_index", "Tu-154", 0, "--limit", 1).parent
    drawn = lambda: sorted(str(path.relative_to(base)) for path in base.rglob("queries__*"))  # noqa: E731
    assert sorted(path.name for path in base.iterdir()) == ["0_Airbus_A320", "3_Tu-154"] and len(drawn()) == 2
    shutil.rmtree(base)
    visualize(two_classes, checkpoints / "icn.pth", "--class_index", "all", "--wrong_only")
    wrong = drawn()
    assert wrong and all(name.endswith("__wrong.png") for name in wrong)
    shutil.rmtree(base)
    visualize(two_classes, checkpoints / "icn.pth", "--class_index", "all")
    everything = drawn()
    assert wrong == [name for name in everything if name.endswith("__wrong.png")] and len(everything) == 13
    predicted = re.search("pred-(.+)_0", everything[0])[1]
    shutil.rmtree(base)
    (index,) = (place for place, name in enumerate(CLASSES) if f"pred-{safe_name(name)}_" in everything[0])
    visualize(two_classes, checkpoints / "icn.pth", "--class_index", index, "--predicted")
    same = [name.rsplit("/")[-1] for name in everything if f"pred-{predicted}_" in name]
    assert sorted(name.rsplit("/")[-1] for name in drawn()) == sorted(same) and "true-" in same[0]


@pytest.mark.parametrize("name", ["contribution", "gradcam"])
def test_any_map_is_drawn_in_any_format(data: Path, checkpoints: Path, name: str) -> None:
    keep_one(data)
    folder = visualize(data, checkpoints / "icn.pth", "--map", name, "--format", "svg", "--grid", "--own_scale")
    (sheet,) = folder.rglob("*.svg")
    assert name in sheet.read_text(encoding="utf-8") and sheet.name in (folder / "index.html").read_text()
    assert not list(folder.rglob("head_*.png")) and len(list(folder.rglob("query_*.png"))) == 4


def test_nothing_to_draw_is_an_error(two_classes: Path, checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    never = [index for index in range(4) if not predicted_as(two_classes, checkpoints, index)]
    message = error_of(capsys, arguments(two_classes, checkpoints / "icn.pth", "--class_index", never[0], "--predicted"))
    assert "no image" in message and f"--class_index {never[0]}" in message


def predicted_as(data: Path, checkpoints: Path, index: int) -> bool:
    """Return whether the model predicts the class for any image."""
    model, meta = load_checkpoint(checkpoints / "icn.pth")
    split = open_split(data / "data", "planes", "val", CLASSES, eval_transform(64, False))
    for image, _, _ in (split[place] for place in range(len(split))):
        batch = collate([(image, 0, 0)])
        if int(model.eval()(batch.normalise(**meta.normalisation)).logits.argmax()) == index:
            return True
    return False
