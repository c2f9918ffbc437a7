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
from .ranks import SINGLE_PROCESS, Ranks
from .stopping import Stopped

TIMEOUT = timedelta(minutes=10)  # for a process that hangs; one that ends is noticed at once


@contextlib.contextmanager
def init_distributed(url: str = "env://", cuda: bool = False) -> Iterator[Ranks]:
    """Join the processes of this run, on GPUs if `cuda`, into one group while the context is entered; then only rank 0 prints.

    `url` is the rendezvous: `env://` (the launcher's variables), `tcp://<host of rank 0>:<port>` or `file:///<a new file>`.

    Raises:
        RunFailed: the processes cannot connect to each other, or one of them is lost.
        ValueError: two of them share a GPU, or only some have one.
    """
    process = read_launcher_env()
    if process.size == 1:
        yield SINGLE_PROCESS
        return
    url = rendezvous_url() if url == "env://" else url
    try:
        store, *_ = next(iter(rendezvous(url, process.rank, process.size, timeout=TIMEOUT)))
        store = _fresh_store(store, process)
        problem = shared_gpu(_gather_texts(store, process, gpu_name() if cuda else ""))
        ranks = SINGLE_PROCESS if problem else _create_groups(store, process, cuda)
    except (RuntimeError, ValueError) as error:
        raise RunFailed(
            f"the {process.size} processes of this run could not connect at {url} ({_reason(error)}): "
            "start all of them; MASTER_ADDR and MASTER_PORT set another address"
        ) from None
    if problem:
        raise ValueError(problem)
    try:
        with contextlib.ExitStack() as stack:
            if not ranks.main:
                sink = stack.enter_context(open(os.devnull, "w", errors="replace"))
                stack.enter_context(contextlib.redirect_stdout(sink))
                stack.enter_context(contextlib.redirect_stderr(sink))
            yield ranks
    except Stopped:  # in all processes, at one step
        _close_groups()
        raise
    except RuntimeError as error:
        if not isinstance(error, RunFailed) and (message := lost_process(error)):
            raise RunFailed(message) from None
        raise
    _close_groups()  # not after an error: the others may be in the middle of an operation


def _create_groups(store: Any, process: ProcessInfo, cuda: bool) -> Ranks:
    """Create the process groups of gloo and, on GPUs, of nccl."""
    dist.init_process_group("gloo", store=store, timeout=TIMEOUT, world_size=process.size, rank=process.rank)
    cuda_group = dist.new_group(backend="nccl", timeout=TIMEOUT) if cuda else None
    return Ranks(process, cuda_group, dist.new_group(backend="gloo", timeout=timedelta(days=1)))


def _gather_texts(store: Any, process: ProcessInfo, text: str) -> list[str]:
    """Return a text of each process by rank. Rank 0, which may host the store, returns when all have read all texts."""
    store.set(f"text/{process.rank}", f"={text}")
    texts = [store.get(f"text/{rank}").decode()[1:] for rank in range(process.size)]
    store.set(f"read/{process.rank}", "all")
    if process.rank == 0:
        store.wait([f"read/{rank}" for rank in range(process.size)])
    return texts


def _close_groups() -> None:
    """Destroy the process groups: threads that are alive when Python ends would abort the process."""
    # torch holds the GIL while it joins gloo's threads; one that still has a tensor to release needs the GIL (seen with 2.5).
    time.sleep(0.2)
    dist.destroy_process_group()


def _fresh_store(store: Any, process: ProcessInfo) -> Any:
    """Return a part of the store that no earlier start of this run has written to.

    torchrun's store outlives a restart, and the address of an ended process there would be waited for. So each process sends a
    random request, and rank 0 replies with the name of the part until all have received it.
    """
    own, deadline = uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    if process.rank > 0:
        store.set(f"request/{process.rank}", own)
        name = store.get(f"reply/{own}").decode()
        store.set(f"{name}/{process.rank}", "received")
        return dist.PrefixStore(name, store)
    missing = set(range(1, process.size))
    while missing:
        for rank in sorted(missing):
            if store.check([f"{own}/{rank}"]):
                missing.remove(rank)
            elif store.check([f"request/{rank}"]):
                store.set(f"reply/{store.get(f'request/{rank}').decode()}", own)
        if missing and time.monotonic() > deadline:
            raise RuntimeError(f"rank {', '.join(map(str, sorted(missing)))} did not connect")
        time.sleep(0.01)
    return dist.PrefixStore(own, store)


def gpu_name() -> str:
    """Return a name of this process's CUDA device that is unique among all machines."""
    index = torch.cuda.current_device()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    entry = visible[index].strip() if index < len(visible) else ""
    if entry.startswith("MIG-"):  # parts of one GPU may have the UUID of the whole
        return entry
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    return f"GPU-{uuid}" if uuid else f"GPU {entry or index} of {socket.gethostname()}"


def shared_gpu(names: Sequence[str]) -> str:
    """Return an error message if ranks share a CUDA device, or only some have one (an empty name: none); else ''."""
    without = [str(rank) for rank, name in enumerate(names) if not name]
    if 0 < len(without) < len(names):
        return f"rank {', '.join(without)} has no GPU, the others do: give each process a GPU, or all of them --device cpu"
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
    is_lost = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and re.search(words, str(error)))
    return f"another process of this run ended or does not respond ({_reason(error)})" if is_lost else ""


def unused_parameters(model: nn.Module, output: Tensor) -> list[str]:
    """Return the names of the trained parameters of `model` that `output` does not depend on."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(output.sum(), list(trained.values()), allow_unused=True)
    return [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]


def _reason(error: object) -> str:
    """Return the first sentence of an error of torch.distributed, without its file and line."""
    return re.sub(r"^\[[^]]*\.(cc|cpp|h|hpp):\d+\]\s*", "", first_line(error)).partition(". ")[0][:200].rstrip(". ")
