"""The launcher, with a script in vLLM's place: what is started, with what, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from alref_edge.errors import AlrefError, CapacityError, InputError, MllmError
from alref_edge.mllm.endpoint import Endpoint, read_states
from alref_edge.mllm.serving.gate import Gate
from alref_edge.mllm.serving.installation import PYTHON_VARIABLE, Installation
from alref_edge.mllm.serving.model_folder import ModelFolder, pixel_budget
from alref_edge.mllm.serving.peer import Transport
from alref_edge.mllm.serving.server import MllmServer, ServerSettings, default_log
from tests.mllm.fake_vllm import make_model, make_python, seen, weights
from tests.mllm.processes import none_left, with_text

ROOT = Path(__file__).parents[3]
QUICK = ServerSettings(start_timeout_s=30, stop_grace_s=3)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_python(tmp_path_factory.mktemp("vllm") / "environment"))


@pytest.fixture
def serve(python: str, tmp_path: Path) -> Callable[..., MllmServer]:
    """Makes a server whose log and model lie in the test's folder, by which its processes are known too."""

    def make(settings: ServerSettings = QUICK, **fake: Any) -> MllmServer:
        model = make_model(tmp_path / "model", **fake)
        return MllmServer(model, settings, python, tmp_path / "log" / "vllm.log")

    return make


def get(endpoint: Endpoint, path: str) -> httpx.Response:
    """What a client that proves the server gets, without the key."""
    with httpx.Client(transport=Transport(endpoint), trust_env=False) as client:
        return client.get(f"{endpoint.http.removesuffix('/v1')}{path}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def the_log_says(server: MllmServer, text: str) -> bool:
    return text in server.log.read_text()


# What is started


def test_it_is_started_on_a_socket_of_this_user_with_what_the_job_needs(
    serve: Callable[..., MllmServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "alref_edge")
    for name in ("https_proxy", "HTTP_PROXY", "ALL_PROXY", "PYTHONPATH", "PYTHONSTARTUP", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "elsewhere")
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-3")
    monkeypatch.setenv("VLLM_API_KEY", "not this one")
    with serve(ServerSettings(in_flight=7, max_images=2, start_timeout_s=30, stop_grace_s=3), says="Hello") as server:
        given = seen(server.model.path)
        key = server.endpoint.api_key
        assert get(server.endpoint, "/v1/models").status_code == 200
        path = Path(str(server.endpoint.socket))
        assert stat.S_IMODE(path.lstat().st_mode) == 0o700
        commands = [" ".join(process.cmdline()) for process in with_text(key)]
    environment, argv = given["environment"], given["argv"]
    options = dict(zip(argv[1::2], argv[2::2], strict=False))
    assert not {"--host", "--port"} & options.keys()
    assert server.endpoint.url == f"unix://{options['--uds']}"
    assert given["modes"]["socket's folder"] == oct(stat.S_IFDIR | 0o700)
    assert options["--served-model-name"] == server.endpoint.model == server.model.name
    assert json.loads(options["--limit-mm-per-prompt"]) == {"image": 2, "video": 0, "audio": 0}
    assert (options["--max-num-seqs"], options["--max-model-len"]) == ("7", "4096")
    assert options["--dtype"] == "float32"
    assert "--trust-remote-code" not in argv
    assert "--allowed-local-media-path" not in argv
    assert "--enforce-eager" in argv
    assert given["gate"] == "Gate"
    assert environment["VLLM_API_KEY"] == key
    assert len(key) >= 32
    assert len(commands) >= 2  # the guardian and the server
    assert not any(key in command for command in commands)
    for name in (
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_DATASETS_OFFLINE",
        "VLLM_NO_USAGE_STATS",
        "DO_NOT_TRACK",
    ):
        assert environment[name] == "1"
    assert "elsewhere" not in environment.values()
    assert "VLLM_SERVER_DEV_MODE" not in environment
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "0-3"  # a user's own tuning stays
    (withheld,) = (record.getMessage() for record in caplog.records if "does not get your" in record.getMessage())
    assert {"HTTP_PROXY", "HF_TOKEN", "VLLM_API_KEY"} <= set(re.findall(r"\w+", withheld))
    assert "VLLM_CPU_OMP_THREADS_BIND" not in withheld
    assert "elsewhere" not in withheld
    assert int(environment["VLLM_CPU_KVCACHE_SPACE"]) >= 1
    assert given["cwd"] == "/"
    assert given["modes"]["TMPDIR"] == oct(stat.S_IFDIR | 0o700)
    assert not Path(environment["TMPDIR"]).exists()
    assert the_log_says(server, "Hello")
    assert stat.S_IMODE(server.log.stat().st_mode) == 0o600
    assert key not in server.log.read_text()
    assert key not in repr(server.endpoint) + repr(ServerSettings(api_key=key))


def test_a_gpu_build_gets_a_share_of_the_gpu_and_no_setting_of_cpus(tmp_path: Path) -> None:
    python = make_python(tmp_path / "environment", "vllm", "0.32.0")
    model = make_model(tmp_path / "model")
    settings = ServerSettings(port=8123, tensor_parallel=2, context=16384, memory_share=0.5, quantization="fp8")
    server = MllmServer(model, settings, str(python))
    command = server.command()
    options = dict(zip(command[3::2], command[4::2], strict=False))
    assert not server.installation.on_cpu
    assert (options["--gpu-memory-utilization"], options["--tensor-parallel-size"]) == ("0.5", "2")
    assert (options["--max-model-len"], options["--quantization"], options["--dtype"]) == ("16384", "fp8", "auto")
    assert options["--served-model-name"] == f"{server.model.name}-fp8"
    assert "--enforce-eager" not in command


@pytest.mark.parametrize("port", [None, 0], ids=["socket", "port"])
def test_it_is_the_same_to_its_clients_when_started_again(serve: Callable[..., MllmServer], port: int | None) -> None:
    server = serve(replace(QUICK, port=port))
    with pytest.raises(MllmError, match="has not been started"):
        _ = server.endpoint
    with server:
        first = server.endpoint
        assert server.start() is server  # does nothing
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert server.wait(20) == 128 + signal.SIGKILL
        server.start()
        assert server.endpoint == first
        assert server.pid != pid
        assert get(server.endpoint, "/health").status_code == 200


def test_a_key_and_a_port_can_be_given(serve: Callable[..., MllmServer]) -> None:
    with serve(ServerSettings(port=free_port(), api_key="my-own-key", stop_grace_s=3)) as server:
        assert server.endpoint.api_key == "my-own-key"
        options = seen(server.model.path)["argv"]
        port = options[options.index("--port") + 1]
        assert options[options.index("--host") + 1] == "127.0.0.1"
        assert server.endpoint.url == f"http://127.0.0.1:{port}/v1"
        assert get(server.endpoint, "/health").status_code == 200


def test_a_vllm_that_knows_no_socket_gets_a_port(tmp_path: Path) -> None:
    python = make_python(tmp_path / "environment", version="0.9.1")
    with MllmServer(make_model(tmp_path / "model"), QUICK, str(python), tmp_path / "log") as server:
        assert server.endpoint.url.startswith("http://127.0.0.1:")
        assert get(server.endpoint, "/health").status_code == 200


# That nothing of it is left


@pytest.mark.parametrize(
    "fake",
    [
        {"no_templates": True},
        {"field": "reasoning_content"},
        {"field": "reasoning"},
        {"answers": '<think>{"ready": 1}</think>```{"ready": true}```'},
    ],
    ids=str,
)
def test_a_model_that_thinks_or_has_no_template_is_ready_too(
    serve: Callable[..., MllmServer], fake: dict[str, Any]
) -> None:
    with serve(**fake) as server:
        assert server.status() is None


@pytest.mark.parametrize("deaf", [False, True])
def test_stop_ends_it_with_all_its_children(serve: Callable[..., MllmServer], tmp_path: Path, deaf: bool) -> None:
    server = serve(ServerSettings(start_timeout_s=30, stop_grace_s=1), children=[False, True, True], deaf=deaf)
    server.start()
    path = Path(str(server.endpoint.socket))
    assert path.is_socket()
    assert len(with_text(server.endpoint.api_key)) == 5  # guardian, server, three that do not listen to SIGTERM
    server.stop()
    assert with_text(server.endpoint.api_key) == []
    assert not path.parent.exists()
    server.stop()  # does nothing
    assert server.status() is None


PARENT = """
import sys, time
from alref_edge.mllm.serving.server import MllmServer, ServerSettings
server = MllmServer(sys.argv[1], ServerSettings(api_key=sys.argv[4], stop_grace_s=1), sys.argv[2], sys.argv[3])
import threading
thread = threading.Thread(target=server.start)  # a thread that ends takes no server with it
thread.start()
thread.join()
print(server.pid, server._guardian.pid, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.mark.parametrize("killed", ["parent", "guardian"])
def test_a_killed_program_leaves_nothing_behind(python: str, tmp_path: Path, killed: str) -> None:
    model = make_model(tmp_path / "model", children=[False, True] if killed == "parent" else [])
    key = f"key-{os.getpid()}-{killed}"
    command = [sys.executable, "-c", PARENT, str(model), python, str(tmp_path / "log"), key]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as parent:
        try:
            assert parent.stdout is not None
            _, guardian = map(int, parent.stdout.readline().split())
            time.sleep(0.5)
            assert len(with_text(key)) >= 2
            os.kill(parent.pid if killed == "parent" else guardian, signal.SIGKILL)
            assert none_left(key)
            parent.communicate(timeout=60)
            assert not Path(seen(model)["environment"]["TMPDIR"]).exists()
        finally:
            parent.kill()


def test_an_interrupted_start_leaves_nothing_behind(serve: Callable[..., MllmServer]) -> None:
    server = serve(sleeps=60, children=[True])
    timer = subprocess.Popen(
        [sys.executable, "-c", f"import os, signal, time; time.sleep(2); os.kill({os.getpid()}, signal.SIGINT)"]
    )
    with pytest.raises(KeyboardInterrupt):
        server.start()
    timer.wait()
    assert with_text(server.endpoint.api_key) == []


# What goes wrong

FAILURES: list[tuple[str, dict[str, Any], type[AlrefError], str]] = [
    (
        "cuda memory",
        {"says": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"},
        CapacityError,
        "--m",
    ),
    (
        "the GPU is taken",
        {"says": "ValueError: Free memory on device cuda:0 (1.2/80.0 GiB) on startup is less than desired GPU memory "},
        CapacityError,
        "--memory-share",
    ),
    (
        "no room for the cache",
        {
            "says": "(EngineCore pid=1) ERROR 11-21 15:42:22 [core.py:1] ValueError: To serve at least one request "
            "with the model's max seq len (128000), (7.00 GiB KV cache is needed, which is larger than the available "
            "KV cache memory (1.00 GiB).\nRuntimeError: Engine core initialization failed. See root cause above."
        },
        CapacityError,
        "--context",
    ),
    ("no cache at all", {"says": "ValueError: No available memory for the cache blocks."}, CapacityError, "quantised"),
    ("memory of the machine", {"says": "", "killed": signal.SIGKILL}, CapacityError, "status 137"),
    (
        "context",
        {
            "says": "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, "
            "User-specified max_model_len (999999) is greater than the derived max_model_len (x=4096)"
        },
        InputError,
        "--context",
    ),
    ("code", {"says": "ValueError: Loading it requires `trust_remote_code=True`"}, InputError, "never run"),
    (
        "unknown architecture",
        {"says": "ValueError: Model architectures ['Odd'] are not supported for now. Supported: ..."},
        InputError,
        "newer vLLM",
    ),
    ("text alone", {"says": "ValueError: x is not a multimodal model"}, InputError, "sees images"),
    ("no GPU", {"says": "RuntimeError: Failed to infer device type, please set"}, MllmError, "vllm-cpu"),
    (
        "GPUs",
        {"says": "ValueError: World size (8) is larger than the number of available GPUs"},
        InputError,
        "--tensor",
    ),
    ("quantization", {"says": "ValueError: Unknown quantization method: q9."}, InputError, "--quantization"),
    ("import", {"says": "ImportError: libcudart.so.13: cannot open shared object file"}, MllmError, "anew"),
    ("a file", {"says": "OSError: /m does not appear to have a file named tokenizer.json."}, InputError, "whole model"),
    ("weights", {"says": "ValueError: some weights were not initialized from checkpoint"}, InputError, "damaged"),
    ("port", {"says": "OSError: [Errno 98] Address already in use"}, MllmError, "--port"),
    ("anything else", {"says": "SystemError: the moon is full"}, MllmError, "the moon is full"),
    ("nothing said", {"says": ""}, MllmError, "nothing in its log"),
    ("dies at the first question", {"dies_asked": True, "says": "KeyError: 'q'"}, MllmError, "KeyError: 'q'"),
    ("text for an answer", {"answers": "I am ready."}, MllmError, "chat template"),
    ("another schema", {"answers": '{"ready": "yes"}'}, MllmError, "I am ready|schema"),
    ("no answer", {"answers": None}, MllmError, "HTTP 200"),
    ("refused", {"status": 400, "answers": "no chat template"}, MllmError, "HTTP 400.*no chat template"),
]


@pytest.mark.parametrize(("fake", "kind", "says"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_a_start_that_fails_says_why(
    serve: Callable[..., MllmServer], fake: dict[str, Any], kind: type[AlrefError], says: str
) -> None:
    starts = {"answers", "dies_asked", "killed"} & fake.keys()
    server = serve(**fake if starts else {**fake, "ends": 1})
    with pytest.raises(kind, match=says) as caught:
        server.start()
    assert type(caught.value) is kind
    assert caught.value.mend
    assert str(server.log) in str(caught.value)
    assert with_text(server.endpoint.api_key) == []


def test_a_log_of_earlier_starts_is_not_blamed(python: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("ValueError: No available memory for the cache blocks.\n")
    with pytest.raises(MllmError, match="nothing in its log"):
        MllmServer(make_model(tmp_path / "model", ends=1), QUICK, python, log).start()


def test_a_start_that_takes_too_long_ends(serve: Callable[..., MllmServer]) -> None:
    server = serve(ServerSettings(start_timeout_s=1, stop_grace_s=3), sleeps=60, says="Loading")
    began = time.monotonic()
    with pytest.raises(MllmError, match=r"not ready after 1 s.*Loading.*--start-timeout"):
        server.start()
    assert time.monotonic() - began < 15
    assert with_text(server.endpoint.api_key) == []


def test_a_taken_port_is_refused(serve: Callable[..., MllmServer]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(MllmError, match=rf"port {port}.*--port"):
            serve(ServerSettings(port=port)).start()


SETTINGS = [
    {"host": "0.0.0.0"},
    {"host": "192.168.0.2"},
    {"host": "example.org"},
    {"host": ""},
    {"port": -1},
    {"port": 65536},
    {"tensor_parallel": 0},
    {"context": 10},
    {"memory_share": 0.0},
    {"memory_share": 1.5},
    {"memory_share": float("nan")},
    {"quantization": "awq; rm"},
    {"dtype": "int8"},
    {"max_images": 0},
    {"in_flight": 0},
    {"start_timeout_s": 0.0},
    {"stop_grace_s": -1.0},
]


@pytest.mark.parametrize("bad", SETTINGS, ids=str)
def test_settings_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"Expected: .*Got: "):
        ServerSettings(**bad)


def test_the_log_must_be_writable(python: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    server = MllmServer(make_model(tmp_path / "model"), QUICK, python, tmp_path / "file" / "log")
    with pytest.raises(InputError, match="--log"):
        server.start()


def test_the_log_lies_in_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_log() == tmp_path / "alref-edge" / "mllm-server.log"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_log() == Path.home() / ".local/state/alref-edge/mllm-server.log"


# The Python that has vLLM


def test_vllm_is_found_without_being_imported(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, python)
    found = Installation.find()
    assert (found.python, found.version, found.on_cpu) == (python, "0.32.0", True)
    assert Installation.find(python) == found


def test_a_build_for_cpus_is_known_by_its_version(tmp_path: Path) -> None:
    assert Installation.find(str(make_python(tmp_path / "environment", "vllm", "0.21.0+cpu"))).on_cpu


def test_pythons_without_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    script = tmp_path / "talks"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o755)
    cases: list[tuple[str, type[AlrefError]]] = [
        (str(tmp_path / "missing"), InputError),
        (str(tmp_path), InputError),
        ("/bin/false", InputError),
        (str(script), InputError),
        (str(bare / "bin" / "python"), MllmError),
    ]
    for path, kind in cases:
        with pytest.raises(kind, match="venv vllm-env") as caught:
            Installation.find(path)
        assert path in str(caught.value)


# The model's folder


def model_with(folder: Path, **files: str | bytes | None) -> Path:
    """A model's folder, with files (named with _ for a dot) changed, added, or (None) taken away."""
    make_model(folder)
    for name, content in files.items():
        path = folder / name.replace("__", ".").replace("_DASH_", "-")
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


MODELS: list[tuple[str, dict[str, str | bytes | None], str]] = [
    ("no config", {"config__json": None}, "not a model's folder.*model.safetensors"),
    ("no JSON", {"config__json": "{"}, "cannot be read"),
    ("no object", {"config__json": "[1]"}, "no JSON object"),
    ("nested", {"config__json": "[" * 100_000}, "cannot be read"),
    ("no weights", {"model__safetensors": None}, "no weights"),
    ("only a trainer's", {"model__safetensors": None, "training_args__bin": b"x"}, "no weights"),
    ("empty weights", {"model__safetensors": b""}, "an empty file"),
    ("cut weights", {"model__safetensors": weights(b"weights")[:-1]}, "its header tells of"),
    ("too long", {"model__safetensors": weights(b"weights") + b"0"}, "its header tells of"),
    ("no safetensors", {"model__safetensors": b"something else"}, "no header"),
    ("a header of a list", {"model__safetensors": (2).to_bytes(8, "little") + b"[]"}, "no header"),
    ("a pointer", {"model__safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "Git LFS"),
    (
        "a missing part",
        {"model__safetensors__index__json": '{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}'},
        "model-2.safetensors",
    ),
    ("a broken index", {"model__safetensors__index__json": "[]"}, "cannot be read"),
    ("text alone", {"config__json": '{"architectures": ["LlamaForCausalLM"]}'}, "reads text alone.*LlamaForCausalLM"),
]


@pytest.mark.parametrize(("files", "says"), [row[1:] for row in MODELS], ids=[row[0] for row in MODELS])
def test_a_folder_that_is_no_model(tmp_path: Path, files: dict[str, str | bytes | None], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        ModelFolder.open(model_with(tmp_path / "model", **files))
    assert caught.value.mend


def test_a_model_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing", tmp_path / "file", "Qwen/Qwen2.5-VL-7B-Instruct"):
        with pytest.raises(InputError, match="nothing is fetched"):
            ModelFolder.open(path)


def test_another_model_has_another_name(tmp_path: Path) -> None:
    names = {ModelFolder.open(make_model(tmp_path / "a" / "model")).name}
    large = b"\0" * (5 << 20)
    for number, files in enumerate(
        (
            {"model__safetensors": weights(b"weight!")},
            {"model__safetensors": weights(large)},
            {"model__safetensors": weights(large[:-1] + b"1")},
            {"model__safetensors": weights(large[: len(large) // 2] + b"1" + large[len(large) // 2 + 1 :])},
            {"chat_template__jinja": "x"},
            {"preprocessor_config__json": "{}"},
        )
    ):
        names.add(ModelFolder.open(model_with(tmp_path / str(number) / "model", **files)).name)
    assert len(names) == 7
    assert all(name.startswith("model-") for name in names)
    assert ModelFolder.open(make_model(tmp_path / "b" / "model")).name in names
    assert ModelFolder.open(make_model(tmp_path / "-odd name")).name.startswith("odd-name-")


@pytest.mark.parametrize(
    ("files", "pixels"),
    [
        ({}, None),
        ({"preprocessor_config__json": '{"max_pixels": 12845056}'}, 12845056),
        ({"preprocessor_config__json": '{"size": {"longest_edge": 200704, "shortest_edge": 3136}}'}, 200704),
        ({"processor_config__json": '{"image_processor": {"size": {"longest_edge": 200704}}}'}, 200704),
        ({"preprocessor_config__json": '{"size": {"longest_edge": 2048}}'}, None),
        ({"preprocessor_config__json": '{"size": 448}'}, None),
        ({"preprocessor_config__json": "["}, None),
        ({"preprocessor_config__json": '{"max_pixels": true}'}, None),
        ({"preprocessor_config__json": "{}", "processor_config__json": '{"max_pixels": 99999}'}, 99999),
    ],
)
def test_pixel_budget(tmp_path: Path, files: dict[str, str | bytes | None], pixels: int | None) -> None:
    assert pixel_budget(model_with(tmp_path / "model", **files)) == pixels


# The doors


@pytest.mark.parametrize(
    ("scope", "passes"),
    [
        ({"type": "lifespan"}, True),
        ({"type": "http", "method": "GET", "path": "/health"}, True),
        ({"type": "http", "method": "GET", "path": "/v1/models"}, True),
        ({"type": "http", "method": "POST", "path": "/v1/chat/completions"}, True),
        ({"type": "http", "method": "GET", "path": "/v1/chat/completions"}, False),
        ({"type": "http", "method": "POST", "path": "/invocations"}, False),
        ({"type": "http", "method": "POST", "path": "/v1/completions"}, False),
        ({"type": "http", "method": "GET", "path": "/metrics"}, False),
        ({"type": "http", "method": "GET", "path": "/health/"}, False),
        ({"type": "http", "method": "POST", "path": "/v1//chat/completions"}, False),
        ({"type": "websocket", "path": "/v1/realtime"}, False),
    ],
)
def test_three_doors_are_open(scope: dict[str, Any], passes: bool) -> None:
    passed: list[dict[str, Any]] = []
    sent: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        passed.append(scope)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(Gate(app)(scope, None, send))
    assert bool(passed) is passes
    assert [message.get("status") for message in sent[:1]] == ([] if passes else [404 if "method" in scope else None])


# The command


def serving(python: str, model: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_RUNTIME_DIR": "", "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "alref_edge", "mllm", "serve", "--model", str(model), "--python", python]
    return subprocess.Popen(
        [*command, "--log", str(folder / "log"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
    )


def read_to_the_end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What is left of both outputs; `communicate` would miss what a line was read with."""
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = process.stdout.read(), process.stderr.read()
    process.wait(60)
    return output, errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(
    python: str, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving(python, make_model(tmp_path / "model"), tmp_path) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            endpoint = Endpoint.running()
            state = next(iter(read_states()), None)
            assert state is not None
            assert line == f"{endpoint.model} answers at {endpoint.url}\n"
            assert "api_server" in " ".join(psutil.Process(state.pid).cmdline())
            process.send_signal(number)
            rest, errors = read_to_the_end(process)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "--selector mllm" in rest
    assert endpoint.api_key not in line + rest + errors
    assert "The server has ended." in errors
    assert "Traceback" not in errors
    assert with_text(endpoint.api_key) == []
    with pytest.raises(MllmError, match="No server of an LLM is running"):
        Endpoint.running()


def test_the_command_says_when_the_server_dies(python: str, tmp_path: Path) -> None:
    with serving(python, make_model(tmp_path / "model", says="Nearly"), tmp_path, "--json") as process:
        try:
            assert process.stdout is not None
            facts = ""
            while not facts.endswith("}\n"):
                facts += process.stdout.readline()
            os.kill(json.loads(facts)["pid"], signal.SIGKILL)
            _, errors = read_to_the_end(process)
        finally:
            process.kill()
    assert process.returncode == 7
    assert "has ended by itself" in errors
    assert "exit status 137" in errors
    assert "Nearly" in errors
    assert not list((tmp_path / "cache").rglob("mllm.json"))


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--host", "0.0.0.0"], 2, "for this machine alone"),
        (["--port", "70000"], 2, "port"),
        (["--model", "nowhere"], 2, "nothing is fetched"),
        (["--python", "nowhere"], 2, "vllm-env"),
    ],
)
def test_the_command_refuses(python: str, tmp_path: Path, options: list[str], status: int, says: str) -> None:
    process = serving(python, make_model(tmp_path / "model"), tmp_path, *options)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert says in errors
    assert errors.count("\n") == 1


def test_the_doctor_names_the_python_that_would_serve(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from alref_edge.doctor import examine

    monkeypatch.setenv(PYTHON_VARIABLE, python)
    finding = next(finding for finding in examine().findings if finding.name == "vLLM")
    assert (finding.state, finding.detail) == ("ok", f"0.32.0, for CPUs, of {python}")
    monkeypatch.setenv(PYTHON_VARIABLE, "/nowhere")
    report = examine()
    finding = next(finding for finding in report.findings if finding.name == "vLLM")
    assert finding.state == "missing"
    assert "/nowhere" in finding.detail
    assert "vllm-cpu" in finding.mend
    assert report.can_run
