"""Files of every kind, honest, damaged and hostile, are read or refused in one line, within memory of the size of the file."""

from __future__ import annotations

import argparse
import datetime
import enum
import gzip
import io
import pathlib
import struct
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from models.loading import read_checkpoint, read_state_dict
from models.reading import PICKLE_BYTES, read_file

QUERIES = {"query_embed.weight": torch.ones(3, 4)}


def refusal(path: Path, content: bytes | object) -> str:
    """The one line with which a file of these bytes, or of this object saved, is refused."""
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError) as error:
        read_checkpoint(path)
    line = str(error.value)
    assert (
        line.startswith(f"checkpoint {path}") and line.isprintable() and "weights_only" not in line and "safe_globals" not in line
    )
    return line


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    return file.getvalue()


def image(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"# ICN\n\nText of README.md\n", "is a text file ('# ICN')"),
        ("ä\n".encode() * 3000, "is a text file ('ä')"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"<?xml version='1.0'?><Error>NoSuchKey", "is a web page"),
        (gzip.compress(b"x", mtime=0), "compressed by gzip: unpack"),
        (b"7z\xbc\xaf\x27\x1c\0\0", "7z archive"),
        (tarred(), "tar archive"),
        (zipped(**{"a/x.txt": b"1", "b": b"2"}), "is a zip archive of other files (a/x.txt, b)"),
        (zipped(), "empty zip archive"),
        (zipped(**{"m/data.pkl": b"", "m/constants.pkl": b""}), "is a TorchScript model"),
        (zipped(**{"m/models/model.json": b"{}", "m/extra/icn.json": b"{}"}), "is a program (torch.export): give"),
        (zipped(**{"serialized_exported_program.json": b"{}"}), "is a program (torch.export): give a checkpoint or safetensors"),
        (b"\x08\x0a\x12\x07pytorch\x1a\x0c2.14.1\x3a\xb5\xb5\x67", "is a program (ONNX): give a checkpoint or safetensors"),
        (image("PNG"), "is a PNG image"),
        (image("JPEG"), "is a JPEG image"),
        (image("WEBP"), "is a WebP image"),
        (bytes(5000), "is zeros where its data should be"),
        (bytes([1, 2, 3, 200]) * 99, "is of an unknown format"),
        (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0]\x94(K\x01K\x02e.", "that torch.save did not"),
        (b"\x80\x02]q\0(K\x01K\x02e.", "that torch.save did not"),
    ],
)
def test_what_a_file_is(tmp_path: Path, content: bytes, message: str) -> None:
    assert message in refusal(tmp_path / "a.pth", content)
    with pytest.raises(ValueError, match="a.pth"):
        read_state_dict(tmp_path / "a.pth")


class Colour(enum.Enum):
    RED = "red"


def test_types_in_flags_that_do_no_harm(tmp_path: Path) -> None:
    harmless = dict(
        output_dir=pathlib.Path("a"),
        lr=np.float64(0.5),
        nheads=np.int64(8),
        dilation=np.bool_(True),
        big=np.array(7, ">i4")[()],
        types={np.dtype("f4"), np.int32},
        device=torch.device("cpu"),
        dtype=torch.float16,
        size=torch.Size([2]),
        colour=Colour.RED,
        when=datetime.datetime.now(),
        table=OrderedDict(a=1),
        counts=defaultdict(list, x=[1]),
        more=SimpleNamespace(y=(1, 2)),
        array=np.zeros(3),
        none=None,
        lists=[frozenset({1})],
        scheduler=torch.optim.lr_scheduler.StepLR,
        **{"nested": {1: {"z": 1}}},
    )
    for form in (argparse.Namespace(**harmless), SimpleNamespace(**harmless), harmless):
        for is_zip in (True, False):
            torch.save({"model": QUERIES, "args": form, 3: 4}, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
            args = read_checkpoint(tmp_path / "a.pth")["args"]
            assert (args["lr"], args["nheads"], args["dilation"], args["big"], args["none"]) == (0.5, 8, True, 7, None)
            assert args["table"] == {"a": 1} and args["counts"] == {"x": [1]} and args["more"] == {"y": [1, 2]}
            assert args["output_dir"].endswith("Path") and args["dtype"] == "torch.dtype" and args["nested"] == {1: {"z": 1}}
            assert all(isinstance(value, (bool, int, float, str, list, dict, type(None))) for value in args.values())


def test_flags_that_hold_themselves(tmp_path: Path) -> None:
    loop: dict[str, object] = {"x": 1}
    loop["self"] = loop
    doubled: list[object] = ["x"]
    for _ in range(40):
        doubled = [doubled, doubled]  # 2^40 values, if each is visited
    torch.save({"model": QUERIES, "args": {"loop": loop, "doubled": doubled}}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["args"]["loop"] == {"x": 1, "self": None}
    for _ in range(60):
        doubled = [doubled]
    assert "60 levels" in refusal(tmp_path / "a.pth", {"model": QUERIES, "args": doubled}).replace("50", "60")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: torch.zeros(3, 4).to_sparse(), "special kind (sparse tensor)"),
        (lambda: torch.quantize_per_tensor(torch.zeros(3, 4), 0.1, 0, torch.qint8), "special kind (qtensor)"),
        (lambda: torch.zeros(3, 4, device="meta"), "special kind (meta"),
        (lambda: torch.zeros(1, 1).expand(10**9, 64), "more than 64 MiB"),
    ],
)
def test_tensors_that_are_not_dense(tmp_path: Path, make: Callable[[], torch.Tensor], message: str) -> None:
    for is_zip in (True, False):
        torch.save({"model": {"query_embed.weight": make()}}, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
        assert message in refusal(tmp_path / "a.pth", (tmp_path / "a.pth").read_bytes())


def test_sizes_are_not_believed(tmp_path: Path) -> None:
    content = {f"transformer.encoder.layers.{i}.norm1.bias": torch.zeros(1) for i in range(3_000)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"")
        for index in range(3):
            archive.writestr(f"a/data/{index}", bytes(30 * 2**20))
    assert "unpacks to 90 MiB" in refusal(tmp_path / "a.pth", file.getvalue())
    names = {"model": QUERIES, "args": {"x": "x" * PICKLE_BYTES}}
    assert "more values besides tensors" in refusal(tmp_path / "a.pth", names)
    torch.save(names, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    assert "more values besides tensors" in refusal(tmp_path / "b.pth", (tmp_path / "b.pth").read_bytes())
    torch.save({"model": content}, tmp_path / "c.pth")  # read, but no model is built of it
    assert len(read_checkpoint(tmp_path / "c.pth")["model"]) == 3_000


def test_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(QUERIES, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    assert read_checkpoint(tmp_path / "a.safetensors")["model"]["query_embed.weight"].shape == (3, 4)
    header = whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]]
    for content in (
        whole[:-5], struct.pack("<Q", 10**15) + header, struct.pack("<Q", 2) + b"{}", whole.replace(b"[3,4]", b"[9,9]"),
        whole.replace(b'"F32"', b'"X99"'), whole.replace(b"[0,48]", b"[9,48]"), struct.pack("<Q", 4) + b"{{{{",
    ):  # fmt: skip
        refusal(tmp_path / "b.safetensors", content)
    for size in (0x180, 0x4B50, 0x4B88, 0x180A08, 0x5A6D42 // 8 * 8):  # begin like a pickle, a zip archive and others
        padded = struct.pack("<Q", size) + header.ljust(size) + whole[8 + len(header) :]
        (tmp_path / "c.safetensors").write_bytes(padded)
        assert read_checkpoint(tmp_path / "c.safetensors")["model"].keys() == {"query_embed.weight"}, hex(size)


def test_errors_of_the_system_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, message in (
        (PermissionError(13, "Permission denied"), "cannot be read .Permission denied"),
        (MemoryError(), "more memory"),
        (RecursionError("deep"), "truncated"),
        (AssertionError(), "truncated .*AssertionError"),
        (struct.error("odd"), "truncated"),
    ):

        def fail(*args: object, error: BaseException = error, **options: object) -> None:
            raise error

        torch.save({"model": QUERIES}, tmp_path / "a.pth")
        monkeypatch.setattr(torch, "load", fail)
        with pytest.raises(ValueError, match=f"a.pth.* {message}"):
            read_file(tmp_path / "a.pth")
        monkeypatch.undo()
