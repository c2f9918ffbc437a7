"""Images behind URLs, fetched within limits of size and time."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

from util.errors import ImageError, first_line

URL = re.compile("(https?|file)://", re.IGNORECASE)
LARGEST = 200 * 10**6  # bytes of a file
WAIT, LIMIT = 20.0, 120.0  # seconds without a byte, and for all of them
CHUNK = 2**16
AGENT = {"User-Agent": "Mozilla/5.0 (compatible; ICN)"}
SAFE = "%/:=&?#+!$,;'@()*[]~"  # what stays as it is in an address; other characters are percent-encoded


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Fetch the file behind a URL (http, https or file), and yield its path, which ends with the context.

    Raises:
        ImageError: it cannot be fetched, is too large, or takes too long; or one of the context, which then names the URL.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image")
        try:
            _download(url, path)
        except (OSError, HTTPException, ValueError) as error:  # ValueError: an address that is none
            raise ImageError(f"{url}: cannot be fetched ({first_line(error)})") from None
        try:
            yield path
        except ImageError as error:
            raise ImageError(str(error).replace(str(path), url)) from None


def _download(url: str, path: Path) -> None:
    deadline = time.monotonic() + LIMIT
    request = Request(quote(url, safe=SAFE), headers=AGENT)
    with urlopen(request, timeout=WAIT) as response, path.open("wb") as file:
        while chunk := response.read1(CHUNK) if hasattr(response, "read1") else response.read(CHUNK):
            file.write(chunk)
            if file.tell() > LARGEST:
                raise OSError(f"it is larger than {LARGEST // 10**6} MB")
            if time.monotonic() > deadline:
                raise OSError(f"it takes longer than {LIMIT:.0f} seconds")
