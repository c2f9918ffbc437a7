"""Fine-tuning from a DETR, INTR or ICN file: which weights are kept, dropped and initialised."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.errors import ParameterError
from models.icn import ICN

DETECTION_HEADS = ("class_embed.", "bbox_embed.")


def adapt_queries(queries: Tensor, num_classes: int, noise_frac: float, generator: torch.Generator) -> Tensor:
    """Return `[num_classes, D]` class queries from `[N, D]` ones (INTR, section 3.3 and its released code).

    Up to N classes take the first queries; further ones repeat them in order, with `noise_frac` times a standard normal
    added to the repeats, so that no two classes start from the same query.
    """
    repeats = -(-num_classes // len(queries))
    adapted = queries.repeat(repeats, 1)[:num_classes].clone()  # [C, D]
    extra = num_classes - len(queries)
    if extra > 0:
        adapted[len(queries) :] += noise_frac * torch.randn(extra, queries.shape[1], generator=generator)
    return adapted


def finetune_state(state: Mapping[str, Tensor], model: ICN, noise_frac: float, seed: int) -> tuple[dict[str, Tensor], str]:
    """Convert a DETR, INTR or ICN state dict, of any number of classes, to one for `model`.

    Args:
        state: state dict with `query_embed.weight` `[N, D]`.
        model: the ICN to train; gives the number of classes and first weights.
        noise_frac: share of noise in repeated queries.
        seed: of that noise and of a new classifier; the same on every rank.

    Returns:
        The state dict, and one line that says what was kept, dropped and initialised (`made`).

    Raises:
        ParameterError: the file has no queries of the width of the model.
    """
    own = model.state_dict()  # first weights
    num_classes, width = own["query_embed.weight"].shape
    queries = state.get("query_embed.weight")
    if queries is None or queries.ndim != 2 or queries.shape[1] != width:
        shown = "no query_embed.weight" if queries is None else f"query_embed.weight {tuple(queries.shape)}"
        raise ParameterError("finetune", f"the file has {shown}; queries [N, {width}] are needed to start from")
    generator = torch.Generator().manual_seed(seed)
    result = {key: value for key, value in state.items() if not key.startswith(DETECTION_HEADS)}
    dropped = sorted({key.split(".")[0] for key in state if key.startswith(DETECTION_HEADS)})
    result["query_embed.weight"] = adapt_queries(queries, num_classes, noise_frac, generator)
    made = []
    if not model.decoder_spec.is_layered:  # the file's decoder is another: the model keeps its own first weights
        unknown = [key for key in result if key not in own or result[key].shape != own[key].shape]
        fresh = [key for key in own if key not in result or key in unknown]
        result = {key: own[key] if key in fresh else result[key] for key in own}
        dropped += sorted({".".join(key.split(".")[:2]) for key in unknown} - set(own))
        made += sorted({".".join(key.split(".")[:2]) for key in fresh if "num_batches" not in key})
    elif "presence_vector.weight" not in result:
        bound = (6 / (width + 1)) ** 0.5  # Glorot's uniform for a [1, D] matrix
        result["presence_vector.weight"] = torch.empty(1, width).uniform_(-bound, bound, generator=generator)
        result["presence_vector.bias"] = torch.zeros(1)
        made.append("presence_vector")
    if num_classes <= len(queries):
        origin = f"{num_classes} of the file's {len(queries)} queries"
    else:
        origin = f"all {len(queries)} queries and {num_classes - len(queries)} repeats with noise {noise_frac:g}"
    kept = sum(key in own and key in state for key in result)
    report = f"kept {kept} tensors, {origin}; dropped {', '.join(dropped) or 'nothing'}; made {', '.join(made) or 'nothing'}"
    return result, report
