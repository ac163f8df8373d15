"""A server of an open multimodal LLM on this machine: vLLM's, started, watched and ended.

    with MllmServer("models/Qwen2.5-VL-7B-Instruct", ServerSettings(in_flight=32)) as server:
        server.endpoint

It listens on a UNIX socket that this user alone can enter, or on a port of loopback, where it has to prove itself
before anything is sent to it (`peer`). It wants a key, opens three addresses (`gate`), fetches nothing,
and ends with the program that started it (`guardian`).
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from alref_edge.errors import InputError, MllmError
from alref_edge.mllm.endpoint import Endpoint, is_loopback, user_folder
from alref_edge.mllm.serving.installation import Installation
from alref_edge.mllm.serving.model_folder import ModelFolder
from alref_edge.mllm.serving.peer import Transport
from alref_edge.mllm.serving.readiness import first_answer, is_up
from alref_edge.mllm.serving.start_errors import explain, tail

_log = logging.getLogger(__name__)

_CONTEXT = 8192
_GPU_SHARE, _CPU_SHARE = 0.9, 0.25
_MAX_CPU_CACHE_GIB = 32
_LONGEST_TMPDIR = 48  # names of sockets, which lie there, end at 107 characters
_POLL_S = 0.25
_SOON_S = 10.0  # for a server that broke a connection off to end
_GRACE_OVER_S = 20.0  # beyond the server's own: what the guardian may take for the children


@dataclass(frozen=True)
class ServerSettings:
    """How the server is run.

    Attributes:
        port: of TCP, 0: a free one; None: a UNIX socket, where the installed vLLM has that, else as 0.
        host: a loopback address, for the port.
        api_key: None: one of its own; given, so that a server started again is the same to its clients.
        tensor_parallel: GPUs that the model is spread over.
        context: most tokens of a prompt and its answer; None: 8192, or the model's own if that is less.
        memory_share: of each GPU's memory, 0.9 if None; on a CPU the cache's share of the memory that is free, 0.25.
        quantization: vLLM's name of a method; None: as the model's folder says.
        dtype: of weights and activations: auto, float32, bfloat16 or float16.
        max_images: most images of one request.
        in_flight: most requests that are worked on at once.
        start_timeout_s: for the model to be loaded and a first answer to come.
        stop_grace_s: for the server to end by itself before it is killed.

    Raises:
        InputError: out of range.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    api_key: str | None = field(default=None, repr=False)
    tensor_parallel: int = 1
    context: int | None = None
    memory_share: float | None = None
    quantization: str | None = None
    dtype: str = "auto"
    max_images: int = 1
    in_flight: int = 32
    start_timeout_s: float = 900.0
    stop_grace_s: float = 15.0

    def __post_init__(self) -> None:
        if not is_loopback(self.host) or ":" in self.host:
            raise InputError(
                "The server is for this machine alone.",
                expected="127.0.0.1",
                got=self.host,
                mend="leave out --host; other machines can reach it through a tunnel of yours.",
            )
        word = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
        for name, right, expected in (
            ("port", self.port is None or 0 <= self.port < 65536, "0 to 65535"),
            ("tensor_parallel", self.tensor_parallel >= 1, "1 or more"),
            ("context", self.context is None or self.context >= 256, "256 or more"),
            ("memory_share", self.memory_share is None or 0 < self.memory_share <= 1, "above 0, up to 1"),
            ("quantization", self.quantization is None or word.fullmatch(self.quantization), "a name that vLLM knows"),
            ("dtype", self.dtype in ("auto", "float32", "bfloat16", "float16"), "auto, float32, bfloat16 or float16"),
            ("max_images", self.max_images >= 1, "1 or more"),
            ("in_flight", self.in_flight >= 1, "1 or more"),
            ("start_timeout_s", self.start_timeout_s > 0, "above 0"),
            ("stop_grace_s", self.stop_grace_s >= 0, "0 or more"),
        ):
            if not right:
                raise InputError(
                    f"The server cannot be run with this {name}.", expected=expected, got=getattr(self, name)
                )


class MllmServer:
    """A running vLLM server; a context manager. `start` and `stop` may be called from any thread, one at a time.

    Args:
        model: the model's folder.
        settings: how it is run.
        python: see `Installation.find`.
        log: file for vLLM's output, which is added to it; None: `default_log`.

    Raises:
        InputError: no such model, interpreter or log file.
        MllmError: vLLM is not installed there.
    """

    def __init__(
        self,
        model: Path | str,
        settings: ServerSettings = ServerSettings(),
        python: str | None = None,
        log: Path | None = None,
    ) -> None:
        if os.name != "posix":
            raise MllmError("vLLM does not run on this system.", expected="Linux", mend="use --endpoint URL.")
        self.settings = settings
        self.model = ModelFolder.open(model)
        self.installation = Installation.find(python)
        self.log = Path(os.path.abspath(log)) if log is not None else default_log()
        self.pid: int | None = None
        self._key = settings.api_key or secrets.token_urlsafe(32)
        self._port = settings.port
        if settings.port is None and not self.installation.has_unix_sockets:
            self._port = 0
        self._guardian: subprocess.Popen[str] | None = None
        self._folder: Path | None = None
        self._log_start = 0

    @property
    def endpoint(self) -> Endpoint:
        """Where it answers.

        Raises:
            MllmError: it has not been started.
        """
        if not self._port and self._folder is None:
            raise MllmError("The server has not been started.", mend="call start(), or use it in a with statement.")
        suffix = f"-{self.settings.quantization}" if self.settings.quantization else ""
        url = f"unix://{self._socket}" if self._port is None else f"http://{self.settings.host}:{self._port}/v1"
        return Endpoint(url, self._key, self.model.name + suffix, holder=os.getpid())

    @property
    def _socket(self) -> Path:
        assert self._folder is not None
        return self._folder / "llm.sock"

    def start(self) -> MllmServer:
        """Start it, and return when it has answered a question about an image within a schema.

        The same socket or port, and the same key, are taken again if it ran before.

        Raises:
            InputError, CapacityError: the model, the settings or the memory do not go together.
            MllmError: the port is taken, before or in the meantime, or the server ended, or was not ready in time.
        """
        if self.status() is None and self._guardian is not None:
            return self
        began = time.monotonic()
        until = began + self.settings.start_timeout_s
        if self._port is not None:
            self._port = _free_port(self.settings.host, self._port)
        try:
            self._spawn()
            _log.info("vLLM %s loads the model; its output: %s", self.installation.version, self.log)
            self._wait_until_ready(until)
        except BaseException:
            self.stop()
            raise
        _log.info("the LLM's server answers after %.1f s", time.monotonic() - began)
        return self

    def stop(self) -> None:
        """End it with all its children; returns when none is left. Does nothing if it does not run."""
        guardian, self._guardian = self._guardian, None
        if guardian is None:
            return
        _log.info("the LLM's server is being ended")
        guardian.terminate()
        try:
            guardian.wait(self.settings.stop_grace_s + _GRACE_OVER_S)
        except subprocess.TimeoutExpired:  # pragma: no cover (a guardian that hangs)
            guardian.kill()
            guardian.wait()
            if self.pid is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
        if self._folder is not None:  # of a guardian that was killed
            shutil.rmtree(self._folder, ignore_errors=True)
        self.pid = None

    def status(self) -> int | None:
        """The exit status of a server that ended by itself; None while it runs, or if it was never started."""
        return None if self._guardian is None else self._guardian.poll()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for it to end by itself; returns as `status` does."""
        if self._guardian is not None:
            with suppress(subprocess.TimeoutExpired):
                self._guardian.wait(timeout_s)
        return self.status()

    def tail(self, lines: int = 20) -> list[str]:
        """The last lines of this server's log."""
        return tail(self.log, self._log_start, lines)

    def command(self) -> list[str]:
        """What is run."""
        settings, on_cpu = self.settings, self.installation.on_cpu
        dtype = settings.dtype
        if dtype == "auto" and on_cpu and "float32" in self.model.dtype:
            dtype = "float32"  # vLLM's auto would halve it
        context = settings.context or min(_CONTEXT, self.model.context or _CONTEXT)
        options: dict[str, Any] = {
            "model": self.model.path,
            "served-model-name": self.endpoint.model,
            **({"uds": self._socket} if self._port is None else {"host": settings.host, "port": self._port}),
            "dtype": dtype,
            "max-model-len": context,
            "max-num-seqs": settings.in_flight,
            "tensor-parallel-size": settings.tensor_parallel,
            "limit-mm-per-prompt": json.dumps({"image": settings.max_images, "video": 0, "audio": 0}),
            "mm-processor-cache-gb": 1,
            "allowed-media-domains": "none.invalid",  # images come within the request, never from elsewhere
            "generation-config": "vllm",  # not the folder's: greedy is greedy
            "seed": 0,
            "structured-outputs-config": json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
            "middleware": "alref_gate.Gate",
            "allowed-origins": "[]",
        }
        if settings.quantization:
            options["quantization"] = settings.quantization
        if not on_cpu:
            options["gpu-memory-utilization"] = settings.memory_share or _GPU_SHARE
        flags = ["--enable-prefix-caching", "--disable-fastapi-docs", "--disable-uvicorn-access-log"]
        flags += ["--enforce-eager"] if on_cpu else []
        pairs = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return [self.installation.python, "-m", "vllm.entrypoints.openai.api_server", *pairs, *flags]

    def _environment(self, folder: Path) -> dict[str, str]:
        environment = self.installation.environment(self._key, folder)
        if self.installation.on_cpu:
            environment.setdefault("VLLM_CPU_KVCACHE_SPACE", str(_cpu_cache_gib(self.settings.memory_share)))
            environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
            if self.settings.tensor_parallel == 1:  # the engine computes itself: no worker beside it
                environment.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        return environment

    def _spawn(self) -> None:
        if self._folder is None:
            near = len(tempfile.gettempdir()) < _LONGEST_TMPDIR
            self._folder = Path(tempfile.mkdtemp(prefix="alref-", dir=None if near else "/tmp"))  # of mode 0700
        else:  # it went with the server that ended, or that one was killed
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(mode=0o700)
        folder = self._folder
        try:
            shutil.copyfile(Path(__file__).with_name("gate.py"), folder / "alref_gate.py")
            environment = self._environment(folder)
            guardian = Path(__file__).with_name("guardian.py")
            watch = [sys.executable, "-I", "-S", guardian, os.getpid(), self.settings.stop_grace_s, folder]
            with _log_file(self.log) as log:
                self._log_start = log.tell()
                self._guardian = subprocess.Popen(
                    [*map(str, watch), *self.command()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=environment,
                    cwd="/",  # `python -m` looks for modules here
                    start_new_session=True,
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        assert self._guardian.stdout is not None
        with self._guardian.stdout as stream:
            line = stream.readline()
        self.pid = int(line) if line.strip().isdigit() else None

    def _wait_until_ready(self, until: float) -> None:
        endpoint = self.endpoint
        with httpx.Client(transport=Transport(endpoint, trust_env=False), trust_env=False) as client:
            while not is_up(client, endpoint):
                if (status := self.wait(_POLL_S)) is not None:
                    raise explain(self.log, self._log_start, status)
                if time.monotonic() > until:
                    raise self._late()
            try:
                problem = first_answer(client, endpoint, timeout_s=max(1.0, until - time.monotonic()))
            except httpx.TimeoutException as error:
                raise self._late() from error
            except httpx.TransportError as error:
                raise explain(self.log, self._log_start, self.wait(_SOON_S)) from error
        if problem is not None:
            raise MllmError(
                "The server runs, but does not answer a question about an image within a JSON schema.",
                got=problem,
                mend=f"serve a multimodal model whose folder is whole, chat template included. The log: {self.log}",
            )

    def _late(self) -> MllmError:
        return MllmError(
            f"The server was not ready after {self.settings.start_timeout_s:g} s.",
            got="".join(self.tail(1)) or "nothing in its log",
            mend=f"give it longer with --start-timeout, or serve a smaller model. The log: {self.log}",
        )

    def __enter__(self) -> MllmServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def default_log() -> Path:
    """The log file if none is named: alref-edge/mllm-server.log in the user's folder for state (XDG)."""
    return user_folder("XDG_STATE_HOME", ".local/state") / "mllm-server.log"


def _log_file(path: Path) -> io.BufferedWriter:
    """The file, made for this user alone, open at its end. Raises InputError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")  # noqa: SIM115
    except OSError as error:
        raise InputError(
            "The log file cannot be written.", got=f"{path}: {error.strerror or error}", mend="give another --log."
        ) from error
    file.seek(0, os.SEEK_END)
    return file


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises MllmError."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise MllmError(
                f"The server cannot have port {port} of {host}.",
                got=getattr(error, "strerror", None) or error,
                mend="give another --port, or 0 for a free one; a server of yours may be running already.",
            ) from error
        return int(probe.getsockname()[1])


def _cpu_cache_gib(share: float | None) -> int:
    """Size of the cache on a CPU: a share of the memory that is free, in whole GiB, 1 to 32."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4 << 30
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text()
        free = int(text.partition("MemAvailable:")[2].split()[0]) << 10
    return max(1, min(_MAX_CPU_CACHE_GIB, int(free * (share or _CPU_SHARE)) >> 30))
