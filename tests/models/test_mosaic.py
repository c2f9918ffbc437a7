"""Mosaics: where each picture lies, and that a class is asked for in its own quarter only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_flags, tiny_model
from torch import Tensor

import main
from datasets import ImageBatch
from flags import get_args_parser
from models import DECODERS, ICN
from models.criterion import mosaic_logits, mosaics, quarter_sums
from models.losses import class_loss
from trainer import build_trainer
from util.cli import parse
from util.precision import select_precision

NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.5, 0.2]}
SIDE = 64


def mosaic_loss(model: ICN, images: Tensor, labels: Tensor, share: float, label_smoothing: float = 0.0) -> Tensor:
    return class_loss("ce", *mosaic_logits(model, images, labels, share), label_smoothing)


@pytest.mark.parametrize("height, width", [(8, 12), (7, 9)])
def test_each_picture_lies_in_its_quarter_at_half_its_size(height: int, width: int) -> None:
    images = torch.arange(5.0)[:, None, None, None].expand(5, 3, height, width)
    places = torch.tensor([[0, 4], [1, 4], [2, 3], [3, 0]])
    found = mosaics(images, places)
    assert found.shape == (2, 3, height, width)
    top, left = height // 2, width // 2
    corners = [found[:, :, :top, :left], found[:, :, :top, left:], found[:, :, top:, :left], found[:, :, top:, left:]]
    for corner, some in zip(corners, places, strict=True):
        torch.testing.assert_close(corner, some.float()[:, None, None, None].expand_as(corner))


def test_quarters_add_up_and_leave_the_border_out() -> None:
    evidence = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).double()
    found = quarter_sums(evidence)
    assert found.shape == (4, 2, 3)
    torch.testing.assert_close(found.sum(0), evidence.sum((-2, -1)))
    torch.testing.assert_close(found[1], evidence[..., :2, 3:].sum((-2, -1)))
    odd = torch.zeros(1, 1, 5, 5)
    odd[..., 2, :] = odd[..., :, 2] = 1
    assert (quarter_sums(odd) == 0).all()


class Reads(torch.nn.Module):
    """Pictures are grey levels 0, 1, 2: their classes. Each cell says the class of what is there - or of what is opposite."""

    decoder_spec = DECODERS["average"]

    def __init__(self, opposite: bool = False) -> None:
        super().__init__()
        self.opposite = opposite

    def evidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        level = F.avg_pool2d(images.mean(1, keepdim=True), SIDE // 4).round()[:, 0].long()  # [B, 4, 4]
        if self.opposite:
            level = level.flip(-1, -2)
        maps = F.one_hot(level, 3).movedim(-1, 1).float()  # [B, 3, 4, 4]
        return maps.sum((-2, -1)), maps


def test_the_loss_is_that_of_each_quarter_for_its_own_picture() -> None:
    labels = torch.tensor([0, 1, 2])
    images = labels.float()[:, None, None, None].expand(3, 3, SIDE, SIDE)
    torch.manual_seed(0)
    found = mosaic_loss(Reads(), images, labels, share=5.0)
    right = F.cross_entropy(torch.tensor([[16.0, 0, 0]]), torch.tensor([0]))  # four cells, times four
    torch.testing.assert_close(found, right)
    assert mosaic_loss(Reads(opposite=True), images, labels, share=5.0) > 5
    smooth = F.cross_entropy(torch.tensor([[16.0, 0, 0]]), torch.tensor([0]), label_smoothing=0.3)
    torch.testing.assert_close(mosaic_loss(Reads(), images, labels, 1.0, 0.3), smooth)


def batch(size: int = SIDE) -> ImageBatch:
    """Two classes of two colours."""
    levels = torch.tensor([40, 210, 40, 210], dtype=torch.uint8)
    pictures = levels[:, None, None, None].expand(4, 3, size, size).contiguous()
    return ImageBatch(pictures, None, torch.tensor([0, 1, 0, 1]), torch.arange(4))


def test_a_quarter_of_a_mean_counts_as_the_whole_on_odd_grids_too() -> None:
    model = Reads()
    model.evidence = lambda images: (None, torch.full((len(images), 1, 5, 7), 1 / 35) * torch.tensor([3.0, 0, 0])[:, None, None])
    found = mosaic_loss(model, torch.zeros(2, 3, SIDE, SIDE), torch.tensor([0, 0]), share=1.0)  # type: ignore[arg-type]
    torch.testing.assert_close(found, F.cross_entropy(torch.tensor([[3.0, 0, 0]]), torch.tensor([0])))


@pytest.mark.parametrize("decoder", ["additive", "none"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_flag_teaches_quarters(decoder: str, precision: str) -> None:
    """Better than training without it does."""
    some, losses = batch(), []
    for weight in (1, 0):
        words = ("--mosaic", weight, "--square", "--dropout", 0, "--lr", 2e-3, "--clip_max_norm", 0, "--decoder", decoder)
        model = tiny_model(2, backbone="resnet18", decoder=decoder, enc_layers=0, feature_stride=16)
        ready = select_precision(precision, torch.device("cpu")), NORMALISATION, 10
        trainer = build_trainer(tiny_flags(*words), model, *ready)
        logits = [trainer.step([some])[0].logits for _ in range(30)][-1]
        assert logits.shape == (4, 2) and (logits.argmax(1) == some.labels).all()
        torch.manual_seed(1)
        with torch.no_grad():
            losses.append(float(mosaic_loss(model, some.normalise(**NORMALISATION), some.labels, 4.0)))
    assert losses[0] < 0.5 * losses[1]


def test_mosaics_leave_the_running_statistics_alone() -> None:
    model = tiny_model(2, decoder="none", enc_layers=0, feature_stride=16, backbone_norm="batch").train()
    some = batch()
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    mosaic_loss(model, some.normalise(**NORMALISATION), some.labels, 1.0).backward()
    assert any("running_var" in key for key in kept)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    model(some.normalise(**NORMALISATION))
    assert any(not torch.equal(value, kept[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "words, message",
    [
        ("--mosaic 0.5 --square", "--mosaic 0.5 needs logits that are sums over cells: give --decoder additive or average"),
        ("--mosaic 0.5 --decoder none", "--mosaic 0.5 needs images of one shape: give --square"),
        ("--locality 1 --square", "--locality 1.0 needs logits that are sums over cells"),
        ("--locality 1 --square --decoder additive --window 32", "--window 32 makes evidence local already"),
        ("--locality 1 --square --decoder additive --backbone_norm batch", "batch norms mix the images of a batch"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_opened(words: str, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        main.main(parse(get_args_parser(), ["--device", "cpu", *words.split()]))
    assert message in str(refused.value)


def test_a_grid_of_one_row_has_no_quarters() -> None:
    args = tiny_flags("--mosaic", 0.5, "--square", "--decoder", "additive")
    model = tiny_model(decoder="additive", enc_layers=0)
    trainer = build_trainer(args, model, select_precision("fp32", torch.device("cpu")), NORMALISATION, 10)
    with pytest.raises(ValueError, match="images of 32 x 64 pixels give a feature map of 1 x 2 cells, too few for quarters"):
        trainer.step([ImageBatch(batch().images[:, :, :32], None, batch().labels, torch.arange(4))])


def test_a_resumed_run_draws_the_same_mosaics(colours: Path, tmp_path: Path) -> None:
    """Two epochs, and one that is resumed for another, give the same weights."""
    small = "--backbone test_resnet --feature_stride 16 --decoder additive --hidden_dim 32 --nheads 4 --square --image_size 48"
    rest = "--mosaic 0.5 --batch_size 5 --device cpu --num_workers 0 --lr_drop 9"
    where = ["--dataset_path", str(colours), "--dataset_name", "colours", "--output_dir", str(tmp_path)]

    def train(name: str, epochs: int, *more: str) -> dict[str, Tensor]:
        words = [*small.split(), *rest.split(), *where, "--output_sub_dir", name, "--epochs", str(epochs), *more]
        main.main(parse(get_args_parser(), words))
        return torch.load(tmp_path / "colours" / name / "checkpoint.pth", weights_only=True)["model"]

    whole = train("whole", 2)
    half = train("parts", 1)
    parts = train("parts", 2, "--resume", "auto")
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    assert any(not torch.equal(value, half[key]) for key, value in whole.items())
