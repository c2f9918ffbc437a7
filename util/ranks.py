"""Collective operations of the processes (ranks) of one run; in a single process they return their argument."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .errors import RunFailed
from .launcher import ProcessInfo
from .stopping import SIGNALS, Stopped, StopRequest

T = TypeVar("T")
N = TypeVar("N", int, Tensor)


@dataclass(frozen=True)
class Ranks:
    """Processes of a run, as one of them sees them. A method is collective: all processes call it, or none.

    Methods that evaluation calls leave inference mode: older versions of torch cannot receive into its tensors.
    """

    process: ProcessInfo = ProcessInfo()
    cuda_group: Any = None  # nccl, for tensors on CUDA; all else uses gloo, which does not make the host wait for a GPU
    slow_group: Any = None  # gloo with a long timeout, for ranks that work for unequal times
    request: StopRequest | None = None  # signal to stop, at which `gather_in_order` stops all processes

    @property
    def rank(self) -> int:
        return self.process.rank

    @property
    def size(self) -> int:
        return self.process.size

    @property
    def main(self) -> bool:
        """Return whether this is rank 0, which prints and writes."""
        return self.rank == 0

    @torch.inference_mode(False)
    def max(self, number: int) -> int:
        """Return the largest of all processes' numbers."""
        if self.size == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    @torch.inference_mode(False)
    def sum(self, value: N) -> N:
        """Return the sum of an integer, or of a tensor (on its device), over all processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value) if isinstance(value, int) else value.detach().to("cpu", copy=True)
        dist.all_reduce(total)
        return int(total) if isinstance(value, int) else total.to(value.device)

    @torch.inference_mode(False)
    def gather(self, value: T, slow: bool = False) -> list[T]:
        """Return the values of all processes by rank; `slow`: with a long timeout."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.slow_group if slow else None)
        return values

    @torch.inference_mode(False)
    def broadcast(self, value: T) -> T:
        """Return rank 0's value."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def barrier(self) -> None:
        """Wait for all processes, with a long timeout."""
        self.gather(None, slow=True)

    def gather_in_order(self, results: Iterable[T]) -> Iterator[T]:
        """Yield the results of all processes to all of them, in rounds of one result per rank (fewer once a rank has no more).

        Where each process computes the results of `items[rank::size]`, lazily and on the CPU, they have the order of the items.
        All processes wait for each other in every round, so that a lost process is noticed, and stop after the same round if one
        of them has received a signal; that one does not finish its result.
        """
        iterator, request = iter(results), self.request or StopRequest(self.process)
        with request.reacting(None):
            while True:
                part: list[T] = []
                try:
                    with request.reacting(request.stop):
                        part = list(islice(iterator, 1))
                except Stopped:
                    if not request.number:
                        raise
                gathered = self.gather((part, request.number or 0), slow=True)
                for part, _ in gathered:
                    yield from part
                if number := max((signal for _, signal in gathered), key=SIGNALS.index):
                    request.number = number
                    request.stop()
                if not any(part for part, _ in gathered):
                    return

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes; all have one dtype and device."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat, group=self._group(flat.device))
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def ddp(self, module: nn.Module, unused: bool = False) -> DistributedDataParallel:
        """Wrap `module`, on its device, in DistributedDataParallel; `unused`: some of its parameters get no gradient."""
        device = next(module.parameters()).device
        # Buffers that change are averaged after the step; newer versions of torch renamed the option.
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

    def check_equal(self, facts: Mapping[str, Any]) -> None:
        """Raise ValueError, which names fact and rank, if the processes see other images, weights or the like.

        Args:
            facts: by name; a text is shown, of anything else its `fingerprint` is compared.
        """
        if self.size == 1:
            return
        texts = {name: fact if isinstance(fact, str) else f"hash {fingerprint(fact)}" for name, fact in facts.items()}
        if problem := differences(self.gather(texts, slow=True)):
            raise ValueError(problem)

    def check_same(self, tensors: Mapping[str, Tensor], when: str) -> None:
        """Raise RunFailed if `tensors` differ by a bit from those of rank 0; `when` is part of the message."""
        if self.size == 1:
            return
        hashes = self.gather(fingerprint(tensors))
        different = [str(rank) for rank, value in enumerate(hashes) if value != hashes[0]]
        if different:
            raise RunFailed(f"{when} rank {', '.join(different)} has other weights than rank 0: the run cannot be trusted")

    def _group(self, device: torch.device) -> Any:
        return self.cuda_group if device.type == "cuda" else None


SINGLE_PROCESS = Ranks()


def differences(facts: Sequence[Mapping[str, str]]) -> str:
    """Return an error message if ranks differ in what they say of themselves, `facts[rank][name]`; else ''."""
    for rank, own in enumerate(facts):
        if names := sorted(name for name in own.keys() | facts[0].keys() if own.get(name) != facts[0].get(name)):
            different = [f"{name} ({own.get(name, 'none')}; rank 0: {facts[0].get(name, 'none')})"[:200] for name in names]
            more = f" and {len(names) - 4} more" * (len(names) > 4)
            return (
                f"rank {rank} differs from rank 0 in {', '.join(different[:4])}{more}: all processes of a run need the same "
                "code, flags, checkpoint and images"
            )
    return ""


def fingerprint(content: Any) -> str:
    """Return a hash of what a checkpoint holds: names, shapes and bits of tensors, in nested dicts and lists."""
    digest = blake2b(digest_size=16)
    _update(digest, content)
    return digest.hexdigest()


def _update(digest: Any, content: Any) -> None:
    if isinstance(content, Tensor):
        digest.update(f"{content.dtype} {tuple(content.shape)}".encode())
        digest.update(content.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    elif isinstance(content, Mapping):
        for key in sorted(content, key=str):
            digest.update(f"\0{key}=".encode(errors="surrogateescape"))
            _update(digest, content[key])
    elif isinstance(content, list | tuple):
        for index, part in enumerate(content):
            digest.update(f"\0{index}:".encode())
            _update(digest, part)
    else:
        digest.update(repr(content).encode(errors="surrogateescape"))
