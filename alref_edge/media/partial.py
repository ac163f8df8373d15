"""Files that are whole or not there: written beside their final name and renamed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from alref_edge.errors import AlrefError, CapacityError, InputError

_UMASK = threading.Lock()


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
    try:
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error


def _umask() -> int:
    """The process's umask, which can be read by setting it alone: one thread at a time."""
    with _UMASK:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask


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


def folder_beside(path: Path) -> tuple[Path, list[Path]]:
    """A new hidden folder in the folder of `path`, and the parents that had to be made for it, outermost first.

    Raises:
        OSError: the system refuses; no parent is left behind.
    """
    made: list[Path] = []
    try:
        for parent in reversed(path.parents):
            if not parent.exists():
                parent.mkdir()
                made.append(parent)
        return Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.partial-", dir=path.parent)), made
    except OSError:
        remove_empty(made)
        raise


def publish_folder(partial: Path, path: Path, *, replace: bool) -> None:
    """Gives a finished folder its final name, with the permissions that a plain folder would have.

    What is there already is moved aside first if it is to be replaced, and back if the rest fails.

    Raises:
        OSError: the system refuses, or something has the name that is not to be replaced, other than an empty folder.
    """
    mask = os.umask(0)
    os.umask(mask)
    aside: Path | None = None
    try:
        partial.chmod(0o777 & ~mask)
        if replace:
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.replaced-", dir=path.parent))
            path.rename(aside / "old")
        partial.rename(path)
    finally:
        if aside is not None:
            with suppress(OSError):
                if partial.exists() and (aside / "old").exists():
                    # Stays aside if something else has the name now.
                    (aside / "old").rename(path)
            if not partial.exists() or not (aside / "old").exists():
                shutil.rmtree(aside, ignore_errors=True)


def remove_empty(folders: Sequence[Path]) -> None:
    """Removes folders that were made for nothing, the last first; one that holds something stays."""
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()


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
