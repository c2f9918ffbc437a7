"""What a public data set declares: its help, its flags, and the function that writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Source:
    """A public data set that can be prepared.

    prepare: called as `prepare(target, ranks, **values of the flags)`; writes the folder `target`.
    help: one line.
    description: more about the source.
    flags: name without dashes -> keywords of `ArgumentParser.add_argument`.
    """

    prepare: Callable[..., None]
    help: str
    description: str
    flags: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
