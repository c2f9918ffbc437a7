"""The value of `--cache`: `ram`, `gpu`, or a folder. Imports no torch."""

from __future__ import annotations

import argparse
import difflib
import os

RAM, GPU = "ram", "gpu"


def cache_place(text: str) -> str:
    """Check the value of --cache, as `type` of the flag: a word near `ram` or `gpu` is refused unless a folder has this name."""
    if text in ("", RAM, GPU) or os.path.basename(text) != text or os.path.isdir(text):
        return text
    near = difflib.get_close_matches(text.lower(), [RAM, GPU], 1)
    if near and len(text) <= len(RAM) + 1:  # longer ones, as frames, are names of folders
        raise argparse.ArgumentTypeError(f"{text!r}: did you mean {near[0]}? A new folder is given as ./{text}")
    return text
