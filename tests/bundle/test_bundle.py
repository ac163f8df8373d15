"""Bundles: written by export, verified before use, refused when anything is off."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alref_edge.bundle import Bundle, default_bundle
from alref_edge.bundle.manifest import MANIFEST, MODEL_CARD
from alref_edge.errors import BundleError, EngineError, InputError
from alref_edge.runtime import open_session

onnx = pytest.importorskip("onnx")
from export.bundle import ComponentSpec, GraphSet, add_to_bundle, source_of  # noqa: E402  (needs onnx)


def write_graph(path: Path, name: str) -> None:
    """y[1000] = x[1000] + table[1000]: one large weight, the same in every graph."""
    table = onnx.numpy_helper.from_array(np.arange(1000, dtype=np.float32), "table")
    x, y = (onnx.helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, [1000]) for each in "xy")
    body = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "table"], ["y"])], name, [x], [y], [table])
    onnx.save(onnx.helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)


def component(
    folder: Path, *, seed: int | None = 0, text: str = "graph", precisions: tuple[str, ...] = ("float32",)
) -> ComponentSpec:
    """A component of two graphs and one file, lying in `folder`."""
    folder.mkdir()
    made = {}
    for precision in precisions:
        for name in ("first", "second"):
            write_graph(folder / f"{name}.{precision}.onnx", text)
        graphs = {"encoder": folder / f"first.{precision}.onnx", "decoder": folder / f"second.{precision}.onnx"}
        made[precision] = GraphSet(graphs, {"encoder": 1e-4})
    (folder / "vocab.txt").write_text("word")
    return ComponentSpec(
        name="toy",
        variant="toy_small",
        source={"seed": seed} if seed is not None else {"checkpoint": "toy.pt", "sha256": "0" * 64},
        licence="Apache-2.0",
        config={"width": 3},
        forms={"standard": made},
        files={"vocab": folder / "vocab.txt"},
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A bundle that is right."""
    add_to_bundle(tmp_path / "bundle", component(tmp_path / "made"))
    return tmp_path / "bundle"


def test_a_component_goes_in_and_comes_out(root: Path) -> None:
    toy = Bundle.open(root).component("toy")
    with open_session(toy.graph("encoder"), device="cpu") as session:
        total = session.run({"x": np.ones(1000, np.float32)})["y"]
    np.testing.assert_array_equal(total, np.arange(1000) + 1)
    assert toy.file("vocab").read_text() == "word"
    assert (toy.variant, toy.precision, dict(toy.config)) == ("toy_small", "float32", {"width": 3})
    assert toy.tolerances == {"encoder": 1e-4}


def test_a_component_replaces_the_one_of_its_name_and_changes_the_hash(root: Path, tmp_path: Path) -> None:
    before = Bundle.open(root)
    add_to_bundle(root, component(tmp_path / "again", text="another graph"))
    after = Bundle.open(root)
    assert onnx.load(after.component("toy").graph("encoder")).graph.name == "another graph"
    assert after.sha256 != before.sha256
    assert set(after.manifest.files) == set(before.manifest.files)


def test_graphs_share_equal_weights_and_so_do_precisions(tmp_path: Path) -> None:
    made = component(tmp_path / "made", precisions=("float32", "float16"))
    bundle = add_to_bundle(tmp_path / "bundle", made)
    folder = tmp_path / "bundle/toy"
    assert (folder / "weights.bin").stat().st_size == 2000  # the numbers are float16's too
    assert {path.name for path in folder.glob("*.onnx")} == {
        f"{name}{precision}.onnx" for name in ("encoder", "decoder") for precision in ("", ".float16")
    }
    assert (folder / "encoder.onnx").stat().st_size < 400
    assert bundle.precisions == ("float32", "float16")
    assert bundle.component("toy", "float16").graph("encoder") == folder / "encoder.float16.onnx"


def test_a_precision_that_is_not_there_is_an_error_with_the_list(root: Path) -> None:
    assert Bundle.open(root).precisions == ("float32",)
    with pytest.raises(BundleError, match=r"no float16 graphs.*float32") as caught:
        Bundle.open(root).component("toy", "float16")
    assert "--precision" in caught.value.mend
    for name in ("float8", "FLOAT32", "", "fp16"):
        with pytest.raises(InputError, match=r"no such precision.*float32 or float16.*the bundle has: float32\."):
            Bundle.open(root).component("toy", name)


def test_a_bundle_of_the_first_schema_is_read(root: Path) -> None:
    file = root / MANIFEST
    manifest = json.loads(file.read_text())
    (entry,) = manifest["components"].values()
    ((precision, only),) = entry.pop("forms")["standard"].items()
    entry |= {"precision": precision, **only}
    file.write_text(json.dumps({**manifest, "schema": "alref-edge.bundle/1"}))
    toy = Bundle.open(root).component("toy")
    assert toy.graph("encoder").is_file()
    assert toy.tolerances == {"encoder": 1e-4}
    entry.pop("graphs")
    file.write_text(json.dumps({**manifest, "schema": "alref-edge.bundle/1"}))
    with pytest.raises(BundleError, match="does not fit its schema"):
        Bundle.open(root)


def test_a_bundle_of_the_second_schema_is_read(root: Path) -> None:
    file = root / MANIFEST
    manifest = json.loads(file.read_text())
    (entry,) = manifest["components"].values()
    entry["precisions"] = entry.pop("forms")["standard"]
    file.write_text(json.dumps({**manifest, "schema": "alref-edge.bundle/2"}))
    assert Bundle.open(root).component("toy").tolerances == {"encoder": 1e-4}
    file.write_text(json.dumps({**manifest, "schema": "alref-edge.bundle/3"}))
    with pytest.raises(BundleError, match="malformed"):
        Bundle.open(root)


def test_the_best_form_that_a_bundle_has_is_taken(tmp_path: Path) -> None:
    made, fused = (component(tmp_path / name, text=name) for name in ("made", "fused"))
    add_to_bundle(tmp_path / "bundle", replace(made, forms={**made.forms, "cuda": fused.forms["standard"]}))
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.component("toy").form == "standard"
    toy = bundle.component("toy", forms=("cuda", "standard"))
    assert (toy.form, toy.graph("encoder").name) == ("cuda", "encoder.cuda.onnx")
    assert bundle.component("toy", forms=("tensorrt", "standard")).form == "standard"
    with pytest.raises(BundleError, match="has no float32 graphs"):
        bundle.component("toy", forms=("tensorrt",))


def test_a_model_card_is_listed_kept_and_may_be_edited(root: Path, tmp_path: Path) -> None:
    (root / MODEL_CARD).write_text("what it knows")
    with pytest.raises(BundleError, match="does not list"):
        Bundle.open(root)
    for number, text in enumerate(("what it knows", "what it knows, and what it does not")):
        (root / MODEL_CARD).write_text(text)
        add_to_bundle(root, component(tmp_path / f"again{number}"))
        assert MODEL_CARD in Bundle.open(root).manifest.files
        assert (root / MODEL_CARD).read_text() == text
    (root / "other.md").write_text("x")
    with pytest.raises(BundleError, match="does not list"):
        add_to_bundle(root, component(tmp_path / "last"))


def test_a_trained_bundle_keeps_its_notes(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    add_to_bundle(root, component(tmp_path / "first", seed=None), notes="shapes only")
    assert add_to_bundle(root, component(tmp_path / "second", seed=None)).manifest.notes == "shapes only"
    assert "UNTRAINED" in add_to_bundle(root, component(tmp_path / "third"), notes="shapes only").manifest.notes
    assert add_to_bundle(root, component(tmp_path / "fourth", seed=None)).manifest.notes == ""


def test_random_weights_make_the_bundle_untrained(root: Path, tmp_path: Path) -> None:
    assert not Bundle.open(root).manifest.trained
    assert "UNTRAINED" in Bundle.open(root).manifest.notes
    assert add_to_bundle(root, component(tmp_path / "trained", seed=None)).manifest.trained


def test_absent_parts_are_named(root: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(root)
    with pytest.raises(BundleError, match="no component 'sam2'"):
        bundle.component("sam2")
    with pytest.raises(BundleError, match="no graph 'track'"):
        bundle.component("toy").graph("track")
    with pytest.raises(BundleError, match="no bundle at"):
        Bundle.open(tmp_path / "absent")
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(tmp_path)


def alter(root: Path) -> None:
    path = root / "toy/weights.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A fault in the manifest."""

    def apply(root: Path) -> None:
        manifest = json.loads((root / MANIFEST).read_text())
        change(manifest)
        (root / MANIFEST).write_text(json.dumps(manifest))

    return apply


def forms(manifest: dict) -> dict:
    entry: dict = manifest["components"]["toy"]["forms"]
    return entry


def precision(manifest: dict) -> dict:
    entry: dict = forms(manifest)["standard"]["float32"]
    return entry


def link(root: Path) -> None:
    (root / "toy/encoder.onnx").rename(root.parent / "elsewhere")
    os.symlink(root.parent / "elsewhere", root / "toy/encoder.onnx")


def link_folder(root: Path) -> None:
    (root / "toy").rename(root.parent / "toy")
    os.symlink(root.parent / "toy", root / "toy")


def pipe(root: Path) -> None:
    (root / "toy/vocab.txt").unlink()
    os.mkfifo(root / "toy/vocab.txt")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing file": (lambda root: (root / "toy/vocab.txt").unlink(), "lacks files"),
    "altered, same size": (alter, "was altered"),
    "another size": (lambda root: (root / "toy/vocab.txt").write_text("words"), "not the size"),
    "unlisted file": (lambda root: (root / "toy/extra.bin").write_text("x"), "does not list"),
    "unlisted hidden file": (lambda root: (root / ".hidden").write_text("x"), "does not list"),
    "linked file": (link, "links"),
    "linked folder": (link_folder, "links"),
    "manifest not JSON": (lambda root: (root / MANIFEST).write_text("{"), "not a JSON object"),
    "manifest a list": (lambda root: (root / MANIFEST).write_text("[]"), "not a JSON object"),
    "manifest not UTF-8": (lambda root: (root / MANIFEST).write_bytes(b"\xff\xfe"), "not UTF-8"),
    "another schema": (edit(lambda m: m.update(schema="alref-edge.bundle/9")), "another schema"),
    "a field too many": (edit(lambda m: m.update(extra=1)), "does not fit its schema"),
    "a field too few": (edit(lambda m: m.pop("components")), "does not fit its schema"),
    "escaping path": (edit(lambda m: m["files"].update({"../x": m["files"]["toy/vocab.txt"]})), "outside"),
    "absolute path": (edit(lambda m: m["files"].update({"/etc/passwd": m["files"]["toy/vocab.txt"]})), "outside"),
    "graph not listed": (edit(lambda m: precision(m)["graphs"].update(x="toy/y.onnx")), "does not list"),
    "no form": (edit(lambda m: m["components"]["toy"].update(forms={})), "has a form that there is not"),
    "an unknown form": (edit(lambda m: forms(m).update(rocm=forms(m)["standard"])), "has a form that there is not"),
    "no precision": (edit(lambda m: forms(m).update(standard={})), "has a precision that there is not"),
    "an unknown precision": (edit(lambda m: forms(m)["standard"].update(int4=precision(m))), "has a precision that"),
    "graphs are nothing": (edit(lambda m: precision(m).update(graphs=None)), "malformed"),
    "trained is a word": (edit(lambda m: m.update(trained="no")), "does not fit its schema"),
    "config is nothing": (edit(lambda m: m["components"]["toy"].update(config=None)), "malformed"),
    "nested without end": (lambda root: (root / MANIFEST).write_text("[" * 100_000), "not a JSON object"),
    "a pipe": (lambda root: os.mkfifo(root / "toy/pipe"), "does not list"),
    "a pipe in a file's place": (pipe, "not a regular file"),
    "malformed hash": (edit(lambda m: m["files"]["toy/vocab.txt"].update(sha256="12")), "malformed"),
    "negative size": (edit(lambda m: m["files"]["toy/vocab.txt"].update(size=-1)), "malformed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bundle_that_is_off_is_refused(root: Path, fault: str) -> None:
    spoil, said = FAULTS[fault]
    spoil(root)
    with pytest.raises(BundleError, match=said) as caught:
        Bundle.open(root)
    assert caught.value.mend


def test_sources(tmp_path: Path) -> None:
    checkpoint = tmp_path / "weights.pt"
    checkpoint.write_bytes(b"abc")
    assert source_of(None, 3) == {"seed": 3}
    assert source_of(checkpoint, None)["sha256"].startswith("ba7816bf")
    for wrong in [(None, None), (checkpoint, 1), (tmp_path / "absent.pt", None)]:
        with pytest.raises(InputError):
            source_of(*wrong)


def test_the_shipped_bundle_verifies() -> None:
    bundle = Bundle.open()
    assert set(bundle.manifest.components) >= {"sam2", "grounding_dino"}
    assert bundle.is_shipped
    assert default_bundle().name == "nano"


def test_the_shipped_bundle_is_small_and_has_two_precisions() -> None:
    manifest = Bundle.open().manifest
    for name in ("sam2", "grounding_dino"):
        assert set(manifest.components[name].precisions) == {"float32", "float16"}
    assert sum(entry.size for entry in manifest.files.values()) <= 8_000_000


def test_weights_outside_the_bundle_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4000))
    path = root / "toy/encoder.onnx"
    model = onnx.load(path, load_external_data=False)
    assert model.graph.initializer[0].external_data[0].key == "location"
    model.graph.initializer[0].external_data[0].value = "../../secret.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match="cannot be loaded"):
        open_session(path, device="cpu")
