"""Several processes as one training: what they exchange, what they agree on, and how one that fails ends all of them."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from util import launcher
from util.errors import RunFailed
from util.launcher import ProcessInfo, read_launcher_env, rendezvous_url
from util.stopping import SIGNALS, Stopped, StopRequest

T = TypeVar("T")
N = TypeVar("N", int, Tensor)
PATIENCE = timedelta(minutes=10)  # with a process that hangs; one that ends is noticed at once


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run. All of them call a method, or none.

    Methods that evaluation calls leave inference mode, in whose tensors older versions of torch receive nothing.

    place: of this process.
    cuda_group: nccl's, for tensors on CUDA. All else goes through gloo, which does not make the host wait for a GPU.
    patient_group: gloo's, for those that have more work than others.
    request: what `gather_in_order` heeds, in all of them or in none.
    """

    place: ProcessInfo = launcher.ALONE
    cuda_group: Any = None
    patient_group: Any = None
    request: StopRequest | None = None

    @property
    def rank(self) -> int:
        return self.place.rank

    @property
    def size(self) -> int:
        return self.place.size

    @property
    def main(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @torch.inference_mode(False)
    def max(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self.size == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    @torch.inference_mode(False)
    def sum(self, value: N) -> N:
        """Sum a tensor (on its device; it stays as it is) or a whole number over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value) if isinstance(value, int) else value.detach().to("cpu", copy=True)
        dist.all_reduce(total)
        return int(total) if isinstance(value, int) else total.to(value.device)

    @torch.inference_mode(False)
    def gather(self, value: T, patient: bool = False) -> list[T]:
        """The values of all processes, by rank; `patient` with those that come late."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.patient_group if patient else None)
        return values

    @torch.inference_mode(False)
    def broadcast(self, value: T) -> T:
        """Rank 0's value."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def barrier(self) -> None:
        """Until all processes are here; after work of which some have more than others."""
        self.gather(None, patient=True)

    def gather_in_order(self, mine: Iterable[T]) -> Iterator[T]:
        """The results of all processes, given to all of them. Where each makes those of `items[rank::size]`: in the items' order.

        A result is as good as done when it is handed out. For each of its own a process waits until the others have theirs:
        one that is gone is noticed, and all stop at one place.

        Args:
            mine: this process's results, made as they are asked for; on the CPU. Some may have more of them than others, or none.

        Raises:
            Stopped: `request` of one of the processes was made; after the results of this turn.
        """
        own = iter(mine)
        while True:
            turn = list(islice(own, 1))
            everybody = self.gather((turn, self.request and self.request.number), patient=True)
            for results, _ in everybody:
                yield from results
            if number := max((asked or 0 for _, asked in everybody), key=SIGNALS.index):
                raise Stopped(number, "stopped; the same command goes on from what is done")
            if not any(results for results, _ in everybody):
                return

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes; all are of one type and on one device."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat, group=self._group(flat.device))
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def ddp(self, module: nn.Module, unused: bool = False) -> DistributedDataParallel:
        """`module` (on its device, its weights loaded) with gradients that are means over the processes.

        Args:
            module: starts from rank 0's weights on all of them.
            unused: some of its parameters get no gradient.
        """
        device = next(module.parameters()).device
        # Buffers that change are averaged after the step; newer versions of torch call the option by another name.
        names = inspect.signature(DistributedDataParallel).parameters
        buffers: Any = {"forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers": False}
        return DistributedDataParallel(
            module,
            device_ids=[device] if device.type == "cuda" else None,
            process_group=self._group(device),
            find_unused_parameters=unused,
            gradient_as_bucket_view=True,
            **buffers,
        )

    def check_same(self, tensors: Mapping[str, Tensor], when: str) -> None:
        """RunFailed where a process holds other bits than rank 0 in any of `tensors`."""
        if self.size == 1:
            return
        hashes = self.gather(fingerprint(tensors))
        strange = [str(rank) for rank, found in enumerate(hashes) if found != hashes[0]]
        if strange:
            raise RunFailed(f"{when} rank {', '.join(strange)} has other weights than rank 0: the run is not sound")

    def _group(self, device: torch.device) -> Any:
        return self.cuda_group if device.type == "cuda" else None


ALONE = Ranks()


@contextlib.contextmanager
def init_distributed(url: str = "env://", cuda: bool = False) -> Iterator[Ranks]:
    """The processes of this run as one group, while it is entered. Only rank 0 prints; a process that is alone is left alone.

    Args:
        url: `env://`: the launcher says where they meet; else `tcp://<host of rank 0>:<port>` or `file:///<a new file>`.
        cuda: whether they compute on GPUs.

    Raises:
        RunFailed: the processes do not find each other, or one of them is gone.
        ValueError: two of them compute on one GPU, or some on a GPU and others on none.
    """
    place = read_launcher_env()
    if place.size == 1:
        yield ALONE
        return
    url = rendezvous_url() if url == "env://" else url
    try:
        store, *_ = next(iter(rendezvous(url, place.rank, place.size, timeout=PATIENCE)))
        store = _fresh(store, place)
        trouble = shared_gpu(_told(store, place, gpu_name() if cuda else ""))
        ranks = ALONE if trouble else _connected(store, place, cuda)
    except (RuntimeError, ValueError) as error:
        raise RunFailed(
            f"the {place.size} processes of this run did not meet at {url} ({_first_line(error)}): "
            "start all of them; MASTER_ADDR and MASTER_PORT choose another place"
        ) from None
    if trouble:
        raise ValueError(trouble)
    try:
        with contextlib.ExitStack() as stack:
            if not ranks.main:
                silence = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(silence))
                stack.enter_context(contextlib.redirect_stderr(silence))
            yield ranks
    except Stopped:  # all of them, at one step
        _leave()
        raise
    except RunFailed:
        raise
    except RuntimeError as error:
        if lost := lost_peer(error):
            raise RunFailed(lost) from None
        raise
    _leave()  # not after an error: the others may be in the middle of something


def _connected(store: Any, place: ProcessInfo, cuda: bool) -> Ranks:
    dist.init_process_group("gloo", store=store, timeout=PATIENCE, world_size=place.size, rank=place.rank)
    cuda_group = dist.new_group(backend="nccl", timeout=PATIENCE) if cuda else None
    return Ranks(place, cuda_group, dist.new_group(backend="gloo", timeout=timedelta(days=1)))


def _told(store: Any, place: ProcessInfo, word: str) -> list[str]:
    """A word of each process. Rank 0, who may keep the store, returns when all have heard all: any of them may end then."""
    store.set(f"word/{place.rank}", f"={word}")
    words = [store.get(f"word/{rank}").decode()[1:] for rank in range(place.size)]
    store.set(f"heard/{place.rank}", "all")
    if place.rank == 0:
        store.wait([f"heard/{rank}" for rank in range(place.size)])
    return words


def _leave() -> None:
    """Close the groups: threads that are alive when Python ends would abort the process.

    Closing holds Python's lock while it joins gloo's threads. One that is still about to release the tensor of the last
    exchange needs that lock, and both would wait for ever (seen with torch 2.5): it is given the time to do so.
    """
    time.sleep(0.2)
    dist.destroy_process_group()


def _fresh(store: Any, place: ProcessInfo) -> Any:
    """A part of the store in which no earlier life of this run has left anything.

    torchrun's store outlives a restart, and who reads there the address of a process that is gone waits for it in vain. So each
    process asks with a name of its own, and the first one answers until all of them have got the name of its part.
    """
    own, deadline = uuid4().hex, time.monotonic() + PATIENCE.total_seconds()
    if place.rank > 0:
        store.set(f"ask/{place.rank}", own)
        name = store.get(f"answer/{own}").decode()
        store.set(f"{name}/{place.rank}", "here")
        return dist.PrefixStore(name, store)
    missing = set(range(1, place.size))
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
    """A name of this process's CUDA device that no other device on any machine has."""
    index = torch.cuda.current_device()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    entry = visible[index].strip() if index < len(visible) else ""
    if entry.startswith("MIG-"):  # parts of one GPU may have the number of the whole
        return entry
    number = getattr(torch.cuda.get_device_properties(index), "uuid", None)
    return f"GPU-{number}" if number else f"GPU {entry or index} of {socket.gethostname()}"


def shared_gpu(names: Sequence[str]) -> str:
    """One line if two ranks have one CUDA device, or some have none (an empty name) and others do; else nothing."""
    without = [str(rank) for rank, name in enumerate(names) if not name]
    if 0 < len(without) < len(names):
        return f"rank {', '.join(without)} finds no GPU, the others do: give each process a GPU, or all of them --device cpu"
    for name in dict.fromkeys(filter(None, names)):
        those = [str(rank) for rank, other in enumerate(names) if other == name]
        if len(those) > 1:
            return (
                f"ranks {', '.join(those)} would share one GPU ({name}): start as many processes on a machine as it has GPUs, "
                "and let each see all of them or one of its own (CUDA_VISIBLE_DEVICES, srun --gpus-per-node)"
            )
    return ""


def lost_peer(error: BaseException) -> str:
    """One line if `error` is how torch says that another process is gone, else nothing."""
    words = r"gloo|Connection (closed|reset) by|monitoredBarrier|Broken pipe|[Ss]ocket [Tt]imeout"
    gone = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and re.search(words, str(error)))
    return f"another process of this run ended or does not answer ({_first_line(error)})" if gone else ""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and bits."""
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def unused_parameters(model: nn.Module, output: Tensor) -> list[str]:
    """Names of the trained parameters of `model` that `output` does not depend on."""
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


def _first_line(error: object) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^]]*\.(cc|cpp|h|hpp):\d+\]\s*", "", line).partition(". ")[0][:200].rstrip(". ")
