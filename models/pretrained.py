"""Loading and saving a model by name, with the methods of huggingface_hub's PyTorchModelHubMixin; folders need no package."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch

from models.hub import COMMIT_MESSAGE, SCHEME, check_repo, fetch_from_hub
from models.hub import push_to_hub as upload
from models.loading import CheckpointMeta

if TYPE_CHECKING:
    from models.icn import ICN

_REPO = re.compile(r"[\w.-]+/[\w.-]+")


class Pretrained:
    """The methods `from_pretrained`, `save_pretrained` and `push_to_hub` of a model.

    Attributes:
        meta: flags, class names, normalisation and epoch, which are saved beside the weights. `models.load_checkpoint` takes them
            from the file; `models.build_model` knows the flags and the normalisation of the backbone, and no class names: set
            `model.meta.classes`. None for a network that was put together by hand.
    """

    meta: CheckpointMeta | None = None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None, token: str | bool | None = None,
        cache_dir: str | Path | None = None, local_files_only: bool = False, force_download: bool = False,
        device: torch.device | str = "cpu",
    ) -> ICN:  # fmt: skip
        """Load a model, in evaluation mode.

        Args:
            pretrained_model_name_or_path: whatever `models.load_checkpoint` takes (a folder of `save_pretrained` or of
                `tools.export`, a checkpoint, a URL, `hf://owner/repo`), or `owner/repo`, a repository of the Hugging Face hub
                where there is no such folder.
            revision: branch, tag or commit of a repository.
            token: for the hub; None for the one that `hf auth login` or HF_TOKEN gave.
            cache_dir: where files of the hub are kept; None for its own cache.
            local_files_only: take files of the hub from its cache alone.
            force_download: download files of the hub again.
            device: where the model goes.

        Raises:
            ValueError: there is no such model, or it cannot be read. No message holds a token.
        """
        from models.build import load_checkpoint

        options = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only, "force_download": force_download}
        file = _locate(str(pretrained_model_name_or_path), revision, options)
        return load_checkpoint(file, device)[0].eval()

    def save_pretrained(
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False,
        private: bool | None = None, commit_message: str = COMMIT_MESSAGE, token: str | bool | None = None,
    ) -> str | None:  # fmt: skip
        """Write the files of `tools.export --to dir`: model.safetensors, config.json, and README.md where there is none.

        What was written is read back and compared. Files of an earlier call are replaced, those of others never.

        Args:
            save_directory: the folder, which is created.
            repo_id: `owner/repo` on the hub, which the model card names; None for the name of the folder.
            push_to_hub: also upload the files to `repo_id`; the other arguments are as in `push_to_hub`.

        Returns:
            The address on the hub of what was uploaded, or None.

        Raises:
            ValueError: it is not known how the model is built, its `meta` is wrong, or a file of that name is of something else.
            OSError: the folder cannot be written to.
        """
        from models.saving import FILES, save_folder

        if not str(save_directory):
            raise ValueError("the name of the folder to save to is empty: give a folder")
        folder = Path(save_directory)
        repo = check_repo(repo_id or folder.resolve().name) if repo_id or push_to_hub else folder.resolve().name
        save_folder(folder, cast("ICN", self), address_of(repo))
        return upload(folder, repo, private, commit_message, token, FILES) if push_to_hub else None

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, commit_message: str = COMMIT_MESSAGE, token: str | bool | None = None
    ) -> str:
        """Upload the files of `save_pretrained` to a repository of the hub; return its address.

        Args:
            repo_id: `owner/repo`; is created where there is none. A model card that it has is kept.
            private: a repository that is created is private; None for what is usual for its owner.
            commit_message: of the commit.
            token: as in `from_pretrained`.

        Raises:
            ValueError: as `save_pretrained`, and no such name, no network, or no right to write there. No message holds a token.
        """
        from models.saving import FILES, save_folder

        repo = check_repo(repo_id)
        with TemporaryDirectory() as name:
            save_folder(Path(name), cast("ICN", self), address_of(repo))
            return upload(Path(name), repo, private, commit_message, token, FILES, keep_card=True, is_temporary=True)


def address_of(repo: str) -> str:
    """Return what a model card says is to be loaded: an address of the hub, or the name of a folder."""
    return f"{SCHEME}{repo}" if _REPO.fullmatch(repo) else repo


def _locate(source: str, revision: str | None, options: dict[str, Any]) -> str | Path:
    """Return what `load_checkpoint` reads: `source`, or a file of the hub; ValueError where it cannot be fetched."""
    if not source:
        raise ValueError("the name of the model is empty: give a folder, a file, a URL or owner/repo")
    is_address = source.lower().startswith(SCHEME)
    is_repo = _REPO.fullmatch(source) and not source.endswith((".pth", ".pt", ".safetensors")) and not Path(source).exists()
    if not (is_address or is_repo):
        if revision is not None:
            raise ValueError(f"revision {revision} is of a repository of the hub, and {source} is none: leave it out")
        return source
    address = source if is_address else f"{SCHEME}{source}"
    if revision is not None:
        if "@" in source:
            raise ValueError(f"{source} names a revision, and so does revision {revision}: give one of them")
        address = f"{address}@{revision}"
    try:
        return fetch_from_hub(address, **options)
    except ValueError as error:
        raise ValueError(str(error) if is_address else f"there is no folder {source} here, and {error}") from None
