"""Verification: nothing of a bundle is loaded before every file of it has been read and found as listed."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

from alref_edge.bundle.files import OpenFile
from alref_edge.bundle.manifest import EXPORT_AGAIN, MANIFEST, Manifest
from alref_edge.errors import BundleError

_CHUNK = 1 << 20
_MOST_ENTRIES = 2048  # folders among them: a manifest lists 512 files at most
_MOST_DEPTH = 16
_THREADS = 4


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verify(root: Path, manifest: Manifest) -> dict[str, OpenFile]:
    """Compare a folder with its manifest.

    Every file is opened once and stays open: sizes are compared before anything is hashed, and what is hashed is what
    the descriptor gives later.

    Returns:
        The files that the manifest lists, by path relative to the folder.

    Raises:
        BundleError: a file is missing, altered, unlisted or a link.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = dict(_walk(descriptor, "", manifest, count()))
    finally:
        os.close(descriptor)
    unlisted, missing = set(found) - set(manifest.files), set(manifest.files) - set(found)
    if missing:
        raise BundleError("The bundle lacks files that its manifest lists.", got=_names(missing), mend=EXPORT_AGAIN)
    if unlisted:
        raise BundleError(
            "The bundle has files that its manifest does not list.", got=_names(unlisted), mend="move them out of it."
        )
    files = {name: file for name, file in found.items() if file is not None}
    for name, entry in manifest.files.items():
        file = files[name]
        if file.size != entry.size:
            raise BundleError(
                f"The file {name} has not the size that it was listed with.",
                expected=f"{entry.size} bytes",
                got=f"{file.size} bytes",
                mend=EXPORT_AGAIN,
            )
        if file.has_holes:
            raise BundleError(
                f"The file {name} is mostly holes: less than half of it lies on the disk.",
                mend="copy it with `cp --sparse=never` if that is what it should hold, or " + EXPORT_AGAIN,
            )
    # Large ones first: threads end together.
    order = sorted(manifest.files, key=lambda name: -files[name].size)
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(lambda name: files[name].verify(manifest.files[name].sha256), order):
            pass
    return files


def _walk(
    descriptor: int, prefix: str, manifest: Manifest, seen: Iterator[int]
) -> Iterator[tuple[str, OpenFile | None]]:
    """Every file of a folder and of those in it: the listed ones open, the others None; `seen` counts entries."""
    with os.scandir(descriptor) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_symlink():
                raise _linked(name)
            if next(seen) >= _MOST_ENTRIES or name.count("/") > _MOST_DEPTH:
                raise BundleError(
                    "The folder holds more than a bundle can.",
                    expected=f"{_MOST_ENTRIES} entries, {_MOST_DEPTH} folders in each other",
                    got=f"more, such as {name}",
                    mend="give the bundle's own folder.",
                )
            if entry.is_dir(follow_symlinks=False):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                inner = os.open(entry.name, flags, dir_fd=descriptor)
                try:
                    yield from _walk(inner, name + "/", manifest, seen)
                finally:
                    os.close(inner)
            elif name in manifest.files:
                try:
                    yield name, OpenFile(entry.name, name=name, folder=descriptor)
                except OSError as error:
                    if error.errno == errno.ELOOP:
                        raise _linked(name) from error
                    raise
            elif name != MANIFEST:
                yield name, None


def _linked(name: str) -> BundleError:
    return BundleError("A bundle must not contain links.", got=name, mend="replace the link by the file itself.")


def _names(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
