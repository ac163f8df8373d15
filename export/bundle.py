"""Writing bundles: exporters hand in components, the manifest is made from what lies on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from alref_edge.bundle import Bundle
from alref_edge.bundle.manifest import (
    MANIFEST,
    MODEL_CARD,
    ComponentEntry,
    FileEntry,
    GraphSetEntry,
    Manifest,
)
from alref_edge.bundle.verify import sha256_of, verify
from alref_edge.errors import InputError
from alref_edge.pipeline.settings import AvsSettings, RvosSettings, TrackingSettings
from export.weights import share_weights

UNTRAINED = "UNTRAINED: seeded random weights, for plumbing and parity; its masks mean nothing."


@dataclass(frozen=True)
class GraphSet:
    """The graphs of one form and precision, as an exporter made them.

    Attributes:
        graphs: graph name to the `.onnx` file written.
        tolerances: by graph, the largest absolute difference that the export was accepted with.
        least_iou: of a tracker in a narrower precision, of its masks with the official code's.
    """

    graphs: Mapping[str, Path]
    tolerances: Mapping[str, float] = field(default_factory=dict)
    least_iou: float | None = None


@dataclass(frozen=True)
class ComponentSpec:
    """What an exporter made: one network, its files lying in the exporter's output folder.

    Attributes:
        name: the component's name in the bundle.
        variant: the size or version, such as "sam2.1_tiny".
        source: `{"checkpoint": file name, "sha256": ...}` or `{"seed": number}`.
        licence: licence of the weights.
        config: what the runtime has to know of the network, plain JSON values.
        forms: by form ("standard", "cuda") and precision ("float32", "float16", "bfloat16"), the graphs.
        files: other files, such as the vocabulary.
        kind: which model of the runtime reads it; None: its name.
    """

    name: str
    variant: str
    source: Mapping[str, Any]
    licence: str
    config: Mapping[str, Any]
    forms: Mapping[str, Mapping[str, GraphSet]]
    files: Mapping[str, Path] = field(default_factory=dict)
    kind: str | None = None

    @property
    def float32(self) -> GraphSet:
        """The standard float32 graphs."""
        return self.forms["standard"]["float32"]


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


def read_defaults(path: Path) -> dict[str, Any]:
    """The settings that a bundle wants, of a JSON file: `{"rvos": {...}, "avs": {...}}`, either may be missing.

    Raises:
        InputError: the file cannot be read, or holds what are no settings.
    """
    kinds: dict[str, type[TrackingSettings]] = {"rvos": RvosSettings, "avs": AvsSettings}
    try:
        raw = json.loads(path.read_bytes())
        if not isinstance(raw, dict) or not raw.keys() <= kinds.keys():
            raise ValueError("no object of rvos and avs")
        for kind, values in raw.items():
            kinds[kind].from_mapping(values)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} holds no default settings.", expected='{"rvos": {...}, "avs": {...}}', got=str(error)
        ) from error
    return raw


def add_to_bundle(
    root: Path,
    component: ComponentSpec,
    *,
    name: str | None = None,
    notes: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Bundle:
    """Put a component into a bundle, new or standing, replacing the one of its name; then verify the whole.

    A `MODEL_CARD.md` that lies in the bundle is kept, and listed as it stands.

    Args:
        root: the bundle's folder.
        component: what the exporter made; its files are moved into `root/<component>/`.
        name: the bundle's name where it is new; its folder's name if None.
        notes: one line for a person, of a trained bundle; None keeps what it has. An untrained one says that it is.
        defaults: settings that it wants, see `read_defaults`; None keeps what it has.
    """
    old = _standing(root) if (root / MANIFEST).exists() else None
    folder = root / component.name
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    placed: dict[Path, str] = {}  # a graph may stand in several sets
    forms: dict[str, dict[str, GraphSetEntry]] = {}
    for form, sets in component.forms.items():
        for precision, made in sets.items():
            for key, path in made.graphs.items():
                if path not in placed:
                    placed[path] = _move(path, folder / file_name(key, form, precision), root)
            graphs = {key: placed[path] for key, path in made.graphs.items()}
            forms.setdefault(form, {})[precision] = GraphSetEntry(graphs, made.tolerances, made.least_iou)
    share_weights(root / path for path in placed.values())
    files = {key: _move(path, folder / path.name, root) for key, path in component.files.items()}
    entry = ComponentEntry(
        kind=component.kind or component.name,
        variant=component.variant,
        source=component.source,
        licence=component.licence,
        forms=forms,
        files=files,
        config=component.config,
    )
    components = {**(old.components if old else {}), component.name: entry}
    trained = all("seed" not in each.source for each in components.values())
    if notes is None:
        notes = "" if old is None or not old.trained else old.notes
    manifest = Manifest(
        name=old.name if old else name or root.name,
        trained=trained,
        components=components,
        files=_entries(root),
        defaults=defaults if defaults is not None else old.defaults if old else {},
        notes=notes if trained else UNTRAINED,
    )
    (root / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(root)


def _standing(root: Path) -> Manifest:
    """The manifest of a bundle that stands there, verified but for its model card, which may be new or edited."""
    manifest = Manifest.from_json((root / MANIFEST).read_text(encoding="utf-8"))
    files = {path: entry for path, entry in manifest.files.items() if path != MODEL_CARD}
    if (root / MODEL_CARD).is_file():
        files[MODEL_CARD] = _entry(root / MODEL_CARD)
    manifest = msgspec.structs.replace(manifest, files=files)
    verify(root, manifest)
    return manifest


def file_name(graph: str, form: str, precision: str) -> str:
    """What a graph's file is called: `track.onnx`, `track.cuda.float16.onnx`; what is usual goes without saying."""
    return ".".join((graph, *(each for each in (form, precision) if each not in ("standard", "float32")), "onnx"))


def _move(source: Path, target: Path, root: Path) -> str:
    shutil.move(source, target)
    return target.relative_to(root).as_posix()


def _entries(root: Path) -> dict[str, FileEntry]:
    return {
        path.relative_to(root).as_posix(): _entry(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256_of(path), path.stat().st_size)
