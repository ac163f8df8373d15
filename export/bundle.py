"""Writing bundles: exporters hand in components, the manifest is made from what lies on disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alref_edge.bundle import Bundle
from alref_edge.bundle.manifest import MANIFEST, ComponentEntry, FileEntry, Manifest
from alref_edge.bundle.verify import sha256_of
from alref_edge.errors import InputError
from export.weights import share_weights


@dataclass(frozen=True)
class ComponentSpec:
    """What an exporter made: one network, its files lying in the exporter's output folder.

    Attributes:
        name: the component's name in the bundle, which is also its kind.
        variant: the size or version, such as "sam2.1_tiny".
        precision: "float32", "float16" or "bfloat16".
        source: `{"checkpoint": file name, "sha256": ...}` or `{"seed": number}`.
        licence: licence of the weights.
        config: what the runtime has to know of the network, plain JSON values.
        graphs: graph name to the `.onnx` file written.
        files: other files, such as the vocabulary.
        tolerances: by graph, the largest absolute difference that the export was accepted with.
    """

    name: str
    variant: str
    precision: str
    source: Mapping[str, Any]
    licence: str
    config: Mapping[str, Any]
    graphs: Mapping[str, Path]
    files: Mapping[str, Path] = field(default_factory=dict)
    tolerances: Mapping[str, float] = field(default_factory=dict)


def source_of(checkpoint: Path | None, seed: int | None) -> dict[str, Any]:
    """The manifest's record of where weights come from.

    Raises:
        InputError: neither or both are given, or there is no such file.
    """
    if (checkpoint is None) == (seed is None):
        raise InputError("Weights come from a checkpoint or from a seed.", expected="one of them", mend="give one.")
    if checkpoint is None:
        return {"seed": seed}
    if not checkpoint.is_file():
        raise InputError(f"There is no checkpoint at {checkpoint}.", mend="give the path of the official file.")
    return {"checkpoint": checkpoint.name, "sha256": sha256_of(checkpoint)}


def add_to_bundle(root: Path, component: ComponentSpec, *, name: str | None = None) -> Bundle:
    """Put a component into a bundle, new or standing, replacing the one of its name; then verify the whole.

    Args:
        root: the bundle's folder.
        component: what the exporter made; its files are moved into `root/<component>/`.
        name: the bundle's name where it is new; its folder's name if None.
    """
    old = Bundle.open(root).manifest if (root / MANIFEST).exists() else None
    folder = root / component.name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    graphs = {key: _move(path, folder / f"{key}.onnx", root) for key, path in component.graphs.items()}
    share_weights(root / path for path in graphs.values())
    files = {key: _move(path, folder / path.name, root) for key, path in component.files.items()}
    entry = ComponentEntry(
        kind=component.name,
        variant=component.variant,
        precision=component.precision,
        source=component.source,
        licence=component.licence,
        graphs=graphs,
        files=files,
        config=component.config,
        tolerances=component.tolerances,
    )
    components = {**(old.components if old else {}), component.name: entry}
    trained = all("seed" not in each.source for each in components.values())
    manifest = Manifest(
        name=old.name if old else name or root.name,
        trained=trained,
        components=components,
        files=_entries(root),
        defaults=old.defaults if old else {},
        notes="" if trained else "UNTRAINED: seeded random weights, for plumbing and parity; its masks mean nothing.",
    )
    (root / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(root)


def _move(source: Path, target: Path, root: Path) -> str:
    shutil.move(source, target)
    return target.relative_to(root).as_posix()


def _entries(root: Path) -> dict[str, FileEntry]:
    return {
        path.relative_to(root).as_posix(): FileEntry(sha256_of(path), path.stat().st_size)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
