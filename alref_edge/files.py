"""Files and folders that are whole or not there: written beside their final name and renamed.

While something is half-written its process holds a lock, which ends with the process however that ends. So what a
killed process left can be told from what another one is writing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from alref_edge.errors import AlrefError, CapacityError, InputError

_UMASK = threading.Lock()
_TOKEN = "[0-9a-z_]{8,16}"
_AGAIN_S = 0.02
_LONGEST = 40  # characters of a name that its partial's name begins with

# What this process has half-written: files with the descriptors of their locks, and folders.
_files: dict[Path, int] = {}
_folders: set[PartialFolder] = set()


def open_beside(path: Path) -> tuple[IO[bytes], Path]:
    """A new hidden file in the folder of `path`, open for writing and reading, and its name.

    `publish` or `discard` is to follow.

    Raises:
        InputError, CapacityError: see `unwritable`.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        while True:
            partial = path.with_name(f".{_stem(path)}.{secrets.token_hex(4)}.partial")
            descriptor = _new_file(partial)
            if _lock(descriptor) is not False and _is(partial, descriptor):
                return os.fdopen(descriptor, "w+b"), partial
            os.close(descriptor)  # a process that cleans was faster than the lock
            _release(partial)
    except (OSError, ValueError) as error:
        raise unwritable(path, error) from error


def _new_file(partial: Path) -> int:
    """Open for writing and reading; a second descriptor keeps the lock when the file is closed."""
    _files[partial] = -1
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except (OSError, ValueError):
        del _files[partial]
        raise
    _files[partial] = os.dup(descriptor)
    return descriptor


def publish(partial: Path, path: Path, *, private: bool = False) -> None:
    """Gives a finished partial file its final name, with the permissions that a plain file would have.

    A private one keeps those that it had from its first byte: its user's alone.
    """
    try:
        if not private:
            partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    _release(partial)


def discard(partial: Path) -> None:
    """Removes a partial file, if it is still there."""
    with suppress(OSError):
        partial.unlink()
    _release(partial)


def _release(partial: Path) -> None:
    lock = _files.pop(partial, -1)
    if lock >= 0:
        os.close(lock)


def _umask() -> int:
    """The process's umask, which can be read by setting it alone: one thread at a time."""
    with _UMASK:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask


@contextmanager
def written_beside(path: Path, *, private: bool = False) -> Iterator[IO[bytes]]:
    """A file to write to that takes the name `path` when the block ends well, and vanishes otherwise.

    Args:
        path: the name.
        private: nobody but this user may read it, nor what is half-written of it.

    Raises:
        InputError, CapacityError: see `unwritable`.
    """
    file, partial = open_beside(path)
    try:
        with file:
            yield file
        publish(partial, path, private=private)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        discard(partial)


class PartialFolder:
    """A hidden folder beside the name that it gets when it is whole.

    As long as it is open no other run may have that name.

    Args:
        path: the name, with no link in it.

    Attributes:
        folder: to be filled.

    Raises:
        InputError: another run writes to that name.
        OSError: the system refuses; nothing is left behind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.with_name(f".{_stem(path)}.partial-{secrets.token_hex(4)}")
        self._made: list[Path] = []  # parents, outermost first
        self._aside: Path | None = None
        self._claim = _Claim(path)
        _folders.add(self)
        try:
            for parent in reversed(path.parents):
                with suppress(FileExistsError):
                    if not parent.exists():
                        self._made.append(parent)
                        parent.mkdir()
            self._claim.take()
            self.folder.mkdir(mode=0o700)
        except BaseException:
            self.close()
            raise

    def publish(self, *, replace: bool) -> None:
        """Gives the folder its final name, with the permissions that a plain folder would have.

        What is there already is moved aside first if it is to be replaced, and back if the rest fails.

        Raises:
            OSError: the system refuses, or something has the name that is not to be replaced, other than an empty
                folder.
        """
        try:
            self.folder.chmod(0o777 & ~_umask())
            if replace:
                self._aside = self.path.with_name(f".{_stem(self.path)}.replaced-{secrets.token_hex(4)}")
                self._aside.mkdir(mode=0o700)
                self.path.rename(self._aside / "old")
            self.folder.rename(self.path)
        finally:
            self._settle()

    def _settle(self) -> None:
        """What was moved aside goes back if the folder was not published, and is removed if it was."""
        aside = self._aside
        if aside is None:
            return
        if self.folder.exists():
            with suppress(OSError):
                # Stays aside if something else has the name now.
                (aside / "old").rename(self.path)
            with suppress(OSError):
                aside.rmdir()
        else:
            # Under a name that says that nothing in it is needed, should this process be killed.
            unneeded = aside.with_name(aside.name.replace(".replaced-", ".partial-"))
            with suppress(OSError):
                aside.rename(unneeded)
            shutil.rmtree(unneeded, ignore_errors=True)

    def close(self) -> None:
        """Removes what was not published, and lets others have the name; closing twice does nothing."""
        self._settle()
        self._aside = None
        shutil.rmtree(self.folder, ignore_errors=True)
        self._claim.release()
        remove_empty(self._made)
        _folders.discard(self)


class _Claim:
    """The right of one process to a name: a lock on a hidden file beside it.

    Attributes:
        sure: whether the file system has locks; known when it is taken.
    """

    def __init__(self, path: Path) -> None:
        self.sure = False
        self._path, self._file = path, path.with_name(f".{_stem(path)}.partial-lock")
        self._descriptor, self._asked = -1, False

    def take(self) -> None:
        """Raises InputError if another process has it, OSError if the file cannot be made."""
        self._asked = True
        while True:
            self._descriptor = _opened(self._file)
            state = _lock(self._descriptor)
            if state is False:
                self._close()
                self._asked = False
                raise InputError(
                    f"Another run is writing to {self._path}.", expected="a name of its own for each run",
                    mend="wait until it has ended, or give another output folder.",
                )  # fmt: skip
            if _is(self._file, self._descriptor):
                self.sure = state is True
                return
            self._close()  # removed meanwhile by the one who had it

    def release(self) -> None:
        """Gives it up; twice does nothing."""
        with suppress(InputError, OSError):
            if self._asked and self._descriptor < 0:
                self.take()  # a signal came when the file was there, but not yet known to be
        if self._descriptor >= 0:
            with suppress(OSError):
                self._file.unlink()
            self._close()
        self._asked = False

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


def _opened(file: Path) -> int:
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError:
        return os.open(file, os.O_RDONLY | flags)  # another user's


def _lock(descriptor: int) -> bool | None:
    """Locks an open file; False if another process has locked it, None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is(path: Path, descriptor: int) -> bool:
    """Whether an open file still has a name."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _stem(path: Path) -> str:
    """A name within the names of what is written beside it: shortened if it is long, but still its own."""
    name = path.name
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def leftovers(path: str | os.PathLike[str], *, remove: bool = False) -> list[Path]:
    """What killed processes left beside a name that a file or folder of theirs was to get.

    What another process is writing, of whatever user, is none; where the file system has no locks, nothing is.

    Args:
        path: the name.
        remove: remove it, too. An earlier result that had been moved aside is put back where nothing has its name,
            and is left alone otherwise.
    """
    path = Path(os.path.realpath(path))
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:
        return []
    stem = re.escape(_stem(path))
    files = [path.with_name(name) for name in names if re.fullmatch(rf"\.{stem}\.{_TOKEN}\.partial", name)]
    found = [file for file in files if _is_left(file, remove)]
    folders = [name for name in names if re.fullmatch(rf"\.{stem}\.(partial|replaced)-{_TOKEN}", name)]
    if not folders:
        return found
    claim = _Claim(path)
    try:
        claim.take()
    except (InputError, OSError):
        return found
    try:
        for folder in (path.with_name(name) for name in folders if claim.sure):
            found.append(folder)
            if remove and ".replaced-" in folder.name:
                if not os.path.lexists(path):
                    with suppress(OSError):
                        (folder / "old").rename(path)
                with suppress(OSError):
                    folder.rmdir()
            elif remove:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        claim.release()
    return found


def _is_left(file: Path, remove: bool) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        left = _lock(descriptor) is True
        if left and remove:
            with suppress(OSError):
                file.unlink()
        return left
    finally:
        os.close(descriptor)


@contextmanager
def unwound_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP unwind the program as Ctrl+C does; at its end nothing half-written is left.

    That holds too where a second signal cuts the unwinding short. After one, a further one ends the process at once. A
    signal that is ignored (`nohup`) stays so. In a thread other than the main one, this does nothing.

    What a signal raises is lost where it comes while the collector closes a generator: then it is sent once more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    over = False

    def unwind(number: int, frame: FrameType | None) -> None:
        if over:
            return
        came.append(number)
        raise _end_of(number)

    def note_lost(lost: sys.UnraisableHookArgs) -> None:
        if not came or not isinstance(lost.exc_value, (KeyboardInterrupt, SystemExit)):
            hook(lost)
        elif len(came) == 1:
            threading.Timer(_AGAIN_S, os.kill, (os.getpid(), came[0])).start()

    usual = (signal.SIG_DFL, signal.default_int_handler)
    numbers = [each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) in usual]
    before = {number: signal.signal(number, unwind) for number in numbers}
    hook, sys.unraisablehook = sys.unraisablehook, note_lost
    try:
        yield
    except Exception as error:
        if came:
            # Native modules that are being loaded make other errors of what a signal raises.
            raise _end_of(came[0]) from error
        raise
    finally:
        over = True
        sys.unraisablehook = hook
        if came:
            for folder in list(_folders):
                folder.close()
            for partial in list(_files):
                discard(partial)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if came else handler)


def _end_of(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


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
