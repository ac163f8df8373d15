"""What is installed, what works, and what is missing, with the command that adds it."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alref_edge import __version__, offline
from alref_edge.errors import AlrefError

_NEEDED = (
    "numpy",
    "av",
    "httpx",
    "msgspec",
    "pillow",
    "pycocotools",
    "pymupdf-fonts",
    "soxr",
    "tokenizers",
    "typer",
)
_BACKENDS = ("onnxruntime", "onnxruntime-gpu", "tensorrt")
_OTHERS = (
    "torch",
    "torchvision",
    "transformers",
    "sam2",
    "groundingdino-py",
    "languagebind",
    "onnx",
    "onnxscript",
    "vllm",
)
_ENCODERS = ("libx264", "libopenh264", "h264_nvenc", "mpeg4")


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what it is.
        state: "ok", "missing" (something optional, and printed as such), or "fault".
        detail: a version, or why not.
        mend: the command that mends it; empty where nothing is to be done.
    """

    name: str
    state: str
    detail: str = ""
    mend: str = ""


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        findings: in the order in which they are printed.
        can_run: whether `alref-edge rvos` can do its work on some device.
    """

    findings: tuple[Finding, ...]
    can_run: bool
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "can_run": self.can_run,
            "versions": self.versions,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def lines(self) -> list[str]:
        """The report for a person."""
        lines = [f"{name} {version}" for name, version in self.versions.items()]
        for finding in self.findings:
            name = finding.name + (" (optional)" if finding.state == "missing" else "")
            lines.append(f"{finding.state:<8} {name}" + (f": {finding.detail}" if finding.detail else ""))
            if finding.mend:
                lines.append(f"         {finding.mend}")
        return [*lines, "videos can be run" if self.can_run else "videos cannot be run yet"]


def examine(bundle: Path | None = None) -> Report:
    """Look at this machine.

    Args:
        bundle: a bundle to verify; None takes the one shipped with the package.
    """
    needed = [_package(name) for name in _NEEDED]
    backends, works = _providers()
    verified = _bundle(bundle)
    findings = [*needed, *_mixtures(), *backends, _telemetry(), *_encoders(), _llm_server(), verified]
    can_run = works and verified.state == "ok" and all(finding.state == "ok" for finding in needed)
    versions = {"alref-edge": __version__, "python": platform.python_version(), "platform": platform.platform()}
    versions |= {name: version for name in (*_BACKENDS, *_OTHERS) if (version := _version(name)) is not None}
    return Report(tuple(findings), can_run, versions)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _package(name: str) -> Finding:
    """A package that the runtime cannot do without: imported, not only looked up, since a wheel may not fit."""
    module = {"pillow": "PIL.Image", "pycocotools": "pycocotools.mask", "pymupdf-fonts": "pymupdf_fonts"}.get(
        name, name
    )
    try:
        __import__(module)
    except Exception as error:  # a broken binary raises whatever it likes
        return Finding(name, "fault", f"cannot be imported: {_line(error)}", f"pip install --force-reinstall {name}")
    return Finding(name, "ok", _version(name) or "")


def _mixtures() -> list[Finding]:
    """Packages that spoil each other."""
    found = []
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        found.append(
            Finding(
                "onnxruntime and onnxruntime-gpu",
                "fault",
                "both are installed, and are the same Python module: which one runs is chance",
                "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'alref-edge[gpu]' or 'alref-edge[cpu]'",
            )
        )
    transformers = _version("transformers")
    official = [name for name in ("groundingdino-py", "languagebind") if _version(name)]
    major = int(re.match(r"\d+", transformers).group()) if transformers else 0  # type: ignore[union-attr]
    if official and major >= 5:
        found.append(
            Finding(
                "extras export and reference",
                "fault",
                f"{', '.join(official)} need transformers below 5, and {transformers} is installed",
                "make an environment of its own for the extra reference, see the README",
            )
        )
    if _version("vllm") and (official or _version("sam2")):
        found.append(
            Finding(
                "extra mllm",
                "fault",
                "vLLM is installed beside export or reference, which pin torch and transformers otherwise",
                "make an environment of its own for the extra mllm",
            )
        )
    return found


def _providers() -> tuple[list[Finding], bool]:
    try:
        from alref_edge.runtime import ort
        from alref_edge.runtime.device import Placement

        onnxruntime = ort.load_onnxruntime()
    except ImportError as error:
        return [_unseen("onnxruntime", error)], False
    except AlrefError as error:
        return [Finding("onnxruntime", "fault", error.message, error.mend or "")], False
    found = [Finding("onnxruntime", "ok", onnxruntime.__version__)]
    works = False
    for kind, name in ort.PROVIDERS.items():
        result = ort.probe(Placement(kind))
        works = works or result.works
        if result.works:
            found.append(Finding(name, "ok", "runs a graph"))
        elif kind == "cpu":
            found.append(Finding(name, "fault", result.reason, "pip install --force-reinstall onnxruntime"))
        else:
            mend = "for an NVIDIA GPU: pip install 'alref-edge[gpu]' in place of the extra cpu, and the driver"
            found.append(Finding(name, "missing", result.reason, mend))
    tensorrt = _version("tensorrt")
    found.append(
        Finding("tensorrt", "ok", tensorrt)
        if tensorrt
        else Finding("tensorrt", "missing", "not installed", "pip install 'alref-edge[tensorrt]'")
    )
    return found, works


def _telemetry() -> Finding:
    """What ONNX Runtime does beside its work: asked after it was loaded."""
    if offline.loaded_first:
        return Finding(
            "telemetry",
            "fault",
            f"onnxruntime was imported before alref_edge and without {offline.TELEMETRY}=1: it may send events",
            f"import alref_edge first, or export {offline.TELEMETRY}=1",
        )
    if not offline.is_set(offline.TELEMETRY):
        return Finding(
            "telemetry",
            "fault",
            f"{offline.TELEMETRY} was taken out of the environment after alref_edge was imported",
            f"leave {offline.TELEMETRY}=1 there",
        )
    return Finding("telemetry", "ok", f"off: {offline.TELEMETRY}=1 stood before ONNX Runtime was loaded")


def _encoders() -> list[Finding]:
    try:
        import av
    except ImportError:
        return []
    there = [name for name in _ENCODERS if name in av.codecs_available]
    if any(name != "mpeg4" for name in there):
        return [Finding("video encoders", "ok", ", ".join(there))]
    detail = "no H.264 encoder: overlays are MPEG-4 part 2" if there else "none: overlays cannot be written"
    return [Finding("video encoders", "missing", detail, "pip install --force-reinstall av")]


def _llm_server() -> Finding:
    """vLLM, in the environment that `alref-edge mllm serve` would take."""
    try:
        from alref_edge.mllm.serving.installation import Installation

        vllm = Installation.find()
    except ImportError as error:
        return _unseen("vLLM", error)
    except AlrefError as error:
        return Finding("vLLM", "missing", f"for --selector mllm: {error.message} {error.got}", error.mend or "")
    return Finding("vLLM", "ok", f"{vllm.version}{', for CPUs' if vllm.on_cpu else ''}, of {vllm.python}")


def _bundle(path: Path | None) -> Finding:
    try:
        from alref_edge.bundle import Bundle
        from alref_edge.bundle.manifest import FORMS
        from alref_edge.pipeline import Networks
        from alref_edge.runtime import SessionOptions

        bundle = Bundle.open(path)
        Networks(bundle, "cpu", SessionOptions(), forms=FORMS).check()
    except AlrefError as error:
        return Finding("bundle", "fault", str(error), error.mend or "")
    except ImportError as error:
        return _unseen("bundle", error)
    trained = "" if bundle.manifest.trained else ", UNTRAINED: random weights"
    return Finding("bundle", "ok", f"{bundle.root}: whole, {', '.join(bundle.precisions)}{trained}")


def _unseen(name: str, error: ImportError) -> Finding:
    """What cannot be looked at, because a package that is needed for it is at fault."""
    return Finding(name, "fault", f"cannot be looked at: {_line(error)}", "mend the faults above first")


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
