"""The one way to a file's bytes: a local path, a regular file, opened once and without waiting."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from alref_edge.errors import MediaError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")


def local_path(path: str | os.PathLike[str], noun: str, expected: str = "a local file") -> Path:
    """The path, if it is one and no address.

    Args:
        path: as the user gave it.
        noun: what it is of, such as "a sound".
        expected: what it should name.

    Raises:
        MediaError: it is none.
    """
    name = os.fspath(path)
    if not isinstance(name, str) or not name or "\0" in name:
        raise MediaError(f"The path of {noun} is not a path.", expected=expected, got=repr(name))
    # A path object is no address, and has lost the ./ that tells a name with a colon from one.
    if isinstance(path, str) and _ADDRESS.match(name):
        what = noun.removeprefix("a ")
        raise MediaError(
            f"{name} is an address, not a file; nothing is read from a network.",
            expected=expected,
            got=name.split(":", 1)[0] + ":",
            mend=f"copy the {what} to this machine (a file whose name has a colon is given as ./NAME).",
        )
    return Path(name)


def open_regular(path: Path, expected: str) -> tuple[BinaryIO, int]:
    """A regular file, opened for reading, and its size in bytes. Links are followed.

    Args:
        path: where it is.
        expected: what it should hold, for the error.

    Raises:
        MediaError: missing, not allowed, or not a regular file (a folder, pipe, socket or device).
    """
    try:
        # Without O_NONBLOCK the opening of a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise unreadable(path, error, expected) from error
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        got = "a folder" if stat.S_ISDIR(state.st_mode) else "a device or pipe"
        raise MediaError(f"{path} is not a regular file.", expected=expected, got=got)
    return os.fdopen(descriptor, "rb"), state.st_size


def empty(path: Path, expected: str) -> MediaError:
    """The MediaError for a file of 0 bytes. The system's own files (`/proc/...`) are of that size too."""
    return MediaError(
        f"{path} is empty.", expected=expected, got="0 bytes", mend="copy the file again from its origin."
    )


def unreadable(path: Path, error: OSError, expected: str) -> MediaError:
    """The MediaError for a path that the system refuses."""
    if isinstance(error, FileNotFoundError):
        broken = path.is_symlink()
        return MediaError(
            f"{path} is a link to nothing." if broken else f"{path} does not exist.",
            expected=expected,
            got=f"a link to {os.readlink(path)}" if broken else "no such file",
            mend="check the path.",
        )
    if isinstance(error, PermissionError):
        return MediaError(
            f"{path} may not be read.", expected="read permission", got=error.strerror, mend=f"chmod +r {path}"
        )
    return MediaError(f"{path} cannot be read.", expected=expected, got=error.strerror or error)
