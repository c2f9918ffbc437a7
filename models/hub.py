"""The Hugging Face hub: files by an address `hf://owner/repo[/file][@revision]`, which once fetched need no network; uploads."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from models.checkpoint_format import CARD, WEIGHTS
from models.reading import first_line, shown

SCHEME = "hf://"
COMMIT_MESSAGE = "Upload an ICN"
NO_ANSWER = "the hub does not answer"
NAMES = (WEIGHTS, "checkpoint.pth")  # what a repository is searched for, where the address names no file
TIMEOUT = 10  # seconds in which the hub must answer
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
    except ImportError:
        raise ValueError(f"{SCHEME} needs the package huggingface_hub: pip install huggingface_hub") from None
    outage = "" if local_files_only else _outage()
    cached = local_files_only or bool(outage)
    error: Exception | None = None
    for candidate in (name,) if name else NAMES:
        try:
            with _quiet():
                file = hf_hub_download(
                    repo, candidate, revision=revision, token=token, cache_dir=cache_dir, local_files_only=cached,
                    force_download=force_download and not cached,
                )  # fmt: skip
            return Path(file)
        except Exception as other:  # whatever the hub's client and the network raise
            error = error or other
            cached = cached or _is(other, "LocalEntryNotFoundError")  # for a network the client waits: once
            if not _is(other, "EntryNotFoundError"):
                error = other
                break
    wanted = name or " or ".join(NAMES)
    if local_files_only:
        cause = f"the cache has no {wanted} of it"
    elif outage or (_is(error, "LocalEntryNotFoundError") and not _is(getattr(error, "__cause__", None), "HfHubHTTPError")):
        cause = f"{outage or NO_ANSWER}, and the cache has no {wanted} of it"
    else:
        cause = _cause(error, repo, wanted, revision, token)
    raise ValueError(f"checkpoint {without_token(address)} cannot be fetched ({cause})") from None


def _outage() -> str:
    """Return why the hub cannot be reached, '' where it can be: the client itself would try for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if getproxies():  # which know the way
        return ""
    site = urlsplit(constants.ENDPOINT)
    try:
        port = site.port or (80 if site.scheme == "http" else 443)
        socket.create_connection((site.hostname or "", port), timeout=TIMEOUT).close()
    except (OSError, ValueError):
        return NO_ANSWER
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the hub's client, which prints a line for each of its attempts."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _is(error: object, name: str) -> bool:
    """Return whether an error is of a type of this name, which versions of the hub's client have in different modules."""
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _cause(error: object, repo: str, wanted: str, revision: str | None, token: str | bool | None) -> str:
    """Return in words what is wrong with a repository, its revision or file, or the right to read it."""
    if _is(error, "LocalEntryNotFoundError"):  # the hub's answer is behind that of the cache
        error = getattr(error, "__cause__", error)
    causes = {  # the first before the second, which is also the first's
        "GatedRepoError": f"the repository is gated: accept its terms at {_site()}/{repo}, then log in by `hf auth login`",
        "RepositoryNotFoundError": "there is no such repository, or it is private: log in by `hf auth login`",
        "RevisionNotFoundError": f"the repository has no revision {revision}",
        "EntryNotFoundError": f"the repository has no file {wanted}",
    }
    said = next((said for name, said in causes.items() if _is(error, name)), None)
    if said is None:
        refused = getattr(getattr(error, "response", None), "status_code", None) in (401, 403)
        return _reason(error, token) + "; log in by `hf auth login`" * refused
    return without_token(shown(said, 200))


def _site() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def check_repo(name: str) -> str:
    """Return the name of a repository of the hub, `owner/repo` or one's own `repo`; ValueError for what cannot be one."""
    if not re.fullmatch(r"([\w-][\w.-]*/)?[\w-][\w.-]*", name):
        raise ValueError(f"{shown(without_token(name))!r} is no name of a repository of the hub: give owner/repo")
    return name


def push_to_hub(
    folder: Path, repo: str, private: bool | None = None, message: str = COMMIT_MESSAGE, token: str | bool | None = None,
    files: Sequence[str] | None = None, keep_card: bool = False, is_temporary: bool = False,
) -> str:  # fmt: skip
    """Upload a folder to a repository of models, which is created if there is none; return its address.

    Args:
        folder, repo: from where, to where.
        private: a repository that is created is private; None for what is usual for its owner.
        message: of the commit.
        token: None for the one that `hf auth login` or HF_TOKEN gave.
        files: names of those that are uploaded; None for all.
        keep_card: a README.md that the repository has stays as it is.
        is_temporary: the folder is deleted after the call.

    Raises:
        ValueError: no such name, no network, or no right to write there. No message holds a token.
    """
    check_repo(repo)
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ValueError("an upload needs the package huggingface_hub: pip install huggingface_hub") from None
    command = _upload_command(without_token(repo), "<folder>" if is_temporary else str(folder), private, files)
    advice = "save the model by save_pretrained(<folder>), then " * is_temporary + f"`{command}`"
    if outage := _outage():
        raise ValueError(f"{without_token(repo)} cannot be uploaded to ({outage}): try again with a network, or {advice}")
    try:
        with _quiet():
            hub = HfApi(token=token)
            repo = hub.create_repo(repo, private=private, exist_ok=True).repo_id  # with the owner
            left_out = [CARD] if keep_card and hub.file_exists(repo, CARD) else None
            hub.upload_folder(
                repo_id=repo, folder_path=folder, commit_message=message, ignore_patterns=left_out,
                allow_patterns=None if files is None else list(files),
            )  # fmt: skip
    except Exception as error:  # whatever the hub's client and the network raise
        login = "log in by `hf auth login` (or set HF_TOKEN) and try again, or "
        raise ValueError(f"{without_token(repo)} cannot be uploaded to ({_reason(error, token)}): {login}{advice}") from None
    return f"{SCHEME}{repo}"


def _upload_command(repo: str, folder: str, private: bool | None, files: Sequence[str] | None) -> str:
    """Return the command line that uploads the same."""
    folder = folder if folder == "<folder>" else shlex.quote(folder)
    included = [f"--include {name}" for name in files or ()]
    return " ".join(["hf upload", repo, folder, *["." for _ in included[:1]], *included, *["--private"] * bool(private)])


def _reason(error: object, token: str | bool | None) -> str:
    """Return an error of the hub's client in one line, without tokens."""
    line = first_line(error)
    return without_token(shown(line.replace(token, "***") if isinstance(token, str) and token else line, 200))


def without_token(text: str) -> str:
    """Return a text in which no token of the hub can be read."""
    return re.sub(r"hf_\w{4,}", "hf_***", text)
