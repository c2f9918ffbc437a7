"""Rendezvous: the processes of a run find each other, and say who is missing, before the first collective operation."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from .errors import RunFailed, first_line
from .launcher import ProcessInfo, rendezvous_address

REMIND = 15.0  # seconds between two lines that say who is missing
RESOLVE = 5.0  # seconds in which the name of a machine must become known
REPLY = 15.0  # seconds in which what listens at the address of rank 0 must reply
TIMEOUT = timedelta(minutes=10)  # for a process that hangs; one that ends is noticed at once


class Meeting:
    """The processes of one run, as one of them waits for the others at a store of keys and values.

    Args:
        process: rank and number of processes.
        url: the rendezvous: `env://` (the launcher's variables), `tcp://<host of rank 0>:<port>` or `file:///<a new file>`.
        minutes: after so many the processes must all be there.

    Raises:
        ValueError: the address is none, or taken; or the processes contradict each other in rank or number.
        RunFailed: a process does not come.
    """

    def __init__(self, process: ProcessInfo, url: str, minutes: float) -> None:
        self.process, self.minutes, self.place = process, minutes, url
        self.start = self.reminded = time.monotonic()
        self.store = self._open(url)

    def exchange(self, text: str) -> list[str]:
        """Return a text of each process by rank. Rank 0, which may host the store, returns when all have read all texts."""
        rank, everyone = self.process.rank, range(self.process.size)
        self.store.set(f"text/{rank}", f"={text}")
        self._wait_for(everyone, lambda other: self.store.check([f"text/{other}"]))
        texts = [self.store.get(f"text/{other}").decode()[1:] for other in everyone]
        self.store.set(f"read/{rank}", "all")
        if rank == 0:
            self._wait_for(everyone, lambda other: self.store.check([f"read/{other}"]))
        return texts

    def _open(self, url: str) -> Any:
        """Open the store of this start of the run, at rank 0 or, where torchrun has one, at torchrun."""
        of_torchrun = url == "env://" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if url.startswith("file:"):
            store, *_ = next(iter(rendezvous(url, self.process.rank, self.process.size)))
        else:
            host, port = rendezvous_address(url)
            self.place = f"{host}:{port}"
            self._resolve(host, port)
            serves = self.process.rank == 0 and not of_torchrun
            store = self._serve(port) if serves else self._connect(host, port)
        if not of_torchrun:  # whose store knows earlier starts
            self._claim(store)
        return self._fresh(store)

    def _resolve(self, host: str, port: int) -> None:
        while True:
            try:
                socket.getaddrinfo(host, port)
                return
            except (OSError, UnicodeError) as error:  # a label that is too long is no name in any encoding
                if time.monotonic() - self.start > RESOLVE:
                    advice = "MASTER_ADDR (or --dist_url) must be the name or address of the machine of rank 0"
                    raise ValueError(f"the address {host!r} is unknown ({first_line(error)}): {advice}") from None
                time.sleep(0.5)

    def _serve(self, port: int) -> Any:
        """Open the store that this process hosts, on all its addresses."""
        options: dict[str, Any] = {"wait_for_workers": False, "multi_tenant": True, "timeout": TIMEOUT}
        try:
            return dist.TCPStore("127.0.0.1", port, self.process.size, is_master=True, **options)
        except RuntimeError as error:
            taken = "EADDRINUSE" in str(error) or "in use" in str(error)
            cause = "is in use, by another run or by another process with RANK=0" if taken else f"fails ({first_line(error)})"
            raise ValueError(f"port {port} {cause}: set another MASTER_PORT, the same for all processes") from None

    def _connect(self, host: str, port: int) -> Any:
        """Open the store at rank 0 or torchrun once something listens there."""
        while True:
            try:
                socket.create_connection((host, port), 5).close()  # torch would print a warning at each attempt
                break
            except OSError as error:
                self._pause([0], f" ({error.strerror or error})")
        options: dict[str, Any] = {"is_master": False, "wait_for_workers": False, "timeout": timedelta(seconds=REPLY)}
        opened: list[Any] = []

        def open_store() -> None:
            with contextlib.suppress(RuntimeError):
                opened.append(dist.TCPStore(host, port, self.process.size, **options))

        thread = threading.Thread(target=open_store, daemon=True)  # torch would wait without end for the reply of a stranger
        thread.start()
        thread.join(REPLY)
        if not opened:
            raise RunFailed(f"what listens at {self.place} is not rank 0 of this run: set another MASTER_PORT")
        opened[0].set_timeout(TIMEOUT)
        return opened[0]

    def _claim(self, store: Any) -> None:
        """Refuse another number of processes than the first one said, and a rank that another process has."""
        rank, size, _ = self.process
        known = store.compare_set("size", "", str(size)).decode()
        if known != str(size):
            store.set("problem", f"rank {rank} has WORLD_SIZE={size}, another process {known}: all need the same")
        elif store.add(f"claim/{rank}", 1) > 1:
            raise ValueError(f"another process of this run has RANK={rank}, too: each needs a rank of its own")
        self._check(store)

    def _check(self, store: Any) -> None:
        if store.check(["problem"]):
            problem = store.get("problem").decode()
            time.sleep(1 if self.process.rank == 0 else 0)  # the store ends with rank 0: all are to read it
            raise ValueError(problem)

    def _fresh(self, store: Any) -> Any:
        """Return a part of the store that no earlier start of this run has written to.

        torchrun's store outlives a restart, and the address of an ended process there would be waited for. So each process
        sends a random request, and rank 0 replies with the name of the part until all have received it.
        """
        self.store, own = store, uuid4().hex
        if self.process.rank > 0:
            store.set(f"request/{self.process.rank}", own)
            self._wait_for([0], lambda _: store.check([f"reply/{own}"]))
            name = store.get(f"reply/{own}").decode()
            store.set(f"{name}/{self.process.rank}", "received")
            return dist.PrefixStore(name, store)

        def has_received(rank: int) -> bool:
            if store.check([f"{own}/{rank}"]):
                return True
            if store.check([f"request/{rank}"]):
                store.set(f"reply/{store.get(f'request/{rank}').decode()}", own)
            return False

        self._wait_for(range(1, self.process.size), has_received)
        return dist.PrefixStore(own, store)

    def _wait_for(self, ranks: Any, is_there: Callable[[int], bool]) -> None:
        missing = [rank for rank in ranks if not is_there(rank)]
        while missing:
            self._check(self.store)
            self._pause(missing)
            missing = [rank for rank in missing if not is_there(rank)]

    def _pause(self, missing: list[int], why: str = "") -> None:
        """Sleep for a moment; say every 15 s who is missing, and give up when the time is over."""
        names = f"{', '.join(map(str, missing[:5]))}{', ...' * (len(missing) > 5)} of {self.process.size} at {self.place}{why}"
        now = time.monotonic()
        if now - self.start > 60 * self.minutes:
            advice = "start all processes, with MASTER_ADDR and MASTER_PORT of rank 0 (--dist_minutes: how long to wait)"
            raise RunFailed(f"waited {self.minutes:g} minutes in vain for rank {names}: {advice}")
        if now - self.reminded > REMIND and (self.process.rank == 0 or missing == [0]):  # the others wait for the same
            self.reminded, limit = now, f"for {now - self.start:.0f} s, at most {self.minutes:g} minutes: --dist_minutes"
            print(f"rank {self.process.rank}: waiting for rank {names} ({limit})", file=sys.stderr, flush=True)
        time.sleep(0.02)
