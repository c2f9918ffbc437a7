"""`Predictor`: what a picture is, which class it has, and where its map lies; `torch.hub` loads the same."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import tiny_flags, tiny_model
from PIL import Image
from torch import Tensor

import hubconf
from attribution.methods.registry import METHODS, Method
from attribution.resize import pool_to
from datasets import decode_image, eval_transform
from models.checkpoint_format import VERSION
from predictor import Explanation, Prediction, Predictor

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ["blue", "dark green", "red"]
ORIENTATION = 0x0112


def save(path: Path, square: bool = False, image_size: int = 64, classes: list[str] | None = CLASSES, **changes: object) -> Path:
    model = tiny_model(feature_stride=16, **changes)
    args = {key: value for key, value in vars(tiny_flags("--feature_stride", 16)).items() if key != "explicit"}
    args |= {"num_queries": 3, "backbone_norm": "frozen", "image_size": image_size, "square": square, **changes}
    content = {"model": model.state_dict(), "args": args, "classes": classes, "version": VERSION}
    torch.save({**content, "normalisation": {"mean": [0.5] * 3, "std": [0.25] * 3}}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("predictor") / "icn.pth")


@pytest.fixture(scope="module")
def icn(checkpoint: Path) -> Predictor:
    return Predictor.from_checkpoint(checkpoint)


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def brightness(model: object, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    """A map of the input alone, on the grid of stride 16."""
    return pool_to(images.mean(1), (images.shape[2] // 16, images.shape[3] // 16))


def test_a_prediction_is_the_model_s_softmax_best_first(icn: Predictor, tmp_path: Path) -> None:
    photograph(50, 70).save(tmp_path / "bird.png")
    (found,) = icn.predict(tmp_path / "bird.png")
    images = eval_transform(64)(decode_image(tmp_path / "bird.png"))[None].float() / 255
    with torch.no_grad():
        expected = icn.model((images - 0.5) / 0.25).logits.softmax(1)[0]
    assert isinstance(found, Prediction) and sorted(found.names) == sorted(CLASSES)
    assert found.probabilities == sorted(found.probabilities, reverse=True) and sum(found.probabilities) == pytest.approx(1)
    assert found.probabilities == pytest.approx([float(expected[CLASSES.index(name)]) for name in found.names], abs=1e-6)
    (best,) = icn.predict(tmp_path / "bird.png", topk=1)
    assert best.names == found.names[:1] and repr(best) == f"Prediction({best.names[0]} {best.probabilities[0]:.1%})"


def test_a_list_equals_its_pictures_one_by_one_and_every_kind_is_the_same_picture(icn: Predictor, tmp_path: Path) -> None:
    shapes = [(50, 70), (70, 50), (50, 70), (33, 90), (64, 64)]
    pictures = [photograph(*shape, seed) for seed, shape in enumerate(shapes)]
    together = icn.predict(pictures)
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = icn.predict(picture)
        assert alone.names == found.names and alone.probabilities == pytest.approx(found.probabilities, abs=1e-6)
    first = pictures[0]
    first.save(tmp_path / "first.png")
    array = np.array(first)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = icn.predict([str(tmp_path / "first.png"), tmp_path / "first.png", first, array, tensor])
    assert all(kind.names == kinds[0].names for kind in kinds)
    assert all(kind.probabilities == pytest.approx(together[0].probabilities, abs=1e-6) for kind in kinds)
    assert icn.predict([]) == []


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("as_file", [False, True])
def test_a_map_lies_at_its_place_in_the_upright_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, square: bool, orientation: int, as_file: bool
) -> None:
    """A bright square of a long picture that is stored turned is found at its pixels, whatever the network's input is."""
    monkeypatch.setitem(METHODS, "brightness", Method("brightness", "control", brightness))
    icn = Predictor.from_checkpoint(save(tmp_path / "icn.pth", square))
    upright = np.zeros((60, 90, 3), np.uint8)
    upright[15:30, 45:68] = 255
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # quarter turns against the clock, which the orientation undoes
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = io.BytesIO()
    Image.fromarray(np.rot90(upright, turns).copy()).save(file, "PNG", exif=exif)
    (tmp_path / "turned.png").write_bytes(file.getvalue())
    found = icn.explain(tmp_path / "turned.png" if as_file else Image.open(file), "red", method="brightness")
    assert found.map.shape == (60, 90) and found.map.dtype == np.float32 and np.array_equal(found.picture, upright)
    row, column = np.unravel_index(found.map.argmax(), found.map.shape)
    assert 15 <= row < 30 and 45 <= column < 68
    inside = np.zeros((60, 90), bool)
    inside[15:30, 45:68] = True
    assert found.map[inside].mean() > found.map[~inside].mean() + 1
    assert found.overlay().size == (90, 60)


def test_a_map_is_that_of_attribution_explain_for_the_class_by_name_or_index(icn: Predictor) -> None:
    picture = photograph(50, 70)
    predicted = icn.explain(picture)
    assert isinstance(predicted, Explanation) and predicted.name == icn.predict(picture)[0].names[0]
    by_name, by_index = icn.explain(picture, "dark green"), icn.explain(picture, np.int64(1))
    assert by_name.name == by_index.name == "dark green" and np.array_equal(by_name.map, by_index.map)
    against = icn.explain(picture, "dark green", against=2)
    np.testing.assert_allclose(against.map, by_name.map - icn.explain(picture, "red").map, atol=1e-6)
    assert icn.explain(picture, 0, method="attention").map.min() >= 0
    assert (predicted.method, predicted.against, against.method, against.against) == ("contribution", None, "contribution", "red")
    contrast = icn.explain(picture, method="finercam")
    assert [contrast.name, contrast.against] == icn.predict(picture)[0].names[:2] and "against=" in repr(contrast)
    same = icn.explain(picture, contrast.name, contrast.against, "finercam")
    assert np.array_equal(contrast.map, same.map)


def test_a_map_is_drawn_over_the_picture(icn: Predictor, tmp_path: Path) -> None:
    found = icn.explain(photograph(50, 70), "red")
    found.save(tmp_path / "map.png")
    drawn = np.array(Image.open(tmp_path / "map.png"))
    assert drawn.shape == (50, 70, 3) and np.array_equal(drawn, np.array(found.overlay()))
    assert np.array_equal(np.array(Image.open(io.BytesIO(found._repr_png_()))), drawn)
    large = icn.explain(photograph(600, 1500), "red")
    assert large.overlay().size == (1500, 600) and Image.open(io.BytesIO(large._repr_png_())).size == (1024, 410)


@pytest.mark.parametrize("decoder", ["additive", "average"])
def test_an_additive_decoder_is_explained_by_its_evidence(tmp_path: Path, decoder: str) -> None:
    icn = Predictor.from_checkpoint(save(tmp_path / "icn.pth", decoder=decoder, enc_layers=0, dec_layers=0))
    found = icn.explain(photograph(64, 64), "blue")
    image = ((torch.from_numpy(np.array(photograph(64, 64))).permute(2, 0, 1)[None].float() / 255) - 0.5) / 0.25
    with torch.no_grad():
        logit = icn.model(image).logits[0, 0] - icn.model.presence_vector.bias[0]
    assert found.cells.shape == (4, 4) and found.cells.sum() == pytest.approx(float(logit), abs=1e-4)


def test_a_file_of_intr_has_numbers_for_names(tmp_path: Path) -> None:
    model = tiny_model()
    args = {key: value for key, value in vars(tiny_flags()).items() if key not in ("explicit", "image_size", "square")}
    torch.save({"model": model.state_dict(), "args": argparse.Namespace(**{**args, "num_queries": 3})}, tmp_path / "intr.pth")
    icn = Predictor.from_checkpoint(tmp_path / "intr.pth")
    assert icn.classes == ["0", "1", "2"] and icn.transform.image_size == 800  # type: ignore[attr-defined]


def test_what_is_wrong_is_named(icn: Predictor, checkpoint: Path, tmp_path: Path) -> None:
    picture = photograph(40, 40)
    wrong = [
        (lambda: icn.predict(tmp_path / "absent.jpg"), "absent.jpg: does not exist"),
        (lambda: icn.predict(np.zeros((40, 40, 3))), r"ndarray float64 \[40, 40, 3\] is no picture: give .* uint8 \[H, W, 3\]"),
        (lambda: icn.predict(torch.zeros(2, 3, 40, 40, dtype=torch.uint8)), r"Tensor torch.uint8 \[2, 3, 40, 40\] is no picture"),
        (lambda: icn.predict([picture, None]), "NoneType"),
        (lambda: icn.predict(Image.fromarray(np.zeros((4, 4), np.float32))), "the image has float pixels"),
        (lambda: icn.predict(picture, topk=0), "topk 0 must be a whole number of at least 1"),
        (lambda: icn.explain(picture, "green"), r"class 'green' does not exist: .* 0 to 2, or a name \(near: 1 dark green, "),
        (lambda: icn.explain(picture, 3), "class 3 does not exist"),
        (lambda: icn.explain(picture, -1), "class -1 does not exist"),
        (lambda: icn.explain(picture, method="gradcamm"), "gradcamm: there is no such map; choose from .*gradcam"),
        (lambda: icn.explain(picture, method="oracle"), "ground truth .*; choose from [^;]*edges$"),
        (lambda: icn.explain(picture, "red", "red"), "compared with itself"),
        (lambda: icn.explain(picture, "red", "blue", "centre"), "centre is a control, a map of no class"),
        (lambda: icn.explain(picture).save(tmp_path / "no" / "x.png"), "x.png: the folder .*no does not exist"),
        (lambda: icn.explain(picture).save(tmp_path / "x.what"), "x.what: cannot be written .*what"),
        (lambda: icn.explain(picture).save(tmp_path), "cannot be written"),
        (lambda: Predictor.from_checkpoint(tmp_path / "absent.pth"), "absent.pth does not exist"),
        (lambda: Predictor.from_checkpoint(checkpoint, "gpu"), "^device 'gpu' is not a device: choose"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    file = torch.load(checkpoint, weights_only=True)
    for value, message in ((3e38, "logits that are not finite"), (float("nan"), "nan.pth has values that are not finite")):
        file["model"]["presence_vector.weight"].fill_(value)
        torch.save(file, tmp_path / "nan.pth")
        with pytest.raises(ValueError, match=message):
            Predictor.from_checkpoint(tmp_path / "nan.pth").predict(picture)


def test_torch_hub_names_a_module_that_stands_in_the_way(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as Hugging Face's `datasets`, or the user's own `models`."""
    installed = ModuleType("datasets")
    installed.__path__ = [str(ROOT / ".venv/lib/datasets")]
    for name, module in (("datasets", installed), ("predictor", ModuleType("predictor")), ("models", json), ("util", pytest)):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, module)
            with pytest.raises(ImportError, match=f"another module '{name}' is loaded .*: load ICN before it, or in a process"):
                hubconf.icn(str(checkpoint))
    assert hubconf.icn(str(checkpoint)).classes == Predictor.from_checkpoint(checkpoint).classes


def test_torch_hub_loads_it_from_any_folder(checkpoint: Path, icn: Predictor, tmp_path: Path) -> None:
    """In a process that knows nothing of the repository, and after which nothing is imported from it any more."""
    photograph(40, 60).save(tmp_path / "bird.png")
    code = (
        "import sys, torch\n"
        "root, checkpoint = sys.argv[1:]\n"
        "icn = torch.hub.load(root, 'icn', source='local', checkpoint=checkpoint)\n"
        "assert root not in sys.path\n"
        "icn.explain('bird.png').save('map.png')\n"
        "print(icn.predict('bird.png')[0])\n"
    )
    words = [sys.executable, "-c", code, str(ROOT), str(checkpoint)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(icn.predict(tmp_path / "bird.png")[0]) and (tmp_path / "map.png").is_file()


def test_python_values_that_are_no_image_class_or_number_are_refused(icn: Predictor) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    for call, message in (
        (lambda: icn.predict(image[:0]), r"\[0, 60, 3\] is no picture"),
        (lambda: icn.predict(image, 1.5), "topk 1.5 must be a whole number"),
        (lambda: icn.explain([image, image]), "explain takes one image, not a list of 2"),
        (lambda: icn.explain(image, 1.7), "class 1.7 does not exist"),
        (lambda: icn.explain(image, True), "class True does not exist"),
        (lambda: icn.explain(image, [1, 2]), r"class \[1, 2\] does not exist"),
        (lambda: icn.predict(iter([image])), "iterator is no picture"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert icn.explain(image, np.int64(1)).name == icn.classes[1] and "decoder" in repr(icn)
