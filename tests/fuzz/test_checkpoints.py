"""Damaged and hostile checkpoints of all forms: a checkpoint or one line, in bounded memory, and nothing is run."""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from flags import get_args_parser
from models import ARCHITECTURE, build_model, load_checkpoint
from models.checkpoint_format import ENTRIES
from models.loading import read_checkpoint
from tests.fuzz.harness import JSON, SCALARS, damaged, examples, is_one_line, watched
from util.cli import parse

QUERIES = {"query_embed.weight": torch.ones(3, 4)}
CONTENT = {
    "model": QUERIES,
    "args": argparse.Namespace(x=1, y=pathlib.Path("a"), lr=np.float64(0.5)),
    "epoch": 3,
    "classes": ["a", "b", "c"],
    "optimizer": {
        "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99), "params": [0]}],
    },
    "rng": [{"cpu": torch.get_rng_state()[:40], "cuda": []}],
    "best": {"acc1": 1.0, "epoch": 2},
}
MEGABYTES = 200  # the tensors of a small file may have 64 MiB


def saved(content: object, is_zip: bool = True) -> bytes:
    """Return a file of torch.save."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


def with_pickle(change: Callable[[bytes], bytes], whole: bytes) -> bytes:
    """Return a zip file of torch.save with another pickle in it, and the right checksum."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name.endswith("data.pkl") else old.read(name))
    return file.getvalue()


def refused(path: Path, content: bytes, read: Callable[[Path], Any] = read_checkpoint) -> bool:
    """Return whether a file of this content is refused, in one line, rather than read."""
    path.write_bytes(content)
    with watched(path.parent, MEGABYTES), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(path)
        except ValueError as error:
            assert is_one_line(error) and path.name in str(error)
            assert "weights_only" not in str(error) and "safe_globals" not in str(error)
            return True
    return False


@pytest.mark.parametrize("form", ["zip", "pickle", "legacy", "safetensors"])
def test_damaged_files(form: str, tmp_path: Path) -> None:
    """The form `pickle` changes that within the archive, and gives it the right checksum."""
    whole, outcomes = saved(CONTENT, form != "legacy"), []
    if form == "safetensors":
        save_file(QUERIES, tmp_path / "a.pth", metadata={"icn": json.dumps({"classes": ["a", "b", "c"], "epoch": 3})})
        whole = (tmp_path / "a.pth").read_bytes()
    with zipfile.ZipFile(io.BytesIO(saved(CONTENT))) as archive:
        inner = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))

    @examples(150)
    @given(damaged([inner if form == "pickle" else whole]))
    def read(content: bytes) -> None:
        file = with_pickle(lambda _: content, whole) if form == "pickle" else content
        outcomes.append(refused(tmp_path / "a.pth", file))

    read()
    assert outcomes.count(True) > 30


MODULES = "posix os nt subprocess builtins torch torch.utils.cpp_extension ctypes shutil runpy importlib pathlib numpy _codecs"
FUNCTIONS = "system mkdir eval exec run Popen rmtree getattr load import_module Path dtype encode"
GLOBALS = st.tuples(
    st.sampled_from(MODULES.split()) | st.text("abc._", max_size=5),
    st.sampled_from(FUNCTIONS.split()) | st.text("abc._", max_size=5),
)
CALLS = {"REDUCE": b"R", "NEWOBJ": b"\x81", "BUILD": b"b", "OBJ": b"o", "none": b""}


def legacy_head() -> bytes:
    """Return what a file of the legacy format has before its content: the pickles of its magic number, version and system."""
    file = io.BytesIO(saved(CONTENT, is_zip=False))
    for _ in range(3):
        list(pickletools.genops(file))
    return file.getvalue()[: file.tell()]


@examples(60)
@given(
    st.lists(GLOBALS, min_size=1, max_size=3), st.lists(st.text(max_size=8), max_size=2), st.sampled_from([*CALLS]), st.booleans()
)
def test_pickles_of_programs(names: list[tuple[str, str]], words: list[str], call: str, is_zip: bool) -> None:
    """A pickle names functions, and calls them with words."""
    given = b"".join(b"X" + struct.pack("<I", len(word.encode())) + word.encode() for word in words)
    calls = (f"c{module}\n{name}\n".encode() + b"(" + given + b"t" + CALLS[call] for module, name in names)
    program = b"\x80\x02" + b"".join(calls) + b"."
    content = with_pickle(lambda _: program, saved(CONTENT)) if is_zip else legacy_head() + program
    assert refused(FOLDER[0] / "a.pth", content)
    assert os.listdir(FOLDER[0]) == ["a.pth"]


FOLDER: list[Path] = []  # the tests write here; hypothesis calls a test many times with the fixtures of the first


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> None:
    FOLDER[:] = [tmp_path]


SHAPES = st.lists(st.integers(-2, 5) | st.sampled_from([10**9, 2**62, 2**64]), max_size=4)
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "BOOL", "F64", "F8_E4M3", "X9", "", None]),
        "shape": SHAPES | JSON,
        "data_offsets": st.lists(st.integers(0, 48) | st.sampled_from([-1, 2**63]), min_size=2, max_size=2) | JSON,
    }
)


@examples(120)
@given(
    st.dictionaries(st.sampled_from(["query_embed.weight", "a", ""]) | st.text(max_size=5), TENSOR | JSON, max_size=3),
    st.none() | st.dictionaries(st.sampled_from(["icn", "format"]), st.builds(json.dumps, JSON) | st.text(), max_size=2) | JSON,
    st.none() | st.integers(0, 2**64 - 1),
)
def test_headers_of_safetensors(tensors: dict[str, Any], metadata: Any, length: int | None) -> None:
    header = json.dumps(tensors if metadata is None else {**tensors, "__metadata__": metadata}).encode()
    refused(FOLDER[0] / "a.pth", struct.pack("<Q", len(header) if length is None else length) + header + bytes(48))


@examples(60)
@given(st.dictionaries(st.sampled_from([*ENTRIES, "args", "model"]), JSON, min_size=1, max_size=4))
def test_entries_of_any_kind(entries: dict[str, Any]) -> None:
    refused(FOLDER[0] / "a.pth", saved({"model": QUERIES, **entries}))


def architecture() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return flags and weights of a small model."""
    words = "--backbone test_resnet --hidden_dim 16 --nheads 2 --enc_layers 0 --dec_layers 1 --dim_feedforward 16"
    args = parse(get_args_parser(), words.split()).replace(num_queries=3, backbone_norm="frozen")
    return {key: value for key, value in vars(args).items() if key != "explicit"}, build_model(args).state_dict()


@examples(40)
@given(st.dictionaries(st.sampled_from(sorted(ARCHITECTURE)), SCALARS | st.integers(0, 70000), min_size=1, max_size=3))
def test_flags_of_any_value(flags: dict[str, Any]) -> None:
    """The model of a checkpoint whose flags were changed is built, or refused."""
    args, state = ARGUMENTS
    refused(FOLDER[0] / "a.pth", saved({"model": state, "args": args | flags}), load_checkpoint)


ARGUMENTS = architecture()
