"""Verification: nothing of a bundle is loaded before every file of it has been read and found as listed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from alref_edge.bundle.manifest import EXPORT_AGAIN, MANIFEST, Manifest
from alref_edge.errors import BundleError

_CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verify(root: Path, manifest: Manifest) -> None:
    """Compare a folder with its manifest.

    Raises:
        BundleError: a file is missing, altered, unlisted or a link.
    """
    found = set()
    for folder, folders, files in os.walk(root, onerror=_raise):
        for each in (*folders, *files):
            path = Path(folder, each)
            name = path.relative_to(root).as_posix()
            if path.is_symlink():
                raise BundleError(
                    "A bundle must not contain links.", got=name, mend="replace the link by the file itself."
                )
            if each in files and name != MANIFEST:
                found.add(name)
    unlisted, missing = found - set(manifest.files), set(manifest.files) - found
    if missing:
        raise BundleError("The bundle lacks files that its manifest lists.", got=_names(missing), mend=EXPORT_AGAIN)
    if unlisted:
        raise BundleError(
            "The bundle has files that its manifest does not list.", got=_names(unlisted), mend="move them out of it."
        )
    for name, entry in manifest.files.items():
        path = root / name
        if not path.is_file():
            raise BundleError(f"{name} is not a regular file.", mend=EXPORT_AGAIN)
        size = path.stat().st_size
        if size != entry.size:
            raise BundleError(
                f"The file {name} has not the size that it was listed with.",
                expected=f"{entry.size} bytes",
                got=f"{size} bytes",
                mend=EXPORT_AGAIN,
            )
        digest = sha256_of(path)
        if digest != entry.sha256:
            raise BundleError(
                f"The file {name} was altered: its hash is not the listed one.",
                expected=entry.sha256,
                got=digest,
                mend=EXPORT_AGAIN,
            )


def _raise(error: OSError) -> None:
    raise error


def _names(names: set[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
