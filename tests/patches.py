"""Models whose cells see their own patch alone, so that a picture is the same in any padding, to rounding."""

from __future__ import annotations

from argparse import Namespace

import torch
from torch import Tensor, nn

from models import ICN
from models.decoders import find_decoder
from models.position_encoding import SinePositionEncoding
from models.transformer import Encoder, Transformer

CELL, CLASSES, WIDTH, HEADS = 8, 5, 16, 2
SIZES = [(32, 40), (32, 24), (16, 40)]  # the pictures of `batch`; grids 4 x 5, 4 x 3 and 2 x 5


class Patches(nn.Module):
    """One patch, one cell."""

    num_channels = 6

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, self.num_channels, CELL, CELL)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(self.body(images))


def patch_model(encoder: int = 1, layers: int = 2, kind: str = "detr", pre_norm: bool = False, dropout: float = 0.1) -> ICN:
    """A random one in evaluation mode, its weights large enough for maps that are far from uniform."""
    torch.manual_seed(0)
    shape = {"hidden_dim": WIDTH, "nheads": HEADS, "dim_feedforward": 24, "dropout": dropout, "pre_norm": pre_norm}
    spec = find_decoder(kind)
    decoder = None if spec.is_layered else spec.build(Namespace(**shape))
    encoder_layers = Encoder(encoder, *shape.values())
    transformer = Transformer(encoder_layers, decoder or spec.build(Namespace(dec_layers=layers, **shape)))
    model = ICN(Patches(), SinePositionEncoding(WIDTH), transformer, CLASSES, WIDTH, kind).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
            if "in_proj_weight" in name or "key" in name:
                parameter.mul_(2)
    return model


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Images `[3, 3, 32, 40]` of the `SIZES`, their classes, and their padding, in which there is rubbish."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 32, 40, generator=generator)
    mask = torch.ones(3, 32, 40, dtype=torch.bool)
    for index, (height, width) in enumerate(SIZES):
        mask[index, :height, :width] = False
    return images, torch.tensor([4, 0, 2]), mask


def alone(index: int) -> tuple[Tensor, Tensor]:
    """One picture of `batch` without padding, and its class."""
    images, classes, _ = batch()
    height, width = SIZES[index]
    return images[index : index + 1, :, :height, :width], classes[index : index + 1]
