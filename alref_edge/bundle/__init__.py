"""Bundles: folders of graphs and tables that are verified before anything in them is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alref_edge.bundle.manifest import EXPORT_AGAIN, MANIFEST, PRECISIONS, Manifest
from alref_edge.bundle.verify import verify
from alref_edge.errors import BundleError

__all__ = ["Bundle", "Component", "default_bundle", "shipped"]


@dataclass(frozen=True)
class Component:
    """One network of a verified bundle in one precision: its graphs and files by name, and what the runtime has to
    know of it."""

    name: str
    kind: str
    variant: str
    precision: str
    config: Mapping[str, Any]
    graphs: Mapping[str, Path]
    files: Mapping[str, Path]
    tolerances: Mapping[str, float]

    def graph(self, name: str) -> Path:
        """Path of a graph.

        Raises:
            BundleError: the component has no such graph.
        """
        return self._one("graph", self.graphs, name)

    def file(self, name: str) -> Path:
        """Path of a file.

        Raises:
            BundleError: the component has no such file.
        """
        return self._one("file", self.files, name)

    def _one(self, what: str, table: Mapping[str, Path], name: str) -> Path:
        if name not in table:
            raise BundleError(
                f"The component {self.name!r} has no {what} {name!r}.",
                expected=name,
                got=sorted(table),
                mend=EXPORT_AGAIN,
            )
        return table[name]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Its folder must not be writable by others while it is in use: graphs are opened when needed.

    Attributes:
        root: its folder.
        manifest: its manifest.
        sha256: SHA-256 of the manifest's bytes: it names the bundle's whole contents.
    """

    root: Path
    manifest: Manifest
    sha256: str

    @classmethod
    def open(cls, path: str | Path | None = None) -> Bundle:
        """Read and verify a bundle.

        Args:
            path: its folder; None takes the one shipped with the package.

        Raises:
            BundleError: the folder or manifest is missing or malformed, or a file is not as it was listed.
        """
        root = default_bundle() if path is None else Path(path)
        if not root.is_dir():
            raise BundleError(
                f"There is no bundle at {root}.", expected="a folder", mend="make one with `python -m export`."
            )
        file = root / MANIFEST
        if file.is_symlink() or not file.is_file():
            raise BundleError(f"{root} is not a bundle.", expected=f"a {MANIFEST} in it", mend=EXPORT_AGAIN)
        try:
            raw = file.read_bytes()
            manifest = Manifest.from_json(raw.decode())
            verify(root, manifest)
        except UnicodeDecodeError as error:
            raise BundleError("The manifest is not UTF-8 text.", got=str(error), mend=EXPORT_AGAIN) from error
        except OSError as error:
            raise BundleError(f"The bundle at {root} cannot be read.", got=str(error), mend=EXPORT_AGAIN) from error
        return cls(root, manifest, hashlib.sha256(raw).hexdigest())

    @property
    def is_shipped(self) -> bool:
        """Whether it is the bundle that comes with the package."""
        return self.root.resolve() == default_bundle().resolve()

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that every component has."""
        components = self.manifest.components.values()
        return tuple(name for name in PRECISIONS if components and all(name in each.precisions for each in components))

    def component(self, name: str, precision: str = "float32") -> Component:
        """One network of the bundle.

        Raises:
            BundleError: the bundle has no such component, or not in that precision.
        """
        if name not in self.manifest.components:
            raise BundleError(
                f"The bundle {self.manifest.name!r} has no component {name!r}.",
                expected=name,
                got=sorted(self.manifest.components),
                mend=f"add it: `python -m export {name} --bundle {self.root}`.",
            )
        entry = self.manifest.components[name]
        if precision not in entry.precisions:
            raise BundleError(
                f"The component {name!r} of the bundle {self.manifest.name!r} has no {precision} graphs.",
                expected=", ".join(entry.precisions),
                got=precision,
                mend=f"choose a precision that it has, or export it again with --precision {precision}.",
            )
        graphs, tolerances = entry.precisions[precision].graphs, entry.precisions[precision].tolerances
        return Component(
            name=name,
            kind=entry.kind,
            variant=entry.variant,
            precision=precision,
            config=entry.config,
            graphs={key: self.root / path for key, path in graphs.items()},
            files={key: self.root / path for key, path in entry.files.items()},
            tolerances=tolerances,
        )


def default_bundle() -> Path:
    """Folder of the bundle shipped with the package."""
    return shipped("nano")


def shipped(name: str) -> Path:
    """Folder of what is shipped with the package under a name: in it when installed, under `engines/` in a clone."""
    package = Path(__file__).parent.parent
    folder = package / "engines" / name
    return folder if folder.is_dir() else package.parent / "engines" / name
