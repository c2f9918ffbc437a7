"""Files of Apache Arrow and Parquet that hold pictures and labels, as Hugging Face writes them; read with pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets.prepare.archives import MEGABYTE
from datasets.prepare.photo_lists import COLUMNS
from util.errors import did_you_mean, first_line
from util.printable import quoted
from util.progress import Progress

BATCH = 64  # rows that are read at once


class Columns(NamedTuple):
    """Names of the columns of image, label and group ('': none), and the classes that numbers of the label stand for."""

    image: str
    label: str
    group: str
    classes: Sequence[str]

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return sorted({self.image, self.label, self.group} - {""})


def read_batches(path: Path, features: Mapping[str, Any], flags: Mapping[str, Any]) -> Iterator[tuple[Any, Columns]]:
    """Yield the rows of a file in batches (pyarrow.RecordBatch), with their columns.

    Args:
        path: the file.
        features: of Hugging Face, by column; empty: those in the file's own metadata, or none.
        flags: `label` and `group`: columns, or None.

    Raises:
        ValueError: pyarrow is missing, the file is damaged, or columns are missing or cannot be told apart.
    """
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ImportError:
        raise ValueError("a saved data set of Hugging Face needs the package pyarrow: pip install pyarrow") from None
    try:
        with pyarrow.OSFile(str(path)) as file, Progress(file.size() // MEGABYTE, f"reading {path.name} (MB)") as line:
            if path.suffix == ".parquet":
                table = parquet.ParquetFile(file)
                columns = _columns(path, table.schema_arrow, features, flags)
                batches = table.iter_batches(BATCH, columns=columns.names)
            else:
                stream = ipc.open_stream(file)
                columns, batches = _columns(path, stream.schema, features, flags), iter(stream)
            for batch in batches:
                batch.validate(full=True)  # offsets of a damaged file lead out of its memory
                for start in range(0, batch.num_rows, BATCH):
                    yield batch.slice(start, BATCH), columns
                line.step(file.tell() // MEGABYTE - line.done)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: is damaged or missing ({first_line(error)}); copy the whole folder again") from None


def _columns(path: Path, schema: Any, features: Mapping[str, Any], flags: Mapping[str, Any]) -> Columns:
    """Return the columns of image, label and group; a ValueError where there is none, or several."""
    features = features or _own_features(schema)
    kinds = {name: _kind(features.get(name)) for name in schema.names}
    images = [name for name in schema.names if kinds[name] == "Image"]
    images = images or [field.name for field in schema if "binary" in str(field.type)]
    named = [name for name in schema.names if kinds[name] == "ClassLabel"]
    labels, groups = ([name for name in schema.names if name.casefold() in COLUMNS[key].split()] for key in ("label", "group"))
    image = _only(path, "image", images, ("image", "img"))
    label = _chosen(path, "label", flags["label"], schema.names) or _only(path, "label", named or labels, ("label", "species"))
    group = _chosen(path, "group", flags["group"], schema.names) or (_only(path, "group", groups) if groups else "")
    return Columns(image, label, group, features[label].get("names") or () if kinds[label] == "ClassLabel" else ())


def _own_features(schema: Any) -> Mapping[str, Any]:
    """Return the features of Hugging Face in a file's metadata; empty if there are none."""
    try:
        return json.loads(schema.metadata[b"huggingface"])["info"]["features"] or {}
    except (TypeError, KeyError, ValueError, RecursionError):
        return {}


def _kind(feature: Any) -> str:
    return str(feature.get("_type", "")) if isinstance(feature, dict) else ""


def _chosen(path: Path, what: str, chosen: str | None, names: Sequence[str]) -> str:
    if chosen and chosen not in names:
        advice = did_you_mean(chosen, names)
        raise ValueError(f"--{what} {chosen}: {path} has no such column, but {quoted(names)}{advice}")
    return chosen or ""


def _only(path: Path, what: str, found: Sequence[str], better: Sequence[str] = ()) -> str:
    """Return the only column that was found, or the first of the better ones."""
    if not found:
        raise ValueError(f"{path}: has no column of {what}s{'; choose one by --label' * (what == 'label')}")
    name = found[0] if len(found) == 1 else next((name for name in better if name in found), "")
    if not name:
        raise ValueError(f"{path}: has several columns of {what}s, {quoted(found)}: {_advice(what)}")
    return name


def _advice(what: str) -> str:
    return "keep one of them" if what == "image" else f"choose by --{what}"
