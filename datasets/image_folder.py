"""The data set: an image folder with one folder per class, and one class list for all splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.decode import decode_image

EXTENSIONS = ".bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp"
IMAGE_EXTENSIONS = frozenset(EXTENSIONS.split())
LAYOUT = "<dataset_path>/<dataset_name>/{train,val,test}/<class>/<image>"
SHOWN = 5  # names listed in an error

Transform = Callable[[Tensor, "int | None"], Tensor]


class Sample(NamedTuple):
    """A request of a sampler: an image, the seed of its augmentation, the scale of its batch (None: the default)."""

    index: int  # type: ignore[assignment]
    seed: int
    size: int | None = None


class ImageFolder(Dataset[tuple[Tensor, int, int]]):
    """The images of `<root>/<class>/**`, sorted by path.

    Args:
        root: folder of the split.
        classes: names in logit order, from the training split or a checkpoint. A class without images is then allowed
            and shifts no label. None: the folder names, sorted, each of which must hold an image.
        transform: called with the image and the batch's scale.
        only_class: index of the only class to scan; the files of the others are not read.

    Attributes:
        paths, labels: file and class index of every image.
        ignored: number of files left out because they are hidden or not named like an image.

    Raises:
        ValueError: `root` is missing or holds no images, a class folder is empty or not among `classes`, `only_class`
            is out of range or has no images.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        classes: Sequence[str] | None = None,
        transform: Transform | None = None,
        only_class: int | None = None,
    ) -> None:
        self.root = root = Path(root)
        self.transform = transform
        folders = list_classes(self.root)
        self.classes = list(folders if classes is None else classes)
        if unknown := sorted(set(folders) - set(self.classes)):
            known = f"the {len(self.classes)} classes of the training split or checkpoint ({_quoted(self.classes)})"
            raise ValueError(f"{root}: folder {_quoted(unknown)} is not among {known}; remove or rename it")
        self.paths: list[Path] = []
        self.labels: list[int] = []
        self.ignored = sum(entry.is_file() for entry in os.scandir(self.root))

        wanted = range(len(self.classes))
        if only_class is not None:
            if only_class not in wanted:
                allowed = f"0 to {len(wanted) - 1} ({len(wanted)} classes)"
                raise ValueError(f"class index {only_class} is out of range; allowed for {root}: {allowed}")
            wanted = range(only_class, only_class + 1)
        present = set(folders)
        for label in wanted:
            if self.classes[label] in present:
                self._scan(self.root / self.classes[label], label)
        empty = [self.classes[label] for label in sorted(set(wanted) - set(self.labels))]
        if empty and (classes is None or only_class is not None):
            raise ValueError(f"{root}: no image in class {_quoted(empty)}; expected files ending in {EXTENSIONS}")
        if not self.paths:
            raise ValueError(f"{root}: no image in any of {len(folders)} class folders; expected files ending in {EXTENSIONS}")

    def _scan(self, folder: Path, label: int) -> None:
        images = []
        for path in _walk(os.fspath(folder), frozenset()):
            if os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS and not os.path.basename(path).startswith("."):
                images.append(path)
            else:
                self.ignored += 1
        self.paths += map(Path, sorted(images))
        self.labels += [label] * len(images)

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Return a hash of the images' paths below the root, in their order, and of their labels: the same on every machine."""
        digest, start = blake2b(digest_size=16), len(os.fspath(self.root / "x")) - 1
        for path, label in zip(self.paths, self.labels, strict=True):
            digest.update(f"{path.as_posix()[start:]}\0{label}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def __getitem__(self, request: Sample | int) -> tuple[Tensor, int, int]:
        """Return the image uint8 `[3, H, W]`, its label and its index; an int requests the default scale and a fixed seed.

        The augmentation depends on the request alone, so that it is the same in any worker and after a resume.

        Raises:
            ValueError: the file cannot be decoded.
        """
        index, seed, size = request if isinstance(request, tuple) else Sample(request, seed=request)
        image = decode_image(self.paths[index])
        if self.transform is not None:
            # Only the CPU's generator: torch.manual_seed would also reset that of the GPU, which dropout draws from.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                image = self.transform(image, size)
        return image, self.labels[index], index


def list_classes(split_dir: str | os.PathLike[str]) -> list[str]:
    """Return the sorted names of the class folders that are not hidden; a ValueError if there is none."""
    root = Path(split_dir)
    if not root.is_dir():
        raise ValueError(f"no folder {root}; expected {LAYOUT}")
    names = _folder_names(root)
    for name in names:
        if not name.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(f"{root}: the name of the class folder {name!r} is not UTF-8; rename it")
    if not names:
        unsorted = sum(os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS for entry in os.scandir(root))
        hint = f"; {unsorted} images lie in it directly: move each into a folder named by its class" if unsorted else ""
        raise ValueError(f"{root}: no class folder; expected {LAYOUT}{hint}")
    return names


def open_split(
    dataset_path: str | os.PathLike[str],
    dataset_name: str,
    split: str,
    classes: Sequence[str] | None = None,
    transform: Transform | None = None,
    only_class: int | None = None,
) -> ImageFolder:
    """Open the split `<dataset_path>/<dataset_name>/<split>`; raises a ValueError as `split_folder` and `ImageFolder`."""
    return ImageFolder(split_folder(dataset_path, dataset_name, split), classes, transform, only_class)


def class_names(dataset_path: str | os.PathLike[str], dataset_name: str, split: str, count: int) -> list[str]:
    """Return class names for a checkpoint without them (INTR's): the class folders of train or, without train, of `split`.

    Raises a ValueError unless there are `count` of them.
    """
    source = "train" if (Path(dataset_path) / dataset_name / "train").is_dir() else split
    folder = split_folder(dataset_path, dataset_name, source)
    names = list_classes(folder)
    if len(names) != count:
        here = f"{folder} has {len(names)} class folders"
        raise ValueError(f"the checkpoint has {count} classes and no names for them, {here}: there must be as many")
    return names


def _walk(folder: str, ancestors: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Yield the paths of all files below a folder; links are followed, except to a folder that contains them."""
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield entry.path
            elif not entry.name.startswith("."):
                yield from _walk(entry.path, ancestors | {identity})


def split_folder(dataset_path: str | os.PathLike[str], dataset_name: str, split: str) -> Path:
    """Return the folder of a split; a ValueError names the first folder of the path that is missing, and its siblings."""
    dataset = Path(dataset_path) / dataset_name
    for what, folder in (("--dataset_path", Path(dataset_path)), ("--dataset_name", dataset), ("split", dataset / split)):
        if not folder.is_dir():
            siblings = ""
            if folder.parent.is_dir():
                siblings = f"; folders in {folder.parent}: {_quoted(_folder_names(folder.parent)) or 'none'}"
            raise ValueError(f"{what}: no folder {folder}; expected {LAYOUT}{siblings}")
    return dataset / split


def _folder_names(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _quoted(names: Sequence[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + rest
