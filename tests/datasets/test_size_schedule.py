"""Growing pictures: the size at each time, what it costs, and the texts that are refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from datasets import TrainSampler, train_transform
from datasets.size_schedule import SizeSchedule, parse_stages, training_scales


def test_the_size_at_each_time_and_its_cost() -> None:
    schedule = SizeSchedule("112:0.4,224:0.7,448", 448, 10)
    assert [schedule.at(time) for time in (0, 3.99, 4, 6.9, 7, 9.9, 10)] == [112, 112, 224, 224, 448, 448, 448]
    assert schedule.cost(0, 10) == pytest.approx(4 / 16 + 3 / 4 + 3)
    assert schedule.cost(3, 5) == pytest.approx(1 / 16 + 1 / 4) and schedule.cost(7, 9.5) == pytest.approx(2.5)
    assert str(schedule) == "112 pixels up to epoch 4, 224 pixels up to epoch 7, then 448"
    constant = SizeSchedule("", 448, 10)
    assert constant.at(0) == constant.at(9.9) == 448 and constant.cost(0.3, 7) == 7 - 0.3


@pytest.mark.parametrize("epochs, batches", [(1, 10), (3, 7), (5, 13)])
def test_a_share_ends_at_its_batch_whatever_the_rounding(epochs: int, batches: int) -> None:
    total = epochs * batches
    for done in range(1, total):
        schedule = SizeSchedule(f"32:{done / total!r},64", 64, epochs)
        sizes = [schedule.at(epoch + batch / batches) for epoch in range(epochs) for batch in range(batches)]
        assert sizes == [32] * done + [64] * (total - done)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("160", None),
        ("160:0.4,224:0.7,448", None),
        ("160:.4,x,448", "'x'"),
        ("160,448", "'160'"),
        ("160:0.4,", "has ''"),
        ("160:0.4,448:1", "share behind its last size"),
        ("160:0.4,160", "160 after 160"),
        ("224:0.4,160:0.6,448", "160 after 224"),
        ("0:0.4,448", "0 pixels"),
        ("160:0.4,9000", "9000 pixels"),
        ("160:0,448", "shares"),
        ("160:0.7,224:0.4,448", "shares"),
        ("160:1,448", "shares"),
        ("160:nan,448", "shares"),
    ],
)
def test_texts(text: str, message: str | None) -> None:
    if message is None:
        assert parse_stages(text)[-1].end == 1
        return
    with pytest.raises(ValueError, match=message) as refused:
        parse_stages(text)
    assert "\n" not in str(refused.value) and repr(text) in str(refused.value)


def test_the_last_size_is_that_of_evaluation() -> None:
    with pytest.raises(ValueError, match=r"ends at 448 pixels, --image_size is 384"):
        SizeSchedule("160:0.4,448", 384, 10)


@pytest.mark.parametrize("square", [False, True])
def test_batches_are_those_of_a_training_at_the_size_of_the_moment(square: bool) -> None:
    schedule = SizeSchedule("64:0.5,128", 128, 2)
    assert schedule.smallest(square) == ([64, 128] if square else [training_scales(64)[0], training_scales(128)[0]])
    sampler = TrainSampler(12, 3, seed=4, sizes=partial(schedule.choices, square=square))
    picture = torch.randint(0, 256, (3, 60, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grown = train_transform(128, square)
    for epoch, size in ((0, 64), (1, 128)):
        alone = TrainSampler(12, 3, seed=4, sizes=None if square else training_scales(size))
        sampler.set_epoch(epoch)
        alone.set_epoch(epoch)
        plain = train_transform(size, square)
        for batch, expected in zip(sampler, alone, strict=True):
            assert [sample[:2] for sample in batch] == [sample[:2] for sample in expected]
            for sample, other in zip(batch, expected, strict=True):
                torch.manual_seed(sample.seed)
                image = grown(picture, sample.size)
                torch.manual_seed(sample.seed)
                assert torch.equal(image, plain(picture, other.size))
