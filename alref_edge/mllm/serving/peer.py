"""Who is at the other end of a connection to this user's own server: proven before anything is sent.

Another user of the machine can bind a port that this user's server is about to take, or had. A UNIX socket lies in a
folder that nobody else can enter, and the kernel tells who listens there. Of a port the kernel tells which socket
listens and whose it is: that must be the server's own, before the connection was made and after.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from alref_edge.errors import MllmError
from alref_edge.mllm.endpoint import SERVE, Endpoint
from alref_edge.mllm.serving.guardian import family

_LISTEN = "0A"  # linux/include/net/tcp_states.h


class Transport(httpx.HTTPTransport):
    """httpx's, to an endpoint, which has to prove itself where it can. `options` are httpx's own."""

    def __init__(self, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(uds=endpoint.socket, **options)
        self._endpoint = endpoint

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """See `httpx.HTTPTransport`. Raises MllmError, before anything is sent, if another process answers."""
        proof = _Proof(self._endpoint)

        def trace(event: str, info: Mapping[str, Any]) -> None:
            try:
                proof(event, info)
            except BaseException:
                if "return_value" in info:
                    info["return_value"].close()
                raise

        request.extensions = {**request.extensions, "trace": trace}
        return super().handle_request(request)


class AsyncTransport(httpx.AsyncHTTPTransport):
    """The same for `httpx.AsyncClient`."""

    def __init__(self, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(uds=endpoint.socket, **options)
        self._endpoint = endpoint

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See `Transport.handle_request`."""
        proof = _Proof(self._endpoint)

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            try:
                proof(event, info)
            except BaseException:
                if "return_value" in info:
                    await info["return_value"].aclose()
                raise

        request.extensions = {**request.extensions, "trace": trace}
        return await super().handle_async_request(request)


class _Proof:
    """Hears of the steps of one connection from httpx, and raises where one must not be taken."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._listener: int | None = None

    def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_unix_socket.started":
            self._check_file(Path(self._endpoint.socket or ""))
        elif event == "connection.connect_unix_socket.complete":
            self._check_user(info["return_value"].get_extra_info("socket"))
        elif event == "connection.connect_tcp.started" and self._endpoint.holder is not None:
            self._listener = self._own_listener()
        elif event == "connection.connect_tcp.complete" and self._endpoint.holder is not None:
            now = self._own_listener()
            if now is None or now != self._listener:
                raise httpx.ConnectError("the server came or went in this very moment")

    def _check_file(self, path: Path) -> None:
        with suppress(FileNotFoundError):  # a server that has ended: the connection fails by itself
            for each, is_kind in ((path.parent, stat.S_ISDIR), (path, stat.S_ISSOCK)):
                about = os.lstat(each)
                if not is_kind(about.st_mode) or about.st_uid != os.getuid():
                    raise self._stranger(f"{each} is not this user's own")
                if about.st_mode & 0o077:
                    raise self._stranger(f"{each} has mode {stat.S_IMODE(about.st_mode):o}: others can enter it")

    def _check_user(self, connected: socket.socket) -> None:
        if hasattr(socket, "SO_PEERCRED"):  # elsewhere the folder alone keeps others out
            size = struct.calcsize("3i")
            _, user, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
            if user != os.getuid():
                raise self._stranger(f"a process of user {user} listens there")

    def _own_listener(self) -> int | None:
        """The listening socket's inode; None if nothing listens. Raises MllmError if it is another's."""
        url = httpx.URL(self._endpoint.url)
        found = listener(url.host, url.port or 80)
        if found is None:
            return None
        inode, user = found
        if user != os.getuid():
            raise self._stranger(f"a process of user {user} listens there")
        holder = self._endpoint.holder or 0
        if not any(_holds(pid, inode) for pid in (holder, *family(holder))):
            raise self._stranger("a process that is not the server listens there")
        return inode

    def _stranger(self, why: str) -> MllmError:
        return MllmError(
            f"What answers at {self._endpoint.url} is not the server of the LLM that was started.",
            expected="a process of this user's, started by `alref-edge mllm serve`",
            got=f"{why}; nothing was sent to it",
            mend=f"start the server anew, without --port: {SERVE}",
        )


def listener(host: str, port: int) -> tuple[int, int] | None:
    """What listens on an IPv4 address and port of this machine: the socket's inode and its user; None if nothing does.

    Raises:
        MllmError: this system does not tell.
    """
    try:
        address = f"{struct.unpack('=I', socket.inet_aton(host))[0]:08X}:{port:04X}"
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError as error:
        raise MllmError(
            "Whose server listens on a port cannot be told on this system.",
            expected="/proc/net/tcp",
            got=error.strerror or error,
            mend="start the server without --port.",
        ) from error
    for line in lines:
        fields = line.split()
        if fields[1] == address and fields[3] == _LISTEN:
            return int(fields[9]), int(fields[7])
    return None


def _holds(pid: int, inode: int) -> bool:
    """Whether a process has a socket open."""
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/{name}") == f"socket:[{inode}]":
                    return True
    return False
