"""Two ranks make one step: the same gradient as one, the same bits in both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_flags, tiny_model
from ranks import Launched

from datasets import ImageBatch
from models import build_model
from trainer import build_trainer
from util.distributed import init_distributed, unused_parameters
from util.errors import RunFailed
from util.precision import select_precision
from util.ranks import fingerprint

NORMALISATION = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


class Double(ImageBatch):
    def normalise(self, mean: Any, std: Any) -> torch.Tensor:
        return super().normalise(mean, std).double()


def global_batch(images: int, seed: int) -> Double:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(256, (images, 32, 32, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    labels = torch.randint(3, (images,), generator=generator)
    return Double(pictures, None, labels, torch.arange(images))


def part(batch: Double, rank: int, size: int) -> Double:
    first, last = (r * len(batch) // size for r in (rank, rank + 1))
    fields = (batch.images[first:last], None, batch.labels[first:last], batch.indices[first:last])
    return Double(*fields)


def steps(flags: str, windows: list[list[int]]) -> tuple[list[float], str, dict[str, torch.Tensor]]:
    """Train in float64 on windows of global batches of so many images: losses of the steps, hash and weights at the end."""
    with init_distributed() as ranks:
        words = ["--backbone", "test_resnet", "--feature_stride", "16", "--image_size", "32", "--dropout", "0"]
        args = tiny_flags(*words, *flags.split()).replace(num_queries=3, backbone_norm="frozen")
        args = args if args.decoder == "detr" else args.replace(dec_layers=0)
        torch.manual_seed(0)
        model = build_model(args).double()
        ranks.check_same(model.state_dict(), "at the start")
        trainer = build_trainer(args, model, select_precision("fp32", torch.device("cpu")), NORMALISATION, 1, ranks)
        # AdamW makes steps of one size of gradients that are 0 but for rounding, as those of the keys' biases.
        groups = [{**group, "lr": 0.1, "base_lr": 0.1} for group in trainer.optimizer.param_groups if group["params"]]
        trainer.optimizer = torch.optim.SGD([{key: group[key] for key in ("params", "lr", "base_lr")} for group in groups])
        torch.manual_seed(ranks.rank)
        losses = []
        for number, window in enumerate(windows):
            batches = [global_batch(images, 10 * number + index) for index, images in enumerate(window)]
            mine = [part(batch, ranks.rank, ranks.size) for batch in batches]
            outputs = trainer.step(mine)
            pairs = zip(outputs, mine, strict=True)
            total = sum(F.cross_entropy(output.logits, batch.labels, reduction="sum") for output, batch in pairs)
            losses.append(float(ranks.sum(torch.as_tensor(total))) / sum(window))
        average = trainer.ema.module.state_dict() if trainer.ema is not None else {}
        return losses, fingerprint({**model.state_dict(), **{f"ema.{key}": average[key] for key in average}}), model.state_dict()


EQUAL, UNEVEN = [[4], [4], [4]], [[5, 4], [3], [5, 3]]


@pytest.mark.parametrize(
    "flags, windows",
    [
        ("", EQUAL),
        ("--ema 0.5 --clip_max_norm 1 --label_smoothing 0.1", UNEVEN),
        ("--enc_layers 0 --position_embedding learned", UNEVEN),
        ("--decoder none", EQUAL),
        ("--decoder additive --grad_checkpointing", UNEVEN),
    ],
)
def test_two_ranks_train_like_one(tmp_path: Path, flags: str, windows: list[list[int]]) -> None:
    """Also over windows of several batches, of which the ranks have unequal parts."""
    two = Launched(2, tmp_path / "two", steps, flags, windows).results()
    losses, _, weights = steps(flags, windows)
    assert two[0][0] == two[1][0] and two[0][1] == two[1][1]
    assert two[0][0] == pytest.approx(losses, rel=1e-6) and len(set(losses)) == 3
    for key, value in weights.items():
        torch.testing.assert_close(two[0][2][key], value, rtol=1e-5, atol=1e-6, msg=key)
    assert fingerprint(weights) != fingerprint(steps(flags, [])[2])


def test_ranks_that_draw_their_own_pictures_hold_the_same_weights(tmp_path: Path) -> None:
    """The mosaics and pasted parts of a rank go past its wrapper: their gradients are exchanged with the others."""
    flags = "--decoder additive --square --mosaic 0.5 --locality 1"
    two = Launched(2, tmp_path / "two", steps, flags, UNEVEN).results()
    assert two[0][1] == two[1][1] != steps(flags, UNEVEN)[1]


def disagree() -> str:
    with init_distributed() as ranks:
        weights = {"a": torch.zeros(3), "b": torch.full((2,), 0.0 if ranks.rank == 0 else -0.0)}
        ranks.check_same({"a": weights["a"]}, "at the start")
        with pytest.raises(RunFailed, match="after epoch 1 rank 1 has other weights than rank 0"):
            ranks.check_same(weights, "after epoch 1")
        average = [torch.tensor([1.0 + ranks.rank, 5.0]), torch.tensor(2.0 * ranks.rank)]
        ranks.average_(average)
        assert [value.tolist() for value in average] == [[1.5, 5.0], 1.0]
        assert ranks.gather(ranks.rank) == [0, 1] and ranks.broadcast(ranks.rank) == 0 and ranks.sum(ranks.rank + 1) == 3
        print("said by", ranks.rank)
        return fingerprint(weights)


def test_what_they_exchange_and_who_speaks(tmp_path: Path) -> None:
    both = Launched(2, tmp_path / "log", disagree)
    hashes = both.results()
    assert hashes[0] != hashes[1] and both.out(0) == "said by 0\n" and both.out(1) == ""


def test_parameters_that_no_logit_depends_on() -> None:
    model = tiny_model(enc_layers=0, position_embedding="learned")
    logits = model(torch.zeros(1, 3, 64, 64)).logits
    assert unused_parameters(model, logits) == ["backbone.1.row_embed.weight", "backbone.1.col_embed.weight"]
    assert unused_parameters(tiny_model(), tiny_model()(torch.zeros(1, 3, 64, 64)).logits) != []  # of another model
