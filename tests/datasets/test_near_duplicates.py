"""Duplicates: all pairs are found, in blocks, and sorted by what they spoil."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from datasets import leaks, near_duplicates
from datasets.leaks import Pair, find_leaks
from datasets.near_duplicates import BITS, LEVELS, Looks, find_alike, identical_files


@pytest.fixture
def looks() -> Looks:
    """150 pictures in clusters: hashes that differ in up to 8 bits, colours that differ by up to 24 levels."""
    rng = np.random.default_rng(0)
    bits, colours = rng.random((12, BITS)) < 0.5, rng.integers(40, 200, (12, 192))
    cluster = rng.integers(12, size=150)
    flips = rng.random((150, BITS)) < 0.04
    return Looks(bits[cluster] ^ flips, (colours[cluster] + rng.integers(-12, 13, (150, 1))).astype(np.uint8))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("ROWS", 16), ("COLUMNS", 40), ("CHUNK", 7)):
        monkeypatch.setattr(near_duplicates, name, size)
    monkeypatch.setattr(leaks, "EDGES", 10)


def pairs_of(looks: Looks, distance: int) -> dict[tuple[int, int], int]:
    """The near-duplicates by definition, and the bits that they differ by."""
    found = {}
    for i, j in combinations(range(len(looks.bits)), 2):
        bits = int((looks.bits[i] != looks.bits[j]).sum())
        if bits <= distance and np.abs(looks.colours[i].astype(int) - looks.colours[j]).mean() <= LEVELS:
            found[i, j] = bits
    return found


@pytest.mark.parametrize("distance", [0, 4, 16])
def test_blocks_find_all_pairs(looks: Looks, small_blocks: None, distance: int) -> None:
    expected = pairs_of(looks, distance)
    found = {}
    for alike in find_alike(looks, distance):
        assert len(alike.first) <= near_duplicates.CHUNK
        found |= {(int(i), int(j)): int(bits) for i, j, bits in zip(alike.first, alike.second, alike.bits, strict=True)}
    assert found == expected and (distance == 0 or len(expected) > 100)
    assert near_duplicates.near_duplicates(looks, distance) == sorted(expected)


def test_too_many_pairs_are_an_error_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "MOST", 1000)
    looks = Looks(np.zeros((60, BITS), dtype=bool), np.zeros((60, 192), dtype=np.uint8))
    with pytest.raises(ValueError, match="more than 1,000 pairs of the 60 pictures look alike"):
        near_duplicates.near_duplicates(looks, 4)


def test_leaks_are_sorted_by_what_they_spoil(looks: Looks, small_blocks: None) -> None:
    rng = np.random.default_rng(1)
    splits, labels = rng.permuted(np.repeat([0, 1, 2], 50)), rng.integers(3, size=150)
    identical = [[i, j] for (i, j), bits in pairs_of(looks, 6).items() if bits == 0][:1]
    pairs = pairs_of(looks, 6)
    for i, j in identical:
        del pairs[i, j]
    found = find_leaks(looks, 6, splits, labels, identical)
    across: dict[int, list[int]] = {}
    links: dict[int, set[int]] = {index: {index} for index in range(150)}
    for (i, j), bits in pairs.items():
        if splits[i] != splits[j]:
            across.setdefault(i if splits[i] > splits[j] else j, []).append(bits)
        elif labels[i] == labels[j]:
            joined = links[i] | links[j]
            links.update(dict.fromkeys(joined, joined))
    assert {pair.picture: pair.bits for pair in found.across} == {picture: min(bits) for picture, bits in across.items()}
    assert [pair.bits for pair in found.across] == sorted(pair.bits for pair in found.across)
    assert all(splits[pair.other] < splits[pair.picture] for pair in found.across)
    of_two_classes = {j for i, j in pairs if splits[i] == splits[j] and labels[i] != labels[j]}
    assert {pair.picture for pair in found.labels} == of_two_classes
    assert all(labels[pair.other] != labels[pair.picture] for pair in found.labels)
    groups = {tuple(sorted(group)) for group in links.values() if len(group) > 1}
    assert {tuple(group) for group in found.within} == groups and len(groups) > 5


def test_of_equally_similar_pictures_the_first_is_named() -> None:
    looks = Looks(np.zeros((4, BITS), dtype=bool), np.zeros((4, 192), dtype=np.uint8))
    found = find_leaks(looks, 0, np.array([2, 0, 1, 0]), np.array([0, 0, 0, 1]), [[0, 1]])
    assert found.across == [Pair(0, 2, 0), Pair(2, 1, 0)]  # 0 and 1 are one file; 3 comes after 1
    assert found.labels == [Pair(3, 1, 0)] and found.within == []


def test_equal_files_are_grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = [b"one", b"two", b"one", b"longer", b"two", b"six"]
    paths = [tmp_path / str(index) for index in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    read: list[str] = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or original(path))  # type: ignore[func-returns-value]
    assert identical_files(paths) == [[0, 2], [1, 4]]
    assert "3" not in read  # no other file has its size
