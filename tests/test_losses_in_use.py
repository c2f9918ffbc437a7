"""Binary cross-entropy from the command line: training, evaluation, prediction, export, resuming and fine-tuning."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import main
from flags import get_args_parser
from models import ICN, ParameterError, load_checkpoint
from predictor import Predictor
from tools import export
from tools.export.__main__ import get_args_parser as export_parser
from tools.whatif import change_many
from tools.whatif import get_args_parser as whatif_parser
from util.calibration import calibration
from util.cli import parse

pytestmark = pytest.mark.usefixtures("one_thread")

FLAGS = (
    "--backbone test_resnet --feature_stride 16 --hidden_dim 32 --nheads 4 --decoder additive --square --image_size 48 "
    "--batch_size 12 --device cpu --num_workers 0 --dataset_name colours"
)
BCE = "--loss bce --lr 1e-3 --lr_backbone 1e-3 --mosaic 0.5 --adversarial 2 --label_smoothing 0.1"


def run(colours: Path, out: Path, *more: object) -> dict[str, Any]:
    words = [*FLAGS.split(), "--dataset_path", colours, "--output_dir", out, *more]
    return main.main(parse(get_args_parser(), list(map(str, words))))


@pytest.fixture(scope="module")
def trained(colours: Path, tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The folder of a run of one epoch."""
    out = tmp_path_factory.mktemp("trained")
    run(colours, out, "--epochs", 1, *BCE.split())
    return out / "colours" / "output_sub"


def test_evaluation_has_the_loss_and_the_probabilities_of_the_training(colours: Path, trained: Path, tmp_path: Path) -> None:
    line = json.loads((trained / "log.txt").read_text())
    stats = run(colours, tmp_path, "--eval", "--resume", trained / "checkpoint.pth")
    results = json.loads((tmp_path / "colours" / "output_sub" / "eval_val" / "results.json").read_text())
    predictor = Predictor.from_checkpoint(trained / "checkpoint.pth")
    files = sorted((colours / "colours" / "val").glob("*/*.png"))
    labels = torch.tensor([predictor.classes.index(file.parent.name) for file in files])
    logits = predictor.logits([str(file) for file in files])
    targets = F.one_hot(labels, 3).float().clamp(min=1 / 3)
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum").item() / len(files)
    p, best = logits.sigmoid().max(1)
    ece = calibration(p.double().numpy(), (best == labels).numpy())["ece"]
    for found in (stats, results):
        assert found["loss"] == pytest.approx(expected, rel=1e-4) and found["ece"] == pytest.approx(ece, abs=1e-4)
    assert (line["test_loss"], line["test_ece"]) == pytest.approx((stats["loss"], stats["ece"]), rel=1e-3)
    found = predictor.predict(str(files[0]), topk=3)[0]
    assert found.probabilities == pytest.approx(logits[0].sigmoid().sort(descending=True).values.tolist(), rel=1e-4)
    flags = parse(whatif_parser(), [str(files[0]), "--resume", "x", "--top", "5%"])
    drop = float(change_many(flags, predictor, files[:1], 0.05, None).split("\n")[2].rstrip(" |").split()[-1])
    assert abs(drop) < 1


def test_an_exported_model_keeps_its_loss(trained: Path, tmp_path: Path) -> None:
    words = ["--resume", trained / "checkpoint.pth", "--to", "dir", "--out", tmp_path / "model"]
    export.__main__.main(parse(export_parser(), list(map(str, words))))
    assert json.loads((tmp_path / "model" / "config.json").read_text())["args"]["loss"] == "bce"
    model = ICN.from_pretrained(tmp_path / "model")
    logits = torch.tensor([[-2.0, 0.0, 3.0]])
    assert model.loss == "bce" and torch.equal(model.probabilities(logits), logits.sigmoid())
    assert model.presence_vector.bias.item() == pytest.approx(-math.log(2))  # one epoch has not changed it


def test_a_resumed_run_keeps_its_loss_and_a_fine_tuned_one_may_change_it(
    colours: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = trained / "checkpoint.pth"
    with pytest.raises(ParameterError, match="ce contradicts .*, which has bce"):
        run(colours, tmp_path, "--resume", file, "--epochs", 2, "--loss", "ce")
    run(colours, tmp_path / "on", "--resume", file, "--epochs", 2)
    assert load_checkpoint(tmp_path / "on" / "colours" / "output_sub" / "checkpoint.pth")[0].loss == "bce"
    for given, loss in (((), "bce"), (("--loss", "ce"), "ce")):
        capsys.readouterr()
        run(colours, tmp_path / loss, "--finetune", file, "--epochs", 1, "--lr", 0, "--lr_backbone", 0, *given)
        assert f"bias of the logits for loss {loss}" in capsys.readouterr().out
        model, meta = load_checkpoint(tmp_path / loss / "colours" / "output_sub" / "checkpoint.pth")
        assert model.loss == meta.args["loss"] == loss
        assert model.presence_vector.bias.item() == pytest.approx(-math.log(2) if loss == "bce" else 0)
