"""How much memory there is, and whether an error says that there was too little."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from alref_edge.runtime import cuda
from alref_edge.runtime.device import Placement

# As the arena of `bfc_arena.cc` says it, CUDA's libraries by `cuda_call.cc`, and the host's allocator.
_SAID = re.compile(
    r"smaller than requested bytes|[Ff]ailed to allocate memory|free memory block despite|out of memory"
    r"|ALLOC(ATION)?_FAILED|CUBLAS failure 3:|cudaErrorMemoryAllocation|bad_alloc"
)
_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of ONNX Runtime says that memory, of the host or a device, did not suffice."""
    return isinstance(error, MemoryError) or _SAID.search(str(error)) is not None


def machine_memory() -> int:
    """Bytes of memory that this process may have: the machine's, or its container's where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *(limit for limit, _ in _groups())])


def free_memory(placement: Placement) -> int:
    """Bytes that are free for something new: on a CUDA device, else of the host, or in its container.

    Raises:
        EngineError: the CUDA device cannot be asked.
    """
    if placement.kind == "cuda":
        return cuda.free_memory(placement.number)
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with contextlib.suppress(OSError):
        # Pages of files that the kernel would give up are free, too.
        found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
        free = 1024 * int(found[1]) if found else free
    return max(0, min([free, *(limit - used for limit, used in _groups())]))


def _groups() -> list[tuple[int, int]]:
    """The bounds of the container's memory in bytes, with what is used of it."""
    bounds = []
    for limit, used in _GROUPS:
        with contextlib.suppress(OSError, ValueError):
            texts = (Path(file).read_text(encoding="ascii") for file in (limit, used))
            bounds.append((int(next(texts)), int(next(texts))))
    return bounds
