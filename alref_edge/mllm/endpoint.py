"""Where the LLM's server is: an OpenAI-compatible API, on this machine unless the user allows another."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from alref_edge.errors import AlrefError, InputError, MllmError
from alref_edge.files import written_beside

KEY_VARIABLE = "ALREF_MLLM_API_KEY"
SERVE = "alref-edge mllm serve --model FOLDER"

# Nothing that two readers of a URL could understand differently: no user, query, fragment, backslash or white space.
_URL = re.compile(r"(https?)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?((?:/[A-Za-z0-9._~%-]+)*)/*", re.ASCII)
_SOCKET = re.compile(r"unix://(/[^\x00-\x1f\x7f]+)")
_KEY = re.compile(r"[!-~]*", re.ASCII)
_MAX_STATE_BYTES = 64 << 10


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible API over HTTP.

    Made by `at` or `running`. Only a loopback address is taken unless `allow_remote`: a literal of 127.0.0.0/8, ::1, or
    the name localhost, which is written as 127.0.0.1, so that no name is ever looked up; of a server of this user's own
    also a UNIX socket.

    Attributes:
        url: base of the API, such as "http://127.0.0.1:8000/v1", without a slash at its end, or "unix:///FILE".
        api_key: sent as a bearer token; "" sends none. Neither printed nor logged.
        model: name of the served model; None: the only one that the server lists.
        allow_remote: whether images and prompts may leave this machine.
        holder: the process that is, or started, the server: nothing is sent to what another one holds. None: not known.

    Raises:
        InputError: no such URL, not on this machine, or a key that no HTTP header can hold.
    """

    url: str
    api_key: str = field(default="", repr=False)
    model: str | None = None
    allow_remote: bool = False
    holder: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.socket is None:
            object.__setattr__(self, "url", _checked_url(self.url, self.allow_remote))
        if not _KEY.fullmatch(self.api_key):
            raise InputError(
                "The API key has characters that no HTTP header can hold.",
                expected="printable ASCII without spaces",
                mend=f"check {KEY_VARIABLE} or the key that was given.",
            )

    @property
    def socket(self) -> str | None:
        """The path of a UNIX socket."""
        found = _SOCKET.fullmatch(self.url)
        return found and found[1]

    @property
    def http(self) -> str:
        """The base of a request's URL; the host's name is looked up by nobody where there is a socket."""
        return self.url if self.socket is None else "http://localhost/v1"

    @classmethod
    def at(
        cls, url: str, api_key: str | None = None, model: str | None = None, *, allow_remote: bool = False
    ) -> Endpoint:
        """The API at a URL; "/v1" is added to one without a path.

        Args:
            url: http or https.
            api_key: None: of the variable ALREF_MLLM_API_KEY, if it is set.
            model: see the attributes.
            allow_remote: see the attributes.

        Raises:
            InputError: see `Endpoint`.
        """
        key = os.environ.get(KEY_VARIABLE, "") if api_key is None else api_key
        return cls(_checked_url(url, allow_remote), key.strip(), model, allow_remote)

    @classmethod
    def running(cls) -> Endpoint:
        """The server that `alref-edge mllm serve` runs for this user.

        Raises:
            MllmError: there is none, it has ended, or the file that tells of it cannot be trusted.
        """
        states = read_states()
        state = next((each for each in states if each.is_alive()), None)
        if not states:
            raise MllmError("No server of an LLM is running for this user.", mend=f"start one: {SERVE}")
        if state is None:
            ended = states[0].pid
            raise MllmError(
                "The server of the LLM has ended.", got=f"no process {ended} any more", mend=f"start one: {SERVE}"
            )
        return cls(state.url, state.api_key, state.model, holder=state.pid)


def is_loopback(host: str) -> bool:
    """Whether a host can only be this machine, with no name looked up.

    True for literals of 127.0.0.0/8 with four decimal parts, ::1 (with or without brackets) and localhost. False for
    everything else: 0.0.0.0, other names, IPv4 inside IPv6, shortened or octal IPv4.
    """
    if host.lower() == "localhost":
        return True
    try:
        if ":" in host:
            return ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]")) == ipaddress.IPv6Address("::1")
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def _checked_url(url: str, allow_remote: bool) -> str:
    """The URL as it is used. Raises InputError."""
    found = _URL.fullmatch(url)
    if found is None or int((found[3] or ":1")[1:]) not in range(1, 65536):
        raise InputError(
            "The LLM's server cannot have this URL.",
            expected="http://HOST:PORT/v1, with no user, query or fragment",
            got="one with a user or password" if "@" in url else url[:200],
        )
    scheme, host, port, path = found[1], found[2].lower(), found[3] or "", found[4]
    if host == "localhost":
        host = "127.0.0.1"
    if not allow_remote and not is_loopback(host):
        raise InputError(
            "The LLM's server is not on this machine: images and prompts would leave it.",
            expected="a loopback address, such as http://127.0.0.1:8000/v1",
            got=host,
            mend="allow it, if that is meant: --allow-remote",
        )
    return f"{scheme}://{host}{port}{path or '/v1'}"


@dataclass(frozen=True)
class ServerState:
    """A running server, as `alref-edge mllm serve` leaves word of it.

    Attributes:
        url: see `Endpoint`.
        api_key: see `Endpoint`.
        model: name of the served model.
        pid: of the process that holds the server; when it has ended, so has the server.
        started: when, in seconds since 1970.
        born: what tells the process from a later one of the same number; `write_state` fills it in.
    """

    url: str
    api_key: str = field(repr=False)
    model: str
    pid: int
    started: float
    born: str = ""

    def is_alive(self) -> bool:
        """Whether the process runs still, as one of this user's."""
        try:
            os.kill(self.pid, 0)
        except OSError:
            return False
        return not self.born or _born(self.pid) == self.born


def user_folder(variable: str, default: str) -> Path:
    """The folder of this program's in one of the user's, as the XDG Base Directory Specification has them.

    Args:
        variable: such as "XDG_CACHE_HOME"; a path that is not absolute does not count.
        default: below the home folder.
    """
    value = os.environ.get(variable, "")
    return (Path(value) if os.path.isabs(value) else Path.home() / default) / "alref-edge"


def state_files() -> tuple[Path, ...]:
    """Where word of a running server may be: the user's runtime folder, then the user's cache folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    folders = [Path(runtime, "alref-edge")] if os.path.isabs(runtime) else []
    return tuple(folder / "mllm.json" for folder in (*folders, user_folder("XDG_CACHE_HOME", ".cache")))


def write_state(state: ServerState) -> Path:
    """Leaves word of a running server for `Endpoint.running`, in a file that this user alone can read.

    Returns:
        The file: the first of `state_files` that can be written. It replaces an earlier one as a whole.

    Raises:
        InputError: none of them can be written.
    """
    text = json.dumps(asdict(replace(state, born=_born(state.pid))))
    refusals: list[str] = []
    for path in state_files():
        refusal = _write(path, text)
        if refusal is None:
            return path
        refusals.append(f"{path}: {refusal}")
    raise InputError("Word of the server cannot be left for other programs.", got="; ".join(refusals))


def read_states() -> list[ServerState]:
    """The servers of which word was left, those of the runtime folder first.

    Raises:
        MllmError: the file belongs to another user, others can read it, or it is not whole.
    """
    states = []
    for path in state_files():
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise _untrusted(path, error.strerror or str(error)) from error
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid():
                raise _untrusted(path, "not a file of this user")
            if about.st_mode & 0o077:
                raise _untrusted(path, f"mode {stat.S_IMODE(about.st_mode):o}: others can read or write it")
            content = file.read(_MAX_STATE_BYTES)
        states.append(_parsed_state(path, content))
    return states


def remove_state(pid: int) -> None:
    """Takes word of the server of this process away, if it is there; word of another stays."""
    for path in state_files():
        with suppress(OSError, AlrefError):
            if _parsed_state(path, path.read_bytes()).pid == pid:
                path.unlink()


def _write(path: Path, text: str) -> str | None:
    """Write one of `state_files`; what the system has against it, if it refuses."""
    try:
        if path == state_files()[-1]:
            path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with written_beside(path, private=True) as file:
            file.write(text.encode())
    except OSError as error:
        return error.strerror or str(error)
    except AlrefError as error:
        return str(error.got)
    return None


def _parsed_state(path: Path, content: bytes) -> ServerState:
    try:
        value = json.loads(content)
        state = ServerState(**value)
        Endpoint(state.url, state.api_key, state.model)
        if not isinstance(state.model, str) or type(state.pid) is not int or state.pid < 1:
            raise TypeError("a field of another type")
        return state
    except (ValueError, TypeError, RecursionError, InputError) as error:
        raise _untrusted(path, "not what `alref-edge mllm serve` writes") from error


def _born(pid: int) -> str:
    """Which boot a process belongs to and when in it that started, whatever the clock says; "" without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] == "Z" else f"{boot} {fields[19]}"


def _untrusted(path: Path, why: str) -> MllmError:
    return MllmError(
        f"{path}, which tells of a running server, cannot be used.",
        expected="a file that this user alone can read",
        got=why,
        mend=f"remove it, and start the server anew: {SERVE}",
    )
