from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from datasets import EvalSampler, TrainSampler, collate

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def noise(height: int, width: int) -> torch.Tensor:
    return torch.randint(1, 256, (3, height, width), dtype=torch.uint8)


class TestBatch:
    def test_padded_content_is_the_unpadded_one(self):
        images = [noise(5, 9), noise(8, 4), noise(8, 9)]
        batch = collate([(image, label, label + 7) for label, image in enumerate(images)])
        assert batch.images.shape == (3, 3, 8, 9)
        assert batch.images.dtype == torch.uint8
        assert batch.labels.tolist() == [0, 1, 2]
        assert batch.indices.tolist() == [7, 8, 9]
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        assert len(batch) == 3
        for image, padded, mask in zip(images, batch.images, batch.padding_mask, strict=True):
            height, width = image.shape[1:]
            assert torch.equal(padded[:, :height, :width], image)
            assert not mask[:height, :width].any()
            assert mask.sum() == 8 * 9 - height * width

    def test_no_mask_when_nothing_is_padded(self):
        images = [noise(6, 7) for _ in range(3)]
        batch = collate([(image, 0, 0) for image in images])
        assert batch.padding_mask is None
        assert torch.equal(batch.images, torch.stack(images))

    def test_normalise_is_torchvisions_and_zero_on_padding(self):
        images = [noise(5, 9), noise(8, 4)]
        normalised = collate([(image, 0, 0) for image in images]).normalise(MEAN, STD)
        assert normalised.dtype == torch.float32
        for image, ours in zip(images, normalised, strict=True):
            height, width = image.shape[1:]
            expected = F.normalize(F.to_dtype(image, torch.float32, scale=True), MEAN, STD)
            torch.testing.assert_close(ours[:, :height, :width], expected, rtol=0, atol=1e-6)
            assert not ours[:, height:].any()
            assert not ours[:, :, width:].any()

    def test_the_model_gets_channels_last(self):
        for images in ([noise(8, 9)] * 2, [noise(5, 9), noise(8, 4)]):
            normalised = collate([(image, 0, 0) for image in images]).normalise(MEAN, STD)
            assert normalised.is_contiguous(memory_format=torch.channels_last)

    def test_exactly_the_padding_is_zero(self):
        batch = collate([(image, 0, 0) for image in (noise(5, 9), noise(8, 4), noise(8, 9))])
        expected = batch.normalise(MEAN, STD)
        assert torch.equal(expected, expected.masked_fill(batch.padding_mask[:, None], 0.0))
        assert (expected != 0).any(1).eq(~batch.padding_mask).all()

    def test_normalise_leaves_the_bytes_alone(self):
        batch = collate([(noise(4, 4), 0, 0)])
        before = batch.images.clone()
        assert torch.equal(batch.normalise(MEAN, STD), batch.normalise(MEAN, STD))
        assert torch.equal(batch.images, before)

    def test_to_moves_everything(self):
        batch = collate([(noise(4, 4), 1, 2), (noise(4, 5), 1, 2)]).to("meta")
        assert {t.device.type for t in (batch.images, batch.padding_mask, batch.labels, batch.indices)} == {"meta"}
        assert collate([(noise(4, 4), 1, 2)]).to("cpu").padding_mask is None


class TestTrainSampler:
    def test_is_a_pure_function_of_seed_and_epoch(self):
        first, second = (TrainSampler(50, 4, seed=1, sizes=[96, 128]) for _ in range(2))
        epoch0 = list(first)
        assert epoch0 == list(second) == list(first)
        first.set_epoch(1)
        assert list(first) != epoch0
        first.set_epoch(0)
        assert list(first) == epoch0
        assert list(TrainSampler(50, 4, seed=2, sizes=[96, 128])) != epoch0

    def test_numbers_do_not_change_between_versions(self):
        """A resumed run would continue with other data: change these numbers only on purpose."""
        sample = next(iter(TrainSampler(5, 5, seed=42, sizes=[96, 112, 128])))[0]
        assert tuple(sample) == (4, 2339243409281625331, 112)

    @pytest.mark.parametrize(("n", "batch_size"), [(50, 4), (48, 4), (3, 4), (4, 4), (1, 12)])
    def test_every_index_at_most_once_and_never_no_batch(self, n, batch_size):
        sampler = TrainSampler(n, batch_size, seed=0)
        batches = list(sampler)
        indices = [sample.index for batch in batches for sample in batch]
        assert len(batches) == len(sampler) == max(1, n // batch_size)
        assert len(indices) == len(set(indices)) == (n // batch_size * batch_size or n)
        assert set(indices) <= set(range(n))

    @pytest.mark.parametrize("world_size", [2, 3])
    @pytest.mark.parametrize("n", [100, 36, 12, 7])
    def test_ranks_together_see_the_global_batches(self, n, world_size):
        alone = TrainSampler(n, 4 * world_size, seed=5, sizes=[96, 128])
        ranks = [TrainSampler(n, 4, 5, [96, 128], rank, world_size) for rank in range(world_size)]
        for epoch in range(2):
            for sampler in (alone, *ranks):
                sampler.set_epoch(epoch)
            together = [sum(slices, []) for slices in zip(*ranks, strict=True)]
            assert together == list(alone)
            assert {len(sampler) for sampler in ranks} == {len(alone)}
            assert all(batch for sampler in ranks for batch in sampler)

    def test_resume_in_mid_epoch(self):
        sampler = TrainSampler(50, 4, seed=1, sizes=[96, 128])
        whole = list(sampler)
        sampler.set_epoch(0, start_batch=5)
        assert list(sampler) == whole[5:]
        assert len(sampler) == len(whole) - 5
        assert sampler.batches_per_epoch == len(whole)
        sampler.set_epoch(1)
        assert len(sampler) == len(whole)
        again = TrainSampler(50, 4, seed=1, sizes=[96, 128])
        again.set_epoch(0, start_batch=5)
        assert list(again) == whole[5:]

    def test_one_scale_per_batch_and_all_scales_in_an_epoch(self):
        batches = list(TrainSampler(400, 4, seed=0, sizes=[96, 112, 128]))
        assert all(len({sample.size for sample in batch}) == 1 for batch in batches)
        assert {batch[0].size for batch in batches} == {96, 112, 128}
        assert {sample.size for batch in TrainSampler(40, 4, seed=0) for sample in batch} == {None}

    def test_sample_seeds_differ_by_image_and_epoch_not_by_batch_size(self):
        def seeds(epoch: int, batch_size: int) -> dict[int, int]:
            sampler = TrainSampler(48, batch_size, seed=9)
            sampler.set_epoch(epoch)
            return {sample.index: sample.seed for batch in sampler for sample in batch}

        assert seeds(0, 4) == seeds(0, 6)
        assert len(set(seeds(0, 4).values()) | set(seeds(1, 4).values())) == 96
        assert all(0 <= seed < 2**63 for seed in seeds(0, 4).values())

    @pytest.mark.parametrize(("n", "batch_size", "world_size"), [(0, 4, 1), (3, 4, 4), (8, 0, 1)])
    def test_errors(self, n, batch_size, world_size):
        with pytest.raises(ValueError, match="at least"):
            TrainSampler(n, batch_size, 0, world_size=world_size)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [0, 1, 5, 12])
def test_eval_sampler_covers_every_image_exactly_once(n, world_size):
    samplers = [EvalSampler(n, 2, rank, world_size) for rank in range(world_size)]
    indices = [index for sampler in samplers for batch in sampler for index in batch]
    assert sorted(indices) == list(range(n))
    for sampler in samplers:
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(1 <= len(batch) <= 2 for batch in batches)
