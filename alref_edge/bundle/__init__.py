"""Bundles: folders of graphs and tables that are verified before anything in them is loaded."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alref_edge.bundle.configs import AnyConfig
from alref_edge.bundle.files import GraphFile, OpenFile
from alref_edge.bundle.manifest import EXPORT_AGAIN, FORMS, MANIFEST, MOST_BYTES, PRECISIONS, Manifest
from alref_edge.bundle.verify import verify
from alref_edge.errors import BundleError, InputError

__all__ = ["Bundle", "Component", "default_bundle", "shipped"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Component:
    """One network of a verified bundle in one form and precision: its graphs and files by name, and what the runtime
    has to know of it.

    Paths are for people and tools. What runs comes from `opened`, the bundle's files as they were verified, by path
    relative to `root`; a component that was made by hand has none, and its paths are opened.
    """

    name: str
    kind: str
    variant: str
    form: str
    precision: str
    config: Mapping[str, Any]
    graphs: Mapping[str, Path]
    files: Mapping[str, Path]
    tolerances: Mapping[str, float]
    root: Path = Path()
    opened: Mapping[str, OpenFile] = field(default_factory=dict, repr=False, compare=False)

    def settings(self, kind: type[AnyConfig]) -> AnyConfig:
        """The configuration, as that kind of network has it.

        Raises:
            BundleError: the component is of another kind, or its configuration makes no sense.
        """
        if self.kind != kind.kind:
            raise BundleError(
                f"The component {self.name!r} is no {kind.title}.",
                expected=f"the kind {kind.kind!r}",
                got=self.kind,
                mend=EXPORT_AGAIN,
            )
        return kind.from_mapping(self.config)

    def open_graph(self, name: str) -> GraphFile:
        """A graph, as it was verified.

        Raises:
            BundleError: the component has no such graph, or it cannot be opened.
        """
        path = self.graph(name)
        held = self._held(path)
        try:
            return GraphFile.at(path) if held is None else GraphFile.of_bundle(held, self.opened)
        except OSError as error:
            raise _unreadable(path, error) from error

    def open_file(self, name: str) -> OpenFile:
        """A file, as it was verified.

        Raises:
            BundleError: the component has no such file, or it cannot be opened.
        """
        path = self.file(name)
        held = self._held(path)
        try:
            return OpenFile(path, name=path.name, follow=True) if held is None else self.opened[held]
        except OSError as error:
            raise _unreadable(path, error) from error

    def _held(self, path: Path) -> str | None:
        """The name under which `opened` has a path."""
        name = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else ""
        return name if name in self.opened else None

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
    """A verified bundle. Its files are opened once and stay open: a graph that is loaded later is the one that was
    verified, whatever lies at its path by then. Nobody else may write to the files themselves; see `OpenFile`.

    Attributes:
        root: its folder.
        manifest: its manifest.
        sha256: SHA-256 of the manifest's bytes: it names the bundle's whole contents.
        files: the manifest's files, by path relative to the folder, held open.
    """

    root: Path
    manifest: Manifest
    sha256: str
    files: Mapping[str, OpenFile] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path | None = None) -> Bundle:
        """Read and verify a bundle.

        Args:
            path: its folder; None takes the one shipped with the package.

        Raises:
            BundleError: the folder or manifest is missing or malformed, or a file is not as it was listed.
        """
        began = time.perf_counter()
        root = default_bundle() if path is None else Path(path)
        if not root.is_dir():
            raise BundleError(
                f"There is no bundle at {root}.", expected="a folder", mend="make one with `python -m export`."
            )
        try:
            listing = OpenFile(root / MANIFEST, name=MANIFEST)
        except OSError as error:
            raise BundleError(
                f"{root} is not a bundle.",
                expected=f"a {MANIFEST} in it that can be read, and is no link",
                got=error.strerror,
                mend=EXPORT_AGAIN,
            ) from error
        try:
            raw = listing.read(MOST_BYTES)
            manifest = Manifest.from_json(raw.decode())
            files = verify(root, manifest)
        except UnicodeDecodeError as error:
            raise BundleError("The manifest is not UTF-8 text.", got=str(error), mend=EXPORT_AGAIN) from error
        except OSError as error:
            raise BundleError(f"The bundle at {root} cannot be read.", got=str(error), mend=EXPORT_AGAIN) from error
        bundle = cls(root, manifest, hashlib.sha256(raw).hexdigest(), files)
        ms = 1000 * (time.perf_counter() - began)
        _log.info("verified the bundle %s, %d files, in %.0f ms: %s", manifest.name, len(files), ms, bundle.sha256)
        return bundle

    @property
    def is_shipped(self) -> bool:
        """Whether it is the bundle that comes with the package."""
        return self.root.resolve() == default_bundle().resolve()

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that every component has."""
        components = self.manifest.components.values()
        return tuple(name for name in PRECISIONS if components and all(name in each.precisions for each in components))

    def component(self, name: str, precision: str = "float32", forms: Sequence[str] = FORMS[:1]) -> Component:
        """One network of the bundle.

        Args:
            name: the component's.
            precision: of its graphs.
            forms: what they may be written in, best first; see `forms_of` of the runtime's devices.

        Raises:
            InputError: there is no such precision.
            BundleError: the bundle has no such component, or not in that precision.
        """
        if precision not in PRECISIONS:
            raise InputError(
                "There is no such precision.",
                expected=" or ".join(PRECISIONS),
                got=precision,
                mend=f"choose one that the bundle has: {' or '.join(self.precisions)}.",
            )
        if name not in self.manifest.components:
            raise BundleError(
                f"The bundle {self.manifest.name!r} has no component {name!r}.",
                expected=name,
                got=sorted(self.manifest.components),
                mend=f"add it: `python -m export {name} --bundle {self.root}`.",
            )
        entry = self.manifest.components[name]
        form = entry.form_of(precision, forms)
        if form is None:
            raise BundleError(
                f"The component {name!r} of the bundle {self.manifest.name!r} has no {precision} graphs.",
                expected=", ".join(entry.precisions),
                got=precision,
                mend=f"choose a precision that it has, or export it again with --precision {precision}.",
            )
        graphs, tolerances = entry.forms[form][precision].graphs, entry.forms[form][precision].tolerances
        return Component(
            name=name,
            kind=entry.kind,
            variant=entry.variant,
            form=form,
            precision=precision,
            config=entry.config,
            graphs={key: self.root / path for key, path in graphs.items()},
            files={key: self.root / path for key, path in entry.files.items()},
            tolerances=tolerances,
            root=self.root,
            opened=self.files,
        )


def default_bundle() -> Path:
    """Folder of the bundle shipped with the package."""
    return shipped("nano")


def shipped(name: str) -> Path:
    """Folder of what is shipped with the package under a name: in it when installed, under `engines/` in a clone."""
    package = Path(__file__).parent.parent
    folder = package / "engines" / name
    return folder if folder.is_dir() else package.parent / "engines" / name


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"The file {path.name} cannot be read.", got=error.strerror, mend=EXPORT_AGAIN)
