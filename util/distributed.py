"""Start and end of a run of several processes: rendezvous, process groups, and errors when one of them is lost."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from .errors import RunFailed, first_line
from .launcher import ProcessInfo, read_launcher_env, rendezvous_url
from .ranks import ALONE, Ranks
from .stopping import Stopped

PATIENCE = timedelta(minutes=10)  # with a process that hangs; one that ends is noticed at once


@contextlib.contextmanager
def init_distributed(url: str = "env://", cuda: bool = False) -> Iterator[Ranks]:
    """Join the processes of this run into one group while the context is entered; then only rank 0 prints.

    Args:
        url: `env://`: the launcher's variables say where they meet; else `tcp://<host of rank 0>:<port>` or
            `file:///<a new file>`.
        cuda: whether they compute on GPUs.

    Raises:
        RunFailed: the processes do not find each other, or one of them is lost.
        ValueError: two of them compute on one GPU, or some on a GPU and others on none.
    """
    process = read_launcher_env()
    if process.size == 1:
        yield ALONE
        return
    url = rendezvous_url() if url == "env://" else url
    try:
        store, *_ = next(iter(rendezvous(url, process.rank, process.size, timeout=PATIENCE)))
        store = _fresh_store(store, process)
        problem = shared_gpu(_exchange(store, process, gpu_name() if cuda else ""))
        ranks = ALONE if problem else _create_groups(store, process, cuda)
    except (RuntimeError, ValueError) as error:
        raise RunFailed(
            f"the {process.size} processes of this run did not meet at {url} ({_reason(error)}): "
            "start all of them; MASTER_ADDR and MASTER_PORT choose another place"
        ) from None
    if problem:
        raise ValueError(problem)
    try:
        with _silence_if(not ranks.main):
            yield ranks
    except Stopped:  # all of them, at one step
        _close_groups()
        raise
    except RunFailed:
        raise
    except RuntimeError as error:
        if message := lost_process(error):
            raise RunFailed(message) from None
        raise
    _close_groups()  # not after an error: the others may be in the middle of an operation


@contextlib.contextmanager
def _silence_if(silent: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if silent:
            sink = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(sink))
            stack.enter_context(contextlib.redirect_stderr(sink))
        yield


def _create_groups(store: Any, process: ProcessInfo, cuda: bool) -> Ranks:
    dist.init_process_group("gloo", store=store, timeout=PATIENCE, world_size=process.size, rank=process.rank)
    cuda_group = dist.new_group(backend="nccl", timeout=PATIENCE) if cuda else None
    return Ranks(process, cuda_group, dist.new_group(backend="gloo", timeout=timedelta(days=1)))


def _exchange(store: Any, process: ProcessInfo, text: str) -> list[str]:
    """Return a text of each process by rank. Rank 0, who may host the store, returns when all have read all texts."""
    store.set(f"word/{process.rank}", f"={text}")
    texts = [store.get(f"word/{rank}").decode()[1:] for rank in range(process.size)]
    store.set(f"heard/{process.rank}", "all")
    if process.rank == 0:
        store.wait([f"heard/{rank}" for rank in range(process.size)])
    return texts


def _close_groups() -> None:
    """Destroy the process groups: threads that are alive when Python ends would abort the process.

    This holds Python's lock while it joins gloo's threads. A thread that is still to release the tensor of the last operation
    needs that lock, a deadlock (seen with torch 2.5): the pause lets it finish.
    """
    time.sleep(0.2)
    dist.destroy_process_group()


def _fresh_store(store: Any, process: ProcessInfo) -> Any:
    """Return a part of the store that no earlier start of this run has written to.

    torchrun's store outlives a restart, and a process that reads there the address of one that is gone waits for it in vain. So
    each process asks with a random name, and rank 0 answers until all of them have received the name of its part.
    """
    own, deadline = uuid4().hex, time.monotonic() + PATIENCE.total_seconds()
    if process.rank > 0:
        store.set(f"ask/{process.rank}", own)
        name = store.get(f"answer/{own}").decode()
        store.set(f"{name}/{process.rank}", "here")
        return dist.PrefixStore(name, store)
    missing = set(range(1, process.size))
    while missing:
        for rank in sorted(missing):
            if store.check([f"{own}/{rank}"]):
                missing.remove(rank)
            elif store.check([f"ask/{rank}"]):
                store.set(f"answer/{store.get(f'ask/{rank}').decode()}", own)
        if missing and time.monotonic() > deadline:
            raise RuntimeError(f"rank {', '.join(map(str, sorted(missing)))} did not come")
        time.sleep(0.01)
    return dist.PrefixStore(own, store)


def gpu_name() -> str:
    """Return a name of this process's CUDA device that no other device on any machine has."""
    index = torch.cuda.current_device()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    entry = visible[index].strip() if index < len(visible) else ""
    if entry.startswith("MIG-"):  # parts of one GPU may have the number of the whole
        return entry
    number = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    return f"GPU-{number}" if number else f"GPU {entry or index} of {socket.gethostname()}"


def shared_gpu(names: Sequence[str]) -> str:
    """Return an error message if two ranks use one CUDA device, or only some of them one (an empty name: none); else ''."""
    without = [str(rank) for rank, name in enumerate(names) if not name]
    if 0 < len(without) < len(names):
        return f"rank {', '.join(without)} finds no GPU, the others do: give each process a GPU, or all of them --device cpu"
    for name in dict.fromkeys(filter(None, names)):
        sharing = [str(rank) for rank, other in enumerate(names) if other == name]
        if len(sharing) > 1:
            return (
                f"ranks {', '.join(sharing)} would share one GPU ({name}): start as many processes on a machine as it has GPUs, "
                "and let each see all of them or one of its own (CUDA_VISIBLE_DEVICES, srun --gpus-per-node)"
            )
    return ""


def lost_process(error: BaseException) -> str:
    """Return one line if `error` is torch's report of a lost process, else an empty string."""
    words = r"gloo|Connection (closed|reset) by|monitoredBarrier|Broken pipe|[Ss]ocket [Tt]imeout"
    gone = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and re.search(words, str(error)))
    return f"another process of this run ended or does not answer ({_reason(error)})" if gone else ""


def unused_parameters(model: nn.Module, output: Tensor) -> list[str]:
    """Return the names of the trained parameters of `model` that `output` does not depend on."""
    seen: set[Any] = set()
    reached: set[int] = set()
    todo = [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            reached.add(id(getattr(node, "variable", None)))
            todo += [parent for parent, _ in node.next_functions]
    return [name for name, value in model.named_parameters() if value.requires_grad and id(value) not in reached]


def _reason(error: object) -> str:
    """Return the first sentence of an error of torch.distributed, without its place in the source code."""
    return re.sub(r"^\[[^]]*\.(cc|cpp|h|hpp):\d+\]\s*", "", first_line(error)).partition(". ")[0][:200].rstrip(". ")
