"""--query_init means: class queries start from the mean features of their classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import make_images, tiny_model

import engine
import main
from datasets import ImageFolder, eval_transform
from flags import get_args_parser
from util.cli import parse
from util.precision import Precision

CPU = torch.device("cpu")
NORMALISATION = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
FLAGS = (
    "--backbone test_resnet --feature_stride 16 --hidden_dim 32 --dim_feedforward 64 --nheads 4 --enc_layers 1 --dec_layers 1 "
    "--square --image_size 48 --batch_size 12 --epochs 1 --device cpu --num_workers 0 --dataset_name colours --lr 0 "
    "--lr_backbone 1e-9 --query_init means"
)


def train(colours: Path, out: Path, *more: str) -> dict[str, torch.Tensor]:
    main.main(parse(get_args_parser(), [*FLAGS.split(), "--dataset_path", str(colours), "--output_dir", str(out), *more]))
    return torch.load(out / "colours" / "output_sub" / "checkpoint.pth", weights_only=True)["model"]


def test_means_are_those_of_each_class_over_cells_and_images(colours: Path) -> None:
    data = ImageFolder(colours / "colours" / "val", transform=eval_transform(32, True))
    model = tiny_model(len(data.classes), backbone="test_resnet", feature_stride=16).eval()
    loader = main.build_eval_loader(parse(get_args_parser(), ["--num_workers", "0", "--batch_size", "4"]), data, CPU)
    means = engine.class_means(model, loader, CPU, NORMALISATION, Precision("fp32", torch.float32, CPU))
    expected = []
    for label in range(len(data.classes)):
        images = torch.stack([data[index][0] for index, other in enumerate(data.labels) if other == label]).float() / 255
        features = model.input_proj(model.backbone[0]((images - 0.5) / 0.25))  # [N, D, h, w]
        expected.append(features.flatten(2).mean(2).mean(0))
    torch.testing.assert_close(means, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_queries_differ_as_the_classes_do_at_the_scale_of_random_ones() -> None:
    model = tiny_model(3)
    width = model.query_embed.embedding_dim
    means = 5 + 0.01 * torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    model.start_queries(means)
    queries = model.query_embed.weight.detach()
    torch.testing.assert_close(queries.mean(0), torch.zeros(width), rtol=0, atol=1e-4)
    assert float(queries.std()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(queries[0] - queries[1], (means[0] - means[1]) / (means - means.mean(0)).std())
    for broken in (torch.ones(3, width), means * float("nan")):
        with pytest.raises(ValueError, match="the same for all classes, or not finite"):
            model.start_queries(broken)
    torch.testing.assert_close(model.query_embed.weight.detach(), queries)


def test_some_images_of_each_class_are_spread_over_it(tmp_path: Path) -> None:
    make_images(tmp_path, {"train": 7}, {"a": (255, 0, 0), "b": (0, 255, 0)}, (8, 8))
    data = ImageFolder(next(tmp_path.rglob("train")))
    some = data.some_of_each_class(3)
    assert some.labels == [0, 0, 0, 1, 1, 1] and len(data) == 14
    assert some.paths == [data.paths[index] for index in (0, 3, 6, 7, 10, 13)]
    assert data.some_of_each_class(100).paths == data.paths


@pytest.mark.usefixtures("one_thread")
def test_a_run_starts_from_them_and_a_resumed_one_from_its_file(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = train(colours, tmp_path)["query_embed.weight"]
    assert "class queries: the mean features of up to 32 training images of each class" in capsys.readouterr().out
    torch.testing.assert_close(queries.mean(0), torch.zeros(queries.shape[1]), rtol=0, atol=1e-4)  # --lr 0: as they started
    again = train(colours, tmp_path, "--resume", "auto", "--epochs", "2")["query_embed.weight"]
    torch.testing.assert_close(again, queries, rtol=0, atol=0)
    assert "class queries:" not in capsys.readouterr().out
