"""Public data sets in ICN's layout: one file per source, and `SOURCES`, from which the command line is made."""

from __future__ import annotations

from datasets.prepare.fashion_mnist import FASHION_MNIST
from datasets.prepare.source import Source

SOURCES: dict[str, Source] = {"fashion-mnist": FASHION_MNIST}

__all__ = ["SOURCES", "Source"]
