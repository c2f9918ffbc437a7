"""A trained model for use from Python: class names, probabilities and attribution maps of pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attribution.methods.explain import explain
from attribution.methods.registry import METHODS, methods_of
from attribution.report.overlay import at_pixels, fit, overlay, own_scale
from attribution.report.render import FULL
from attribution.resize import enlarge
from datasets import EvalSampler, collate, eval_transform
from datasets.decode import Picture, current_decoding, read_picture
from datasets.photographs import photograph_batches
from datasets.transforms import EvalTransform
from flags import fill_from_checkpoint, get_args_parser
from models import ICN, for_inference, load_checkpoint
from models.prediction import Prediction, Reader
from models.saving import checked_meta
from models.thresholds import Thresholds, read_thresholds
from models.unknown import pool
from util.classes import find_class
from util.cli import parse
from util.device import select_device
from util.errors import first_line
from util.families import read_families

BATCH = 16  # pictures of one shape in a forward pass


@dataclass(frozen=True, eq=False)
class Explanation:
    """The attribution map of a class of a picture.

    Attributes:
        name: of the class.
        picture: uint8 `[H, W, 3]`.
        map: float32 `[H, W]`, at the pixels of the picture.
        cells: float32 `[h, w]`, the map as the method computes it.
        method: a name of `attribution.METHODS`.
        against: name of the class that it is compared with; None for a map of one class.
    """

    name: str
    picture: np.ndarray = field(repr=False)
    map: np.ndarray = field(repr=False)
    cells: np.ndarray = field(repr=False)
    method: str
    against: str | None

    def overlay(self) -> Image.Image:
        """Draw the map over the picture."""
        values = at_pixels(self.cells[None], (1, 1), (1, 1), self.picture.shape[:2])[0]  # [H, W]; nothing is padded
        signed = METHODS[self.method].signed or self.against is not None
        return Image.fromarray(overlay(self.picture, values, own_scale(self.cells, signed)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the overlay to a file, in the format of its suffix; a ValueError where that is not possible."""
        path = Path(path)
        if not path.parent.is_dir():
            raise ValueError(f"{path}: the folder {path.parent} does not exist: create it first")
        try:
            self.overlay().save(path)
        except (OSError, KeyError, ValueError) as error:  # PIL's for a disk, and for a suffix that it cannot write
            raise ValueError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or first_line(error)})") from None

    def show(self) -> None:
        """Open the overlay in the picture viewer of the system."""
        self.overlay().show()

    def _repr_png_(self) -> bytes:
        """Return the overlay as IPython shows it."""
        file = io.BytesIO()
        Image.fromarray(fit(np.array(self.overlay()), FULL, enlarge=False)).save(file, "PNG")
        return file.getvalue()


class Predictor:
    """A model with its class names, its input transform and the normalisation of its input.

    Args:
        model: goes into evaluation mode.
        classes: a name for each logit.
        transform: of uint8 `[3, H, W]` pictures.
        normalisation: `{"mean": [r, g, b], "std": [r, g, b]}` of the model's input.
        bit_depth: bits of the values in files of 16 bits.
        thresholds: of the model, by which it says whether a picture shows any of its classes; None where there are none.
    """

    def __init__(
        self,
        model: ICN,
        classes: Sequence[str],
        transform: EvalTransform,
        normalisation: Mapping[str, list[float]],
        bit_depth: int = 16,
        thresholds: Thresholds | None = None,
    ) -> None:
        self.model = model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classes, self.transform, self.normalisation = list(classes), transform, normalisation
        self.thresholds = thresholds
        self.device = next(model.parameters()).device
        self.decoding = current_decoding()._replace(bit_depth=bit_depth)

    @classmethod
    def from_checkpoint(cls, path_or_url: str | Path, device: str = "cpu") -> Predictor:
        """Load a checkpoint of ICN or INTR: a path, a folder of `tools.export`, a URL, or `hf://owner/repo[@revision]`.

        Raises:
            ValueError: the file or the device cannot be used.
        """
        try:
            chosen = select_device(device)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("--")) from None  # it is no flag here
        return cls.from_model(load_checkpoint(path_or_url, chosen)[0])

    @classmethod
    def from_model(cls, model: ICN) -> Predictor:
        """Take a model of `ICN.from_pretrained`; where its `meta` has no class names, they are the numbers of the classes.

        Raises:
            ValueError: the model has no `meta`, or its flags of the input cannot be used.
        """
        meta = checked_meta(model)
        args = fill_from_checkpoint(parse(get_args_parser(), []), meta.args)
        classes = meta.classes or [str(index) for index in range(model.num_classes)]
        thresholds = read_thresholds(meta.thresholds)
        return cls(model, classes, eval_transform(args.image_size, args.square), meta.normalisation, args.bit_depth, thresholds)

    def __repr__(self) -> str:
        return f"Predictor({len(self.classes)} classes, decoder {self.model.decoder_name}, on {self.device})"

    def predict(
        self,
        pictures: Picture | list[Picture] | tuple[Picture, ...],
        topk: int = 5,
        *,
        refused: float | None = None,
        coverage: float | None = None,
        families: str | Path | None = None,
    ) -> list[Prediction]:
        """Classify pictures.

        Args:
            pictures: one or a list; each a path, a URL (http, https, file), a PIL image, an array uint8
                `[H, W, 3]` or a tensor uint8 `[3, H, W]`.
            topk: number of classes in each prediction, at most all.
            refused, coverage, families: as for `reader`.

        Raises:
            ValueError: a picture cannot be read, the model's logits are not finite, or as `reader`.
        """
        if not isinstance(topk, int) or topk < 1:
            raise ValueError(f"topk {topk!r} must be a whole number of at least 1")
        return self.reader(refused, coverage, families)(*self._outputs(pictures), topk)

    def reader(self, refused: float | None = None, coverage: float | None = None, families: str | Path | None = None) -> Reader:
        """Return what makes predictions of logits.

        Args:
            refused: stated share of pictures of known classes that are refused, as of none of them; 0: none. None: 0.05 where the
                checkpoint has thresholds (`models.thresholds`), else 0.
            coverage: of the conformal sets, such as 0.9; None: there are none.
            families: a CSV file with the columns `class` and `family`; None: there are none.

        Raises:
            ValueError: the checkpoint has no thresholds, or too few calibration images for what is asked, or the file cannot be
                used.
        """
        known = None if families is None else read_families(families, self.classes)
        return Reader(self.classes, self.model.loss, self.thresholds, refused, coverage, known)

    def logits(self, pictures: Picture | list[Picture] | tuple[Picture, ...]) -> Tensor:
        """Return the logits of pictures, given as for `predict`, float32 `[N, C]` on the CPU; ValueError as there."""
        return self._outputs(pictures)[0]

    def _outputs(self, pictures: Picture | list[Picture] | tuple[Picture, ...]) -> tuple[Tensor, Tensor]:
        """Return the logits of pictures, and their pooled features `[N, D]`."""
        chosen = pictures if isinstance(pictures, (list, tuple)) else [pictures]
        inputs = [self.transform(read_picture(picture, self.decoding)) for picture in chosen]
        logits = torch.empty(len(inputs), len(self.classes))
        features = torch.empty(len(inputs), self.model.query_embed.embedding_dim)
        for batch in EvalSampler(len(inputs), BATCH, shapes=[(image.shape[1], image.shape[2]) for image in inputs]):
            logits[batch], features[batch] = self._run(self._normalise([inputs[place] for place in batch]))
        return logits, features

    def stream(
        self, paths: Sequence[Path], topk: int = 5, batch_size: int = BATCH, workers: int = 2, reader: Reader | None = None
    ) -> Iterator[tuple[int, Prediction | str]]:
        """Classify many files, loaded by `workers` processes while the model works, and read by `reader` (None: the usual one).

        Yields:
            The place of a file in `paths`, in any order, and its prediction, or why it cannot be read, in one line.

        Raises:
            ValueError: the model's logits are not finite.
        """
        model, read = for_inference(self.model), reader or self.reader()
        for batch in photograph_batches(paths, self.transform, batch_size, workers, decoding=self.decoding):
            yield from batch.errors.items()
            if batch.images is not None:
                outputs = self._run(batch.images.to(self.device).normalise(**self.normalisation), model)
                places = (photograph.place for photograph in batch.photographs)
                yield from zip(places, read(*outputs, topk), strict=True)

    def explain(
        self, picture: Picture, class_: str | int | None = None, against: str | int | None = None, method: str | None = None
    ) -> Explanation:
        """Compute the attribution map of a class.

        Args:
            picture: as for `predict`.
            class_: name or index of the class; None for the predicted one.
            against: name or index of a class to compare with: the map is then the contrast of the two. None for the map of the
                class alone, or, where a method only makes contrasts, for the most probable other class.
            method: a name of `attribution.METHODS`; None for the map that represents the model's decoder.

        Raises:
            ValueError: the picture cannot be read, there is no such class or method, or nothing to compare (see
                `attribution.explain`).
        """
        if isinstance(picture, (list, tuple)):
            raise ValueError(f"explain takes one image, not a {type(picture).__name__} of {len(picture)}")
        index, other = (None if choice is None else find_class(choice, self.classes) for choice in (class_, against))
        image = read_picture(picture, self.decoding)  # [3, H, W]
        images = self._normalise([self.transform(image)])  # [1, 3, h, w]
        (row,) = methods_of(self.model, [method or self.model.decoder_spec.default_map], truth=())
        if index is None or (other is None and row.is_contrast):
            order = self._run(images)[0][0].argsort(descending=True, stable=True).tolist()
            index = order[0] if index is None else index
            if other is None and row.is_contrast:
                other = next((place for place in order if place != index), None)
        cells = explain(self.model, images, index, row.name, against=other).float().cpu()  # [1, h, w]
        pixels = enlarge(cells, (image.shape[1], image.shape[2]))
        picture, compared = image.permute(1, 2, 0).numpy(), None if other is None else self.classes[other]
        return Explanation(self.classes[index], picture, pixels[0].numpy(), cells[0].numpy(), row.name, compared)

    def _normalise(self, images: list[Tensor]) -> Tensor:
        return collate([(image, 0, 0) for image in images]).to(self.device).normalise(**self.normalisation)  # [B, 3, h, w]

    @torch.no_grad()
    def _run(self, images: Tensor, model: ICN | None = None) -> tuple[Tensor, Tensor]:
        output = (model or self.model)(images)
        logits = output.logits.float().cpu()  # [B, C]
        if not logits.isfinite().all():
            raise ValueError("the model gives logits that are not finite: the checkpoint is damaged, or its training diverged")
        return logits, pool(output.features).cpu()
