"""The machine under a measurement: the GPU by NVML and the CUDA runtime, the host's memory, versions."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any

from benchmarks.timing import environment

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch", "sam2", "transformers", "numpy", "pillow", "av")
_NVML = ("libnvidia-ml.so.1", "nvml.dll")
_CUDART = ("libcudart.so.13", "libcudart.so.12")
_CLOCKS = {"graphics_mhz": 0, "sm_mhz": 1, "memory_mhz": 2}
_MIB = 1 << 20


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def facts(device: str) -> dict[str, Any]:
    """What figures depend on: processor, versions, and of a GPU its name, driver, clocks, power and temperature."""
    found = environment(PACKAGES)
    found["packages"] = {name: version for name, version in found["packages"].items() if version}
    return found if device == "cpu" else {**found, "gpu": gpu_facts()}


def gpu_facts() -> dict[str, Any]:
    """Name, driver, clocks now and at most, power and temperature of the first GPU; None where NVML does not tell."""
    nvml, handle = _opened_nvml()
    if nvml is None:
        return {"name": None}
    found: dict[str, Any] = {
        "name": _text(lambda room: nvml.nvmlDeviceGetName(handle, room, len(room))),
        "driver": _text(lambda room: nvml.nvmlSystemGetDriverVersion(room, len(room))),
        "memory_mib": _memory().total // _MIB,
        "power_w": (_number(partial(nvml.nvmlDeviceGetPowerUsage, handle)) or 0) / 1000,
        "celsius": _number(partial(nvml.nvmlDeviceGetTemperature, handle, 0)),
    }
    for name, kind in _CLOCKS.items():
        found[name] = _number(partial(nvml.nvmlDeviceGetClockInfo, handle, kind))
        found[f"{name}_most"] = _number(partial(nvml.nvmlDeviceGetMaxClockInfo, handle, kind))
    return found


def device_memory_mib() -> int | None:
    """Memory in use on the first GPU, by all processes; None without NVML."""
    return _memory().used // _MIB if _opened_nvml()[0] is not None else None


def peak_host_mb() -> float:
    """The most memory that this process has had resident, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def synchronise(device: str) -> Callable[[], None]:
    """A call that returns when everything that was enqueued on the device is done; on the CPU it does nothing."""
    if device == "cpu":
        return lambda: None
    library = _first_of(_CUDART)
    if library is None:
        raise RuntimeError(f"none of {', '.join(_CUDART)} can be loaded: put the CUDA runtime on LD_LIBRARY_PATH")

    def wait() -> None:
        code = library.cudaDeviceSynchronize()
        if code:
            raise RuntimeError(f"cudaDeviceSynchronize: CUDA error {code}")

    return wait


@cache
def _opened_nvml() -> tuple[Any, Any]:
    nvml = _first_of(_NVML)
    handle = ctypes.c_void_p()
    if nvml is None or nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
        return None, None
    return nvml, handle


def _memory() -> _Memory:
    nvml, handle = _opened_nvml()
    memory = _Memory()
    nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    return memory


def _first_of(names: tuple[str, ...]) -> Any:
    for name in names:
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None


def _text(call: Callable[[Any], int]) -> str | None:
    room = ctypes.create_string_buffer(128)
    return None if call(room) else room.value.decode(errors="replace")


def _number(call: Callable[[Any], int]) -> int | None:
    value = ctypes.c_uint()
    return None if call(ctypes.byref(value)) else value.value
