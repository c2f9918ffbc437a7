"""`python -m tools.export`: what is written is the model, loads wherever a checkpoint does, and says what it is."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import main as training
from attribution.report import page
from flags import get_args_parser as main_flags
from flags import resolve
from models import ICN, load_checkpoint
from models.loading import read_checkpoint
from predictor import Predictor
from tools.export import int8, programs
from tools.export.__main__ import get_args_parser, main
from tools.report import get_args_parser as report_parser
from tools.report import main as report_main
from util.cli import launch, parse
from util.errors import RunFailed

needs_tracing = pytest.mark.skipif(torch.__version__ < "2.6", reason="torch 2.5 traces these models for one size only")

CLASSES = ["a", "b | c", "d/ü", "e\udce9"]  # the last: bytes that are no UTF-8, in the name of a folder


def export(checkpoint: object, to: str, out: Path, *more: object) -> None:
    main(parse(get_args_parser(), ["--resume", str(checkpoint), "--to", to, "--out", str(out), *map(str, more)]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, save_checkpoint: Callable[..., Path]) -> Path:
    """A checkpoint with flags that are not the defaults, those of a machine, and what only a training needs."""
    path = tmp_path_factory.mktemp("export") / "checkpoint.pth"
    save_checkpoint(path, CLASSES, "--dec_layers 1 --square --bit_depth 12 --lr 0.5 --output_dir /home/me --num_workers 7")
    content = torch.load(path, weights_only=True)
    content |= {"normalisation": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}, "optimizer": {}, "rng": []}
    content["ema"] = {name: tensor * 0.9 for name, tensor in content["model"].items()}
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


def test_safetensors_hold_the_model_and_what_rebuilds_it(checkpoint: Path, tmp_path: Path, picture: np.ndarray) -> None:
    export(checkpoint, "safetensors", tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_size < checkpoint.stat().st_size * 0.6  # one copy of the weights
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        header = json.loads(file.metadata()["icn"])
    assert header["classes"] == CLASSES and header["args"]["square"] is True and header["args"]["lr"] == 0.5
    assert not {"output_dir", "num_workers", "dataset_path", "device", "resume"} & header["args"].keys()
    original, copy = (Predictor.from_checkpoint(path) for path in (checkpoint, tmp_path / "m.safetensors"))
    assert copy.classes == CLASSES and copy.normalisation == original.normalisation and copy.decoding.bit_depth == 12
    assert copy.transform == original.transform or vars(copy.transform) == vars(original.transform)
    assert torch.equal(copy.logits(picture), original.logits(picture))
    assert load_checkpoint(tmp_path / "m.safetensors")[1].epoch == 1


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `main.py --eval` writes of the checkpoint."""
    folder = tmp_path_factory.mktemp("results") / "eval_val"
    folder.mkdir()
    stats = {"split": "val", "loss": 1.5, "acc1": 62.5, "acc5": None, "images": 8, "epoch": 1, "checkpoint": "/home/me/c.pth"}
    (folder / "results.json").write_text(json.dumps(stats))
    (folder / "per_class.csv").write_text("index,class,images,acc1\n0,a,4,75.0\n1,b | c,4,50.0\n2,d/ü,0,\n3,e,0,\n")
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., list[str]]) -> Path:
    """The report of `small_run`."""
    out = tmp_path_factory.mktemp("report") / "report_val"
    report_main(parse(report_parser(), command("--top_q", 1, "--out", out)))
    return out


def test_a_folder_with_a_card_loads_like_a_file(checkpoint: Path, results: Path, tmp_path: Path, picture: np.ndarray) -> None:
    export(checkpoint, "dir", tmp_path / "icn", "--results", results)
    assert sorted(path.name for path in (tmp_path / "icn").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads((tmp_path / "icn" / "config.json").read_text())["classes"] == CLASSES
    expected = Predictor.from_checkpoint(checkpoint).logits(picture)
    assert torch.equal(Predictor.from_checkpoint(tmp_path / "icn").logits(picture), expected)
    card = (tmp_path / "icn" / "README.md").read_text(encoding="utf-8")
    assert "acc@1 62.50 %" in card and "| b \\| c | 4 | 50.0 |" in card and "| `--lr` | 0.5 |" in card
    assert str(tmp_path) not in card and "/home/me" not in card and 'from_checkpoint("icn")' in card
    assert "Calibration" not in card and "Not measured" not in card


def test_python_and_the_command_line_write_the_same(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    export(checkpoint, "dir", tmp_path / "a" / "icn")
    ICN.from_pretrained(checkpoint).save_pretrained(tmp_path / "icn")
    for name in ("README.md", "config.json"):
        assert (tmp_path / "a" / "icn" / name).read_bytes() == (tmp_path / "icn" / name).read_bytes()
    contents = []
    for folder in (tmp_path / "a" / "icn", tmp_path / "icn"):
        with safe_open(folder / "model.safetensors", "pt") as file:  # the order of the entries of its header may differ
            contents.append((file.metadata(), {name: file.get_tensor(name).tolist() for name in file.keys()}))  # noqa: SIM118
    assert contents[0] == contents[1]


@pytest.fixture
def attribution(tmp_path: Path) -> Path:
    """An attribution.json of `small_run`, in the parts that the card needs."""
    settings = {"dataset": "/home/me/d", "split": "val", "images": 12, "decoder": "detr", "checkpoint": "c.pth"}
    number = {"mean": 0.25, "low": 0.125, "high": 0.5, "images": 12}
    methods = {
        "attention": {"family": "own", "metrics": {"srg": number, "ms": number}},
        "random": {"family": "control", "metrics": {"srg": {**number, "mean": 0.0, "images": 3}}},
    }
    content = {"settings": {**settings, "classes": ["a", "b", "c", "plain"]}, "ours": "attention", "methods": methods}
    (tmp_path / "attribution_val").mkdir()
    (tmp_path / "attribution_val" / "attribution.json").write_text(json.dumps(content))
    return tmp_path / "attribution_val"


def test_the_card_has_what_was_measured(
    small_run: Path, report: Path, attribution: Path, tmp_path: Path, command: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    export(small_run / "checkpoint.pth", "dir", tmp_path / "icn", "--results", report, attribution)
    assert "a model card with photographs (maps.jpg)" in capsys.readouterr().out
    (summary,) = page.read_script(report / page.SUMMARY)
    card = (tmp_path / "icn" / "README.md").read_text(encoding="utf-8")
    assert f"On the 12 images of the split val: acc@1 {summary['acc1']:.2f} %.\n" in card
    right = np.equal(summary["images"]["label"], summary["images"]["predicted"])
    for index, name in enumerate(["a", "b", "c", "plain"]):
        assert f"| {name} | 3 | {100 * right[3 * index : 3 * index + 3].mean():.2f} |" in card
    assert f"an expected calibration error of {summary['calibration']['ece']:.3f}" in card
    filled = [row for row in summary["calibration"]["bins"] if row["count"]]
    for row in filled:
        numbers = f"| {row['count']} | {row['confidence']:.3f} | {row['accuracy']:.3f} |"
        assert f"| {row['low']:.2f} to {row['high']:.2f} {numbers}" in card
    assert sum(row["count"] for row in filled) == 12
    assert "12 images of d, split val" in card and "| **attention** | the model's own | 0.250 (0.125 to 0.500) |" in card
    assert "0.000 (0.125 to 0.500) n=3" in card and "/home" not in card and str(small_run) not in card
    assert "![Photographs and their attribution maps](maps.jpg)" in card
    drawn = cv2.imread(str(tmp_path / "icn" / "maps.jpg"))
    assert drawn.shape[1] > 800 and drawn.std() > 20
    export(small_run / "checkpoint.pth", "dir", tmp_path / "plain", "--results", report, "--no_picture")
    assert not (tmp_path / "plain" / "maps.jpg").exists()
    card = (tmp_path / "plain" / "README.md").read_text(encoding="utf-8")
    assert "maps.jpg" not in card and "Attribution" not in card and "Calibration" in card


def test_the_hub_reads_the_card(small_run: Path, report: Path, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    export(small_run / "checkpoint.pth", "dir", tmp_path / "icn", "--results", report)
    (summary,) = page.read_script(report / page.SUMMARY)
    data = hub.ModelCard.load(tmp_path / "icn" / "README.md").data
    assert (data.pipeline_tag, data.model_name) == ("image-classification", "ICN") and "icn" in data.tags
    found = {result.metric_type: result for result in data.eval_results}
    assert found["accuracy"].metric_value == round(summary["acc1"] / 100, 4)
    assert found["expected_calibration_error"].metric_value == round(summary["calibration"]["ece"], 4)
    assert all(result.dataset_split == "val" and result.task_type == "image-classification" for result in data.eval_results)
    assert hub.ModelCardData(**data.to_dict()).to_yaml()


def test_names_cannot_break_the_card(tmp_path: Path, save_checkpoint: Callable[..., Path]) -> None:
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    names = ["---\nlicense: mit", "| a |\n| b |", "<script>x</script>", "[x](http://y)", "`# {{x}}", "\x1b[31m", "می\u200cروم"]
    source = save_checkpoint(tmp_path / "c.pth", names)
    content = torch.load(source, weights_only=True)
    content["args"]["dataset_name"] = "x'\"\n---\n: {"
    torch.save(content, source)
    export(source, "dir", tmp_path / "icn")
    text = (tmp_path / "icn" / "README.md").read_text(encoding="utf-8")
    data = hub.ModelCard(text).data
    assert data.license is None and "می\u200cروم" in text
    assert not [word for word in ("\n<script", " <script", "\x1b", "[x](http", "\n| b |", "\nlicense") if word in text]


def damage(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "results.json").read_text())
        change(content)
        (folder / "results.json").write_text(json.dumps(content))

    return apply


def per_class(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "per_class.csv").write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "results.json").unlink(), r"it has no results.json .python main.py --eval., data/summary.js"),
        (lambda folder: (folder / "per_class.csv").unlink(), "No such file"),
        (per_class("index,class,images,acc1\n0,a,4,75.0\n"), "it has 1 classes, the model 4"),
        (per_class("a\n0\n"), "KeyError"),
        (lambda folder: (folder / "results.json").write_text("[1]"), "no folder of results"),
        (lambda folder: (folder / "results.json").write_bytes(b"\xff"), "no folder of results"),
        (damage(lambda content: content.pop("acc1")), "acc1"),
        (damage(lambda content: content.update(acc1="x")), "no folder of results"),
        (damage(lambda content: content.update(epoch="x")), "TypeError"),
        (damage(lambda content: content.update(epoch=5)), "it is of epoch 6, the checkpoint of epoch 2"),
    ],
)
def test_results_of_something_else_are_refused(
    checkpoint: Path, results: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    folder = Path(shutil.copytree(results, tmp_path / "eval_val"))
    change(folder)
    with pytest.raises(ValueError, match=message) as error:
        export(checkpoint, "dir", tmp_path / "icn", "--results", folder)
    assert str(error.value).startswith(f"--results {folder} is no folder of results") and "\n" not in str(error.value)
    assert not (tmp_path / "icn").exists()


def test_reports_of_something_else_are_refused(
    checkpoint: Path, small_run: Path, report: Path, attribution: Path, tmp_path: Path
) -> None:
    def refused(message: str, *folders: Path, source: Path = small_run / "checkpoint.pth") -> None:
        with pytest.raises(ValueError, match=message):
            export(source, "dir", tmp_path / "icn", "--results", *folders)
        assert not (tmp_path / "icn").exists() and not list(tmp_path.glob(".*"))

    refused("its classes are not those of the model", report, source=checkpoint)
    refused("has a second report", report, report)
    copy = Path(shutil.copytree(report, tmp_path / "copy"))
    (copy / page.maps_name(0)).write_text("icnMaps(1, {})")
    refused("has damaged maps", copy)
    (copy / page.SUMMARY).write_text("alert(1)")
    refused("is no folder of results of this model", copy)
    content = json.loads((attribution / "attribution.json").read_text())
    content["settings"]["decoder"] = "additive"
    (attribution / "attribution.json").write_text(json.dumps(content))
    refused("its model has the decoder additive, this one detr", attribution)


def test_the_card_names_classes_without_results(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, "dir", tmp_path / "icn")
    card = (tmp_path / "icn" / "README.md").read_text(encoding="utf-8")
    assert "4 classes: a, b | c, d/ü, e" in card and "Not measured" in card


def test_a_folder_is_pushed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed: list[tuple[Path, str, bool]] = []
    monkeypatch.setattr("tools.export.__main__.push_to_hub", lambda *args: pushed.append(args) or f"hf://{args[1]}")
    export(checkpoint, "dir", tmp_path / "icn", "--push", "me/birds", "--private")
    assert pushed == [(tmp_path / "icn", "me/birds", True)] and "uploaded: hf://me/birds" in capsys.readouterr().out
    assert 'from_checkpoint("hf://me/birds")' in (tmp_path / "icn" / "README.md").read_text(encoding="utf-8")


def test_an_export_is_evaluated_and_trained_from(small_run: Path, tmp_path: Path, command: Callable[..., list[str]]) -> None:
    export(small_run / "checkpoint.pth", "dir", tmp_path / "icn")
    words = ["--eval", "--output_dir", ""]
    stats = [training.main(parse(main_flags(), command(*words, *more))) for more in ([], ["--resume", tmp_path / "icn"])]
    assert stats[0] == stats[1]
    weights = tmp_path / "icn" / "model.safetensors"
    flags = parse(main_flags(), ["--finetune", str(weights), "--output_dir", ""])
    content = read_checkpoint(weights)
    assert resolve(flags, ["x", "y"], finetuned=content).hidden_dim == 16
    resumed = resolve(parse(main_flags(), ["--resume", str(weights)]), ["a", "b", "c", "plain"], content)
    assert resumed.start_epoch == 2 and resumed.backbone == "test_resnet"


def test_intr_reads_the_file(tmp_path: Path, save_checkpoint: Callable[..., Path]) -> None:
    flags = "--backbone resnet18 --backbone_norm batch --dec_layers 2 --enc_layers 1 --output_dir /home/me"
    save_checkpoint(tmp_path / "c.pth", ["a", "b"], flags)
    trained = torch.load(tmp_path / "c.pth", weights_only=True)
    for name in [name for name in trained["model"] if name.endswith("num_batches_tracked")]:
        trained["model"][name] += 7
    torch.save(trained, tmp_path / "c.pth")
    export(tmp_path / "c.pth", "intr", tmp_path / "intr.pth")
    content = torch.load(tmp_path / "intr.pth", weights_only=False)
    assert content.keys() == {"model", "epoch", "args"} and not any("num_batches" in name for name in content["model"])
    args = content["args"]
    assert (args.num_queries, args.nheads, args.backbone, args.pre_norm) == (2, 2, "resnet18", False)
    assert not hasattr(args, "output_dir")
    model, meta = load_checkpoint(tmp_path / "intr.pth")
    assert meta.classes is None and model.num_classes == 2
    images, original = torch.randn(1, 3, 64, 64), load_checkpoint(tmp_path / "c.pth")[0]
    assert torch.equal(model.eval()(images).logits, original.eval()(images).logits)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--decoder additive", "INTR has no model with decoder = additive"),
        ("--backbone resnet18 --feature_stride 16", "feature_stride = 16"),
        ("", "not test_resnet"),
    ],
)
def test_what_intr_cannot_have_is_refused(tmp_path: Path, save_checkpoint: Callable[..., Path], flags: str, message: str) -> None:
    save_checkpoint(tmp_path / "c.pth", ["a", "b"], f"{'--dec_layers 1' * ('decoder' not in flags)} {flags}")
    with pytest.raises(ValueError, match=message):
        export(tmp_path / "c.pth", "intr", tmp_path / "intr.pth")
    assert not (tmp_path / "intr.pth").exists()


@pytest.mark.parametrize(("to", "out"), [("safetensors", "m.safetensors"), ("dir", "m.safetensors"), ("dir", "folder")])
def test_nothing_is_overwritten(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, out: str) -> None:
    (tmp_path / "m.safetensors").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), ["--resume", str(checkpoint), "--to", to, "--out", str(tmp_path / out)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "exists and is not overwritten" in error and error.count("\n") == 1
    assert (tmp_path / "m.safetensors").read_text() == "mine" and len(list((tmp_path / "folder").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "intr", "--push", "me/birds"], "--push is of --to dir"),
        (["--to", "dir", "--no_mask"], "--no_mask is of programs"),
        (["--to", "torch", "--int8"], "--int8 is of --to onnx"),
        (["--to", "onnx", "--test", "val"], "--test is of the measurement of --int8"),
        (["--to", "dir", "--private"], "--private is of a repository"),
        (["--to", "safetensors"], "--out .*out: give a file that ends in .safetensors"),
        (["--to", "dir", "--results", "nowhere"], "--results nowhere is no folder of results of this model: it has no results"),
        (["--to", "dir", "--no_picture"], "--no_picture is of the report of --results"),
        (["--to", "dir", "--push", "a b"], "--push 'a b' is no name of a repository"),
    ],
)
def test_wrong_flags(checkpoint: Path, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(parse(get_args_parser(), ["--resume", str(checkpoint), "--out", str(tmp_path / "out"), *words]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("[1]", "has a list as 'icn' in its header"),
        ("{", "truncated or no checkpoint"),
        ("[" * 100_000, "truncated or no checkpoint"),
        ('{"args": 3}', "the entry 'args' is no table"),
        ('{"args": {"nheads": "x"}}', "nheads = 'x'"),
        ('{"args": {}, "classes": ["a", "a", "b", "c"]}', "'classes' is damaged"),
        ('{"version": 99}', "update ICN"),
        ('{"normalisation": {"mean": [NaN, 0, 0], "std": [1, 1, 1]}}', "'normalisation' is damaged"),
    ],
)
def test_a_damaged_header_is_refused(checkpoint: Path, tmp_path: Path, header: str, message: str) -> None:
    state = torch.load(checkpoint, weights_only=True)["model"]
    save_file(state, tmp_path / "m.safetensors", metadata={"icn": header})
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(tmp_path / "m.safetensors")
    assert "\n" not in str(error.value)


def test_a_header_of_others_is_no_matter(checkpoint: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoint, weights_only=True)["model"]
    save_file(state, tmp_path / "m.safetensors", metadata={"format": "pt"})
    assert read_checkpoint(tmp_path / "m.safetensors")["args"] == {}
    assert load_file(tmp_path / "m.safetensors").keys() == state.keys()


def padded(batch: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    mask[0, :, width // 2 :] = True
    images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(3))
    return images.masked_fill(mask[:, None], 0.0), mask


def expected_outputs(path: Path, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    model = load_checkpoint(path)[0].eval()
    with torch.no_grad():
        if model.decoder_spec.is_additive:
            return model.evidence(*inputs)
        output = model(*inputs, attention="all")
    return output.logits, output.attention[-1].mean(1)


@needs_tracing
def test_a_traced_program_is_the_model(
    tmp_path: Path, save_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_checkpoint(tmp_path / "c.pth", ["a", "b", "c"], "--decoder additive --square")
    export(source, "torch", tmp_path / "m.pt2")
    assert "batch, height and width vary" in capsys.readouterr().out
    assert {name.split("/")[0] for name in zipfile.ZipFile(tmp_path / "m.pt2").namelist()} == {"archive"}
    with pytest.raises(ValueError, match=r"m.pt2 is a program \(torch.export\): give a checkpoint or safetensors"):
        load_checkpoint(tmp_path / "m.pt2")
    extra = {"icn.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    assert json.loads(extra["icn.json"])["classes"] == ["a", "b", "c"]
    module = program.module()
    for size in ((1, 65, 200), (4, 96, 64)):
        inputs = padded(*size)
        for found, expected in zip(module(*inputs), expected_outputs(source, *inputs), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    model = programs.LogitsAndMaps(load_checkpoint(source)[0].eval())
    with pytest.raises(RunFailed, match="differs from the model by .* in its logits on 1 images of 64 x 64 pixels"):
        programs.check(lambda inputs: [x + 0.01 for x in model(*inputs)], program, model, masked=True)


@needs_tracing
@pytest.mark.parametrize(("flags", "masked"), [("--dec_layers 1", True), ("--decoder additive", False)])
def test_an_onnx_program_is_the_model(tmp_path: Path, save_checkpoint: Callable[..., Path], flags: str, masked: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements-dev.txt)")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements-dev.txt)")
    source = save_checkpoint(tmp_path / "c.pth", ["a", "b", "c"], flags)
    export(source, "onnx", tmp_path / "m.onnx", *["--no_mask"] * (not masked))
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    names = ["images", "padding_mask"][: 1 + masked]
    assert [value.name for value in session.get_inputs()] == names
    axes = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
    assert axes["images"] == ["B", 3, "H", "W"] and axes.get("padding_mask", ["B", "H", "W"]) == ["B", "H", "W"]
    assert axes["logits"] == ["B", 3] and axes["maps"] == ["B", 3, "h", "w"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["icn"])["classes"] == ["a", "b", "c"]
    for size in ((1, 65, 200), (4, 96, 64)):
        inputs = padded(*size)[: 1 + masked]
        outputs = session.run(["logits", "maps"], {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        for found, expected in zip(outputs, expected_outputs(source, *inputs), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


@needs_tracing
def test_int8_is_measured(
    small_run: Path, tmp_path: Path, command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements-dev.txt)")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements-dev.txt)")
    data = ["--int8", "--dataset_path", small_run, "--dataset_name", "d", "--num_workers", 0]
    export(small_run / "checkpoint.pth", "onnx", tmp_path / "m.onnx", *data)
    said = capsys.readouterr().out
    acc1 = training.main(parse(main_flags(), command("--eval", "--output_dir", "")))["acc1"]
    assert f"instead of {acc1:.2f} %" in said and "matrix products: on 12 images" in said
    assert float(said.split("correlation of the maps ")[1].split(",")[0]) > 0.9
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["icn"])["classes"] == ["a", "b", "c", "plain"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@needs_tracing
def test_int8_takes_wide_weights_or_says_that_there_are_none(
    tmp_path: Path, save_checkpoint: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (requirements-dev.txt)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (requirements-dev.txt)")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (requirements-dev.txt)")
    source = save_checkpoint(tmp_path / "c.pth", ["a", "b"], "--decoder additive --hidden_dim 128")  # weights that are not folded
    export(source, "onnx", tmp_path / "m.onnx", "--int8", "--no_mask")
    assert "int8 weights in 4 of 8 matrix products" in capsys.readouterr().out
    kinds = {weight.data_type for weight in onnx.load(tmp_path / "m.onnx").graph.initializer if list(weight.dims) == [128, 128]}
    assert kinds == {onnx.TensorProto.INT8}
    source = save_checkpoint(tmp_path / "c.pth", ["a", "b"], "--decoder average")
    with pytest.raises(RunFailed, match=r"--int8: 0 of \d matrix products have weights"):
        export(source, "onnx", tmp_path / "n.onnx", "--int8", "--no_mask")
    assert {path.name for path in tmp_path.iterdir()} == {"c.pth", "m.onnx"}


def test_the_correlation_of_maps() -> None:
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    others = torch.stack([2 * maps[0] + 1, -maps[1], torch.ones(4, 5)])
    expected = torch.tensor([1.0, -1.0, torch.nan], dtype=torch.float64)
    torch.testing.assert_close(int8.correlation(maps, others), expected, equal_nan=True)


def test_a_missing_package_is_named(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--to onnx needs the package onnx: pip install onnx onnxruntime onnxscript"):
        export(checkpoint, "onnx", tmp_path / "m.onnx")
