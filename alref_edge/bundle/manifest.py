"""`bundle.json`: what a bundle holds, in a schema that is read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from alref_edge.bundle.configs import KINDS
from alref_edge.errors import BundleError

SCHEMA = "alref-edge.bundle/3"
# Read, never written: one precision a component, its graphs beside it; precisions, of the standard form alone.
_FIRST_SCHEMA, _SECOND_SCHEMA = "alref-edge.bundle/1", "alref-edge.bundle/2"
MANIFEST = "bundle.json"
MODEL_CARD = "MODEL_CARD.md"
PRECISIONS = ("float32", "float16", "bfloat16")
FORMS = ("standard", "cuda")
"""What graphs are written in: ONNX's own operators, or with ONNX Runtime's fused ones as well, for CUDA."""
EXPORT_AGAIN = "export the bundle again with `python -m export`, or fetch it whole from where it came."

MOST_BYTES = 4 << 20
"""Size of the largest manifest that is read; those of the official networks take 15 kB."""
MOST_GRAPH_BYTES = 16 << 20
"""Size of the largest `.onnx` file that is read; its weights lie beside it."""
_MOST_DEPTH = 8  # folders in folders

_Any = TypeVar("_Any")

Name = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")]
Line = Annotated[str, Meta(max_length=255)]
Path = Annotated[str, Meta(min_length=1, max_length=512)]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a bundle: its SHA-256 in hex and its size in bytes, at most 64 GiB."""

    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    size: Annotated[int, Meta(ge=0, le=1 << 36)]


class GraphSetEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The graphs of a network in one form and precision.

    Attributes:
        graphs: graph name to file, relative to the bundle.
        tolerances: by graph, the largest absolute difference that its export was accepted with.
        least_iou: of a tracker in a narrower precision, the least IoU of its masks with the official float32 code's, on
            every frame of the clip that it was accepted by, on the exporter's CPU; None: not measured.
    """

    graphs: Annotated[Mapping[Name, Path], Meta(max_length=32)]
    tolerances: Annotated[Mapping[Name, Annotated[float, Meta(ge=0, le=1e9)]], Meta(max_length=32)] = {}
    least_iou: Annotated[float, Meta(ge=0, le=1)] | None = None


class ComponentEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network of a bundle.

    Attributes:
        kind: which model of the runtime reads it, such as "sam2".
        variant: the size or version, such as "sam2.1_tiny".
        source: where the weights come from: a checkpoint's name and SHA-256, or a seed.
        licence: licence of the weights.
        forms: by form (of `FORMS`) and precision (of `PRECISIONS`), the graphs; all share the file of the weights.
        files: other files that the component needs, such as its vocabulary.
        config: what the runtime has to know of the network; see `configs`.
    """

    kind: Name
    variant: Line
    source: Annotated[Mapping[Line, Line | int | float | bool | None], Meta(max_length=32)]
    licence: Line
    forms: Annotated[Mapping[Name, Annotated[Mapping[Name, GraphSetEntry], Meta(max_length=8)]], Meta(max_length=8)]
    files: Annotated[Mapping[Name, Path], Meta(max_length=32)] = {}
    config: Mapping[str, Any] = {}

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that there are graphs of, in any form."""
        return tuple(name for name in PRECISIONS if any(name in form for form in self.forms.values()))

    def form_of(self, precision: str, forms: Sequence[str]) -> str | None:
        """The first of some forms that there are graphs of in a precision."""
        return next((form for form in forms if precision in self.forms.get(form, ())), None)

    @property
    def paths(self) -> tuple[str, ...]:
        """Every file that the entry names."""
        graphs = (path for form in self.forms.values() for each in form.values() for path in each.graphs.values())
        return (*graphs, *self.files.values())


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `bundle.json`.

    Attributes:
        name: the bundle's name.
        trained: False where any weights are random.
        components: by name.
        files: every file of the bundle but the manifest, by POSIX path relative to it.
        defaults: pipeline settings that the bundle wants, such as thresholds.
        notes: one line for a person.
    """

    name: Line
    trained: bool
    components: Annotated[Mapping[Name, ComponentEntry], Meta(max_length=64)]
    files: Annotated[Mapping[Path, FileEntry], Meta(max_length=512)]
    defaults: Mapping[str, Any] = {}
    notes: Annotated[str, Meta(max_length=4096)] = ""
    schema: Line = SCHEMA

    def to_json(self) -> str:
        """The manifest as it stands on disk."""
        return json.dumps(msgspec.to_builtins(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest.

        Raises:
            BundleError: it is not JSON, of another schema, lacks or has a field too many, or a part of it makes no
                sense by itself or beside the others.
        """
        try:
            raw = msgspec.json.decode(text)
            schema = raw.get("schema")
        except (msgspec.MsgspecError, AttributeError, RecursionError) as error:
            raise BundleError("The manifest is not a JSON object.", got=str(error), mend=EXPORT_AGAIN) from error
        if schema not in (SCHEMA, _FIRST_SCHEMA, _SECOND_SCHEMA):
            raise BundleError(
                "The bundle is of another schema than this release reads.",
                expected=SCHEMA,
                got=str(schema)[:80],
                mend="export it again with the `python -m export` of this release.",
            )
        components, files = _object(raw, "components"), _object(raw, "files")
        for name, entry in components.items():
            what = f"the component {name!r}"
            if schema == _FIRST_SCHEMA:
                entry = _from_first(entry, what)
            if schema != SCHEMA:
                components[name] = entry = _from_second(entry, what)
            _read(ComponentEntry, entry, f"{what} is malformed, it")
        for path, entry in files.items():
            _read(FileEntry, entry, f"the entry of the file {path!r} is malformed, it")
        manifest = _read(cls, {**raw, "schema": SCHEMA, "components": components, "files": files}, "it")
        manifest._check()
        return manifest

    def _check(self) -> None:
        """Raise a BundleError unless the parts fit each other and what this release runs."""
        for path in self.files:
            check_relative(path)
        for name, component in self.components.items():
            _check_component(name, component, self.files)


def _check_component(name: str, component: ComponentEntry, files: Mapping[str, FileEntry]) -> None:
    for what, known, given in (
        ("form", FORMS, set(component.forms)),
        ("precision", PRECISIONS, _precisions(component)),
    ):
        if not given or not given <= set(known):
            raise BundleError(
                f"The component {name!r} has a {what} that there is not, or none.",
                expected=", ".join(known),
                got=sorted(given),
                mend=EXPORT_AGAIN,
            )
    for path in component.paths:
        if path not in files:
            raise BundleError(
                f"The component {name!r} names a file that the manifest does not list.", got=path, mend=EXPORT_AGAIN
            )
    sets = [
        (f"{form} {precision}", entry) for form, each in component.forms.items() for precision, entry in each.items()
    ]
    for which, entry in sets:
        for graph, path in entry.graphs.items():
            _check_size(f"{which} graph {graph!r} of {name!r}", files[path].size, MOST_GRAPH_BYTES)
    kind = KINDS.get(component.kind)
    if kind is None:
        return
    try:
        config = kind.from_mapping(component.config)
    except BundleError as error:
        message = f"The component {name!r} cannot be run: {error.message}"
        raise BundleError(message, expected=error.expected, got=error.got, mend=error.mend) from error
    for which, entry in sets:
        _check_names(f"{which} graphs", name, config.needed_graphs, entry.graphs)
    _check_names("files", name, kind.files, component.files)
    for file, most in {**kind.files, **kind.optional_files}.items():
        if file in component.files:
            _check_size(f"file {file!r} of {name!r}", files[component.files[file]].size, most)


def _precisions(component: ComponentEntry) -> set[str]:
    return {precision for form in component.forms.values() for precision in form}


def _check_names(what: str, name: str, needed: Mapping[str, int] | tuple[str, ...], given: Mapping[str, str]) -> None:
    missing = [each for each in needed if each not in given]
    if missing:
        raise BundleError(
            f"The component {name!r} lacks {what} that its network needs.",
            expected=", ".join(missing),
            got=", ".join(sorted(given)) or "none",
            mend=EXPORT_AGAIN,
        )


def _check_size(what: str, size: int, most: int) -> None:
    if size > most:
        raise BundleError(
            f"The {what} is larger than it may be.",
            expected=f"at most {most} bytes",
            got=f"{size} bytes",
            mend=EXPORT_AGAIN,
        )


def _read(kind: type[_Any], value: object, what: str) -> _Any:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise BundleError(
            f"The manifest does not fit its schema: {what} is not as this release reads it.",
            got=str(error),
            mend=EXPORT_AGAIN,
        ) from error


def _object(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name)
    if not isinstance(value, dict):
        raise BundleError(
            "The manifest does not fit its schema.",
            expected=f"an object {name!r}",
            got=type(value).__name__ if name in raw else "none",
            mend=EXPORT_AGAIN,
        )
    return value


def _from_second(entry: object, what: str) -> dict[str, Any]:
    """A component of the second schema as the third has it."""
    raw = _read(dict[str, Any], entry, what)
    return {
        **{key: value for key, value in raw.items() if key != "precisions"},
        **({"forms": {FORMS[0]: raw["precisions"]}} if "precisions" in raw else {}),
    }


def _from_first(entry: object, what: str) -> dict[str, Any]:
    """A component of the first schema as the second had it."""
    moved = ("precision", "graphs", "tolerances")
    raw = _read(dict[str, Any], entry, what)
    precision = _read(str, raw.get("precision"), f"the precision of {what}")
    return {
        **{key: value for key, value in raw.items() if key not in moved},
        "precisions": {precision: {key: raw[key] for key in moved[1:] if key in raw}},
    }


def is_plain(path: str) -> bool:
    """Whether a relative path is in its plain form and stays inside the folder that it is relative to."""
    pure = PurePosixPath(path)
    plain = path not in ("", ".") and not set(path) & set("\\:\0") and str(pure) == path
    return plain and not pure.is_absolute() and ".." not in pure.parts and len(pure.parts) <= _MOST_DEPTH


def check_relative(path: str) -> None:
    """Raise a BundleError unless the path is plain."""
    if not is_plain(path):
        raise BundleError(
            "The manifest names a path outside the bundle, or one that is not in its plain form.",
            expected="a relative path such as sam2/track.onnx",
            got=path,
            mend=EXPORT_AGAIN,
        )
