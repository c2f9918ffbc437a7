"""ICN: each class owns a learnable query; what it finds in the image is the logit, where it looked is the map."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.additive import AdditiveDecoder, AverageDecoder, ClassWeights
from models.transformer import Transformer

DECODERS = ("detr", "additive", "none")


class ICNOutput(NamedTuple):
    """What one forward gives.

    logits: `[B, C]`, one score per class, before the softmax.
    features: `[B, D, h, w]`, the encoder memory.
    attention: `[L, B, heads, C, h, w]`, cross-attention of the layers asked for; each `[h, w]` sums to 1 over the valid
        cells and is 0 on padding. None when nothing was asked for. With a single layer it is the very tensor that the
        logits were computed from, so that `torch.autograd.grad(logit, attention)` is its gradient.
    """

    logits: Tensor
    features: Tensor
    attention: Tensor | None = None


class ICN(nn.Module):
    """Interpretable classification network (INTR, Paul et al., ICLR 2024, on DETR, Carion et al., ECCV 2020).

    Args:
        backbone: maps images `[B, 3, H, W]` to features `[B, num_channels, h, w]`; has `num_channels`.
        position_encoding: maps features and their padding mask to `[B or 1, D, h, w]`.
        transformer: encoder and decoder of width `hidden_dim`.
        num_classes: number of class queries `C`.
        hidden_dim: width `D`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        position_encoding: nn.Module,
        transformer: Transformer,
        num_classes: int,
        hidden_dim: int,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"--num_queries {num_classes}: at least one class is needed")
        # Registered in INTR's order, so that the optimizer state in its checkpoints belongs to the same parameters.
        self.transformer = transformer
        self.presence_vector = nn.Linear(hidden_dim, 1) if self.decoder_kind == "detr" else ClassWeights(num_classes, hidden_dim)
        self.query_embed = nn.Embedding(num_classes, hidden_dim)
        self.query_embed.weight.requires_grad_(self.decoder_kind != "none")  # where nobody searches, nothing trains the queries
        self.input_proj = nn.Conv2d(backbone.num_channels, hidden_dim, kernel_size=1)  # type: ignore[arg-type]
        self.backbone = nn.ModuleList([backbone, position_encoding])

    def checkpoint_gradients(self) -> None:
        """Trade time for memory in training: blocks and layers are computed again in the backward pass (Chen et al. 2016).

        Raises:
            ValueError: the backbone cannot do this.
        """
        self.backbone[0].checkpoint_gradients()  # type: ignore[operator]
        self.transformer.encoder.checkpointing = True
        self.transformer.decoder.checkpointing = True  # type: ignore[assignment]

    @property
    def num_classes(self) -> int:
        return self.query_embed.num_embeddings

    @property
    def decoder_kind(self) -> str:
        """One of `DECODERS`."""
        decoder = self.transformer.decoder
        return "additive" if isinstance(decoder, AdditiveDecoder) else "none" if isinstance(decoder, AverageDecoder) else "detr"

    @property
    def num_decoder_layers(self) -> int:
        """How many layers have a cross-attention."""
        return {"additive": 1, "none": 0}.get(self.decoder_kind) or len(getattr(self.transformer.decoder, "layers", ()))

    def forward(
        self, images: Tensor, padding_mask: Tensor | None = None, *, attention: int | Literal["all"] | None = None
    ) -> ICNOutput:
        """Classify a batch.

        Args:
            images: float `[B, 3, H, W]`, normalised with the mean and standard deviation of the model's metadata.
            padding_mask: bool `[B, H, W]`, True on padding; None when nothing is padded.
            attention: decoder layer whose cross-attention is returned (negative from the end), `"all"`, or None.

        Raises:
            ValueError: the layer does not exist, or the feature grid has a single cell.
        """
        layers = self._attention_layers(attention)
        features, pos, mask = self._embed_image(images, padding_mask)
        answers, memory, weights = self.transformer(features, pos, self.query_embed.weight, mask, attention_layers=layers)
        logits = self.presence_vector(answers).squeeze(-1)  # [B, C]
        if not weights:
            return ICNOutput(logits, memory)
        # One layer is returned uncopied: the gradient of a logit reaches it.
        return ICNOutput(logits, memory, weights[0] if len(weights) == 1 else torch.cat(weights))

    def evidence(
        self, images: Tensor, padding_mask: Tensor | None = None, classes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The logits, and what each cell of the grid adds to them: exact, where the decoder is a sum over cells.

        Args:
            images, padding_mask: as for `forward`.
            classes: the classes whose maps are wanted, `[B, Q]`; None for all, in order.

        Returns:
            Logits `[B, C]`, and float32 maps `[B, Q, h, w]`, signed, 0 on padding. `maps.sum((-2, -1))` is the logits of
            `classes` less `presence_vector.bias`.

        Raises:
            ValueError: DETR's decoder is no sum over cells.
        """
        decoder = self._additive_decoder()
        features, pos, mask = self._embed_image(images, padding_mask)
        flat = None if mask is None else mask.flatten(1)  # [B, h*w]
        memory = self.transformer.encode(features, pos, flat)  # [B, h*w, D]
        grid = (features.shape[-2], features.shape[-1])
        logits = self.presence_vector(decoder(self.query_embed.weight, memory, flat, grid, ())[0])
        return logits, self._evidence(memory, flat, classes).unflatten(-1, grid)

    def evidence_of(self, features: Tensor) -> Tensor:
        """The maps of `evidence` for all classes, from `ICNOutput.features` of pictures without padding.

        Args:
            features: `[B, D, h, w]`.

        Returns:
            float32 `[B, C, h, w]`.

        Raises:
            ValueError: DETR's decoder is no sum over cells.
        """
        return self._evidence(features.flatten(2).transpose(1, 2), None, None).unflatten(-1, features.shape[-2:])

    def _evidence(self, memory: Tensor, mask: Tensor | None, classes: Tensor | None) -> Tensor:
        """`[B, Q, h*w]` from `memory` `[B, h*w, D]`."""
        if classes is None:
            classes = torch.arange(self.num_classes, device=memory.device).expand(len(memory), -1)
        weights = self.presence_vector.weight[classes]  # type: ignore[index]
        return self._additive_decoder().evidence(self.query_embed.weight[classes], weights, memory, mask)

    def _additive_decoder(self) -> AdditiveDecoder | AverageDecoder:
        decoder = self.transformer.decoder
        if not isinstance(decoder, (AdditiveDecoder, AverageDecoder)):
            raise ValueError("the logits of --decoder detr are no sum over places: train with --decoder additive")
        return decoder

    def _embed_image(self, images: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Projected features `[B, D, h, w]`, their positions `[B or 1, D, h, w]` and their padding `[B, h, w]`."""
        features = self.backbone[0](images)  # [B, C', h, w]
        if features.shape[-2:].numel() == 1:
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]} pixels give a single cell, where every class finds the same: "
                "use larger images (--image_size) or a smaller --feature_stride"
            )
        mask = None
        if padding_mask is not None:
            mask = F.interpolate(padding_mask[:, None].float(), size=features.shape[-2:])[:, 0].bool()  # [B, h, w]
        return self.input_proj(features), self.backbone[1](features, mask), mask

    def _attention_layers(self, attention: int | str | None) -> range:
        depth = self.num_decoder_layers
        if attention is None:
            return range(0)
        if attention == "all":
            return range(depth)
        if depth == 0:
            raise ValueError("--decoder none has no attention: its map is the evidence")
        if not isinstance(attention, int) or not -depth <= attention < depth:
            raise ValueError(
                f"decoder layer {attention!r} does not exist: this model has {depth}, numbered 0 to {depth - 1} "
                f"(or -{depth} to -1 from the end)"
            )
        layer = attention % depth
        return range(layer, layer + 1)
