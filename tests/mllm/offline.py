"""Serves a model and lets `alref-edge rvos` ask it, in a network namespace of its own: `unshare -n python -m ...`.

Usage: MODEL PYTHON FOLDER. Prints what it found, as JSON, in its last line.
"""

from __future__ import annotations

import fcntl
import json
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

from alref_edge.datasets.synthetic import make_scene
from alref_edge.datasets.synthetic.clips import write_clip

_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def outside() -> str:
    """What comes of a connection to an address of documentation (RFC 5737)."""
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=3).close()
    except OSError as error:
        return error.strerror or str(error)
    return "connected"


def main(model: str, python: str, folder: Path) -> dict[str, object]:
    loopback_up()
    facts: dict[str, object] = {"interfaces": [name for _, name in socket.if_nameindex()], "outside": outside()}
    write_clip(folder / "clip.mp4", make_scene(3, 160, 120))
    alref = [sys.executable, "-m", "alref_edge"]
    serve = [*alref, "mllm", "serve", "--model", model, "--python", python, "--memory-share", "0.05", "--json"]
    with subprocess.Popen([*serve, "--log", str(folder / "log")], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            while not (line := server.stdout.readline()).startswith("}"):
                assert line, "the server did not start"
            run = [*alref, "rvos", str(folder / "clip.mp4"), "--text", "the circle", "--selector", "mllm"]
            options = ["--device", "cpu", "--out", str(folder / "out"), "--transcript", str(folder / "transcript")]
            subprocess.run([*run, *options], check=True, stdout=sys.stderr)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    facts["served"] = server.returncode
    facts["transcripts"] = sum(1 for path in (folder / "transcript").rglob("*") if path.is_file())
    return facts


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
