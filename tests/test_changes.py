"""What a researcher changes - decoder, flag, loss, map - is one row or one line: training, resume, evaluation, drawings and
measurements follow from it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from torch import Tensor, nn

import flags
import main
from attribution.methods.registry import METHODS, Method
from models import DECODERS
from models.additive import ClassWeights
from models.criterion import TERMS
from models.decoders import DecoderSpec
from models.transformer import QueryDecoder
from predictor import Predictor
from tools import evaluate_attribution, visualization
from util.cli import Flags, Parser, parse
from util.errors import RunFailed

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    f"{TINY.replace(' --enc_layers 1 --dec_layers 2', '')} --feature_stride 16 --square "
    "--image_size 48 --batch_size 6 --lr 1e-3 --lr_backbone 1e-3 --device cpu --num_workers 0 --dataset_name colours"
)
RESTORED = {"model", "training", "augmentation", "input"}


class Pointing(QueryDecoder):
    """A single cross-attention without projections."""

    num_attention_layers = 1

    def attention_weights(self, query: Tensor, key: Tensor, valid: Tensor | None) -> Tensor:
        scores = query[:, None] @ key.transpose(-2, -1)
        return (scores if valid is None else scores.masked_fill(~valid, -torch.inf)).softmax(-1)  # [B, 1, C, S]

    def forward(
        self, query: Tensor, memory: Tensor, padding_mask: Tensor | None, grid: tuple[int, int], attention_layers: Any
    ) -> tuple[Tensor, list[Tensor]]:
        valid = None if padding_mask is None else ~padding_mask[:, None, None, :]
        weights = self.attention_weights(query[None], memory[:, None], valid).unflatten(-1, grid)
        return weights[:, 0].flatten(-2) @ memory, [weights[None] for _ in attention_layers]


class Gated(QueryDecoder):
    """The mean of the cells times the query: evidence without attention."""

    def forward(self, query: Tensor, memory: Tensor, *_: object) -> tuple[Tensor, list[Tensor]]:
        return memory.mean(1, keepdim=True) * query, []

    def evidence(self, query: Tensor, weight: Tensor, memory: Tensor, padding_mask: Tensor | None) -> Tensor:
        return (query * weight) @ memory.transpose(-2, -1) / memory.shape[1]


class Largest(QueryDecoder):
    """The largest value of each channel times the query: neither attention nor evidence."""

    def forward(self, query: Tensor, memory: Tensor, *_: object) -> tuple[Tensor, list[Tensor]]:
        return memory.max(1, keepdim=True).values * query, []


TOYS = {
    "pointing": DecoderSpec("pointing", "one look", lambda args: Pointing(), lambda c, d: nn.Linear(d, 1), "attention"),
    "gated": DecoderSpec("gated", "gates", lambda args: Gated(), ClassWeights, "additive", is_additive=True),
    "largest": DecoderSpec("largest", "maxima", lambda args: Largest(), ClassWeights, "gradcam"),
}


def small_logits(criterion: object, model: object, output: Any, images: Tensor, labels: Tensor) -> Tensor:
    return output.logits.square().mean()


def brightness(model: object, images: Tensor, classes: Tensor, *, padding_mask: Tensor | None = None) -> Tensor:
    return images.mean(1)


def with_toys(get_args_parser: Any) -> Any:
    """A flag more in every group, and the weight of a loss term."""

    def extended() -> Parser:
        parser = get_args_parser()
        for group in [group for group in parser._action_groups if group._group_actions]:
            group.add_argument(f"--toy_{group.title}", type=int, default=0, help="of a test")
        parser.group("training").add_argument("--small_logits", type=float, default=0.0, help="weight of small logits")
        return parser

    return extended


@pytest.fixture(scope="module", autouse=True)
def toys() -> Iterator[None]:
    """Everything that the tests add, in the registries; and one thread, since steps of milliseconds wait for a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, spec in TOYS.items():
            patch.setitem(DECODERS, name, spec)
        patch.setitem(TERMS, "small_logits", small_logits)
        patch.setitem(METHODS, "brightness", Method("brightness", "posthoc", brightness))
        patch.setattr(flags, "get_args_parser", with_toys(flags.get_args_parser))
        yield
    torch.set_num_threads(threads)


def groups() -> set[str]:
    return {str(group.title) for group in flags.get_args_parser()._action_groups if group._group_actions}


def run(colours: Path, out: Path, *more: object) -> dict[str, Any]:
    words = [*SMALL.split(), "--dataset_path", colours, "--output_dir", out, *more]
    return main.main(parse(flags.get_args_parser(), [str(word) for word in words]))


def saved(out: Path) -> dict[str, Any]:
    return torch.load(out / "colours" / "output_sub" / "checkpoint.pth", weights_only=True)


@pytest.fixture(scope="module", params=TOYS)
def trained(request: pytest.FixtureRequest, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A decoder, and the folder of its training of one epoch with the loss term and a value for every flag."""
    out = tmp_path_factory.mktemp(request.param)
    values = [word for group in sorted(groups()) for word in (f"--toy_{group}", 3)]
    result = run(colours, out, "--decoder", request.param, "--epochs", 1, "--small_logits", 0.5, *values)
    assert result["epoch"] == 0 and result["step"] == 4
    return request.param, out


def test_a_decoder_is_trained_resumed_and_scored(colours: Path, trained: tuple[str, Path]) -> None:
    name, out = trained
    file = out / "colours" / "output_sub" / "checkpoint.pth"
    before = saved(out)
    assert before["args"]["decoder"] == name and "query_embed.weight" in before["model"]
    scored = run(colours, out, "--eval", "--resume", file)
    log = json.loads((out / "colours" / "output_sub" / "log.txt").read_text())
    assert scored["acc1"] == log["test_acc1"] and scored["loss"] == pytest.approx(log["test_loss"], abs=1e-6)
    result = run(colours, out, "--resume", "auto", "--epochs", 2)
    assert result["epoch"] == 1 and result["step"] == 8
    assert not torch.equal(saved(out)["model"]["query_embed.weight"], before["model"]["query_embed.weight"])


def test_a_resume_restores_flags_by_their_group(colours: Path, trained: tuple[str, Path], tmp_path: Path) -> None:
    """Those of the model, the training, the augmentation and the input are the run's, the others are the command line's."""
    name, out = trained
    file = out / "colours" / "output_sub" / "checkpoint0000.pth"
    assert groups() == RESTORED | {"start", "data", "run"}
    run(colours, tmp_path, "--resume", file, "--epochs", 2)
    args = saved(tmp_path)["args"]
    assert {group: args[f"toy_{group}"] for group in groups()} == {group: 3 * (group in RESTORED) for group in groups()}
    assert args["decoder"] == name and args["small_logits"] == 0.5
    run(colours, tmp_path / "explicit", "--resume", file, "--epochs", 2, "--toy_training", 5, "--toy_input", 7, "--toy_model", 3)
    args = saved(tmp_path / "explicit")["args"]
    assert [args[f"toy_{group}"] for group in ("training", "input", "augmentation", "model")] == [5, 7, 3, 3]


@pytest.mark.parametrize("words", [["--epochs", 2], ["--eval"]])
def test_a_flag_of_the_model_may_only_agree_with_the_checkpoint(
    colours: Path, trained: tuple[str, Path], tmp_path: Path, words: list[object]
) -> None:
    file = trained[1] / "colours" / "output_sub" / "checkpoint0000.pth"
    for contradiction, message in ((["--toy_model", 4], "--toy_model 4 contradicts"), (["--hidden_dim", 64], "64 contradicts")):
        with pytest.raises(ValueError, match=message):
            run(colours, tmp_path, "--resume", file, *words, *contradiction)
    assert not any(tmp_path.iterdir())


def test_a_decoder_is_drawn_by_the_map_that_represents_it(colours: Path, trained: tuple[str, Path], tmp_path: Path) -> None:
    name, out = trained
    file = out / "colours" / "output_sub" / "checkpoint0000.pth"
    words = ["--resume", file, "--dataset_path", colours, "--dataset_name", "colours", "--output_dir", tmp_path]
    words += ["--class_index", 1, "--device", "cpu", "--num_workers", 0]
    args = parse(visualization.get_args_parser(), [str(word) for word in words])
    visualization.main(args)
    page = next(tmp_path.rglob("index.html"))
    assert len(list(page.parent.rglob("queries__*.png"))) == 4
    assert ("decoder layer 0 of 0 to 0" in page.read_text()) == (name == "pointing")
    assert ("gradcam" in page.read_text()) == (name == "largest")
    icn = Predictor.from_checkpoint(file)
    picture = next((colours / "colours" / "val" / "red").iterdir())
    assert icn.explain(picture).map.shape == icn.explain(picture, "green", method="brightness").map.shape == (40, 48)


def test_a_decoder_and_a_map_are_measured(colours: Path, trained: tuple[str, Path], tmp_path: Path) -> None:
    name, out = trained
    file = out / "colours" / "output_sub" / "checkpoint0000.pth"
    words = ["--resume", file, "--dataset_path", colours, "--dataset_name", "colours", "--output_dir", tmp_path]
    words += ["--methods", "gradcam,brightness", "--images", 4, "--steps", 4, "--device", "cpu", "--num_workers", 0]
    content = evaluate_attribution.main(parse(evaluate_attribution.get_args_parser(), [str(word) for word in words]))
    ours = TOYS[name].default_map
    controls = {"random", "centre", "edges", "other_class", "constant"}
    controls |= {"rollout_every_class"} if name == "pointing" else set()
    assert content["ours"] == ours and content["settings"]["decoder"] == name
    assert set(content["methods"]) == {ours, "gradcam", "brightness"} | controls
    assert all({"srg", "gini"} <= set(entry["metrics"]) for entry in content["methods"].values())
    assert ("reliance" in content["model"]) == (name == "pointing") and "locality" in content["model"]
    table = (tmp_path / "attribution.md").read_text()
    assert f"**{METHODS[ours].title}**" in table and "| brightness |" in table and (tmp_path / "examples.jpg").is_file()


def test_a_loss_term_is_reported_wherever_the_loss_is(
    colours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--decoder", "gated", "--epochs", 1, "--small_logits", 0.5]
    tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(colours, tmp_path, *words, "--tensorboard")
    progress = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch 1/1 [4/4]"))
    log = json.loads((tmp_path / "colours" / "output_sub" / "log.txt").read_text())
    terms = {key.removeprefix("train_loss_"): log[key] for key in log if key.startswith("train_loss_")}
    assert set(terms) == {"class", "small_logits"} and all(value > 0 for value in terms.values())
    assert log["train_loss"] == pytest.approx(sum(terms.values()), rel=1e-6)
    assert f"loss {log['train_loss']:.4f} (class {terms['class']:.4f}, small_logits {terms['small_logits']:.4f})" in progress
    events = tensorboard.EventAccumulator(str(tmp_path / "colours" / "output_sub" / "tensorboard")).Reload()
    (event,) = events.Scalars("train/loss_small_logits")
    assert event.value == pytest.approx(terms["small_logits"], rel=1e-5)
    monkeypatch.setitem(TERMS, "small_logits", lambda *inputs: small_logits(*inputs) * torch.nan)
    with pytest.raises(RunFailed, match="the loss is nan .*small_logits") as failed:
        run(colours, tmp_path / "nan", *words)
    assert "\n" not in str(failed.value) and not list((tmp_path / "nan").rglob("*.pth"))


def test_flags_are_read_only(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = parse(flags.get_args_parser(), ["--lr", "0.1"])
    with pytest.raises(AttributeError, match="lr cannot be set to 1; use replace"):
        args.lr = 1
    with pytest.raises(AttributeError, match="lr cannot be deleted"):
        del args.lr
    changed = args.replace(lr=1)
    assert (args.lr, changed.lr, changed.explicit) == (0.1, 1, {"lr"})
    with pytest.raises(AttributeError, match="no flag learning_rate"):
        args.replace(learning_rate=1)

    def assign(args: Flags, *_: object) -> None:
        args.lr = 1

    monkeypatch.setattr(main, "build_trainer", assign)
    with pytest.raises(AttributeError, match="flags are read-only after parsing: lr"):
        run(colours, tmp_path, "--decoder", "gated", "--epochs", 1)


@pytest.mark.parametrize("words, code", [(["--help"], 0), (["--no_such_flag"], 2), (["--epochs", "many"], 2)])
def test_help_and_a_wrong_flag_do_not_wait_for_torch(words: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "main.py", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == code and "flags" in imported
    assert not imported & {"torch", "torchvision", "timm", "cv2", "matplotlib", "scipy"}
