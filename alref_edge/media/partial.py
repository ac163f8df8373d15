"""Files that are whole or not there: written beside their final name and renamed."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from alref_edge.errors import AlrefError, CapacityError, InputError


def open_beside(path: Path) -> tuple[IO[bytes], Path]:
    """A new hidden file in the folder of `path`, open for writing and reading, and its name.

    Raises:
        InputError, CapacityError: see `unwritable`.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".partial", dir=path.parent)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error
    return os.fdopen(descriptor, "w+b"), Path(name)


def publish(partial: Path, path: Path) -> None:
    """Gives a finished partial file its final name, with the permissions that a plain file would have."""
    mask = os.umask(0)
    os.umask(mask)
    try:
        partial.chmod(0o666 & ~mask)
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


@contextmanager
def written_beside(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes the name `path` when the block ends well, and vanishes otherwise."""
    file, partial = open_beside(path)
    try:
        with file:
            yield file
        publish(partial, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def is_full(error: Exception) -> bool:
    """Whether the system refused for want of room: a full disk, or a quota used up."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def unwritable(path: Path, error: Exception) -> AlrefError:
    """The error for an output that the system refuses: CapacityError where the disk is full, InputError elsewhere."""
    return (CapacityError if is_full(error) else InputError)(
        f"{path} cannot be written.",
        expected="a place to write to, with room",
        got=getattr(error, "strerror", None) or error,
        mend="give another output folder, or free some space.",
    )
