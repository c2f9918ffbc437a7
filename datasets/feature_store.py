"""Where kept feature maps lie: in memory, or in files of the folder of `--cache DIR` that a later run uses again."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from datasets.cache_folder import MEMORY_SHARE, check_space, identities, library_versions
from datasets.cache_place import RAM
from datasets.feature_cache import FeatureMaps, write_maps
from datasets.image_folder import ImageFolder
from util.atomic import atomic_write
from util.errors import CacheError
from util.memory import available


class FeatureStore:
    """The place of the feature maps of a run.

    Args:
        place: `ram` or empty, or a folder, which `datasets.cache_folder.use_cache` has made.
        channels: of the maps.
        depends: what else than the files and the libraries the maps depend on.
    """

    def __init__(self, place: str, channels: int, depends: str) -> None:
        self.folder = None if place in ("", RAM) else Path(place)
        self.channels, self.depends = channels, depends

    def check_room(self, needed: int, files: Sequence[Path | None]) -> None:
        """Raise a ValueError unless there is room for so many bytes, of which these files may have some already."""
        if self.folder is not None:
            check_space(self.folder, needed - sum(file.stat().st_size for file in files if file and file.exists()), "features")
        elif not hasattr(os, "memfd_create"):
            raise ValueError(f"--cache_features in memory is not possible on {platform.system()}: give a folder (--cache DIR)")
        elif (free := available()) is not None and needed > MEMORY_SHARE * free:
            raise ValueError(
                f"--cache_features: the features take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB of memory are free: keep fewer "
                "views, give a folder (--cache DIR), or leave the flag out"
            )

    def path(self, dataset: ImageFolder, view: str) -> Path | None:
        """Return the file of a view, `view` being all that it depends on besides the rest; None in memory."""
        if self.folder is None:
            return None
        text = f"{self.depends} {view} {library_versions()}".encode()
        key = blake2b(identities(dataset).tobytes() + text, digest_size=8).hexdigest()
        return self.folder / f"{dataset.root.name}-{key}.features"

    def keep(self, path: Path | None, order: Sequence[int], compute: Callable[[], Iterable[np.ndarray]]) -> FeatureMaps:
        """Return the maps of a file, or compute, write and return them.

        Args:
            path: as `path` returned it.
            order: index in the data set of each map.
            compute: yields the maps in this order.

        Raises:
            ValueError: the file is damaged, or the maps are as of `FrozenBackbone.maps`.
            CacheError: it cannot be written.
        """
        if path is None:
            memory = os.fdopen(os.memfd_create("features"), "w+b")
            write_maps(memory, compute())
            return FeatureMaps(memory, "memory", order, self.channels)
        try:
            if not path.exists():
                with atomic_write(path, "wb") as file:
                    write_maps(file, compute())
            return FeatureMaps(open(path, "rb"), os.fspath(path), order, self.channels)
        except OSError as error:
            raise CacheError(
                f"--cache: {path} cannot be written ({error.strerror}): make room, or leave --cache out; nothing is lost"
            ) from None
