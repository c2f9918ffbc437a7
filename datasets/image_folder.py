"""The data set: an image folder with one folder per class, and one class list for all splits."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.decode import current_decoding, decode_image
from datasets.folders import EXTENSIONS, LAYOUT, SYSTEM, LeftOut, class_folders, images_below
from datasets.picture_cache import PictureCache
from util.classes import class_key, match_classes
from util.errors import did_you_mean
from util.printable import quoted

if TYPE_CHECKING:
    from datasets.device_cache import DevicePictures

# The scale of a batch in pixels, or that and the image size that it is a scale of; None: those of the transform.
Size: TypeAlias = "int | tuple[int, int] | None"
Transform = Callable[[Tensor, Any], Tensor]  # called with an image and a Size


class Sample(NamedTuple):
    """A request of a sampler: an image, the seed of its augmentation, the scale of its batch."""

    index: int  # type: ignore[assignment]
    seed: int
    size: Size = None


class ImageFolder(Dataset[tuple[Tensor, int, int]]):
    """The images of `<root>/<class>/**`, sorted by path.

    Args:
        root: folder of the split.
        classes: names in logit order, from the training split or a checkpoint; folders are matched by `class_key`. A class
            without images is then allowed and shifts no label. None: the folder names, sorted.
        transform: called with the image and the batch's scale.
        only_class: index of the only class to scan; the files of the others are not read.
        complete: each class must hold an image; implied without `classes`.

    Attributes:
        paths, labels: file and class index of every image.
        cache: of decoded pictures; None: files are decoded whenever they are needed.
        resident: decoded pictures on the device that trains, of which its loaders make batches; None: there are none.
        empty: names of the classes without an image.
        folders: name of the folder of each class index that has one.
        left_out: what was left out, in one line; empty if nothing was.

    Raises:
        ValueError: `root` is missing or holds no images, a class folder is empty, not among `classes` or as `class_folders`
            says, `only_class` is out of range or has no images.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        classes: Sequence[str] | None = None,
        transform: Transform | None = None,
        only_class: int | None = None,
        complete: bool = False,
    ) -> None:
        self.root = root = Path(root)
        self.transform = transform
        self.cache: PictureCache | None = None
        self.resident: DevicePictures | None = None
        self.decoding = current_decoding()  # goes with the data set into the processes of a loader
        left_out = LeftOut(root)
        folders = class_folders(root, left_out)
        self.classes = list(folders if classes is None else classes)
        self.folders = self._match(folders)
        wanted = range(len(self.classes))
        if only_class is not None:
            if only_class not in wanted:
                allowed = f"0 to {len(wanted) - 1} ({len(wanted)} classes)"
                raise ValueError(f"class index {only_class} is out of range; allowed for {root}: {allowed}")
            wanted = range(only_class, only_class + 1)
        self.paths: list[Path] = []
        self.labels: list[int] = []
        for label in wanted:
            if label in self.folders:
                images = sorted(images_below(os.fspath(root / self.folders[label]), left_out))
                self.paths += map(Path, images)
                self.labels += [label] * len(images)
        self.left_out = str(left_out)
        self.empty = [self.classes[label] for label in sorted(set(wanted) - set(self.labels))]
        expected = f"expected files ending in {EXTENSIONS}" + f"; left out are {left_out}" * bool(self.left_out)
        if self.empty and (classes is None or complete or only_class is not None):
            raise ValueError(f"{root}: no image in class {quoted(self.empty)}; {expected}")
        if not self.paths:
            raise ValueError(f"{root}: no image in any of {len(folders)} class folders; {expected}")

    def _match(self, folders: Mapping[str, str]) -> dict[int, str]:
        """Return the folder of each class index; a ValueError for one whose name is that of no class."""
        found = dict(zip(folders, match_classes(folders, self.classes), strict=True))
        if unknown := [name for name, label in found.items() if label is None]:
            known = f"the {len(self.classes)} classes of the training split or checkpoint ({quoted(self.classes)})"
            near = [name for name in self.classes if class_key(name).casefold() == class_key(unknown[0]).casefold()]
            meant = f" (is {quoted(near)} meant?)" if near else ""
            raise ValueError(f"{self.root}: folder {quoted(unknown)} is not among {known}; remove or rename it{meant}")
        return {label: folders[name] for name, label in found.items() if label is not None}

    def with_transform(self, transform: Transform | None) -> ImageFolder:
        """Return the same images with another transform, and without the caches, whose pictures are made for this one."""
        other = copy.copy(self)
        other.transform, other.cache, other.resident = transform, None, None
        return other

    def some_of_each_class(self, count: int) -> ImageFolder:
        """Return up to `count` images of each class, every n-th in the order of their paths, without the cache."""
        by_label: dict[int, list[int]] = {}
        for index, label in enumerate(self.labels):
            by_label.setdefault(label, []).append(index)
        indices = [index for own in by_label.values() for index in own[:: -(-len(own) // count)]]
        other = self.with_transform(self.transform)
        other.paths, other.labels = [self.paths[index] for index in indices], [self.labels[index] for index in indices]
        return other

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Return a hash of the images' paths below the root, in their order, and of their labels: the same on every machine."""
        digest, start = blake2b(digest_size=16), len(os.fspath(self.root / "x")) - 1
        for path, label in zip(self.paths, self.labels, strict=True):
            digest.update(f"{path.as_posix()[start:]}\0{label}\0".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def summary(self) -> str:
        """Return the number of images and their fingerprint, in which processes that see other images differ."""
        return f"{len(self)} images, hash {self.fingerprint()}"

    def __getitem__(self, request: Sample | int) -> tuple[Tensor, int, int]:
        """Return the image uint8 `[3, H, W]`, its label and its index; an int requests the default scale and a fixed seed.

        The augmentation depends on the request alone, so that it is the same in any worker and after a resume.

        Raises:
            ValueError: the file cannot be decoded.
        """
        index, seed, size = request if isinstance(request, tuple) else Sample(request, seed=request)
        decode = partial(decode_image, self.paths[index], self.decoding)
        image = decode() if self.cache is None else self.cache.picture(index, decode)
        if self.transform is not None and (self.cache is None or self.cache.prepare != self.transform):
            # Only the CPU's generator: torch.manual_seed would also reset that of the GPU, which dropout draws from.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                image = self.transform(image, size)
        return image, self.labels[index], index


def open_split(
    dataset_path: str | os.PathLike[str],
    dataset_name: str,
    split: str,
    classes: Sequence[str] | None = None,
    transform: Transform | None = None,
    only_class: int | None = None,
    complete: bool = False,
) -> ImageFolder:
    """Open the split `<dataset_path>/<dataset_name>/<split>`, and print what of it is left out.

    Raises:
        ValueError: as `split_folder` and `ImageFolder`.
    """
    dataset = ImageFolder(split_folder(dataset_path, dataset_name, split), classes, transform, only_class, complete)
    if dataset.left_out:
        print(f"{dataset.root}: left out are {dataset.left_out}")
    if dataset.empty:
        print(f"{dataset.root}: no image in {len(dataset.empty)} of {len(dataset.classes)} classes: {quoted(dataset.empty)}")
    return dataset


def class_names(dataset_path: str | os.PathLike[str], dataset_name: str, split: str, count: int) -> list[str]:
    """Return class names for a checkpoint without them (INTR's): the class folders of train or, without train, of `split`.

    Raises a ValueError unless there are `count` of them.
    """
    source = "train" if (Path(dataset_path) / dataset_name / "train").is_dir() else split
    folder = split_folder(dataset_path, dataset_name, source)
    names = list(class_folders(folder))
    if len(names) != count:
        here = f"{folder} has {len(names)} class folders"
        raise ValueError(f"the checkpoint has {count} classes and no names for them, {here}: there must be as many")
    return names


def split_folder(dataset_path: str | os.PathLike[str], dataset_name: str, split: str) -> Path:
    """Return the folder of a split; a ValueError names the first folder of the path that is missing, and its siblings."""
    dataset = Path(dataset_path) / dataset_name
    for what, folder in (("--dataset_path", Path(dataset_path)), ("--dataset_name", dataset), ("split", dataset / split)):
        if not folder.is_dir():
            siblings = ""
            if folder.parent.is_dir():
                folders = [path.name for path in folder.parent.iterdir() if path.is_dir() and not SYSTEM.fullmatch(path.name)]
                siblings = f"; folders in {folder.parent}: {quoted(sorted(folders)) or 'none'}"
                if what == "split" and folders and not {"train", "val", "test"} & set(folders):
                    siblings += "; python -m tools.prepare_dataset folder divides class folders into splits"
                siblings += did_you_mean(folder.name, folders)
            raise ValueError(f"{what}: no folder {folder}; expected {LAYOUT}{siblings}")
    return dataset / split
