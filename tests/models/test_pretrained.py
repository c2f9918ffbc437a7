"""`save_pretrained` and `from_pretrained` with folders: nothing of the model is lost, nothing of the user's is overwritten."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_flags, tiny_model
from safetensors.torch import load_file, save_file
from torch import nn

from flags import RESTORED, get_args_parser
from models import ICN, build_model, for_inference
from models.saving import TRAVELLING
from predictor import Predictor

CLASSES = ["a", "b | c", "d/ü", "e\udce9"]
NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}
SMALL = {"backbone": "test_resnet", "backbone_norm": "frozen", "num_queries": 4}


def build(**changes: Any) -> ICN:
    torch.manual_seed(0)
    return build_model(tiny_flags("--hidden_dim", "16").replace(**{**SMALL, **changes}))


@pytest.fixture
def without_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError):
        import huggingface_hub  # noqa: F401


def equal(model: ICN, other: ICN) -> bool:
    own, theirs = model.state_dict(), other.state_dict()
    return own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)


def test_a_checkpoint_goes_through_a_folder_unchanged(without_hub: None, tmp_path: Path) -> None:
    flags = tiny_flags("--square", "--image_size", "64", "--bit_depth", "12", "--lr", "0.5", "--output_dir", "/home/me")
    flags = flags.replace(**SMALL, dataset_name="/home/me/data/birds", hidden_dim=16, mosaic=0.5)
    content = {"model": build(pre_norm=True).state_dict(), "args": {**vars(flags.replace(pre_norm=True)), "explicit": None}}
    torch.save(content | {"classes": CLASSES, "normalisation": NORMALISATION, "epoch": 7}, tmp_path / "checkpoint.pth")
    model = ICN.from_pretrained(tmp_path / "checkpoint.pth")
    assert model.save_pretrained(tmp_path / "birds") is None
    assert sorted(os.listdir(tmp_path / "birds")) == ["README.md", "config.json", "model.safetensors"]
    assert len({(tmp_path / "birds" / name).stat().st_mode for name in os.listdir(tmp_path / "birds")}) == 1
    text = "".join((tmp_path / "birds" / name).read_text() for name in ("README.md", "config.json"))
    assert (
        "/home/me" not in text and "num_workers" not in text and 'from_checkpoint("birds")' in text and "| `--lr` | 0.5 |" in text
    )
    copy = ICN.from_pretrained(tmp_path / "birds")
    assert equal(copy, model) and not copy.training
    assert (copy.meta.classes, copy.meta.normalisation, copy.meta.epoch) == (CLASSES, NORMALISATION, 7)
    kept = {name: model.meta.args[name] for name in TRAVELLING if name != "dataset_name"}
    assert kept.items() <= copy.meta.args.items() and (kept["square"], kept["lr"], kept["pre_norm"]) == (True, 0.5, True)
    assert copy.meta.args["dataset_name"] == "birds" and "output_dir" not in copy.meta.args
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    predictors = [Predictor.from_checkpoint(tmp_path / "checkpoint.pth"), Predictor.from_checkpoint(tmp_path / "birds")]
    predictors += [Predictor.from_model(model), Predictor.from_model(copy)]
    assert len({tuple(predictor.logits(picture)[0].tolist()) for predictor in predictors}) == 1
    assert {predictor.decoding.bit_depth for predictor in predictors} == {12}


@pytest.mark.parametrize(
    "changes", [{}, {"decoder": "none", "enc_layers": 0}, {"decoder": "additive", "feature_stride": 16, "fuse": True}]
)
def test_a_model_built_in_python_is_saved_with_what_is_known(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = build(**changes, image_size=96)
    model.save_pretrained(tmp_path / "m")
    copy = ICN.from_pretrained(tmp_path / "m")
    assert equal(copy, model) and copy.meta.classes is None and copy.meta.epoch is None
    assert copy.meta.normalisation == model.backbone[0].normalisation and copy.meta.args["image_size"] == 96
    assert "numbered from 0" in (tmp_path / "m" / "README.md").read_text()
    model.meta.classes, model.meta.normalisation = tuple(CLASSES), NORMALISATION  # type: ignore[assignment]
    model.save_pretrained(tmp_path / "m")  # again, into its own folder
    copy = ICN.from_pretrained(tmp_path / "m")
    assert (copy.meta.classes, copy.meta.normalisation) == (CLASSES, NORMALISATION)
    assert "numbered from 0" in (tmp_path / "m" / "README.md").read_text()  # which may have been edited


def test_the_card_of_a_model_without_epochs_claims_no_training(tmp_path: Path) -> None:
    model = build(dataset_name="cub", lr=0.125)
    model.save_pretrained(tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    assert "Not trained yet, or its training is unknown" in card and "Trained on" not in card and "cub" not in card
    assert not re.search("--(lr|epochs|dataset_name|batch_size|seed|dropout)", card) and "epochs," not in card
    assert "| `--backbone` | test\\_resnet |" in card and "`--image_size`" in card and "Recipe" not in card
    for epoch, said in ((0, "after 1 epoch."), (1, "after 2 epochs.")):
        model.meta.epoch = epoch
        model.save_pretrained(tmp_path / said)
        card = (tmp_path / said / "README.md").read_text()
        assert said in card and "Trained on the data set cub." in card and "| `--lr` | 0.125 |" in card


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"finetune": "/home/me/detr-r50.pth", "backbone_weights": "default"}, "Its weights started from detr-r50.pth."),
        ({"finetune": "https://a.org/x/intr.pth?token=1", "backbone_weights": "none"}, "Its weights started from intr.pth."),
        ({"finetune": "", "resume": "", "backbone_weights": "/home/me/res_net.pth"}, "started from res\\_net.pth."),
        ({"finetune": "", "backbone_weights": "default"}, "Its backbone started from the published weights."),
        ({"finetune": "", "backbone_weights": "none"}, "Its weights started from random ones."),
        ({"resume": "checkpoint.pth", "backbone_weights": "none"}, "What the weights started from is not known."),
        ({"finetune": 5}, "What the weights started from is not known."),
    ],
)
def test_the_card_says_what_the_weights_started_from(tmp_path: Path, flags: dict[str, Any], said: str) -> None:
    args = {**vars(tiny_flags("--hidden_dim", "16").replace(**SMALL)), "explicit": None}
    args = {name: args[name] for name in args if name not in ("finetune", "resume", "backbone_weights")} | flags
    torch.save({"model": build().state_dict(), "args": args, "epoch": 1}, tmp_path / "checkpoint.pth")
    ICN.from_pretrained(tmp_path / "checkpoint.pth").save_pretrained(tmp_path / "m")
    ICN.from_pretrained(tmp_path / "m").save_pretrained(tmp_path / "again")
    for folder in ("m", "again"):
        card = (tmp_path / folder / "README.md").read_text()
        assert said in card and "/home/me" not in card and "started_from" not in card and "token=1" not in card


def test_the_flags_that_travel_are_those_of_model_and_training() -> None:
    """A new flag of these groups is added to `models.saving.TRAVELLING`."""
    groups = {action.dest for action in get_args_parser().flags_of("model", *RESTORED)}
    assert groups | {"dataset_name"} == set(TRAVELLING) and len(set(TRAVELLING)) == len(TRAVELLING)


def test_half_precision_is_kept_in_the_file(tmp_path: Path) -> None:
    build().half().save_pretrained(tmp_path / "m")
    assert {tensor.dtype for tensor in load_file(tmp_path / "m" / "model.safetensors").values()} == {torch.float16}
    assert ICN.from_pretrained(tmp_path / "m").query_embed.weight.dtype == torch.float32


def by_hand(model: ICN) -> ICN:
    backbone, pos_encoding = model.backbone
    return ICN(backbone, pos_encoding, model.transformer, 4, 16, "detr")  # type: ignore[arg-type]


def with_another_classifier(model: ICN) -> ICN:
    model.presence_vector = nn.Linear(16, 2)
    return model


def not_finite(model: ICN) -> ICN:
    with torch.no_grad():
        model.query_embed.weight[0, 0] = torch.nan
    return model


def named(*names: Any) -> Any:
    def change(model: ICN) -> ICN:
        model.meta.classes = list(names)
        return model

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (by_hand, "this ICN has no meta"),
        (named("a", "b"), "meta.classes has 2 names, the model 4 classes"),
        (named("a", "a", "b", "c"), "'classes' is damaged, a list of names, all different"),
        (named("a", "b", "c", 4), "'classes' is damaged"),
        (with_another_classifier, "not what its flags say.*presence_vector"),
        (for_inference, "not what its flags say"),
        (not_finite, "not finite"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(tmp_path: Path, change: Any, message: str) -> None:
    model = change(build(backbone_norm="batch"))
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=message) as error:
        model.save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == ["README.md"] and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_files_of_others_are_not_overwritten(tmp_path: Path, name: str) -> None:
    other = {"model.safetensors": lambda path: save_file({"x": torch.ones(2)}, path, metadata={"format": "pt"}),
             "config.json": lambda path: path.write_text('{"model_type": "bert"}')}  # fmt: skip
    other[name](tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ValueError, match=f"{name} exists, is no file of ICN and is not overwritten"):
        build().save_pretrained(tmp_path)
    assert (tmp_path / name).read_bytes() == before and os.listdir(tmp_path) == [name]


def test_a_name_that_is_none_is_one_line(without_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = build()
    with pytest.raises(ValueError, match="there is no folder me/birds here, and hf:// needs the package huggingface_hub"):
        ICN.from_pretrained("me/birds")
    with pytest.raises(ValueError, match="birds is a folder that has no model.safetensors: give a folder"):
        Path("birds").mkdir()
        ICN.from_pretrained("birds")
    with pytest.raises(ValueError, match="name of the model is empty"):
        ICN.from_pretrained("")
    with pytest.raises(ValueError, match="name of the folder to save to is empty"):
        model.save_pretrained("")
    Path("birds/file").touch()
    with pytest.raises(ValueError, match="birds/file is a file: give a folder"):
        model.save_pretrained("birds/file")
    Path("birds/file").unlink()
    with pytest.raises(ValueError, match="an upload needs the package huggingface_hub"):
        model.push_to_hub("me/birds")
    with pytest.raises(ValueError, match="'my birds' is no name of a repository"):
        model.save_pretrained("new", repo_id="my birds")
    assert os.listdir() == ["birds"]
    model.save_pretrained("birds", repo_id="me/icn")
    assert 'from_checkpoint("hf://me/icn")' in Path("birds/README.md").read_text()


def test_the_header_is_the_config(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = tiny_model(2, backbone="test_resnet")
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["icn"]) == json.loads((tmp_path / "config.json").read_text())
