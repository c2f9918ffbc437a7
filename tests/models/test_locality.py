"""The penalty on evidence that hangs on other places: 0 for a model that looks at each cell alone, not for one that mixes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_flags, tiny_model
from torch import Tensor

from datasets import ImageBatch
from models.criterion import _random_rectangle, locality_loss
from trainer import build_trainer
from util.precision import select_precision

NORMALISATION = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.5, 0.2]}
IMAGES = torch.randn(4, 3, 48, 64, generator=torch.Generator().manual_seed(0))


class Looks(torch.nn.Module):
    """Evidence of the three colours in each cell of 8 x 8 pixels; `mixed` adds that of the whole picture to every cell."""

    def __init__(self, mixed: float = 0.0) -> None:
        super().__init__()
        self.mixed = mixed
        self.backbone = [SimpleNamespace(stride=8)]

    def evidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = F.avg_pool2d(images, 8)
        maps = maps + self.mixed * maps.mean((-2, -1), keepdim=True)
        return maps.sum((-2, -1)), maps


def of(model: Looks, seed: int) -> float:
    torch.manual_seed(seed)
    return float(locality_loss(model, IMAGES, model.evidence(IMAGES)[1]))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(8))
def test_cells_that_look_at_themselves_pay_nothing(seed: int) -> None:
    assert of(Looks(), seed) == 0
    assert 0 < of(Looks(1.0), seed) < of(Looks(3.0), seed)


def test_it_does_not_depend_on_the_scale_of_evidence_nor_on_what_all_classes_share() -> None:
    model = Looks(2.0)
    plain = of(model, 3)
    louder = Looks(2.0)
    louder.evidence = lambda images: tuple(5 * x for x in Looks.evidence(model, images))  # type: ignore[method-assign]
    assert of(louder, 3) == pytest.approx(plain, rel=1e-5)
    shared = Looks(2.0)
    shared.evidence = lambda images: tuple(x + 7 for x in Looks.evidence(model, images))  # type: ignore[method-assign]
    assert of(shared, 3) == pytest.approx(plain, rel=1e-4)


def test_random_rectangles_are_rectangles_and_their_complements_of_every_size() -> None:
    torch.manual_seed(0)
    shares = []
    for _ in range(200):
        inside = _random_rectangle(40, 60)
        small = inside if not (inside[0, 0] and inside[-1, -1]) or inside.float().mean() < 0.5 else ~inside
        rows, columns = small.any(1), small.any(0)
        assert small.sum() in (rows.sum() * columns.sum(), 0) or (~small).any(1).sum() * (~small).any(0).sum() == (~small).sum()
        shares.append(float(inside.float().mean()))
    assert min(shares) < 0.1 and max(shares) > 0.9 and 0.4 < sum(shares) / 200 < 0.6


def test_cells_over_the_border_are_judged_by_the_pixels_that_they_see() -> None:
    """Of 44 x 60 pixels in cells of 8 the last of each side is cut: what was pasted must not count as untouched."""

    class Cut(Looks):
        def evidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return super().evidence(F.pad(images, (0, 4, 0, 4)))

    model, images = Cut(), IMAGES[..., :44, :60]
    for seed in range(20):
        torch.manual_seed(seed)
        assert locality_loss(model, images, model.evidence(images)[1]) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("decoder", ["additive", "none"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_flag_makes_evidence_more_local(decoder: str, precision: str) -> None:
    """Than training without it does."""
    pictures = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    some, losses = ImageBatch(pictures, None, torch.tensor([0, 1, 0, 1]), torch.arange(4)), []
    for weight in (5, 0):
        words = ("--locality", weight, "--square", "--dropout", 0, "--lr", 2e-3, "--clip_max_norm", 0, "--decoder", decoder)
        model = tiny_model(2, backbone="resnet18", decoder=decoder, enc_layers=0, feature_stride=16)
        ready = select_precision(precision, torch.device("cpu")), NORMALISATION, 10
        trainer = build_trainer(tiny_flags(*words), model, *ready)
        for _ in range(30):
            trainer.step([some])
        torch.manual_seed(2)
        images = some.normalise(**NORMALISATION)
        with torch.no_grad():
            losses.append(sum(float(locality_loss(model, images, model.evidence(images)[1])) for _ in range(8)))
    assert losses[0] < 0.6 * losses[1]


def test_the_evidence_of_features_is_the_evidence() -> None:
    for decoder in ("additive", "none"):
        model = tiny_model(decoder=decoder, enc_layers=1)
        images = torch.randn(2, 3, 64, 96)
        torch.testing.assert_close(model.evidence_of(model(images).features), model.evidence(images)[1])
