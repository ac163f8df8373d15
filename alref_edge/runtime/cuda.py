"""Copies between the host and a CUDA device, through the CUDA runtime library that ONNX Runtime already uses."""

from __future__ import annotations

import ctypes
from functools import cache

from alref_edge.errors import EngineError

_NAMES = ("libcudart.so.13", "libcudart.so.12", "cudart64_13.dll", "cudart64_12.dll")
_DEVICE_TO_HOST = 2
_HOST_TO_DEVICE = 1


@cache
def _library() -> ctypes.CDLL:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.cudaMemcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        library.cudaMemcpy.restype = ctypes.c_int
        library.cudaStreamSynchronize.argtypes = [ctypes.c_void_p]
        library.cudaStreamSynchronize.restype = ctypes.c_int
        return library
    raise EngineError(
        "The CUDA runtime library was not found.",
        expected=" or ".join(_NAMES[:2]),
        mend="pip install 'alref-edge[gpu]', or put the CUDA toolkit's lib folder on LD_LIBRARY_PATH.",
    )


def copy(target: int, source: int, nbytes: int, to_host: bool) -> None:
    """Copy `nbytes` from one address to another, across the border in the direction given; done when it returns.

    `cudaMemcpy` may return before pageable memory has reached the device, and sessions run on streams that do not
    wait for the default one: hence the synchronisation.
    """
    library = _library()
    code = library.cudaMemcpy(target, source, nbytes, _DEVICE_TO_HOST if to_host else _HOST_TO_DEVICE)
    code = code or library.cudaStreamSynchronize(None)
    if code != 0:
        raise EngineError("A copy between host and CUDA device failed.", got=f"CUDA error {code}")
