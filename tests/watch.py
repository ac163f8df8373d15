"""What a program asks of the system beside computing: strace, and what in its record breaks the promise of offline."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STRACE = shutil.which("strace")
if STRACE and subprocess.run([STRACE, "-o", os.devnull, "true"], capture_output=True, check=False).returncode:
    STRACE = None  # a container that lets nobody trace

# Those that write go by names; `?`: not every machine has them all.
_WRITING = re.findall(
    r"\w+",
    "openat openat2 open creat mkdir mkdirat rename renameat renameat2 unlink unlinkat rmdir link linkat symlink "
    "symlinkat mknod mknodat truncate chmod fchmodat",
)
_TRACED = ",".join(["%network", *(f"?{name}" for name in _WRITING)])
_CALL = re.compile(r"\d+ +(\w+)\((.*)")
_PATH = re.compile(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"((?:[^"\\]|\\.)*)"')
_ADDRESS = re.compile(r'inet_addr\("([^"]*)"\)|inet_pton\(AF_INET6, "([^"]*)"')
_UNIX = re.compile(r'sa_family=AF_UNIX, sun_path=(@?)"([^"]*)"')
_LOOK_UPS = {"/etc/resolv.conf", "/etc/hosts", "/etc/host.conf"}
_NOWHERE = ("/dev/null", "/dev/tty", "/dev/shm/sem.")  # semaphores between processes are files by name


@dataclass(frozen=True)
class Watched:
    """A program that has ended.

    Attributes:
        status: its exit status.
        printed: stdout and stderr.
        problems: what it did that it must not do; the first word of each is socket, address, look-up or file.
    """

    status: int
    printed: str
    problems: list[str]


def command(trace: Path, arguments: Sequence[object]) -> list[str]:
    """The command under strace, with all its children; the record goes to a file."""
    return [str(STRACE), "-f", "-y", "-s", "256", "-e", f"trace={_TRACED}", "-o", str(trace), *map(str, arguments)]


def watch(
    arguments: Sequence[object],
    *,
    trace: Path,
    cwd: Path,
    environment: Mapping[str, str],
    may_write: Sequence[Path],
    loopback: bool = False,
) -> Watched:
    """Run a program to its end.

    Args:
        trace: file for the record.
        may_write: folders in which it may write, and whose parents it may make.
        loopback: whether it may talk to this machine.
    """
    done = subprocess.run(
        command(trace, arguments), cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    return Watched(done.returncode, done.stdout + done.stderr, list(problems(trace, cwd, may_write, loopback)))


def problems(trace: Path, cwd: Path, may_write: Sequence[Path], loopback: bool = False) -> Iterator[str]:
    """What a record holds against the program; calls that failed count, since elsewhere they might not fail."""
    inside = [os.path.realpath(folder) for folder in may_write]
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _CALL.match(line)
        if found is None:
            continue
        name, given = found.groups()
        if name in _WRITING:
            paths = [_absolute(folder, path, cwd) for folder, path in _PATH.findall(given)]
            if not name.startswith("open"):
                written = paths
            elif re.search("O_WRONLY|O_RDWR|O_CREAT", given):
                written = paths[:1]
            else:
                written = []
                yield from (f"look-up: {line}" for path in paths if path in _LOOK_UPS)
            for path in written:
                makes_a_parent = name.startswith("mkdir") and any(folder.startswith(path + "/") for folder in inside)
                there = any(path == folder or path.startswith(folder + "/") for folder in inside)
                if not (there or makes_a_parent or path.startswith(_NOWHERE)):
                    yield f"file: {line}"
        elif name == "socket":
            if "AF_UNIX" not in given and not (loopback and "AF_INET" in given):
                yield f"socket: {line}"
        elif name in ("connect", "bind", "sendto", "sendmsg", "sendmmsg"):
            addresses = [four or six for four, six in _ADDRESS.findall(given)]
            if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
                yield f"address: {line}"
            for abstract, path in _UNIX.findall(given):
                if abstract or not any(_absolute("", path, cwd).startswith(folder + "/") for folder in inside):
                    yield f"{'look-up' if 'nscd' in path or 'resolve' in path else 'address'}: {line}"


def _absolute(folder: str, path: str, cwd: Path) -> str:
    return os.path.realpath(os.path.join(folder or cwd, path))
