"""The Hugging Face hub: files by an address `hf://owner/repo[/file][@revision]`, which once fetched need no network; uploads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from models.checkpoint_format import CARD, WEIGHTS
from models.reading import first_line, shown

SCHEME = "hf://"
COMMIT_MESSAGE = "Upload an ICN"
NAMES = (WEIGHTS, "checkpoint.pth")  # what a repository is searched for, where the address names no file
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:/([^@]+?))?/?(?:@([^@]+))?", re.IGNORECASE)


def fetch_from_hub(
    address: str, *, token: str | bool | None = None, cache_dir: str | Path | None = None, local_files_only: bool = False,
    force_download: bool = False,
) -> Path:  # fmt: skip
    """Return a file of the hub from its cache, where it is downloaded to when it is not there.

    Args:
        address: `hf://owner/repo[/file][@revision]`.
        token, cache_dir, local_files_only, force_download: as in `huggingface_hub.hf_hub_download`.

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
            cached = local_files_only or isinstance(error, LocalEntryNotFoundError)  # for a network the client waits: once
            again = force_download and not cached
            return Path(
                hf_hub_download(
                    repo, candidate, revision=revision, token=token, cache_dir=cache_dir, local_files_only=cached,
                    force_download=again,
                )
            )  # fmt: skip
        except EntryNotFoundError as missing:
            error = error or missing
        except Exception as other:  # whatever the hub's client and the network raise
            error = other
            break
    cause = "the hub does not answer, and its cache has no such file"
    if local_files_only:
        cause = "the cache has no such file"
    elif not isinstance(error, LocalEntryNotFoundError):
        cause = _reason(error, token)
    wanted = "" if name else f"; without a file in the address {' and '.join(NAMES)} are looked for"
    raise ValueError(f"checkpoint {without_token(address)} cannot be fetched ({cause}{wanted})") from None


def check_repo(name: str) -> str:
    """Return the name of a repository of the hub, `owner/repo` or one's own `repo`; ValueError for what cannot be one."""
    if not re.fullmatch(r"([\w-][\w.-]*/)?[\w-][\w.-]*", name):
        raise ValueError(f"{shown(without_token(name))!r} is no name of a repository of the hub: give owner/repo")
    return name


def push_to_hub(
    folder: Path, repo: str, private: bool | None = None, message: str = COMMIT_MESSAGE, token: str | bool | None = None,
    files: Sequence[str] | None = None, keep_card: bool = False,
) -> str:  # fmt: skip
    """Upload a folder to a repository of models, which is created if there is none; return its address.

    Args:
        folder, repo: from where, to where.
        private: a repository that is created is private; None for what is usual for its owner.
        message: of the commit.
        token: None for the one that `hf auth login` or HF_TOKEN gave.
        files: names of those that are uploaded; None for all.
        keep_card: a README.md that the repository has stays as it is.

    Raises:
        ValueError: no such name, no network, or no right to write there. No message holds a token.
    """
    check_repo(repo)
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ValueError("an upload needs the package huggingface_hub: pip install huggingface_hub") from None
    try:
        hub = HfApi(token=token)
        repo = hub.create_repo(repo, private=private, exist_ok=True).repo_id  # with the owner
        left_out = [CARD] if keep_card and hub.file_exists(repo, CARD) else None
        hub.upload_folder(
            repo_id=repo, folder_path=folder, commit_message=message, ignore_patterns=left_out,
            allow_patterns=None if files is None else list(files),
        )  # fmt: skip
    except Exception as error:  # whatever the hub's client and the network raise
        advice = f"log in by `hf auth login` (or set HF_TOKEN), then `hf upload {without_token(repo)} {folder}`"
        raise ValueError(f"{without_token(repo)} cannot be uploaded to ({_reason(error, token)}): {advice}") from None
    return f"{SCHEME}{repo}"


def _reason(error: object, token: str | bool | None) -> str:
    """Return an error of the hub's client in one line, without tokens."""
    line = first_line(error)
    return without_token(shown(line.replace(token, "***") if isinstance(token, str) and token else line, 200))


def without_token(text: str) -> str:
    """Return a text in which no token of the hub can be read."""
    return re.sub(r"hf_\w{4,}", "hf_***", text)
