"""Images behind URLs: fetched from a server on the loopback address, and the errors of those that cannot be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
import pytest
import torch

from datasets import decode_image, urls
from datasets.decode import read_picture
from util.errors import ImageError

PICTURE = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))[1].tobytes()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.split("?")[0]
        if name == "/moved":
            self.send_response(302)
            self.send_header("Location", "/caf%C3%A9.png")
        elif name == "/file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
        elif name == "/absent.png":
            self.send_error(404)
            return
        else:
            self.send_response(200)
        self.end_headers()
        try:
            if name == "/page.html":
                self.wfile.write(b"<html>no image</html>")
            elif name == "/caf%C3%A9.png":
                self.wfile.write(PICTURE)
            elif name == "/cut.png":
                self.wfile.write(PICTURE[:500])
            elif name == "/endless":
                while True:
                    self.wfile.write(bytes(10**6))
            elif name == "/slow":
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.05)
        except OSError:  # the client has gone
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", ["/café.png", "/caf%C3%A9.png?size=3&x=[1]#top", "/moved"])
def test_an_image_of_a_server_is_the_file(server: str, tmp_path: Path, name: str) -> None:
    file = tmp_path / "sp ace.png"
    file.write_bytes(PICTURE)
    for url in (server + name, file.as_uri(), server.replace("http", "HTTP") + name):
        assert torch.equal(read_picture(url), decode_image(file))


@pytest.mark.parametrize(("name", "message"), [
    ("/absent.png", "cannot be fetched (HTTP Error 404: Not Found)"),
    ("/file", "cannot be fetched (HTTP Error 302"),
    ("/page.html", "is not an image"),
    ("/cut.png", "is truncated or damaged"),
    ("/empty", "is empty"),
    ("/endless", "cannot be fetched (it is larger than 1 MB)"),
    ("/slow", "cannot be fetched (it takes longer than 1 seconds)"),
])  # fmt: skip
def test_what_cannot_be_fetched_is_one_line_with_the_url(
    server: str, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr(urls, "LARGEST", 10**6)
    monkeypatch.setattr(urls, "LIMIT", 1.0)
    with pytest.raises(ImageError) as error:
        read_picture(server + name)
    assert str(error.value).startswith(f"{server}{name}: {message}") and "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:1/x.png", "http://[::1/x", "file:///absent.png", "http://a b/x"])
def test_an_address_without_a_server_is_one_line(url: str) -> None:
    with pytest.raises(ImageError) as error:
        read_picture(url)
    assert str(error.value).startswith(f"{url}: cannot be fetched (") and "\n" not in str(error.value)
