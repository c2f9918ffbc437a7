"""Numerical precision of the forward pass: fp32, tf32, bf16 or fp16. Imports torch only in functions, for a fast --help."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True)
class Precision:
    """Precision of a forward pass on a device; norms, softmax of the maps and the loss are always in float32."""

    name: str  # fp32, tf32, bf16 or fp16
    dtype: torch.dtype  # of convolutions and matrix products
    device: torch.device

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass (torch.autocast)."""
        import torch

        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Return a gradient scaler, which prevents underflow in fp16; disabled in other precisions."""
        import torch

        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)


def select_precision(name: str, device: torch.device) -> Precision:
    """Resolve `--precision` for a device, and set torch's global TF32 switches.

    `tf32` is float32 with 10 bits of mantissa in matrix products; `fp16` scales the loss; `auto` is bf16 where the hardware
    supports it, else fp32; mps has fp32 alone. ValueError for an unknown name, or a precision that the device does not support.
    """
    import torch

    if name not in PRECISIONS:
        raise ValueError(f"--precision {name!r} is not known: choose {', '.join(PRECISIONS)}")
    cuda = device.type == "cuda"
    if name == "auto":
        name = "bf16" if _supports_bf16(device) else "fp32"
    if name == "tf32" and not (cuda and torch.cuda.get_device_capability(device) >= (8, 0)):
        raise ValueError("--precision tf32 needs a CUDA device from compute capability 8.0: use fp32, or auto")
    if name == "fp16" and device.type == "cpu":
        raise ValueError("--precision fp16 is for CUDA devices: use bf16 or fp32 on the CPU")
    if name != "fp32" and device.type == "mps":
        raise ValueError(f"--precision {name} was never tried on mps: use fp32, or auto")
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(name, torch.float32)
    return Precision(name, dtype, device)


def _supports_bf16(device: torch.device) -> bool:
    """Return whether the hardware has bf16 matrix products."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    try:  # torch has only private functions for this
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
