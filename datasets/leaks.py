"""Duplicates by what they spoil: the score, if they are in two splits; the labels, if they are of two classes; else nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from datasets.near_duplicates import Alike, Looks, find_alike

NOBODY = np.iinfo(np.int64).max
EDGES = 1_000_000  # that are kept before they are reduced to one for each picture


class Pair(NamedTuple):
    """A picture, the one that it is most like, and the bits that their hashes differ by."""

    picture: int
    other: int
    bits: int


class Leaks(NamedTuple):
    """Near-duplicates, by their indices.

    Attributes:
        across: for a picture the most similar one of an earlier split, if there is any; the most similar pairs first.
        labels: the same for pictures of one split and of two classes.
        within: groups of one split and class, linked by near-duplicates; the largest first.
    """

    across: list[Pair]
    labels: list[Pair]
    within: list[list[int]]


def find_leaks(
    looks: Looks, distance: int, splits: np.ndarray, labels: np.ndarray, identical: Sequence[Sequence[int]] = ()
) -> Leaks:
    """Find the near-duplicates, whose hashes differ in at most `distance` bits, in memory that does not grow with their number.

    Args:
        looks: of N pictures.
        distance: bits.
        splits, labels: split and class of each picture `[N]`; splits in the order train, val, test.
        identical: groups of equal files, whose pairs do not count.
    """
    count = len(splits)
    file = np.arange(count)
    for group in identical:
        file[list(group)] = group[0]
    across, labelled, within = _Nearest(count), _Nearest(count), _Groups(count)
    for alike in find_alike(looks, distance):
        alike = _select(alike, file[alike.first] != file[alike.second])
        other_split = splits[alike.first] != splits[alike.second]
        other_class = labels[alike.first] != labels[alike.second]
        leaks = _select(alike, other_split)
        swapped = leaks._replace(first=leaks.second, second=leaks.first)
        later = splits[leaks.second] > splits[leaks.first]
        across.add(_select(leaks, later))
        across.add(_select(swapped, ~later))
        labelled.add(_select(alike, ~other_split & other_class))
        within.add(_select(alike, ~other_split & ~other_class))
    return Leaks(across.pairs(), labelled.pairs(), within.groups())


def _select(alike: Alike, chosen: np.ndarray) -> Alike:
    return Alike(*(values[chosen] for values in alike))


class _Nearest:
    """For each picture the earlier one that is most like it; of equals the first."""

    def __init__(self, count: int) -> None:
        self.best = np.full(count, NOBODY)  # bits << 40 | levels << 32 | the other picture

    def add(self, alike: Alike) -> None:
        rank = alike.bits.astype(np.int64) << 40 | alike.levels.astype(np.int64) << 32
        np.minimum.at(self.best, alike.second, rank | alike.first)

    def pairs(self) -> list[Pair]:
        pictures = np.flatnonzero(self.best != NOBODY)
        order = pictures[np.argsort(self.best[pictures] >> 32, kind="stable")]
        return [Pair(int(place), int(self.best[place] & 0xFFFFFFFF), int(self.best[place] >> 40)) for place in order]


class _Groups:
    """Groups that pairs link."""

    def __init__(self, count: int) -> None:
        self.count, self.edges = count, [np.zeros((2, 0), dtype=np.int64)]

    def add(self, alike: Alike) -> None:
        self.edges.append(np.stack([alike.first, alike.second]))
        if sum(edges.shape[1] for edges in self.edges) > EDGES:
            self._components()

    def _components(self) -> np.ndarray:
        """Return the number of each picture's group, and keep one edge for each picture."""
        first, second = np.concatenate(self.edges, 1)
        graph = coo_matrix((np.ones(len(first), dtype=bool), (first, second)), shape=(self.count, self.count))
        component: np.ndarray = connected_components(graph, directed=False)[1]
        _, roots = np.unique(component, return_index=True)
        pictures = np.flatnonzero(roots[component] != np.arange(self.count))
        self.edges = [np.stack([roots[component][pictures], pictures])]
        return component

    def groups(self) -> list[list[int]]:
        order = np.argsort(component := self._components(), kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
        return sorted((part.tolist() for part in parts if len(part) > 1), key=lambda part: (-len(part), part[0]))
