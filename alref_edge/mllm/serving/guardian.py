"""Starts a server and sees to it that nothing of it outlives the program that wanted it.

Run as a script with nothing but the standard library: `python -I -S guardian.py PARENT GRACE_S FOLDER COMMAND...`. It
writes the server's process id to stdout, and ends with the server. The server is ended with all its children when this
process gets SIGTERM, or when PARENT, the process that started it, is gone, however it went; if this process itself is
killed, the server gets SIGTERM from the kernel (Linux). FOLDER, the server's own, is removed at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

_POLL_S = 0.1
_SETTLE_S = 3.0  # for children to end by themselves when the server has
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main(parent: int, grace_s: float, folder: str, command: list[str]) -> int:
    """Start the server and wait for its end.

    Returns:
        The server's exit status, or 128 and the signal that ended it.
    """
    asked: list[int] = []
    os.umask(0o077)  # the server's socket, too, is for this user alone
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, _: asked.append(got))
    prctl = _prctl()
    prctl(_SET_CHILD_SUBREAPER, 1)  # what loses its parent becomes a child of this process
    try:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
            preexec_fn=lambda: prctl(_SET_PDEATHSIG, signal.SIGTERM),
        )
        print(server.pid, flush=True)
        while not asked and os.getppid() == parent and server.poll() is None:
            time.sleep(_POLL_S)
        if server.poll() is None:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(grace_s)
        end_family(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def end_family(server: subprocess.Popen[bytes]) -> None:
    """End whatever is left of the server and its children, of whatever group or session."""
    settled = time.monotonic() + _SETTLE_S
    while server.poll() is not None and family(os.getpid()) and time.monotonic() < settled:
        time.sleep(_POLL_S)
    for _ in range(100):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, signal.SIGKILL)
        left = family(os.getpid())
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if server.poll() is not None and not left:
            break
        time.sleep(_POLL_S)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass  # adopted, and ended


def family(root: int) -> list[int]:
    """Process ids below one at any depth, without those that have ended; none where there is no /proc."""
    parents: dict[int, int] = {}
    ended: set[int] = set()
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
            parents[int(name)] = int(parent)
            if state == b"Z":
                ended.add(int(name))
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [pid for pid in found[1:] if pid not in ended]


def _prctl() -> Callable[[int, int], object]:
    if not sys.platform.startswith("linux"):
        return lambda option, value: None
    function = ctypes.CDLL(None, use_errno=True).prctl
    return lambda option, value: function(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4:]))
