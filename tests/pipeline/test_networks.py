"""Which graphs of a bundle are taken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from alref_edge import Pipeline
from alref_edge.bundle import Bundle
from alref_edge.bundle.manifest import MANIFEST
from alref_edge.errors import InputError
from alref_edge.pipeline.networks import Networks, best_precision
from alref_edge.runtime import SessionOptions


def accepted(bundle: Path, folder: Path, *, form: str = "cuda", least_iou: float | None = 0.995) -> Bundle:
    """The bundle, with another word on what its float16 tracker was accepted by."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["components"]["sam2"]["forms"][form]["float16"]["least_iou"] = least_iou
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(folder)


def test_a_gpu_runs_float16_where_its_masks_were_accepted(nano_bundle: Path, tmp_path: Path) -> None:
    assert best_precision(accepted(nano_bundle, tmp_path / "yes"), "cuda") == "float16"
    assert best_precision(accepted(nano_bundle, tmp_path / "no", least_iou=None), "cuda") == "float32"


def test_a_cpu_runs_float32(nano_bundle: Path, tmp_path: Path) -> None:
    assert best_precision(accepted(nano_bundle, tmp_path / "yes", form="standard"), "cpu") == "float32"
    with Pipeline.from_bundle(nano_bundle, "cpu") as pipeline:
        assert pipeline.precision == "float32"


def test_a_gpu_without_its_own_form_takes_the_standard_one(nano_bundle: Path, tmp_path: Path) -> None:
    bundle = accepted(nano_bundle, tmp_path / "both", form="standard")
    manifest = json.loads((bundle.root / MANIFEST).read_text())
    for component in manifest["components"].values():
        for entry in component["forms"].pop("cuda", {}).values():
            for path in entry["graphs"].values():
                (bundle.root / path).unlink(missing_ok=True)
                manifest["files"].pop(path, None)
    (bundle.root / MANIFEST).write_text(json.dumps(manifest))
    assert best_precision(Bundle.open(bundle.root), "cuda") == "float16"


def test_what_a_cpu_does_not_know_is_said(nano_bundle: Path) -> None:
    with Pipeline.from_bundle(nano_bundle, "cpu", precision="tf32", gpu_memory=1 << 30) as pipeline:
        assert pipeline.precision == "float32"
        assert any("tf32" in warning for warning in pipeline.warnings)
        assert any("memory" in warning for warning in pipeline.warnings)


def test_tf32_is_float32_graphs(nano_bundle: Path) -> None:
    with Networks(Bundle.open(nano_bundle), "cpu", SessionOptions(tf32=True), "tf32") as networks:
        networks.image_segmenter()
        assert (networks.precision, networks.forms) == ("tf32", {"sam2": "standard"})
    with pytest.raises(InputError, match="no such precision"):
        Pipeline.from_bundle(nano_bundle, "cpu", precision="tf64")
