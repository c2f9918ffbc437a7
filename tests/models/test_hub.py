"""Checkpoints of the Hugging Face hub, from a server on this machine: found, cached, and refused in one line without a token."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from conftest import tiny_model
from safetensors.torch import save_file

from models import ICN
from models.hub import check_repo, push_to_hub, without_token
from models.loading import read_checkpoint
from models.saving import describe
from predictor import Predictor

constants = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed").constants
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWx"
COMMITS = {"main": "1" * 40, "v2": "2" * 40}


class Hub(BaseHTTPRequestHandler):
    """The part of the hub that downloads and uploads need; files are `<root>/<owner>/<repo>/<revision>/<file>`."""

    root: Path
    fetched: list[str]
    created: list[dict[str, Any]]
    messages: list[str]
    tokens: set[str | None]

    def do_HEAD(self) -> None:
        self.answer(with_content=False)

    def do_GET(self) -> None:
        self.answer(with_content=True)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.tokens.add(self.headers.get("authorization"))
        words = self.path.strip("/").split("/")
        if words[1] == "repos":
            self.created.append(json.loads(body))
            repo = f"{self.created[-1]['organization'] or 'me'}/{self.created[-1]['name']}"
            (self.root / repo / "main").mkdir(parents=True, exist_ok=True)
            return self.send({"url": f"http://{self.headers['Host']}/{repo}"})
        if words[1] == "validate-yaml":
            return self.send({"errors": [], "warnings": []})
        _, _, owner, repo, action, revision = words
        if action == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            return self.send({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "header":
                self.messages.append(line["value"]["summary"])
            else:
                content = base64.b64decode(line["value"]["content"])
                (self.root / owner / repo / revision / line["value"]["path"]).write_bytes(content)
        commit = f"http://{self.headers['Host']}/{owner}/{repo}/commit/{'3' * 40}"
        return self.send({"commitOid": "3" * 40, "commitUrl": commit, "success": True})

    def send(self, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, with_content: bool) -> None:
        self.tokens.add(self.headers.get("authorization"))
        owner, repo, _, revision, *name = self.path.strip("/").split("/")
        names = {commit: name for name, commit in COMMITS.items()}
        file = self.root / owner / repo / names.get(revision, revision) / "/".join(name)
        if owner == "closed":
            return self.refuse(401, "GatedRepo", f"the token {self.headers.get('authorization', TOKEN)} may not read this")
        if owner == "private":
            return self.refuse(401, "RepoNotFound", "Invalid username or password.")
        if owner == "broken":
            return self.refuse(418, "Other", f"for {TOKEN}")
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
    model = tiny_model(3, backbone="test_resnet")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for revision, names in (("main", "abc"), ("v2", "xyz")):
        (tmp_path / "me" / "birds" / revision / "sub").mkdir(parents=True)
        header = json.dumps({**describe(model.meta), "classes": list(names)})
        for name in ("model.safetensors", "sub/other.safetensors"):
            save_file(state, tmp_path / "me" / "birds" / revision / name, metadata={"icn": header})
    (tmp_path / "me" / "old" / "main").mkdir(parents=True)
    torch.save({"model": state, "epoch": 5}, tmp_path / "me" / "old" / "main" / "checkpoint.pth")
    (tmp_path / "me" / "empty" / "main").mkdir(parents=True)
    handler = type("Handler", (Hub,), {"root": tmp_path, "fetched": [], "created": [], "messages": [], "tokens": set()})
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


def test_without_a_network_the_cache_answers(hub: ThreadingHTTPServer, caplog: pytest.LogCaptureFixture) -> None:
    read_checkpoint("hf://me/birds")
    read_checkpoint("hf://me/old")
    hub.shutdown()
    hub.server_close()
    assert read_checkpoint("hf://me/birds")["classes"] == ["a", "b", "c"] and read_checkpoint("hf://me/old")["epoch"] == 5
    with pytest.raises(ValueError, match="checkpoint hf://me/empty cannot be fetched .the hub does not answer"):
        read_checkpoint("hf://me/empty")
    model = tiny_model(3, backbone="test_resnet")
    with pytest.raises(ValueError, match="me/x cannot be uploaded to .the hub does not answer") as error:
        model.push_to_hub("me/x", private=True)
    said = str(error.value)
    assert "save_pretrained(<folder>), then `hf upload me/x <folder> . --include model.safetensors " in said
    assert "log in" not in said and said.endswith("--private`") and "\n" not in said and not caplog.records
    with pytest.raises(ValueError, match="with a network, or `hf upload me/x 'my birds' --private`"):
        push_to_hub(Path("my birds"), "me/x", True)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://me/nothing", "hf://me/nothing cannot be fetched .there is no such repository, or it is private: .*hf auth login"),
        ("hf://me/birds/no.pth", "no.pth cannot be fetched .the repository has no file no.pth"),
        ("hf://me/birds@v9", "cannot be fetched .the repository has no revision v9"),
        ("hf://me/empty", "the repository has no file model.safetensors or checkpoint.pth"),
        ("hf://closed/birds", "the repository is gated: accept its terms at .*/closed/birds, then .*hf auth login"),
        ("hf://private/birds", "cannot be fetched .there is no such repository, or it is private"),
        ("hf://broken/birds", "cannot be fetched .*418"),
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


def test_a_model_is_loaded_by_the_name_of_its_repository(
    hub: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler: Any = hub.RequestHandlerClass
    assert ICN.from_pretrained("me/birds").meta.classes == ["a", "b", "c"]
    other = ICN.from_pretrained("me/birds", revision="v2", cache_dir=tmp_path / "mine", token="hf_another")
    assert other.meta.classes == ["x", "y", "z"] and (tmp_path / "mine" / "models--me--birds").is_dir() and not other.training
    assert handler.tokens == {f"Bearer {TOKEN}", "Bearer hf_another"}
    assert ICN.from_pretrained("hf://me/birds", revision="v2").meta.classes == ["x", "y", "z"]
    handler.fetched.clear()
    ICN.from_pretrained("me/birds")
    ICN.from_pretrained("me/birds", force_download=True)
    assert handler.fetched == ["model.safetensors"]
    hub.shutdown()
    hub.server_close()
    assert ICN.from_pretrained("me/birds", local_files_only=True).meta.classes == ["a", "b", "c"]
    with pytest.raises(
        ValueError, match="there is no folder me/other here, and .*the cache has no model.safetensors or checkpoint.pth"
    ):
        ICN.from_pretrained("me/other", local_files_only=True)
    monkeypatch.chdir(tmp_path)
    assert ICN.from_pretrained("me/birds/main").meta.classes == ["a", "b", "c"]  # a folder that is here


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("hf://me/birds@v2", "v2", "names a revision, and so does revision v2"),
        ("me/birds.pth", "v2", "revision v2 is of a repository of the hub, and me/birds.pth is none"),
        ("me/birds.pth", None, "me/birds.pth does not exist"),
        ("me/nothing", None, "there is no folder me/nothing here, and checkpoint hf://me/nothing cannot be fetched"),
        ("me/birds", "v9", "hf://me/birds@v9 cannot be fetched"),
        ("me/birds", "../x", "hf://me/birds@../x cannot be fetched"),
    ],
)
def test_a_wrong_name_or_revision_is_one_line(hub: ThreadingHTTPServer, source: str, revision: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        ICN.from_pretrained(source, revision=revision, token="secret")
    assert "\n" not in str(error.value) and "secret" not in str(error.value)


def test_an_upload_is_the_model(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    handler: Any = hub.RequestHandlerClass
    model = tiny_model(3, seed=5, backbone="test_resnet")
    model.meta.classes = ["a", "b | c", "d\udce9"]
    assert model.push_to_hub("me/mine", private=True, commit_message="First", token="hf_another") == "hf://me/mine"
    assert handler.created[0]["name"] == "mine" and "private" in str(handler.created[0]) and handler.messages == ["First"]
    assert handler.tokens == {"Bearer hf_another"}
    files = tmp_path / "me" / "mine" / "main"
    assert sorted(file.name for file in files.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert 'from_checkpoint("hf://me/mine")' in (files / "README.md").read_text()
    loaded = ICN.from_pretrained("me/mine")
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert loaded.meta.classes == model.meta.classes
    assert Predictor.from_checkpoint("hf://me/mine").classes == model.meta.classes
    (files / "README.md").write_text("edited")
    model.push_to_hub("me/mine")
    assert (files / "README.md").read_text() == "edited" and len(handler.messages) == 2
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "private.txt").write_text("not to be uploaded")
    assert model.save_pretrained(tmp_path / "saved", push_to_hub=True) == "hf://me/saved"  # the owner is who uploads
    assert not (tmp_path / "me" / "saved" / "main" / "private.txt").exists()


@pytest.mark.parametrize("name", ["", "a/b/c", "a b", "../x", "..", "/birds", TOKEN + "/ x"])
def test_a_wrong_name_of_a_repository_is_one_line(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a repository of the hub: give owner/repo") as error:
        check_repo(name)
    assert TOKEN not in str(error.value)


def test_an_upload_that_fails_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def __init__(self, token: str) -> None:
            pass

        def create_repo(self, repo_id: str, **options: Any) -> None:
            raise RuntimeError(f"403 Forbidden for {TOKEN} and other-secret\nand more")

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("models.hub._outage", lambda: "")
    with pytest.raises(ValueError, match="you/birds cannot be uploaded to .403 Forbidden.*log in") as error:
        push_to_hub(tmp_path, "you/birds", token="other-secret")
    assert TOKEN not in str(error.value) and "other-secret" not in str(error.value) and "\n" not in str(error.value)


def test_a_token_is_covered() -> None:
    assert without_token(f"a {TOKEN}!") == "a hf_***!" and without_token("hf://me/hf_x") == "hf://me/hf_x"
