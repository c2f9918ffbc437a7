"""Splitting photographs at random: stratified by class, with all pictures of a group in one split."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence


def join_groups(groups: Sequence[Hashable], pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Return the number of each item's group, where the groups of the items of a pair become one."""
    first: dict[Hashable, int] = {}
    parents = [first.setdefault(group, index) for index, group in enumerate(groups)]

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        parents[high] = low
    return [root(index) for index in range(len(groups))]


def split_by_group(labels: Sequence[str], groups: Sequence[int], shares: Mapping[str, float], seed: int) -> list[str]:
    """Return the split of each item: each class is divided by `shares` as far as its groups allow; the first split has them all.

    Groups are taken at random, large ones first. Each goes where its classes lack most, or to the first split while that has
    none of one of its classes.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    order = list(members.values())
    random.Random(seed).shuffle(order)
    order.sort(key=len, reverse=True)
    first, *_ = shares
    lacking = {(split, label): share * count for label, count in Counter(labels).items() for split, share in shares.items()}
    begun: set[str] = set()
    splits = [first] * len(labels)
    for indices in order:
        counts = Counter(labels[index] for index in indices)
        needs = {split: sum(count * lacking[split, label] for label, count in counts.items()) for split in shares}
        chosen = max(needs, key=lambda split: needs[split]) if counts.keys() <= begun else first
        begun |= counts.keys() if chosen == first else set()
        for index in indices:
            splits[index] = chosen
            lacking[chosen, labels[index]] -= 1
    return splits


def limit_per_class(labels: Sequence[str], count: int, seed: int) -> list[int]:
    """Return the indices of at most `count` items of each class, chosen at random, in order."""
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    taken: Counter[str] = Counter()
    kept = []
    for index in order:
        taken[labels[index]] += 1
        if taken[labels[index]] <= count:
            kept.append(index)
    return sorted(kept)
