"""Which ONNX Runtime execution providers really work here, and which one a device name means."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from alref_edge import offline
from alref_edge.errors import ProviderError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

# y = Neg(x), one float: the smallest graph that shows whether a provider runs anything.
_PROBE_GRAPH = bytes.fromhex(
    "080a12003a360a0b0a017812017922034e6567120570726f62655a0f0a0178120a0a08080112040a020801620f0a0179120a0a0808"
    "0112040a02080142040a001012"
)


@dataclass(frozen=True)
class Probe:
    """Whether a provider runs a graph on this machine, and if not, why not."""

    provider: str
    works: bool
    reason: str = ""


@dataclass(frozen=True)
class Placement:
    """A device name resolved: the provider to ask ONNX Runtime for, and the device's number."""

    provider: str
    device: str
    device_id: int = 0


def load_onnxruntime() -> Any:
    """The onnxruntime module, with the CUDA libraries of installed packages loaded where it is the GPU build.

    Raises:
        ProviderError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            "ONNX Runtime is not installed.",
            got=str(error),
            mend="pip install 'alref-edge[cpu]' for a CPU, or 'alref-edge[gpu]' for an NVIDIA GPU.",
        ) from error
    return _prepared(onnxruntime)


@cache
def _prepared(onnxruntime: Any) -> Any:
    if offline.loaded_first:
        onnxruntime.disable_telemetry_events()  # what can still be stopped
    if CUDA in onnxruntime.get_available_providers():
        with contextlib.suppress(Exception):
            onnxruntime.preload_dlls()
    _bound_memory(onnxruntime)
    return onnxruntime


def _bound_memory(onnxruntime: Any) -> None:
    """Let all sessions share one arena of the host's memory, which ends at three quarters of the machine's.

    A graph that wants more fails; without the bound the kernel would end the process, or another.
    """
    kinds = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    arena = onnxruntime.OrtArenaCfg({"max_mem": machine_memory() * 3 // 4})
    # Who uses ONNX Runtime beside us may have made one of their own: that one is taken.
    with contextlib.suppress(Exception):
        onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", kinds[0], 0, kinds[1]), arena)


def machine_memory() -> int:
    """Bytes of memory that this process may have: the machine's, or its container's where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path(limit).read_text(encoding="ascii")))
    return total


@cache
def probe(provider: str, device_id: int = 0) -> Probe:
    """Run a one-operator graph on a provider and see whether it stays there."""
    onnxruntime = load_onnxruntime()
    if provider not in onnxruntime.get_available_providers():
        return Probe(provider, False, "this build of ONNX Runtime does not contain it")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    chosen = provider if provider == CPU else (provider, {"device_id": str(device_id)})
    try:
        session = onnxruntime.InferenceSession(_PROBE_GRAPH, options, providers=[chosen], enable_fallback=0)
        runs_on = session.get_providers()[0]
        if runs_on == provider:
            import numpy as np

            session.run(None, {"x": np.ones(1, np.float32)})
            return Probe(provider, True)
    except Exception as error:  # whatever a provider's library throws is the answer that was asked for
        return Probe(provider, False, _first_line(error))
    return Probe(provider, False, _library_fault(provider) or f"ONNX Runtime fell back to {runs_on}")


def resolve(device: str, *, allow_fallback: bool = False) -> Placement:
    """What a device name means here.

    Args:
        device: "cpu", "cuda", "cuda:N", or "auto": CUDA where it works, else the CPU.
        allow_fallback: take the CPU where the device asked for does not work.

    Raises:
        ProviderError: the name is unknown, or the provider does not work here.
    """
    match = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise ProviderError(
            "There is no such device.", expected="auto, cpu, cuda or cuda:N", got=device, mend="choose one of these."
        )
    if device == "cpu" or (device == "auto" and not probe(CUDA).works):
        return Placement(CPU, "cpu")
    number = int(match.group(1) or 0)
    found = probe(CUDA, number)
    if found.works:
        return Placement(CUDA, f"cuda:{number}", number)
    if allow_fallback:
        return Placement(CPU, "cpu")
    raise fell_back(CUDA, found.reason)


def fell_back(provider: str, reason: str) -> ProviderError:
    """The error for a provider that was asked for and does not run."""
    return ProviderError(
        f"{provider} was asked for but does not work here: {reason}.",
        mend="install the GPU build (pip install 'alref-edge[gpu]') and the driver that it needs, see "
        "`alref-edge doctor`, or use --device cpu, or --allow-fallback.",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__)[:300]


def _library_fault(provider: str) -> str:
    """What the dynamic loader says of a provider's library: ONNX Runtime itself only logs it."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    name = provider.removesuffix("ExecutionProvider").lower()
    library = folder / f"libonnxruntime_providers_{name}.so"
    if not library.exists():
        return ""
    try:
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
    except OSError as error:
        return _first_line(error)
    return ""
