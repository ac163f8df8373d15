"""Files that are opened once: what was verified through a descriptor is what is read through it later."""

from __future__ import annotations

import hashlib
import mmap
import os
import posixpath
import stat
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from alref_edge.bundle.manifest import EXPORT_AGAIN, check_relative
from alref_edge.errors import BundleError

_CHUNK = 1 << 20
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not block before it is seen to be one


class OpenFile:
    """A regular file, held open.

    Whatever takes its name later, what is read is what was opened. A verified file's content is compared with its hash
    whenever it is read whole. Mapped memory is compared once more only where the file's own times or size say that it
    was written to since: who may write to the file may still change it in the middle of a run, so a bundle's files
    must be writable by nobody else.

    Attributes:
        name: for people: its path relative to the bundle, or its name.
        size: in bytes, when it was opened.
        sha256: of its content, in hex; None where nothing says what it should be.
    """

    def __init__(self, path: str | Path, *, name: str, folder: int | None = None, follow: bool = False) -> None:
        """Open a file.

        Args:
            path: of the file.
            name: see the class.
            folder: descriptor of the folder that the path is relative to.
            follow: whether the path may be a link.

        Raises:
            OSError: it cannot be opened, or is a link.
            BundleError: it is no regular file.
        """
        descriptor = os.open(path, _OPEN | (0 if follow else os.O_NOFOLLOW), dir_fd=folder)
        self._close = weakref.finalize(self, os.close, descriptor)
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None
        self._seen = self._stamp()
        self.name = name
        self.sha256: str | None = None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{name} is not a regular file.", mend=EXPORT_AGAIN)
        self.size = status.st_size

    @property
    def has_holes(self) -> bool:
        """Whether less than half of it lies on the disk, the rest being holes: its size costs its maker nothing."""
        if self.size < _CHUNK or os.fstat(self._descriptor).st_blocks * 512 >= self.size // 2:
            return False
        # A file system that compresses, or does not count blocks, has no hole before the file's end.
        return os.lseek(self._descriptor, 0, os.SEEK_HOLE) < self.size

    def verify(self, sha256: str) -> None:
        """Compare the whole content with its hash, and hold it to that from now on.

        Raises:
            BundleError: it is another.
        """
        self._seen = self._stamp()
        digest, chunk, at = hashlib.sha256(), bytearray(_CHUNK), 0
        view = memoryview(chunk)
        while count := os.preadv(self._descriptor, [chunk], at):
            digest.update(view[:count])
            at += count
            if at > self.size:
                break
        self._compare(digest.hexdigest(), sha256)
        self.sha256 = sha256

    def read(self, most: int) -> bytes:
        """The whole content, as it was verified.

        Raises:
            BundleError: it has more bytes than `most`, or was altered since it was verified.
        """
        if self.size > most:
            raise BundleError(
                f"The file {self.name} is larger than it may be.",
                expected=f"at most {most} bytes",
                got=f"{self.size} bytes",
                mend=EXPORT_AGAIN,
            )
        content = bytearray()
        while part := os.pread(self._descriptor, self.size + 1 - len(content), len(content)):
            content += part
        if self.sha256 is not None:
            self._compare(hashlib.sha256(content).hexdigest(), self.sha256)
        return bytes(content)

    def mapped(self) -> mmap.mmap:
        """The whole content as memory that the file backs, the same for all who ask; the file must not be empty.

        Raises:
            BundleError: it was altered since it was verified.
        """
        if self.sha256 is not None and self._stamp() != self._seen:
            self.verify(self.sha256)
        if self._map is None:
            self._map = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        return self._map

    def _stamp(self) -> tuple[int, ...]:
        """What changes whenever the file is written to, and cannot be set back."""
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _compare(self, found: str, listed: str) -> None:
        if found != listed:
            raise BundleError(
                f"The file {self.name} was altered: its hash is not the listed one.",
                expected=listed,
                got=found,
                mend=EXPORT_AGAIN,
            )


@dataclass(frozen=True)
class GraphFile:
    """A graph's file, and a way to the files that it keeps its weights in.

    Attributes:
        file: the `.onnx` file.
        beside: a file by its path relative to the graph's folder; raises a BundleError where there is none.
    """

    file: OpenFile
    beside: Callable[[str], OpenFile]

    @classmethod
    def at(cls, path: Path) -> GraphFile:
        """A graph by itself, its weights in files below its folder.

        Raises:
            OSError: it cannot be opened.
            BundleError: it is no regular file.
        """

        def beside(name: str) -> OpenFile:
            check_relative(name)
            try:
                return OpenFile(path.parent / name, name=name)
            except OSError as error:
                raise BundleError(
                    f"The weights of {path.name} cannot be read.", got=f"{name}: {error.strerror}", mend=EXPORT_AGAIN
                ) from error

        return cls(OpenFile(path, name=path.name, follow=True), beside)

    @classmethod
    def of_bundle(cls, name: str, files: Mapping[str, OpenFile]) -> GraphFile:
        """A graph of a verified bundle, its weights in other files of it.

        Args:
            name: its path relative to the bundle.
            files: of the bundle, by such paths.
        """

        def beside(location: str) -> OpenFile:
            weights = posixpath.join(posixpath.dirname(name), location)
            if weights not in files:
                raise BundleError(
                    f"The graph {name} keeps weights in a file that the bundle does not have.",
                    got=location,
                    mend=EXPORT_AGAIN,
                )
            return files[weights]

        return cls(files[name], beside)


def read_file(file: OpenFile | Path, most: int) -> bytes:
    """The content of a small file, held open or by its path.

    Raises:
        OSError: it cannot be opened.
        BundleError: it has more bytes than `most`, or was altered since it was verified.
    """
    return (OpenFile(file, name=file.name, follow=True) if isinstance(file, Path) else file).read(most)
