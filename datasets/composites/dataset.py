"""A data set of composites on disk: an image folder, and beside it the ground truth of its pictures.

<root>/{train,val}/<class>/<stem>.png          the pictures (or .jpg)
<root>/masks/<split>/<class>/<stem>.png        visible mask of the object, 0 or 255
<root>/marks/<split>/<class>/<stem>.png        the planted mark of --shortcut, 0 or 255
<root>/pairs/<stem>.png, .A.png, .B.png        pictures of two objects of different classes, and the mask of each
<root>/pairs/pairs.json                        [{"file", "A", "B", ...}], A and B the classes
<root>/annotations.json                        picture -> seed, cut-out, background
<root>/dataset.json                            how it was made

A stem is the seed z in hexadecimal: pose, colours, background and sensor are functions of it, and it is drawn before the class.
Pairs show the cut-outs and the backgrounds of val.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from datasets.composites.compose import PAIR_SCALE, Change, Composer, Composite, Plan, stream, visible_shares
from datasets.composites.sources import Sources, read_sources
from datasets.prepare.archives import fingerprint_of
from datasets.prepare.writing import Entry, is_prepared, write_dataset
from datasets.rendering import SPLITS, draw_mark, encode, plan_split

if TYPE_CHECKING:
    from util.distributed import Ranks

VERSION = 1  # of the pictures that one seed gives
KEPT = 64  # composites in memory: several files are written of each


class Pair(NamedTuple):
    """A picture of two objects: seed, the class folders of A and B, whether A is behind, and what is to be composed."""

    z: int
    labels: tuple[str, str]
    first_behind: bool
    plan: Plan

    @property
    def order(self) -> slice:
        """The step from back-to-front to (A, B), and from that to back-to-front."""
        return slice(None, None, 1 if self.first_behind else -1)


def plan_single(sources: Sources, split: str, label: str, z: int, shortcut: float | None) -> Plan:
    """Return the picture of seed z of a class; with a `shortcut` it has the mark of its class with this probability."""
    labels = list(sources.folders)
    mark = None if shortcut is None else draw_mark(stream(z, "mark"), labels.index(label), len(labels), shortcut)
    return Plan(split, z, (sources.choose(split, label, z),), mark)


def plan_pairs(sources: Sources, count: int, seed: int) -> list[Pair]:
    """Draw pictures of two classes each, of the cut-outs of val; which of them is A depends neither on place nor on depth."""
    rng, labels, pairs = np.random.default_rng([seed, len(SPLITS)]), sorted(sources.folders), []
    for _ in range(count):
        z = int(rng.integers(2**48))
        first, second = (labels[int(i)] for i in rng.choice(len(labels), 2, replace=False))
        cutouts = [sources.choose("val", label, z, place) for place, label in enumerate((first, second))]
        first_behind = bool(rng.random() < 0.5)
        plan = Plan("val", z, tuple(cutouts if first_behind else cutouts[::-1]))
        pairs.append(Pair(z, (sources.folders[first], sources.folders[second]), first_behind, plan))
    return pairs


def prepare_composites(target: Path, ranks: Ranks, flags: Mapping[str, Any]) -> None:
    """Write the data set `target`; one that is there already is left as it is.

    Args:
        target: the folder.
        ranks: the processes that share the pictures.
        flags: the values of the tool's flags, by name.

    Raises:
        ValueError: `target` holds something else or would lie in a source; as `read_sources`, `plan_split` and `Composer.place`.
        OSError: a file cannot be written.
    """
    given = [*flags["cutouts"], *([flags["backgrounds"]] if flags["backgrounds"] else [])]
    for source in given:
        if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"--out: {target} would lie in {source}, and become a part of it: choose a folder elsewhere")
    names = ("size", "format", "train", "val", "pairs", "val_share", "seed", "partial", "shortcut", *Change.__dataclass_fields__)
    settings = {name: list(value) if isinstance(value := flags[name], (list, tuple)) else value for name in names}
    hashes = [f"{path.resolve().name} {fingerprint_of(path)}" for path in given]
    settings |= {"backgrounds": "photographs" if flags["backgrounds"] else "rendered", "files": hashes, "version": VERSION}
    if is_prepared(target, settings):
        return
    sources, notes = open_sources(flags)
    for note in notes:
        print(note)
    composer = open_composer(flags, sources)
    counts = {split: flags[split] for split in ("train", "val") if flags[split]}
    planned = {split: plan_split(sorted(sources.folders), split, count, flags["seed"]) for split, count in counts.items()}
    pairs = plan_pairs(sources, flags["pairs"], flags["seed"])
    images = {split: {"images": len(rows), "classes": len({label for _, label in rows})} for split, rows in planned.items()}
    record = {
        "title": "composites of cut-outs",
        "licence": "that of the cut-outs and the backgrounds",
        "split": f"of cut-outs and backgrounds: seed {flags['seed']}, share of val {flags['val_share']}",
        "source": [str(path.resolve()) for path in given],
        "settings": settings,
        "images": images,
        "cutouts": {split: sum(map(len, labels.values())) for split, labels in sources.cutouts.items()},
        "backgrounds": {split: len(paths) for split, paths in sources.photographs.items()},
        "class_names": {folder: label for label, folder in sources.folders.items() if folder != label},
        "notes": notes,
    }
    entries = [
        *_entries(composer, sources, planned, flags["format"], flags["shortcut"]),
        *_pair_entries(composer, sources, pairs, flags["format"]),
    ]
    write_dataset(target, entries, ranks, record, threads=flags["num_workers"])


def open_sources(flags: Mapping[str, Any]) -> tuple[Sources, list[str]]:
    """Return the sources that the flags name, and what there is to say about them; raises as `read_sources`."""
    smallest = flags["scale"][0] * flags["size"] * (PAIR_SCALE if flags["pairs"] else 1)
    names = ("partial", "val_share", "seed", "num_workers")
    return read_sources(flags["cutouts"], flags["backgrounds"], smallest, *(flags[name] for name in names))


def open_composer(flags: Mapping[str, Any], sources: Sources) -> Composer:
    """Return the composer of the pictures that the flags describe."""
    change = Change(**{name: flags[name] for name in Change.__dataclass_fields__})
    return Composer(flags["size"], change, sources.photographs)


def _entries(
    composer: Composer,
    sources: Sources,
    planned: Mapping[str, Sequence[tuple[int, str]]],
    image_format: str,
    shortcut: float | None,
) -> Iterator[Entry]:
    """Yield pictures, masks, marks and annotations.json."""
    compose = lru_cache(KEPT)(composer.compose)
    rows = []
    for split, pictures in planned.items():
        for z, label in pictures:
            plan = plan_single(sources, split, label, z, shortcut)
            name = f"{split}/{sources.folders[label]}/{z:012x}"
            yield f"{name}.{image_format}", partial(_picture, compose, plan, image_format)
            yield f"masks/{name}.png", partial(_mask, compose, plan, 0)
            facts = {"z": z} | _origin(composer, sources, plan)
            if plan.mark is not None:
                yield f"marks/{name}.png", partial(_mask, compose, plan, 1)
                facts["mark"] = list(sources.folders.values())[plan.mark]
            rows.append(f"{_json(f'{name}.{image_format}')}: {_json(facts)}")
    yield "annotations.json", partial(_bytes, "{\n" + ",\n".join(rows) + "\n}\n")


def _pair_entries(composer: Composer, sources: Sources, pairs: Sequence[Pair], image_format: str) -> Iterator[Entry]:
    """Yield the pictures of two objects, their masks and pairs.json."""
    compose = lru_cache(KEPT)(composer.compose)
    for pair in pairs:
        name = f"pairs/{pair.z:012x}"
        yield f"{name}.{image_format}", partial(_picture, compose, pair.plan, image_format)
        for side, index in zip("AB", range(2)[pair.order], strict=True):
            yield f"{name}.{side}.png", partial(_mask, compose, pair.plan, index)
    if pairs:
        yield "pairs/pairs.json", partial(_pairs_json, composer, sources, pairs, image_format)


def _pairs_json(composer: Composer, sources: Sources, pairs: Sequence[Pair], image_format: str) -> bytes:
    """Return the list of pairs; `in_front`, and `visible`, the share of each object that is seen."""
    rows = []
    for pair in pairs:
        facts = {"file": f"{pair.z:012x}.{image_format}", "A": pair.labels[0], "B": pair.labels[1], "z": pair.z}
        facts |= _origin(composer, sources, pair.plan, pair.order) | {"in_front": "B" if pair.first_behind else "A"}
        shares = visible_shares(composer.place(pair.plan))[pair.order]
        rows.append(_json(facts | {"visible": [round(float(share), 4) for share in shares]}))
    return _bytes("[\n" + ",\n".join(rows) + "\n]\n")


def _origin(composer: Composer, sources: Sources, plan: Plan, order: slice = slice(None)) -> dict[str, Any]:
    """Return the names of the cut-outs and of the background of a picture."""
    background = composer.background_of(plan)
    cutouts = [sources.names[path] for path in plan.cutouts[order]]
    return {"cutouts": cutouts, "background": background and sources.names[background]}


def _picture(compose: Callable[[Plan], Composite], plan: Plan, image_format: str) -> bytes:
    return encode(compose(plan).image[..., ::-1], image_format)


def _mask(compose: Callable[[Plan], Composite], plan: Plan, index: int) -> bytes:
    return encode(compose(plan).masks[index] * np.uint8(255))


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False)


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # in JSON, a byte of a name that is no UTF-8
