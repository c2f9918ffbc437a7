"""The page of tools.app and the Space, driven in a real browser on the loopback address; the notebook, from top to bottom."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from predictor import Predictor
from tools.app import get_args_parser, main
from util.cli import launch

ROOT = Path(__file__).parents[2]


def test_without_gradio_it_says_what_to_install(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as stop:
        launch(main, get_args_parser(), ["--resume", str(small_run / "checkpoint.pth"), "--device", "cpu"])
    assert stop.value.code == 2 and "pip install gradio" in capsys.readouterr().err


def test_a_photograph_is_explained_in_the_browser_of_a_space(browser: Any, small_run: Path, tmp_path: Path) -> None:
    """The folder of a Space is put together as docs/visualization.md says."""
    pytest.importorskip("gradio", reason="gradio is not installed (requirements-dev.txt)")
    space = tmp_path / "space"
    space.mkdir()
    for name in ("attribution", "datasets", "models", "tools", "util"):
        shutil.copytree(ROOT / name, space / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), *(ROOT / "spaces").iterdir()]:
        shutil.copy(path, space)
    shutil.copy(small_run / "checkpoint.pth", space)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "PYTHONPATH": ""}
    server = subprocess.Popen([sys.executable, "app.py"], cwd=space, env=environment, stdout=subprocess.DEVNULL)
    (prediction,) = Predictor.from_checkpoint(small_run / "checkpoint.pth").predict(small_run / "d" / "val" / "a" / "0.png")
    other = prediction.names[1]
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, server)
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.set_input_files("input[type=file]", str(small_run / "d" / "val" / "a" / "0.png"))
        page.wait_for_selector("text=where the model sees")
        first = page.get_attribute("img[alt='map'], .image-frame img >> nth=-1", "src")
        page.get_by_label("compared with").click()
        page.get_by_role("option", name=re.compile(f"^{other}$")).click()
        page.wait_for_selector(f"text=and not {other}")
        assert page.get_attribute("img[alt='map'], .image-frame img >> nth=-1", "src") != first
        page.close()
    finally:
        server.terminate()
        server.wait(20)


def wait_for(address: str, server: subprocess.Popen[Any], seconds: int = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail("the server does not answer")


def test_the_notebook_runs_from_top_to_bottom(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (requirements-dev.txt)")
    import nbformat

    monkeypatch.setenv("ICN_CHECKPOINT", str(small_run / "checkpoint.pth"))
    monkeypatch.setenv("ICN_IMAGES", str(small_run / "d" / "val"))
    book = nbformat.read(ROOT / "notebooks" / "demo.ipynb", as_version=4)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert "mean drop of the probability" in json.dumps(book)


def test_the_notebook_is_kept_small_and_without_outputs() -> None:
    path = ROOT / "notebooks" / "demo.ipynb"
    assert path.stat().st_size < 20_000
    assert all(not cell.get("outputs") for cell in json.loads(path.read_text())["cells"])
