"""`bundle.json`: what a bundle holds, in a schema that is read strictly."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from alref_edge.errors import BundleError

SCHEMA = "alref-edge.bundle/2"
_FIRST_SCHEMA = "alref-edge.bundle/1"  # one precision a component, its graphs beside it; read, never written
MANIFEST = "bundle.json"
MODEL_CARD = "MODEL_CARD.md"
PRECISIONS = ("float32", "float16", "bfloat16")
EXPORT_AGAIN = "export the bundle again with `python -m export`, or fetch it whole from where it came."


@dataclass(frozen=True)
class FileEntry:
    """One file of a bundle: its SHA-256 in hex and its size in bytes."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", str(self.sha256)) or not isinstance(self.size, int) or self.size < 0:
            raise BundleError(
                "A file's entry in the manifest is malformed.",
                expected="a SHA-256 of 64 hex digits and a size",
                got=f"{self.sha256!r}, {self.size!r}",
                mend=EXPORT_AGAIN,
            )


@dataclass(frozen=True)
class PrecisionEntry:
    """The graphs of a network in one precision.

    Attributes:
        graphs: graph name to file, relative to the bundle.
        tolerances: by graph, the largest absolute difference that its export was accepted with.
    """

    graphs: Mapping[str, str]
    tolerances: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.graphs, Mapping) or not isinstance(self.tolerances, Mapping):
            raise BundleError("A precision's entry in the manifest is malformed.", got=self.graphs, mend=EXPORT_AGAIN)


@dataclass(frozen=True)
class ComponentEntry:
    """One network of a bundle.

    Attributes:
        kind: which model of the runtime reads it, such as "sam2".
        variant: the size or version, such as "sam2.1_tiny".
        source: where the weights come from: a checkpoint's name and SHA-256, or a seed.
        licence: licence of the weights.
        precisions: by precision ("float32", "float16", "bfloat16"), the graphs; they share the file of the weights.
        files: other files that the component needs, such as its vocabulary.
        config: what the runtime has to know of the network.
    """

    kind: str
    variant: str
    source: Mapping[str, Any]
    licence: str
    precisions: Mapping[str, PrecisionEntry]
    files: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tables = (self.source, self.precisions, self.files, self.config)
        words = (self.kind, self.variant, self.licence)
        if not all(isinstance(each, Mapping) for each in tables) or not all(isinstance(each, str) for each in words):
            raise BundleError("A component's entry in the manifest is malformed.", got=self.kind, mend=EXPORT_AGAIN)
        if not self.precisions or not set(self.precisions) <= set(PRECISIONS):
            raise BundleError(
                f"The component {self.kind!r} has a precision that there is not, or none.",
                expected=", ".join(PRECISIONS),
                got=sorted(self.precisions),
                mend=EXPORT_AGAIN,
            )

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file that the entry names."""
        graphs = (path for precision in self.precisions.values() for path in precision.graphs.values())
        return (*graphs, *self.files.values())

    @classmethod
    def from_mapping(cls, entry: Mapping[str, Any]) -> ComponentEntry:
        """Read an entry of the manifest. TypeError, KeyError or AttributeError where it does not fit."""
        precisions = {name: PrecisionEntry(**each) for name, each in entry["precisions"].items()}
        return cls(**{**entry, "precisions": precisions})


@dataclass(frozen=True)
class Manifest:
    """The whole of `bundle.json`.

    Attributes:
        name: the bundle's name.
        trained: False where any weights are random.
        components: by name.
        files: every file of the bundle but the manifest, by POSIX path relative to it.
        defaults: pipeline settings that the bundle wants, such as thresholds.
        notes: one line for a person.
    """

    name: str
    trained: bool
    components: Mapping[str, ComponentEntry]
    files: Mapping[str, FileEntry]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        if (
            not isinstance(self.trained, bool)
            or not isinstance(self.name, str)
            or not isinstance(self.defaults, Mapping)
        ):
            raise BundleError(
                "The manifest does not fit its schema.",
                expected="a name, trained true or false, and defaults that are an object",
                got=f"{self.name!r}, {self.trained!r}, {self.defaults!r}",
                mend=EXPORT_AGAIN,
            )
        for path in self.files:
            check_relative(path)
        for name, component in self.components.items():
            for path in component.paths:
                if path not in self.files:
                    raise BundleError(
                        f"The component {name!r} names a file that the manifest does not list.",
                        got=path,
                        mend=EXPORT_AGAIN,
                    )

    def to_json(self) -> str:
        """The manifest as it stands on disk."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest.

        Raises:
            BundleError: it is not JSON, of another schema, or lacks or has a field too many.
        """
        try:
            raw = json.loads(text)
            schema = raw.get("schema")
        except (ValueError, AttributeError, RecursionError) as error:
            raise BundleError("The manifest is not a JSON object.", got=str(error), mend=EXPORT_AGAIN) from error
        if schema not in (SCHEMA, _FIRST_SCHEMA):
            raise BundleError(
                "The bundle is of another schema than this release reads.",
                expected=SCHEMA,
                got=schema,
                mend="export it again with the `python -m export` of this release.",
            )
        try:
            if schema == _FIRST_SCHEMA:
                raw = {**raw, "schema": SCHEMA, "components": _from_first(raw["components"])}
            components = {name: ComponentEntry.from_mapping(entry) for name, entry in raw.pop("components").items()}
            files = {path: FileEntry(**entry) for path, entry in raw.pop("files").items()}
            return cls(components=components, files=files, **raw)
        except (KeyError, TypeError, AttributeError) as error:
            raise BundleError("The manifest does not fit its schema.", got=str(error), mend=EXPORT_AGAIN) from error


def _from_first(components: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Components of the first schema in the form of this one."""
    moved = ("precision", "graphs", "tolerances")
    return {
        name: {
            **{key: value for key, value in entry.items() if key not in moved},
            "precisions": {entry["precision"]: {key: entry[key] for key in moved[1:] if key in entry}},
        }
        for name, entry in components.items()
    }


def check_relative(path: str) -> None:
    """Raise a BundleError unless the path stays inside the folder that it is relative to."""
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or ":" in path or str(pure) != path:
        raise BundleError(
            "The manifest names a path outside the bundle, or one that is not in its plain form.",
            expected="a relative path such as sam2/track.onnx",
            got=path,
            mend=EXPORT_AGAIN,
        )
