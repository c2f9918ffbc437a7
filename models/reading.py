"""Safe reading of files of torch.save and safetensors: runs no code, takes memory by the size of the file, fails in one line."""

from __future__ import annotations

import errno
import io
import json
import pickletools
import re
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.checkpoint_format import HEADER

MIB = 2**20
PICKLE_BYTES = 8 * MIB  # of the pickle, without the tensors: some 40,000 tensors; those of a ResNet-50 with its moments: 0.3 MiB
GROWTH, SLACK = 4, 64 * MIB  # the tensors, and an unpacked archive, have at most GROWTH times the bytes of the file, and SLACK
TYPES, NODES, DEPTH = 100, 10**6, 50  # of values besides tensors: distinct types, values, levels of nesting

# Files that others publish, by the beginning of their names.
ADDRESSES = {
    "detr-": "https://dl.fbaipublicfiles.com/detr/{}",  # github.com/facebookresearch/detr
    "intr_checkpoint_": "https://huggingface.co/imageomics/INTR/resolve/main/{}",  # github.com/Imageomics/INTR
}

# What a file may begin with that is no checkpoint, and what to do.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file: run git lfs pull"),
    (b"\x1f\x8b", "compressed by gzip: unpack it"),
    (b"BZh", "compressed by bzip2: unpack it"),
    (b"\xfd7zXZ", "compressed by xz: unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"RIFF", "a WebP image, sound or video"),
    (b"%PDF", "a PDF document"),
    (b"\x89HDF", "an HDF5 file, such as Keras writes"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "a program"),
    (bytes(16), "zeros where its data should be: copy or download it again"),
)

_GIVE = ": give a checkpoint or safetensors"
# The beginning of an ONNX file, a protobuf message: the version of the format, and the name of what wrote it.
_ONNX = re.compile(rb"\x08[\x01-\x7f]\x12[\x01-\x40][\w.+ -]+")

# What a pickle may name: how dense tensors are built, types of flags of the standard library, and whatever is of other packages,
# for which there are stand-ins (torch takes its own types where it knows them). Anything else may be there to be run.
_PLAIN = re.compile(r"_codecs\.encode|torch\._utils\._rebuild_(tensor|tensor_v2|tensor_v3|parameter)")
_OTHER_TENSORS = re.compile(r"torch\._utils\._rebuild_(\w+)|torch\.(\w*Tensor)|torch\._tensor\.(\w+)")
_HARMLESS = re.compile(
    r"(argparse|collections|copyreg|datetime|decimal|enum|fractions|pathlib|typing|uuid)\..*|types\.SimpleNamespace|"
    r"builtins\.(bool|bytes|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple)"
)


class Inert:
    """Stand-in for a value that is not plain: holds what the pickle gives to its type, and runs nothing."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Inert:
        self = object.__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Refused(ValueError):
    """A file is not what is needed; the message continues its name: `is a PNG image`."""


def read_file(path: Path) -> Any:
    """Read a file of torch.save (zip or legacy format) or safetensors.

    Returns:
        Tensors on the CPU, in dicts and lists with plain values: numbers of NumPy as numbers, a namespace as a dict, any other
        value as the name of its type.

    Raises:
        ValueError: one line with the path: no such file, another kind of file, damaged, too large for its size, or a pickle
            that names functions of the standard library.
    """
    if not path.is_file():
        address = next((url for start, url in ADDRESSES.items() if path.name.startswith(start)), "").format(path.name)
        advice = f"; it can be had from {address}" if address else ""
        raise ValueError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: give the path of a .pth file{advice}")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
        kind = _kind(head)
        if kind:
            raise Refused(f"is {kind}; a file of torch.save is needed")
        return _Plain(GROWTH * path.stat().st_size + SLACK).convert(_load(path, head))
    except Refused as error:
        raise ValueError(f"{path} {error}") from None
    except MemoryError:
        raise ValueError(f"{path} needs more memory than there is") from None
    except Exception as error:  # whatever a damaged file raises in pickle, zipfile, safetensors and torch
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: a place before the file's beginning
            raise ValueError(f"{path} cannot be read ({error.strerror})") from None
        raise ValueError(f"{path} is truncated or no checkpoint at all ({_reason(error)})") from None


def first_line(error: object) -> str:
    """Return the first line of an error's text, or the name of its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def shown(value: object, limit: int = 60) -> str:
    """Return what a file holds as it may be printed: short, without control characters."""
    text = value if isinstance(value, str) else str(value)
    text = text if len(text) <= limit else f"{text[: limit - 3]}..."
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _kind(head: bytes) -> str | None:
    """Return what a file is that begins with `head`; None for a file of torch.save or safetensors, as far as that can be told."""
    if not head:
        return "empty"
    if _is_safetensors(head):
        return None
    for magic, kind in _KINDS:
        if head.startswith(magic):
            return kind
    if _ONNX.match(head):
        raise Refused(f"is a program (ONNX){_GIVE}")
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if head[:1] == b"\x80" or head[:4] == b"PK\x03\x04":
        return None
    text = head.decode("utf-8", "replace").rstrip("\ufffd")  # the last letter may be cut
    if "\ufffd" in text or any(ord(letter) < 32 and letter not in "\t\n\r\f\x1b" for letter in text):
        return "of an unknown format"
    if re.match(r"\s*(<!doctype|<html|<\?xml|<head)", text, re.IGNORECASE):
        return "a web page: download the file itself"
    return f"a text file ({shown(first_line(text), 40)!r})"


def _is_safetensors(head: bytes) -> bool:
    """Return whether a file begins with the length of a header in JSON, whose first bytes may look like another format's."""
    return head[8:9] == b"{" and (head[4:8] == bytes(4) or (head[:1] != b"\x80" and head[:2] != b"PK"))


def _load(path: Path, head: bytes) -> Any:
    """Return the content of a file, with `Inert` values; raises whatever a damaged one makes the libraries raise."""
    if _is_safetensors(head):
        return _load_safetensors(path)
    names = _globals_of_zip(path) if head[:2] == b"PK" else _globals_of_legacy(path)
    stand_ins = _stand_ins({name for name in names if not _PLAIN.fullmatch(name)})
    with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _load_safetensors(path: Path) -> Any:
    """Return the state dict of a safetensors file; where it has ICN's header a checkpoint, with the state dict under `model`."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        header = (file.metadata() or {}).get(HEADER)
    if header is None:
        return load_file(path)
    if len(header) > PICKLE_BYTES:
        raise _too_many_values()
    content = json.loads(header)
    if not isinstance(content, dict):
        raise Refused(f"has a {type(content).__name__} as {HEADER!r} in its header where a table is needed: export it again")
    return {**content, "model": load_file(path)}


def _globals_of_zip(path: Path) -> set[str]:
    """Check a zip archive, sizes and checksums, which torch does not; return the globals that its pickle names."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise Refused("is a TorchScript model: save the state_dict() of the model itself")
        if any(name.endswith(("/models/model.json", "serialized_exported_program.json")) for name in names):
            raise Refused(f"is a program (torch.export){_GIVE}")
        pickles = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            listed = ", ".join(shown(name) for name in names[:3])
            raise Refused(f"is a zip archive of other files ({listed}{', ...' * (len(names) > 3)}): unpack it")
        size = sum(entry.file_size for entry in archive.infolist())
        if size > GROWTH * path.stat().st_size + SLACK:
            raise Refused(f"unpacks to {size / MIB:.0f} MiB, more than {GROWTH} times its size: it is damaged or made to harm")
        if pickles[0].file_size > PICKLE_BYTES:
            raise _too_many_values()
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {shown(damaged)} is wrong")
        return set(_globals(io.BytesIO(archive.read(pickles[0]))))


def _globals_of_legacy(path: Path) -> set[str]:
    """Return the globals that the pickles at the head of a file name: magic number, version, system, content, storages."""
    with path.open("rb") as file:
        head = io.BytesIO(file.read(PICKLE_BYTES))
    first = [argument for operation, argument, _ in pickletools.genops(head) if operation.name.startswith("LONG")]
    if first != [torch.serialization.MAGIC_NUMBER]:
        raise Refused("is a pickle that torch.save did not write: save the model's state_dict() by torch.save")
    try:
        return {name for _ in range(4) for name in _globals(head)}
    except ValueError:
        if path.stat().st_size > PICKLE_BYTES and not head.read(1):
            raise _too_many_values() from None
        raise


def _globals(stream: io.BytesIO) -> Iterator[str]:
    """Yield the globals that the next pickle of a stream names (`module.name`)."""
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name == "PROTO" and int(argument or 0) > 3:
            raise Refused(f"has pickle protocol {argument}: save it with the protocol that torch.save has by default")
        if operation.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")  # as Python 2 calls them
            yield ".".join(NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name)))


def _stand_ins(names: set[str]) -> list[Any]:
    """Return an `Inert` type for each global; Refused for tensors that are not dense, and what could be there to be run."""
    for name in sorted(names):
        if special := _OTHER_TENSORS.fullmatch(name):
            kind = next(filter(None, special.groups())).replace("_", " ")
            raise Refused(f"holds tensors of a special kind ({shown(kind)}): save dense ones, on the CPU and not quantised")
        is_library = name.split(".")[0] in sys.stdlib_module_names
        if is_library and not _HARMLESS.fullmatch(name):
            raise Refused(f"is refused, nothing in it was run: it holds more than plain values (global {shown(name)})")
    if len(names) > TYPES:
        raise _too_many_values()
    return [_stand_in(*name.rpartition(".")[::2]) for name in names]


def _stand_in(module: str, name: str) -> type:
    content: dict[str, Any] = {"__module__": module}
    if name == "defaultdict":  # torch fills dicts and OrderedDicts only
        content["__new__"] = lambda cls, *args: OrderedDict()
    return type(name, (Inert,), content)


class _Plain:
    """Conversion of a file's content to plain values and dense tensors of at most `max_bytes` in all."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self.seen: dict[int, Any] = {}  # containers by their id: one that contains itself ends there

    def convert(self, value: Any, depth: int = 0) -> Any:
        if isinstance(value, int) and value.bit_length() > 63:  # more than a number of any use, and too much for arithmetic
            return f"an integer of {value.bit_length()} bits"
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if id(value) in self.seen:
            return self.seen[id(value)]
        if depth > DEPTH or len(self.seen) > NODES:
            raise _too_many_values()
        self.seen[id(value)] = None
        if isinstance(value, Tensor):
            result: Any = self._tensor(value)
        elif (
            isinstance(value, Inert) and isinstance(value.state, dict) and "_modules" not in value.state
        ):  # a namespace, no module
            result = self.convert(value.state, depth + 1)
        elif isinstance(value, Mapping):
            result = {key: self.convert(x, depth + 1) for key, x in value.items() if isinstance(key, (str, int))}
        elif isinstance(value, (list, tuple, set)):
            result = [self.convert(x, depth + 1) for x in value]
        else:
            number = _number(value) if isinstance(value, Inert) else None
            result = _type_name(value) if number is None else number
        self.seen[id(value)] = result
        return result

    def _tensor(self, value: Tensor) -> Tensor:
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.device.type != "cpu":
            raise Refused("holds tensors that are not dense: save dense ones, on the CPU and not quantised")
        self.bytes += value.numel() * value.element_size()
        if self.bytes > self.max_bytes:
            raise Refused(
                f"names tensors of more than {self.max_bytes / MIB:.0f} MiB in all, {GROWTH} times its size: it is damaged"
            )
        return value.detach()


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _number(value: Inert) -> bool | int | float | None:
    """Return a scalar of NumPy as a plain number; None for another value."""
    if not _type_name(value).endswith("multiarray.scalar") or len(value.args) != 2:
        return None
    kind, content = value.args
    code = kind.args[0] if isinstance(kind, Inert) and kind.args else None
    if not isinstance(code, str) or not re.fullmatch(r"[biuf][1248]", code) or not isinstance(content, bytes):
        return None
    order = ">" if isinstance(kind.state, tuple) and kind.state[1:2] == (">",) else "<"
    return np.frombuffer(content, order + code)[0].item()


def _too_many_values() -> Refused:
    return Refused(
        f"holds more values besides tensors than a checkpoint has (at most {PICKLE_BYTES // MIB} MiB of them, {TYPES} types, "
        f"{DEPTH} levels): it is damaged or made to harm"
    )


def _reason(error: Exception) -> str:
    """Return one line of an error; of torch's, not the advice to read the file unsafely."""
    reason = next(
        (line.split("WeightsUnpickler error:")[-1] for line in str(error).splitlines() if "WeightsUnpickler" in line), ""
    )
    line = reason.strip() or first_line(error)
    if "weights_only" in line or "Weights only" in line:
        line = type(error).__name__
    return shown(re.split(r"[.,:]? ?(Please|This is a feature|If you)", line)[0], 160)
