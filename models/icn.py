"""ICN: an image classifier with a learned query per class, whose cross-attention is the attribution map of the class."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architecture import ParameterError
from models.decoders import additive_decoders, find_decoder
from models.losses import class_probabilities, constant_bias
from models.pretrained import Pretrained
from models.transformer import Transformer


class ICNOutput(NamedTuple):
    """The output of one forward pass.

    logits: `[B, C]`, one score per class, of which `ICN.probabilities` makes probabilities.
    features: `[B, D, h, w]`, the encoder memory: what the decoder attends to.
    attention: `[L, B, heads, C, h, w]`, cross-attention of the requested layers; each `[h, w]` sums to 1 over the valid cells
        and is 0 on padding. None without a request. With a single layer the logits are computed from this very
        tensor, so that `torch.autograd.grad(logit, attention)` is its gradient.
    """

    logits: Tensor
    features: Tensor
    attention: Tensor | None = None


class ICN(Pretrained, nn.Module):
    """Interpretable classification network (INTR, Paul et al., ICLR 2024, on DETR, Carion et al., ECCV 2020).

    Args:
        backbone: maps images `[B, 3, H, W]` to features `[B, num_channels, h, w]`; has `num_channels`.
        pos_encoding: maps features and their padding mask to `[B or 1, D, h, w]`.
        transformer: encoder and decoder.
        num_classes: number of class queries `C`.
        width: channels `D` of the transformer.
        decoder: name of the transformer's decoder in `models.decoders.DECODERS`; ParameterError for an unknown one.
        loss: of the classes, a name of `models.architecture.LOSSES`; ParameterError for an unknown one.

    Attributes:
        decoder_spec, decoder_name: row of the decoder in `models.decoders.DECODERS`, and its name.
        loss: as given; it decides what a logit means.
        num_decoder_layers: number of decoder layers with a cross-attention.
        meta: flags, class names and normalisation (`models.pretrained.Pretrained`).
    """

    def __init__(
        self, backbone: nn.Module, pos_encoding: nn.Module, transformer: Transformer, num_classes: int, width: int, decoder: str,
        loss: str = "ce",
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_classes, self.loss = num_classes, loss
        self.decoder_spec = find_decoder(decoder)
        self.decoder_name = self.decoder_spec.name
        self.num_decoder_layers = transformer.decoder.num_attention_layers
        # Registered in INTR's order, so that the optimizer state in its checkpoints belongs to the same parameters.
        self.transformer = transformer
        self.presence_vector = self.decoder_spec.make_head(num_classes, width)  # the classifier, by INTR's name
        if (bias := constant_bias(loss, num_classes)) is not None:
            nn.init.constant_(self.presence_vector.bias, bias).requires_grad_(False)  # type: ignore[arg-type]
        self.query_embed = nn.Embedding(num_classes, width)
        self.query_embed.weight.requires_grad_(self.decoder_spec.uses_queries)
        self.input_proj = nn.Conv2d(backbone.num_channels, width, kernel_size=1)  # type: ignore[arg-type]
        self.backbone = nn.ModuleList([backbone, pos_encoding])

    def set_grad_checkpointing(self) -> None:
        """Turn on gradient checkpointing, to save memory (Chen et al. 2016); ParameterError for some backbones."""
        self.backbone[0].set_grad_checkpointing()  # type: ignore[operator]
        self.transformer.encoder.checkpointing = True
        self.transformer.decoder.checkpointing = True

    def forward(
        self, images: Tensor, padding_mask: Tensor | None = None, *, attention: int | Literal["all"] | None = None
    ) -> ICNOutput:
        """Classify a batch.

        Args:
            images: float `[B, 3, H, W]`, normalised with the mean and standard deviation of the model's metadata.
            padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.
            attention: decoder layer whose cross-attention is returned (negative from the end), `"all"`, or None.

        Raises:
            ValueError: the layer does not exist, or the feature map has a single cell.
        """
        self.attention_layers(attention)  # a layer that does not exist is an error before the backbone runs
        feature_map = self.backbone[0](images)  # [B, num_channels, h, w]
        if feature_map.shape[-2] * feature_map.shape[-1] == 1:  # not numel(), by which torch.export fixes the size
            size = f"images of {images.shape[-2]} x {images.shape[-1]} pixels give a feature map of a single cell"
            message = f"{size}, the same for every class: use larger images or a smaller feature_stride"
            raise ParameterError("image_size", message)
        return self.forward_head(feature_map, padding_mask, attention=attention)

    def forward_head(
        self, feature_map: Tensor, padding_mask: Tensor | None = None, *, attention: int | Literal["all"] | None = None
    ) -> ICNOutput:
        """Classify a batch from the backbone's feature maps `[B, num_channels, h, w]`.

        The padding mask is that of the images, or of the cells, bool `[B, h, w]`; `attention` as in `forward`.
        """
        layers = self.attention_layers(attention)
        mask = resize_mask(padding_mask, feature_map)  # [B, h, w]
        pos = self.backbone[1](feature_map, mask)  # [B or 1, D, h, w]
        decoded, memory, weights = self.transformer(self.input_proj(feature_map), pos, self.query_embed.weight, mask, layers)
        logits = self.presence_vector(decoded).flatten(1)  # [B, C]
        if not weights:
            return ICNOutput(logits, memory)
        # A single layer is returned without a copy, which would have no gradient of the logits.
        return ICNOutput(logits, memory, weights[0] if len(weights) == 1 else torch.cat(weights))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of logits `[..., C]`: their softmax, or with loss bce the sigmoid of each."""
        return class_probabilities(logits, self.loss)

    @torch.no_grad()
    def start_queries(self, means: Tensor) -> None:
        """Start each class query from the mean feature of its class.

        The mean of all classes is subtracted, and the rest scaled to the variance of random queries, which is 1: queries differ
        as the classes do, and those of similar classes are similar.

        Args:
            means: `[C, D]`, of the projected features of each class (`engine.class_means`).

        Raises:
            ValueError: the means are equal, or not finite.
        """
        differences = means - means.mean(0)
        scale = differences.std()
        if not (scale.isfinite() and scale > 0):
            raise ValueError("class queries cannot start from features that are the same for all classes, or not finite")
        self.query_embed.weight.copy_(differences / scale)

    def evidence(
        self, images: Tensor, padding_mask: Tensor | None = None, classes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Classify a batch, and compute what each cell adds to the logits; ValueError if the decoder is not additive.

        Args:
            images, padding_mask: as in `forward`.
            classes: indices of Q classes per image, `[B, Q]`; None for all.

        Returns:
            Logits `[B, C]`, and maps of `classes`, float32 `[B, Q, h, w]`, 0 on padding: `maps.sum((-2, -1))` equals the logits
            of `classes` without `presence_vector.bias`.
        """
        output = self(images, padding_mask)
        return output.logits, self.evidence_of(output.features, padding_mask, classes)

    def evidence_of(self, memory: Tensor, padding_mask: Tensor | None = None, classes: Tensor | None = None) -> Tensor:
        """Compute the maps of `evidence` from the encoder memory, `ICNOutput.features`."""
        if not self.decoder_spec.is_additive:
            problem = f"the logits of the {self.decoder_name} decoder are not sums over cells"
            raise ValueError(f"{problem}: train a model with another decoder ({additive_decoders()})")
        if classes is None:
            classes = torch.arange(self.num_classes, device=memory.device).expand(memory.shape[0], -1)
        mask = resize_mask(padding_mask, memory)
        maps = self.transformer.decoder.evidence(
            self.query_embed.weight[classes],  # [B, Q, D]
            self.presence_vector.weight[classes],  # type: ignore[index]  # [B, Q, D]
            memory.flatten(2).transpose(1, 2),  # [B, h*w, D]
            None if mask is None else mask.flatten(1),  # [B, h*w]
        )
        return maps.unflatten(-1, memory.shape[-2:])

    def attention_layers(self, attention: int | str | None) -> Collection[int]:
        """Return the indices of the layers whose attention `forward` returns; a ValueError where there is no such layer."""
        depth = self.num_decoder_layers
        if attention is None:
            return ()
        if attention == "all":
            return range(depth)
        if depth == 0:
            raise ValueError(f"the {self.decoder_name} decoder has no attention: its map is the evidence")
        if not isinstance(attention, int) or not -depth <= attention < depth:
            existing = f"this model has {depth}, numbered 0 to {depth - 1} (or -{depth} to -1 from the end)"
            raise ValueError(f"decoder layer {attention!r} does not exist: {existing}")
        return (attention % depth,)


class FromFeatures(nn.Module):
    """An ICN that is called with the feature maps of its backbone in the place of images."""

    def __init__(self, model: ICN) -> None:
        super().__init__()
        self.model = model

    def forward(self, feature_map: Tensor, padding_mask: Tensor | None = None) -> ICNOutput:
        """Classify a batch, as `ICN.forward_head`."""
        return self.model.forward_head(feature_map, padding_mask)


def resize_mask(padding_mask: Tensor | None, features: Tensor) -> Tensor | None:
    """Resize a padding mask `[B, H, W]` to the grid of `features` `[B, D, h, w]` by nearest neighbours: `[B, h, w]`."""
    if padding_mask is None:
        return None
    return F.interpolate(padding_mask[:, None].float(), size=features.shape[-2:])[:, 0].bool()
