"""Memory that is freed stays with the process once it asked for that."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from util.memory import keep_freed_memory, resident
if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident("VmRSS")
block = b"x" * 100_000_000
del block
print(resident("VmRSS") - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")
def test_freed_memory_is_kept() -> None:
    growth = {}
    for word in ("give", "keep"):
        run = subprocess.run([sys.executable, "-c", PROGRAM, word], capture_output=True, text=True, check=True)
        growth[word] = int(run.stdout)
    assert growth["give"] < 50_000_000 < 90_000_000 <= growth["keep"]
