"""Round trips through ICN's, INTR's and DETR's file formats, and files that must be refused."""

from __future__ import annotations

import argparse
import os
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from conftest import TINY, as_detr, tiny_flags, tiny_model

from models import ARCHITECTURE, ParameterError, load_checkpoint, load_finetune
from models.build import finetune_architecture
from models.loading import read_checkpoint

RESNET = {"backbone": "resnet18"}  # names of tensors as files of DETR and of INTR have them
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def intr_args(**changes: object) -> argparse.Namespace:
    """The flags that INTR pickles into its files, for a tiny model."""
    values = dict(
        lr=5e-5, lr_backbone=1e-5, batch_size=12, epochs=140, lr_drop=80, backbone="resnet18", dilation=False, enc_layers=1,
        dec_layers=2, dim_feedforward=64, hidden_dim=32, dropout=0.1, nheads=4, num_queries=3, pre_norm=False,
        position_embedding="sine", dataset_name="cub", resume="", device="cuda", gpu=0, distributed=True,
    )  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def save_intr(path: Path, **changes: object) -> torch.nn.Module:
    model = tiny_model(**{**RESNET, **changes})
    schedule = {"step_size": 80, "last_epoch": 7, "_last_lr": [5e-5, 1e-5]}
    file = {"model": model.state_dict(), "optimizer": {}, "lr_scheduler": schedule, "epoch": 6, "args": intr_args(**changes)}
    torch.save(file, path)
    return model


def save_detr(path: Path, queries: int = 100) -> dict[str, torch.Tensor]:
    state = as_detr(tiny_model(queries, **RESNET).state_dict())
    torch.save({"model": state}, path)
    return state


def save_icn(path: Path, **changes: object) -> torch.nn.Module:
    model = tiny_model(**changes)
    args = {key: value for key, value in vars(tiny_flags()).items() if key != "explicit"}
    args |= {"num_queries": 3, "backbone_norm": "frozen", **changes}
    normalisation = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    file = {"model": model.state_dict(), "args": args, "classes": ["a", "b", "ü c"], "normalisation": normalisation, "epoch": 4}
    torch.save({**file, "version": 1}, path)
    return model


@pytest.mark.parametrize("pre_norm", [False, True])
def test_intr_file(tmp_path: Path, pre_norm: bool) -> None:
    original = save_intr(tmp_path / "intr.pth", pre_norm=pre_norm)
    model, meta = load_checkpoint(tmp_path / "intr.pth")
    assert meta.classes is None and meta.epoch == 6 and meta.args["pre_norm"] is pre_norm
    assert meta.normalisation["mean"] == [0.485, 0.456, 0.406]
    with torch.no_grad():
        assert torch.equal(model.eval()(IMAGES).logits, original(IMAGES).logits)


@pytest.mark.parametrize(
    "changes",
    [{}, {"backbone": "tf_efficientnet_lite0", "dilation": True}, {"position_embedding": "learned", "feature_stride": 16}],
)
def test_icn_file_rebuilds_its_model_alone(tmp_path: Path, changes: dict[str, object]) -> None:
    original = save_icn(tmp_path / "icn.pth", **changes)
    model, meta = load_checkpoint(tmp_path / "icn.pth")
    assert meta.classes == ["a", "b", "ü c"] and meta.normalisation["mean"] == [0.5, 0.5, 0.5]
    with torch.no_grad():
        assert torch.equal(model.eval()(IMAGES).logits, original(IMAGES).logits)


@pytest.mark.parametrize("flag, value, theirs", [("nheads", 8, 4), ("num_queries", 5, 3), ("backbone", "resnet50", "resnet18")])
def test_a_flag_that_contradicts_the_file_names_both(tmp_path: Path, flag: str, value: object, theirs: object) -> None:
    save_intr(tmp_path / "intr.pth")
    with pytest.raises(ParameterError, match=f"{value} contradicts .*intr.pth, which has {theirs}") as error:
        load_checkpoint(tmp_path / "intr.pth", overrides={flag: value})
    assert error.value.parameter == flag
    load_checkpoint(tmp_path / "intr.pth", overrides={flag: theirs})


def test_what_is_no_part_of_the_weights_is_replaced_by_the_flag(tmp_path: Path) -> None:
    save_intr(tmp_path / "intr.pth")
    model, meta = load_checkpoint(tmp_path / "intr.pth", overrides={"dropout": 0.3, "lr_backbone": 0.0})
    assert model.transformer.decoder.layers[0].dropout.p == 0.3 == meta.args["dropout"]
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    model, _ = load_checkpoint(tmp_path / "intr.pth")
    assert model.transformer.decoder.layers[0].dropout.p == 0.1
    assert any(parameter.requires_grad for parameter in model.backbone.parameters())


class Site(SimpleHTTPRequestHandler):
    """A server of files that ends the answer for cut.pth half-way."""

    def do_GET(self) -> None:
        if not self.path.startswith("/cut.pth"):
            return super().do_GET()
        content = Path(self.directory, "intr.pth").read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])


def test_a_url_is_fetched_once_and_its_hash_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "site").mkdir()
    save_intr(tmp_path / "site" / "intr.pth")
    save_intr(tmp_path / "site" / "intr-00000000.pth")
    handler = partial(Site, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(ValueError, match="cut.pth"):
            read_checkpoint(f"{site}/cut.pth")
        assert not [file for file in (tmp_path / "hub").rglob("*") if file.is_file()]
        assert read_checkpoint(f"{site}/intr.pth")["epoch"] == 6
        (tmp_path / "site" / "intr.pth").unlink()
        assert read_checkpoint(f"{site}/intr.pth")["epoch"] == 6
        (tmp_path / "site" / "page.pth").write_text("<html>Sign in</html>")
        for _ in range(2):
            with pytest.raises(ValueError, match=rf"checkpoint {site}/page.pth.download=true is a web page"):
                read_checkpoint(f"{site}/page.pth?download=true")
        save_intr(tmp_path / "site" / "page.pth")
        assert read_checkpoint(f"{site}/page.pth?download=true")["epoch"] == 6  # the page is not in the cache
        assert read_checkpoint((tmp_path / "site" / "page.pth").as_uri())["epoch"] == 6
        with pytest.raises(ValueError, match="give a path, or an address"):
            read_checkpoint("s3://bucket/a.pth")
        for name in ("intr-00000000.pth", "nowhere.pth"):
            with pytest.raises(ValueError, match=f"checkpoint {site}/{name} cannot be fetched"):
                read_checkpoint(f"{site}/{name}")
        server.shutdown()


def finetune(path: Path, classes: int, noise_frac: float = 0.1, seed: int = 42) -> tuple[torch.nn.Module, str]:
    args = tiny_flags("--noise_frac", noise_frac, "--seed", seed).replace(num_queries=classes, backbone_norm="frozen", **RESNET)
    checkpoint = read_checkpoint(path)
    return load_finetune(path, args.replace(**finetune_architecture(checkpoint, str(path), {})), checkpoint)


@pytest.mark.parametrize("classes", [3, 100, 117, 250])
def test_detr_queries_are_adapted(tmp_path: Path, classes: int) -> None:
    state = save_detr(tmp_path / "detr.pth")
    model, report = finetune(tmp_path / "detr.pth", classes)
    queries, source = model.query_embed.weight.detach(), state["query_embed.weight"]
    first = min(classes, 100)
    assert len(queries) == classes and torch.equal(queries[:first], source[:first])
    if classes > 100:
        noise = queries[100:] - source.repeat(3, 1)[100:classes]
        assert 0.09 < noise.std() < 0.11 and len(queries.unique(dim=0)) == classes
        assert f"{classes - 100} repeats" in report
    assert torch.equal(model.input_proj.weight, state["input_proj.weight"])
    assert model.presence_vector.bias.item() == 0 and 0 < model.presence_vector.weight.abs().max() <= (6 / 33) ** 0.5
    assert "dropped bbox_embed, class_embed" in report and "initialised presence_vector" in report and "\n" not in report


def test_every_rank_draws_the_same_noise(tmp_path: Path) -> None:
    save_detr(tmp_path / "detr.pth")
    states = []
    for rank in range(2):
        torch.manual_seed(rank)
        states.append(finetune(tmp_path / "detr.pth", 130)[0].state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["query_embed.weight"], finetune(tmp_path / "detr.pth", 130, seed=1)[0].query_embed.weight)


def test_finetune_keeps_the_stem_frozen(tmp_path: Path) -> None:
    save_detr(tmp_path / "detr.pth")
    model, _ = finetune(tmp_path / "detr.pth", 3)
    assert not model.backbone[0].body.conv1.weight.requires_grad and model.backbone[0].body.layer2[0].conv1.weight.requires_grad


def test_finetune_from_an_icn_file_keeps_its_classifier_and_architecture(tmp_path: Path) -> None:
    original = save_icn(tmp_path / "icn.pth", feature_stride=16)
    model, report = finetune(tmp_path / "icn.pth", 2)
    assert torch.equal(model.presence_vector.weight, original.presence_vector.weight) and "initialised nothing" in report
    assert (
        torch.equal(model.query_embed.weight, original.query_embed.weight[:2])
        and model.input_proj.in_channels == original.input_proj.in_channels
    )


def test_finetune_of_another_depth_is_refused_in_one_line(tmp_path: Path) -> None:
    save_detr(tmp_path / "detr.pth")
    args = tiny_flags("--dec_layers", 3).replace(num_queries=3, backbone_norm="frozen", **RESNET)
    with pytest.raises(ParameterError, match="another architecture: 18 tensors do not fit .*layers.2.* is missing") as error:
        load_finetune(tmp_path / "detr.pth", args, read_checkpoint(tmp_path / "detr.pth"))
    assert "\n" not in str(error.value) and error.value.parameter == "finetune"


def test_detr_cannot_be_scored(tmp_path: Path) -> None:
    save_detr(tmp_path / "detr.pth")
    with pytest.raises(ValueError, match="DETR detector.*finetune"):
        load_checkpoint(tmp_path / "detr.pth")


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    torch.save({"model": {}, "args": Hostile(tmp_path / "owned")}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="bad.pth is refused.*nothing in it was run") as error:
        read_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "owned").exists() and "\n" not in str(error.value) and "mkdir" in str(error.value)


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    save_icn(tmp_path / "icn.pth")
    whole = (tmp_path / "icn.pth").read_bytes()
    for name, content in {"cut": whole[: len(whole) // 2], "cut2": whole[:-30]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is truncated or no checkpoint") as error:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="nowhere.pth does not exist"):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="is a folder"):
        read_checkpoint(tmp_path)
    tensor = {"w": torch.zeros(1)}
    for content, message in (
        ([1, 2], "holds no state dict .* but a list"),
        (torch.zeros(2, 3), r"but a tensor \[2, 3\]"),
        (torch.nn.Linear(2, 3), "but a value of type torch.nn.modules.linear.Linear"),
        ({"model": {"a": 1}}, r"but the entries model \(dict of the entries a \(int\)\)"),
        ({"epoch": 3, "net": "x\x1b[2J"}, r"the entries epoch \(int\), net \(str\)"),
        ({"student": tensor, "teacher": tensor}, r"several state dicts \(student, teacher\)"),
    ):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(ValueError, match=message):
            read_checkpoint(tmp_path / "odd.pth")


@pytest.mark.parametrize("wrapper", ["", "model", "net", "state_dict", "model_state_dict", "teacher", "module.model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "detr."])
def test_weights_under_other_names(tmp_path: Path, wrapper: str, prefix: str) -> None:
    state = {
        prefix + key: value for key, value in {"query_embed.weight": torch.ones(3, 4), "a._orig_mod.b": torch.ones(2)}.items()
    }
    content: dict[str, object] = {"epoch": 4, "criterion": {"center": torch.zeros(2)}} if wrapper else {}
    for name in reversed(wrapper.split(".") if wrapper else []):
        state = {name: state}  # type: ignore[dict-item]
    torch.save({**content, **state}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert checkpoint["model"].keys() == {"query_embed.weight", "a.b"} and checkpoint.get("epoch") == (4 if wrapper else None)


def test_a_wrapped_model_is_scored_as_before(tmp_path: Path) -> None:
    original = save_intr(tmp_path / "intr.pth")
    file = torch.load(tmp_path / "intr.pth", weights_only=False)
    file["state_dict"] = {f"module.{key}": value for key, value in file.pop("model").items()}
    torch.save(file, tmp_path / "intr.pth")
    with torch.no_grad():
        assert torch.equal(load_checkpoint(tmp_path / "intr.pth")[0].eval()(IMAGES).logits, original(IMAGES).logits)


def test_flags_of_a_detr_file_decide(tmp_path: Path) -> None:
    """Dilation and heads do not show in the tensors: with others the weights would fit and mean something else."""
    state = save_detr(tmp_path / "detr.pth")
    torch.save({"model": state, "args": intr_args(dilation=True, nheads=8, num_queries=100)}, tmp_path / "detr.pth")
    checkpoint = read_checkpoint(tmp_path / "detr.pth")
    found = finetune_architecture(checkpoint, "detr.pth", {"num_queries": 2, "feature_stride": 16})
    assert found["dilation"] is True and found["nheads"] == 8 and not {"num_queries", "feature_stride", "decoder"} & found.keys()
    for flag, value, theirs in (("dilation", False, True), ("nheads", 4, 8), ("backbone", "resnet50", "resnet18")):
        with pytest.raises(ParameterError, match=f"{value} contradicts detr.pth, which has {theirs}"):
            finetune_architecture(checkpoint, "detr.pth", {flag: value})
    other = finetune_architecture(checkpoint, "detr.pth", {"decoder": "additive", "enc_layers": 0})
    assert other["nheads"] == 8 and not {"decoder", "enc_layers", "dec_layers"} & other.keys()
    with pytest.raises(ValueError, match="detr.pth has flags that no model can have: dilation resnet18 cannot"):
        finetune(tmp_path / "detr.pth", 3)
    torch.save({"model": state, "args": intr_args(nheads=8, num_queries=100)}, tmp_path / "detr.pth")
    assert finetune(tmp_path / "detr.pth", 3)[0].transformer.encoder.layers[0].self_attn.num_heads == 8


def test_a_network_far_larger_than_its_file_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged_intr(tmp_path / "large.pth", {}, backbone="resnet101")
    with pytest.raises(ValueError, match="large.pth is of another architecture"):
        load_checkpoint(tmp_path / "large.pth")
    monkeypatch.setattr("models.build.CUT_OFF", -(10**8))
    for backbone in ("resnet101", "vit_base_patch16_224"):
        damaged_intr(tmp_path / "large.pth", {}, backbone=backbone)
        message = f"large.pth has flags that no model can have: backbone {backbone} has far more parameters than the file"
        with pytest.raises(ValueError, match=message):
            load_checkpoint(tmp_path / "large.pth")


def test_a_missing_file_that_others_publish(tmp_path: Path) -> None:
    for name, address in (
        ("detr-r50-e632da11.pth", "dl.fbaipublicfiles.com/detr/"),
        ("intr_checkpoint_cub_detr_r50.pth", "huggingf"),
    ):
        with pytest.raises(ValueError, match=f"does not exist.*https://{address}.*{name}"):
            read_checkpoint(tmp_path / name)


def many_layers(count: int) -> dict[str, torch.Tensor]:
    """Names of layers of which there is nothing else."""
    return {f"transformer.encoder.layers.{index}.x": torch.zeros(1) for index in range(1, count)}


def damaged_intr(path: Path, changes: dict[str, torch.Tensor | None], **flags: object) -> None:
    state = {**tiny_model(**RESNET).state_dict(), **changes}
    torch.save({"model": {key: value for key, value in state.items() if value is not None}, "args": intr_args(**flags)}, path)


@pytest.mark.parametrize(
    "changes, flags, message",
    [
        ({"presence_vector.bias": torch.tensor([float("nan")])}, {}, r"not finite numbers \(presence_vector.bias\)"),
        ({"presence_vector.bias": torch.zeros(1, dtype=torch.int64)}, {}, "bias is torch.int64 where torch.float32"),
        ({"presence_vector.bias": torch.zeros(1, dtype=torch.complex64)}, {}, "presence_vector.bias is torch.complex64"),
        ({"query_embed.weight": torch.zeros(0, 32)}, {}, "no class queries"),
        ({"query_embed.weight": torch.zeros(3)}, {}, "no class queries"),
        (
            {"transformer.encoder.layers.0.linear1.weight": None},
            {},
            "layers.0.linear1.weight is missing where .64, 32. is needed",
        ),
        ({"x\x1b[31m": torch.zeros(1)}, {}, r"x\\x1b\[31m is unexpected"),
        (many_layers(2000), {"enc_layers": 2000}, "0 to 1000 are allowed"),
        (many_layers(900), {"enc_layers": 900}, "layers.1.self_attn.*missing"),
        ({}, {"window": -5}, "window = -5"),
        ({}, {"window": "7"}, "window = '7'.*a int"),
        ({}, {"window": 7}, "no model can have: window"),
        ({}, {"feature_stride": 16.0}, "feature_stride = 16.0"),
        ({}, {"feature_stride": True}, "feature_stride = True"),
        ({}, {"feature_stride": 10**300}, "feature_stride = 'an integer of 997 bits'"),
        ({}, {"nheads": 0}, "no model can have: nheads"),
        ({}, {"dilation": 1}, "dilation = 1 .*a bool"),
        ({}, {"backbone": "no\nnet"}, "no model can have: backbone"),
        ({}, {"lr_backbone": float("nan")}, "lr_backbone = nan"),
        ({}, {"dropout": 2.0}, "no model can have: dropout"),
        ({}, {"decoder": "detr2"}, "a.pth has flags that no model can have: decoder 'detr2' is not known"),
        ({}, {"decoder": ["detr"]}, r"decoder = \['detr'\]"),
        ({}, {"pre_norm": {"a": {}}}, "pre_norm = {'a': {}}"),
    ],
)
def test_what_does_not_fit_the_model_is_named(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], flags: dict[str, object], message: str
) -> None:
    damaged_intr(tmp_path / "a.pth", changes, **flags)
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(tmp_path / "a.pth")
    assert len(str(error.value)) < 800 and str(error.value).isprintable()


def test_a_file_of_another_architecture(tmp_path: Path) -> None:
    save_intr(tmp_path / "intr.pth")
    file = torch.load(tmp_path / "intr.pth", weights_only=False)
    file["args"].dec_layers = 1
    torch.save(file, tmp_path / "intr.pth")
    with pytest.raises(ValueError, match="another architecture: its flags say dec_layers = 1, its tensors 2"):
        load_checkpoint(tmp_path / "intr.pth")
    file["args"].dec_layers, file["args"].backbone = 2, "resnet34"
    torch.save(file, tmp_path / "intr.pth")
    with pytest.raises(ValueError, match="another architecture: .* tensors do not fit .* is missing"):
        load_checkpoint(tmp_path / "intr.pth")
    file["args"].nheads = "four"
    torch.save(file, tmp_path / "intr.pth")
    with pytest.raises(ValueError, match="nheads = 'four'.*a int is needed"):
        load_checkpoint(tmp_path / "intr.pth")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"query_embed.weight": torch.zeros(1, 1)}, "version": 99}, tmp_path / "new.pth")
    with pytest.raises(ValueError, match="format 99.*update ICN"):
        read_checkpoint(tmp_path / "new.pth")


IN_EPOCH = {
    "epoch": 1,
    "batches": 2,
    "batch_size": 3,
    "accumulate": 1,
    "train_images": 9,
    "images": 6,
    "sums": torch.zeros(4),
    "terms": ["class"],
}


@pytest.mark.parametrize(
    "entry, value",
    [
        ("epoch", "x"),
        ("epoch", True),
        ("step", 10**400),
        ("elapsed", "x"),
        ("elapsed", float("nan")),
        ("epoch", -5),
        ("step", "x"),
        ("version", "9"),
        ("classes", 5),
        ("classes", [1, 2]),
        ("best", {}),
        ("normalisation", {"mean": "x", "std": [1, 1, 1]}),
        ("normalisation", {"mean": [0, 0]}),
        ("optimizer", "x"),
        ("rng", [1]),
        ("rng", [{"cpu": [1], "cuda": []}]),
        ("normalisation", {"mean": [0.0] * 3, "std": [0.1, 0.0, 0.1]}),
        ("classes", ["a", "a"]),
        ("normalisation", {"mean": [0.0, 0.0, float("inf")], "std": [1, 1, 1]}),
        ("best", {"acc1": "x", "epoch": 1}),
        ("best", {"acc1": 1.0, "epoch": 1, "loss": "x"}),
        ("scaler", {"scale": -1.0}),
        ("ema", {"a": 1}),
        ("optimizer", {"state": {0: 1}, "param_groups": []}),
        ("optimizer", {"param_groups": [{"params": ["a"]}]}),
        ("in_epoch", {**IN_EPOCH, "sums": torch.zeros(9)}),
        ("in_epoch", {**IN_EPOCH, "batch_size": 0}),
        ("in_epoch", {**IN_EPOCH, "batches": 5}),
        ("in_epoch", {**IN_EPOCH, "images": 0}),
        ("in_epoch", {**IN_EPOCH, "sums": torch.full((4,), float("nan"))}),
        ("in_epoch", {**IN_EPOCH, "terms": [1]}),
        ("in_epoch", {**IN_EPOCH, "grouping": 1}),
    ],
)
def test_damaged_entries_are_named(tmp_path: Path, entry: str, value: object) -> None:
    torch.save({"model": {"query_embed.weight": torch.zeros(1, 1)}, entry: value}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=f"odd.pth: the entry '{entry}' is damaged"):
        read_checkpoint(tmp_path / "odd.pth")


@pytest.mark.parametrize("flag, value", [("enc_layers", 10**7), ("hidden_dim", 10**9), ("dim_feedforward", -5), ("dropout", "x")])
def test_damaged_flags_build_nothing(tmp_path: Path, flag: str, value: object) -> None:
    save_intr(tmp_path / "intr.pth")
    file = torch.load(tmp_path / "intr.pth", weights_only=False)
    setattr(file["args"], flag, value)
    torch.save(file, tmp_path / "intr.pth")
    with pytest.raises(ValueError, match=f"{flag} = '?{value}"):
        load_checkpoint(tmp_path / "intr.pth")


def test_defaults_of_the_architecture_are_the_flags() -> None:
    flags = vars(tiny_flags(*[]))
    named = {word[2:] for word in TINY.split() if word.startswith("--")} | {"backbone_norm"}
    assert all(flags[key] == value for key, value in ARCHITECTURE.items() if key not in named)
