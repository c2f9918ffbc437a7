"""Pictures that cannot be used are all named in one error; --partial leaves them out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from util.printable import quoted

WORKERS = 4


def find_usable(names: Sequence[str], paths: Sequence[Path], partial: bool, notes: list[str]) -> list[int]:
    """Return the indices of the pictures that are whole images, in order.

    Args:
        names: of the pictures in their source.
        paths: their files.
        partial: whether the others are left out, which is appended to `notes`.
        notes: what there is to say.

    Raises:
        ValueError: some cannot be used, without `partial`, or none can; the first line stands alone, the next ones list up to
            20 files.
    """
    from datasets.scan import check_images, list_bad  # with torch, which the command line does not wait for

    results = check_images(paths, WORKERS)
    bad = {index: result for index, result in enumerate(results) if isinstance(result, str)}
    if not bad:
        return list(range(len(paths)))
    if not partial or len(bad) == len(paths):
        advice = "replace or remove them" if partial else "replace or remove them, or give --partial to leave them out"
        raise ValueError(list_bad(list(bad.values()), len(paths), f"images cannot be used ({advice})"))
    first, reason = next(iter(bad.items()))
    reason = reason.removeprefix(f"{os.fspath(paths[first])}: ")
    which = quoted([names[index] for index in bad])
    notes.append(f"{len(bad)} of {len(paths)} images cannot be used, and are left out: {which}; the first {reason}")
    return [index for index in range(len(paths)) if index not in bad]
