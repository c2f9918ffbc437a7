"""`python -m tools.evaluate_unknown`: known and unknown images of one data set, scores as they are defined, files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from models import load_checkpoint
from models.unknown import Mahalanobis
from predictor import Predictor
from tools.evaluate_unknown import get_args_parser, main
from util.cli import parse
from util.roc import auroc

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def known(small_run: Path, tmp_path_factory: pytest.TempPathFactory, save_checkpoint: Callable[..., Path]) -> Path:
    """A folder with `d/{train,val}` of a, b, c and plain, and checkpoints that know a class of none, c and a."""
    folder = tmp_path_factory.mktemp("unknown")
    (folder / "d").mkdir()
    for split in ("train", "val"):
        (folder / "d" / split).symlink_to(small_run / "d" / "val")
    for decoder in ("additive", "detr --dec_layers 1"):
        save_checkpoint(folder / f"{decoder.split()[0]}.pth", ["none", "c", "a"], f"--decoder {decoder}")
    save_checkpoint(folder / "sigmoids.pth", ["c", "a"], "--decoder average --loss bce")
    return folder


def measure(folder: Path, checkpoint: str, out: Path, *more: object) -> dict:
    words = [
        "--resume",
        folder / checkpoint,
        "--dataset_path",
        folder,
        "--dataset_name",
        "d",
        "--device",
        "cpu",
        "--output_dir",
        out,
    ]
    return main(parse(get_args_parser(), list(map(str, [*words, "--num_workers", 0, *more]))))


def test_scores_are_those_of_the_known_and_the_unknown_images(known: Path, tmp_path: Path) -> None:
    content = measure(known, "additive.pth", tmp_path)
    settings = content["settings"]
    assert (settings["known_images"], settings["unknown_images"], settings["train_images"]) == (6, 6, 6)
    icn = Predictor.from_checkpoint(known / "additive.pth")
    paths = {name: [known / "d" / "val" / name / f"{number}.png" for number in range(3)] for name in ("a", "b", "c", "plain")}
    logits = {name: icn.logits(files) for name, files in paths.items()}
    energies = {name: each.logsumexp(1).numpy() for name, each in logits.items()}
    inside, outside = np.concatenate([energies["a"], energies["c"]]), np.concatenate([energies["b"], energies["plain"]])
    assert content["scores"]["energy"]["auroc"].value == pytest.approx(auroc(inside, outside))
    assert content["classes"].keys() == {"b", "plain"} and content["classes"]["b"]["images"] == 3
    assert content["classes"]["plain"]["energy"] == pytest.approx(auroc(inside, energies["plain"]))
    right = sum(int((logits[name].argmax(1) == label).sum()) for name, label in (("c", 1), ("a", 2)))
    assert settings["acc1"] == pytest.approx(100 * right / 6)

    model = load_checkpoint(known / "additive.pth")[0].eval()
    features, evidence = {}, {}
    for name, files in paths.items():
        for file in files:
            images = icn._normalise([icn.transform(torch.from_numpy(cv2.imread(str(file))[..., ::-1].copy()).permute(2, 0, 1))])
            with torch.no_grad():
                output = model(images)
                maps = model.evidence_of(output.features)[0, output.logits.argmax()]
            features.setdefault(name, []).append(output.features.mean((2, 3))[0])
            evidence.setdefault(name, []).append(float(maps.clamp(min=0).sum()))
    both = torch.stack([*features["c"], *features["a"]])
    gaussians = Mahalanobis.fit(both, torch.tensor([1, 1, 1, 2, 2, 2]), 3)
    rest = torch.stack([*features["b"], *features["plain"]])
    for name, score in (("mahalanobis", gaussians.score), ("relative_mahalanobis", gaussians.relative_score)):
        assert content["scores"][name]["auroc"].value == pytest.approx(auroc(score(both).numpy(), score(rest).numpy()))
    ours = auroc(np.array(evidence["a"] + evidence["c"]), np.array(evidence["b"] + evidence["plain"]))
    assert content["scores"]["positive_evidence"]["auroc"].value == pytest.approx(ours)


def test_files_and_what_depends_on_the_decoder_and_the_data(
    known: Path, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = measure(known, "sigmoids.pth", tmp_path)
    written = json.loads((tmp_path / "unknown.json").read_text())
    assert written["scores"]["energy"]["auroc"] == pytest.approx(content["scores"]["energy"]["auroc"]._asdict())
    text = (tmp_path / "unknown.md").read_text()
    assert "6 images of the 2 classes of sigmoids.pth (loss bce, decoder average" in text and "| plain | 3 |" in text
    assert cv2.imread(str(tmp_path / "unknown.png")) is not None and "| max_logit | " in capsys.readouterr().out
    gain = content["scores"]["max_logit"]["gain"]  # a sigmoid keeps the order
    assert tuple(gain) == (0, 0, 0)
    plain = measure(known, "detr.pth", tmp_path, "--dataset_path", small_run)  # has no folder train
    assert plain["scores"].keys() == {"max_probability", "max_logit", "energy"} and plain["settings"]["train_images"] == 0
    assert "Without a folder train" in (tmp_path / "unknown.md").read_text()
