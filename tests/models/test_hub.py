"""Checkpoints of the Hugging Face hub, from a server on this machine: found, cached, and refused in one line without a token."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from conftest import tiny_model
from safetensors.torch import save_file

from models.hub import push_to_hub, without_token
from models.loading import read_checkpoint

constants = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed").constants
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWx"
COMMITS = {"main": "1" * 40, "v2": "2" * 40}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub that downloads need; files are `<root>/<owner>/<repo>/<revision>/<file>`."""

    root: Path
    fetched: list[str]

    def do_HEAD(self) -> None:
        self.answer(with_content=False)

    def do_GET(self) -> None:
        self.answer(with_content=True)

    def answer(self, with_content: bool) -> None:
        owner, repo, _, revision, *name = self.path.strip("/").split("/")
        names = {commit: name for name, commit in COMMITS.items()}
        file = self.root / owner / repo / names.get(revision, revision) / "/".join(name)
        if owner == "closed":
            return self.refuse(401, "GatedRepo", f"the token {self.headers.get('authorization', TOKEN)} may not read this")
        if not (self.root / owner / repo).is_dir():
            return self.refuse(404, "RepoNotFound", "Repository not found")
        if not (self.root / owner / repo / names.get(revision, revision)).is_dir():
            return self.refuse(404, "RevisionNotFound", "Revision not found")
        if not file.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        content = file.read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hash(content):x}"')
        self.send_header("X-Repo-Commit", COMMITS[names.get(revision, revision)])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.fetched.append(file.name)
            self.wfile.write(content)

    def refuse(self, code: int, name: str, message: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", name)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """A hub with `me/birds` (model.safetensors, at v2 with another class) and `me/old` (checkpoint.pth)."""
    state = {name: tensor.clone() for name, tensor in tiny_model(3, backbone="test_resnet").state_dict().items()}
    for revision, names in (("main", '["a", "b", "c"]'), ("v2", '["x", "y", "z"]')):
        (tmp_path / "me" / "birds" / revision / "sub").mkdir(parents=True)
        for name in ("model.safetensors", "sub/other.safetensors"):
            save_file(state, tmp_path / "me" / "birds" / revision / name, metadata={"icn": f'{{"classes": {names}}}'})
    (tmp_path / "me" / "old" / "main").mkdir(parents=True)
    torch.save({"model": state, "epoch": 5}, tmp_path / "me" / "old" / "main" / "checkpoint.pth")
    (tmp_path / "me" / "empty" / "main").mkdir(parents=True)
    handler = type("Handler", (Hub,), {"root": tmp_path, "fetched": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", site)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", site + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()


def test_an_address_names_a_repository_a_file_and_a_revision(hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = hub.RequestHandlerClass.fetched  # type: ignore[attr-defined]
    for _ in range(2):
        assert read_checkpoint("hf://me/birds")["classes"] == ["a", "b", "c"]
    assert fetched == ["model.safetensors"]
    assert read_checkpoint("hf://me/birds@v2")["classes"] == ["x", "y", "z"]
    assert read_checkpoint("hf://me/birds/sub/other.safetensors@main")["classes"] == ["a", "b", "c"]
    assert read_checkpoint("hf://me/old")["epoch"] == 5
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read_checkpoint("hf://me/birds")["classes"] == ["a", "b", "c"] and read_checkpoint("hf://me/old/")["epoch"] == 5


def test_without_a_network_the_cache_answers(hub: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    read_checkpoint("hf://me/birds")
    read_checkpoint("hf://me/old")
    hub.shutdown()
    hub.server_close()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's attempts
    assert read_checkpoint("hf://me/birds")["classes"] == ["a", "b", "c"] and read_checkpoint("hf://me/old")["epoch"] == 5
    with pytest.raises(ValueError, match="checkpoint hf://me/empty cannot be fetched .the hub does not answer"):
        read_checkpoint("hf://me/empty")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://me/nothing", "checkpoint hf://me/nothing cannot be fetched"),
        ("hf://me/birds/no.pth", "no.pth cannot be fetched"),
        ("hf://me/birds@v9", "cannot be fetched"),
        ("hf://me/empty", "model.safetensors and checkpoint.pth are looked for"),
        ("hf://closed/birds", "cannot be fetched"),
        ("hf://birds", "give hf://owner/repo"),
        ("hf://", "give hf://owner/repo"),
        ("hf://me/birds/../../../../x.pth", "give hf://owner/repo"),
        (f"hf://{TOKEN}@me/birds", "give hf://owner/repo"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_without_a_token(hub: ThreadingHTTPServer, address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(address)
    assert "\n" not in str(error.value) and TOKEN not in str(error.value) and len(str(error.value)) < 400


def test_an_upload_makes_the_repository_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append((repo_id, options))

        def upload_folder(self, repo_id: str, **options: Any) -> None:
            if repo_id == "you/birds":
                raise RuntimeError(f"403 Forbidden\nfor {TOKEN}")
            calls.append((repo_id, options))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert push_to_hub(tmp_path, "me/birds", private=True) == "hf://me/birds"
    assert calls[0] == ("me/birds", {"private": True, "exist_ok": True}) and calls[1][1]["folder_path"] == str(tmp_path)
    with pytest.raises(ValueError, match="you/birds cannot be uploaded to .403 Forbidden.: log in") as error:
        push_to_hub(tmp_path, "you/birds", private=False)
    assert TOKEN not in str(error.value)


def test_a_token_is_covered() -> None:
    assert without_token(f"a {TOKEN}!") == "a hf_***!" and without_token("hf://me/hf_x") == "hf://me/hf_x"
