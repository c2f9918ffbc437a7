"""The Hugging Face hub: files by an address `hf://owner/repo[/file][@revision]`, which once fetched need no network; uploads."""

from __future__ import annotations

import re
from pathlib import Path

from models.checkpoint_format import WEIGHTS
from models.reading import first_line, shown

SCHEME = "hf://"
NAMES = (WEIGHTS, "checkpoint.pth")  # what a repository is searched for, where the address names no file
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:/([^@]+?))?/?(?:@([^@]+))?", re.IGNORECASE)


def fetch_from_hub(address: str) -> Path:
    """Return a file of the hub from its cache, where it is downloaded to when it is not there.

    Raises:
        ValueError: no such address, file, revision or network, or no right to read it. No message holds a token.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address.split("/"):
        form = f"{SCHEME}owner/repo, {SCHEME}owner/repo/file or either with @revision"
        raise ValueError(f"checkpoint {without_token(address)} is no address of a file on the hub: give {form}")
    repo, name, revision = match.groups()
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError:
        raise ValueError(f"{SCHEME} needs the package huggingface_hub: pip install huggingface_hub") from None
    error: Exception | None = None
    for candidate in (name,) if name else NAMES:
        try:
            no_network = isinstance(error, LocalEntryNotFoundError)  # for which the client waits half a minute: once
            return Path(hf_hub_download(repo, candidate, revision=revision, local_files_only=no_network))
        except EntryNotFoundError as missing:
            error = error or missing
        except Exception as other:  # whatever the hub's client and the network raise
            error = other
            break
    offline = isinstance(error, LocalEntryNotFoundError)
    cause = "the hub does not answer, and its cache has no such file" if offline else _reason(error)
    wanted = "" if name else f"; without a file in the address {' and '.join(NAMES)} are looked for"
    raise ValueError(f"checkpoint {without_token(address)} cannot be fetched ({cause}{wanted})") from None


def push_to_hub(folder: Path, repo: str, private: bool) -> str:
    """Upload a folder to a repository of models, which is created if there is none; return its address.

    Raises:
        ValueError: no such name, no network, or no right to write there. No message holds a token.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ValueError("an upload needs the package huggingface_hub: pip install huggingface_hub") from None
    try:
        HfApi().create_repo(repo, private=private, exist_ok=True)
        HfApi().upload_folder(repo_id=repo, folder_path=str(folder), commit_message="Upload an ICN")
    except Exception as error:  # whatever the hub's client and the network raise
        advice = f"log in by `hf auth login` (or set HF_TOKEN), then `hf upload {without_token(repo)} {folder}`"
        raise ValueError(f"{without_token(repo)} cannot be uploaded to ({_reason(error)}): {advice}") from None
    return f"{SCHEME}{repo}"


def _reason(error: object) -> str:
    """Return an error of the hub's client in one line, without tokens."""
    return without_token(shown(first_line(error), 200))


def without_token(text: str) -> str:
    """Return a text in which no token of the hub can be read."""
    return re.sub(r"hf_\w{4,}", "hf_***", text)
