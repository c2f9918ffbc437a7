"""Random number generators: their states in a checkpoint, and seeds derived from several numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import torch

from .errors import first_line
from .ranks import Ranks


def seed_from(*numbers: int) -> None:
    """Seed torch's generators with a hash of `numbers`."""
    torch.manual_seed(int.from_bytes(blake2b(repr(numbers).encode(), digest_size=8).digest(), "little") >> 1)


class RandomState:
    """States of torch's generators (CPU, CUDA) in all processes, a checkpoint's `rng`; `seed` is for processes without one."""

    def __init__(self, ranks: Ranks, seed: int) -> None:
        self.ranks, self.seed = ranks, seed
        self._held: torch.Tensor | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the state of the CPU's generator as it is now for `state_dict`, while others draw from it and restore it."""
        self._held = torch.get_rng_state()
        try:
            yield
        finally:
            self._held = None

    def state_dict(self) -> dict[str, Any]:
        """Gather the states; every process calls it."""
        cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
        cpu = torch.get_rng_state() if self._held is None else self._held
        return {"rng": self.ranks.gather({"cpu": cpu, "cuda": cuda})}

    def load_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Restore this process's state; without one, seed by the run, the rank and the step. ValueError for a damaged state."""
        states = checkpoint.get("rng") or []
        if self.ranks.rank >= len(states):
            seed_from(self.seed, self.ranks.rank, checkpoint.get("step") or 0)
            return
        state = states[self.ranks.rank]
        try:
            torch.set_rng_state(state["cpu"])
            if torch.cuda.is_available() and state["cuda"]:  # earlier versions saved those of all devices
                index = torch.cuda.current_device()
                torch.cuda.set_rng_state(state["cuda"][index if index < len(state["cuda"]) else 0])
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the state of the random numbers in the checkpoint is damaged ({first_line(error)})") from None
