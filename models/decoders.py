"""The registry of decoders: how each is built, and what it can do.

A new decoder is one row of `DECODERS`; nothing else in the repository asks for decoders by name. The module imports no torch, so
that a command line can list them quickly.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.architecture import ParameterError

if TYPE_CHECKING:
    from torch import nn

    from models.transformer import QueryDecoder


@dataclass(frozen=True)
class DecoderSpec:
    """One row of the registry.

    Attributes:
        name: value of `decoder` among the flags and in files.
        help: one line for the command line.
        build: makes the decoder, a `models.transformer.QueryDecoder`, from the flags.
        make_head: makes the classifier from `(num_classes, width)`: it maps `[B, C, width]` to `[B, C]` or `[B, C, 1]`,
            and its `bias` `[1]` is that of all logits.
        default_map: the attribution method that represents the decoder.
        is_additive: the logit is a sum over cells plus a bias, so that the decoder has `evidence`.
        is_layered: a stack of `dec_layers` layers as in DETR, by default behind an encoder.
        is_average: the sum over cells is a mean.
        uses_queries: the logits depend on the class queries, which are trained.
    """

    name: str
    help: str
    build: Callable[[argparse.Namespace], QueryDecoder]
    make_head: Callable[[int, int], nn.Module]
    default_map: str
    is_additive: bool = False
    is_layered: bool = False
    is_average: bool = False
    uses_queries: bool = True


def _detr(args: argparse.Namespace) -> QueryDecoder:
    from models.transformer import Decoder

    return Decoder(args.dec_layers, args.hidden_dim, args.nheads, args.dim_feedforward, args.dropout, args.pre_norm)


def _additive(args: argparse.Namespace) -> QueryDecoder:
    from models.additive import AdditiveDecoder

    return AdditiveDecoder(args.hidden_dim, args.nheads)


def _average(args: argparse.Namespace) -> QueryDecoder:
    from models.additive import AverageDecoder

    return AverageDecoder()


def _shared_head(num_classes: int, width: int) -> nn.Module:
    from torch import nn

    return nn.Linear(width, 1)


def _class_head(num_classes: int, width: int) -> nn.Module:
    from models.additive import ClassWeights

    return ClassWeights(num_classes, width)


_ROWS = (
    DecoderSpec("detr", "DETR's layers", _detr, _shared_head, "contribution", is_layered=True),
    DecoderSpec("additive", "the map sums to the logit", _additive, _class_head, "additive", is_additive=True),
    DecoderSpec("average", "class scores averaged over the image (CAM)", _average, _class_head, "additive",
                is_additive=True, is_average=True, uses_queries=False),
)  # fmt: skip
DECODERS = {row.name: row for row in _ROWS}
ALIASES = {"none": "average"}  # other names in flags and files


def canonical_decoder(name: str) -> str:
    """Return the name of the registry for `name`, which may be an alias; unknown names stay as they are."""
    return ALIASES.get(name, name)


def find_decoder(name: str) -> DecoderSpec:
    """Return the row of a decoder by its name or alias; ParameterError where there is none."""
    spec = DECODERS.get(canonical_decoder(name))
    if spec is None:
        raise ParameterError("decoder", f"{name!r} is not known: choose {', '.join((*DECODERS, *ALIASES))}")
    return spec


def additive_decoders() -> str:
    """Return the names of the decoders whose logit is a sum over cells, for messages: `additive or average`."""
    return " or ".join(name for name, spec in DECODERS.items() if spec.is_additive)
