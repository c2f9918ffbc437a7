"""Start and end of a run of several processes: agreement, process groups, and errors when one of them is lost."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import RunFailed, first_line
from .launcher import ProcessInfo, read_launcher_env
from .processes import die_with_parent
from .ranks import SINGLE_PROCESS, Ranks, differences
from .rendezvous import TIMEOUT, Meeting
from .stopping import Stopped

ROOT = Path(__file__).resolve().parents[1]
# Flags of which each process may have its own: where things are on its machine (their content is compared), and how it reads.
OWN_FLAGS = {
    "dataset_path", "resume", "finetune", "backbone_weights", "masks", "pairs", "output_dir", "job_dir", "num_workers", "device",
    "dist_url", "dist_minutes",
}  # fmt: skip


@contextlib.contextmanager
def init_distributed(args: argparse.Namespace | None = None, cuda: bool = False) -> Iterator[Ranks]:
    """Join the processes of this run, on GPUs if `cuda`, into one group while the context is entered; then only rank 0 prints.

    Args:
        args: flags, among them `dist_url`, the rendezvous, and `dist_minutes`; None: those of the launcher, and 10 minutes.
        cuda: each process has a GPU of its own.

    Raises:
        RunFailed: the processes cannot connect to each other, or one of them is lost.
        ValueError: two of them share a GPU, or only some have one; they differ in flags or versions, or contradict each other in
            rank or number.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun ends its processes, unless it is killed itself
        die_with_parent(signal.SIGTERM)
    process = read_launcher_env()
    if process.size == 1:
        yield SINGLE_PROCESS
        return
    flags = {} if args is None else vars(args)
    url = flags.get("dist_url", "env://")
    try:
        meeting = Meeting(process, url, flags.get("dist_minutes", 10))
        texts = meeting.exchange(json.dumps([gpu_name() if cuda else "", versions(), shared_flags(flags)]))
        gpus, code, settings = zip(*map(json.loads, texts), strict=True)
        problem = shared_gpu(gpus) or differences(code) or differences(settings)
        ranks = SINGLE_PROCESS if problem else _create_groups(meeting.store, process, cuda)
    except RunFailed:
        raise
    except RuntimeError as error:
        raise RunFailed(f"the {process.size} processes of this run could not connect at {url} ({_reason(error)})") from None
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


def _close_groups() -> None:
    """Destroy the process groups: threads that are alive when Python ends would abort the process."""
    # torch holds the GIL while it joins gloo's threads; one that still has a tensor to release needs the GIL (seen with 2.5).
    time.sleep(0.2)
    dist.destroy_process_group()


def versions() -> dict[str, str]:
    """Return the versions of Python and torch, and a hash of each file of this repository that is imported."""
    found = {"the version of Python": ".".join(platform.python_version_tuple()[:2]), "the version of torch": torch.__version__}
    for module in list(sys.modules.values()):
        path = Path(getattr(module, "__file__", None) or "")
        if path.suffix == ".py" and path.is_relative_to(ROOT) and "site-packages" not in path.parts:
            found[f"the code of {path.relative_to(ROOT)}"] = blake2b(path.read_bytes(), digest_size=4).hexdigest()
    return found


def shared_flags(flags: Mapping[str, Any]) -> dict[str, str]:
    """Return the flags that all processes need alike, as texts; whether one was typed counts, too: it outranks a checkpoint's."""
    typed = flags.get("explicit", ())
    names = flags.keys() - OWN_FLAGS - {"explicit"}
    return {f"--{name}": f"{flags[name]}{' (given)' * (name in typed)}" for name in sorted(names)}


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
