"""Bundles whose hashes fit and whose contents are hostile, and files exchanged after they were verified."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from alref_edge.bundle import Bundle
from alref_edge.bundle.configs import KINDS
from alref_edge.bundle.manifest import MANIFEST, Manifest
from alref_edge.bundle.verify import sha256_of
from alref_edge.cli import app
from alref_edge.errors import AlrefError, BundleError, EngineError
from alref_edge.models.beats import Beats
from alref_edge.models.grounding_dino import GroundingDino
from alref_edge.models.languagebind import LanguageBind
from alref_edge.models.sam2 import Sam2Graphs
from alref_edge.models.yamnet import YamNet

onnx = pytest.importorskip("onnx")

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "engines" / "nano" / MANIFEST).read_text(encoding="utf-8")


def relist(root: Path, name: str) -> None:
    """List a file as it now stands, as whoever packs a hostile bundle does."""
    manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][name] = {"sha256": sha256_of(root / name), "size": (root / name).stat().st_size}
    (root / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture
def nano(tmp_path: Path, nano_bundle: Path) -> Path:
    """A copy of the shipped bundle."""
    return Path(shutil.copytree(nano_bundle, tmp_path / "bundle"))


# The manifest and its configurations.

# As JSON: what no field of a configuration takes.
NOWHERE = ("null", '"x"', '"16"', "1e999", "-1e999", "NaN", "Infinity", "1" + "0" * 400, "-1000000000000", "{}", "[]")
NO_NUMBER = ("true", "[1]", '{"a": 1}', "[[[[[[[[1]]]]]]]]")
NO_SIZE = ("1.5", "-1", "1000000000", "1e30")


def fields() -> Iterator[tuple[str, tuple[str | int, ...], str]]:
    """Component, way to a value of its configuration, and what is written there."""
    for name, component in json.loads(TEXT)["components"].items():
        for way, value in leaves(component["config"], ()):
            bad = NOWHERE + (("1", "0") if isinstance(value, bool) else ())
            if isinstance(value, list | dict):
                bad = (*(each for each in NOWHERE if each != "{}" or isinstance(value, list)), "[1, 2]", '{"a": ["x"]}')
            elif not isinstance(value, bool | str):
                bad += NO_NUMBER + (NO_SIZE if isinstance(value, int) else ())
            if isinstance(value, str):
                bad = tuple(each for each in NOWHERE if not each.startswith('"'))
            for text in bad:
                if not (way[-1] == "silence" and text == "null"):
                    yield name, way, text


def leaves(value: Any, way: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if way:
        yield way, value
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*way, key))


def with_value(component: str, way: tuple[str | int, ...], text: str) -> str:
    """The shipped manifest with a piece of JSON, valid or not, in a place of a configuration."""
    manifest = json.loads(TEXT)
    inner = manifest["components"][component]["config"]
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = "@@@"
    return json.dumps(manifest).replace('"@@@"', text)


def test_no_value_of_a_configuration_is_believed() -> None:
    cases = list(fields())
    assert len(cases) > 600
    began = time.monotonic()
    assert [case for case in cases if not refused(with_value(*case))] == []
    assert time.monotonic() - began < 60


def refused(text: str) -> bool:
    """Whether a manifest gets its error, with the way to mend it."""
    try:
        Manifest.from_json(text)
    except BundleError as error:
        return bool(error.mend)
    return False


def test_what_is_wrong_is_named() -> None:
    with pytest.raises(BundleError, match=r"component 'sam2' cannot be run.*<= 64.*\$\.num_maskmem"):
        Manifest.from_json(with_value("sam2", ("num_maskmem",), "1000000000"))
    with pytest.raises(BundleError, match=r"'grounding_dino' cannot be run.*\$\.swin\.depths\[1\]"):
        Manifest.from_json(with_value("grounding_dino", ("swin", "depths", 1), '"x"'))
    with pytest.raises(BundleError, match=r"'languagebind' cannot be run.*text_towers"):
        Manifest.from_json(with_value("languagebind", ("text_towers",), '{"audio": ["x"]}'))


@pytest.mark.parametrize("component", sorted(json.loads(TEXT)["components"]))
def test_a_configuration_lacks_nothing_and_has_nothing_more(component: str) -> None:
    manifest = json.loads(TEXT)
    config = manifest["components"][component]["config"]
    for key in [*config, "colour"]:
        changed = (
            {name: value for name, value in config.items() if name != key} if key in config else {**config, key: 1}
        )
        manifest["components"][component]["config"] = changed
        if key != "family":  # for people
            with pytest.raises(BundleError, match=key):
                Manifest.from_json(json.dumps(manifest))


@pytest.mark.parametrize("component", sorted(json.loads(TEXT)["components"]))
def test_a_component_has_the_graphs_and_files_of_its_network(component: str) -> None:
    entry = json.loads(TEXT)["components"][component]
    sets = [(form, precision) for form, each in entry["forms"].items() for precision in each]
    for (form, precision), graph in itertools.product(sets, entry["forms"]["standard"]["float32"]["graphs"]):
        manifest = json.loads(TEXT)
        del manifest["components"][component]["forms"][form][precision]["graphs"][graph]
        with pytest.raises(BundleError, match=rf"lacks {form} {precision} graphs.*{graph}"):
            Manifest.from_json(json.dumps(manifest))
    for file in entry["files"]:
        manifest = json.loads(TEXT)
        del manifest["components"][component]["files"][file]
        with pytest.raises(BundleError, match=f"lacks files.*{file}"):
            Manifest.from_json(json.dumps(manifest))


def test_every_number_of_every_configuration_has_bounds() -> None:
    def unbounded(kind: Any, way: str) -> Iterator[str]:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for name, inner in typing.get_type_hints(kind, include_extras=True).items():
                if typing.get_origin(inner) is not typing.ClassVar:
                    yield from unbounded(inner, f"{way}.{name}")
        elif typing.get_origin(kind) is typing.Annotated:
            (meta,) = kind.__metadata__
            if kind.__origin__ in (int, float) and (meta.le is meta.lt or meta.ge is meta.gt):
                yield way
        elif typing.get_args(kind):
            for inner in typing.get_args(kind):
                yield from unbounded(inner, way)
        elif kind in (int, float):
            yield way

    assert [way for name, kind in KINDS.items() for way in unbounded(kind, name)] == []


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a file of no size": lambda m: m["files"]["sam2/weights.bin"].update(size=None),
    "a file of a size in words": lambda m: m["files"]["sam2/weights.bin"].update(size="many"),
    "a file beyond any disk": lambda m: m["files"]["sam2/weights.bin"].update(size=1 << 40),
    "a hash with an end of line": lambda m: m["files"]["sam2/weights.bin"].update(sha256="0" * 64 + "\n"),
    "a file with a field more": lambda m: m["files"]["sam2/weights.bin"].update(mode=7),
    "ten thousand files": lambda m: m["files"].update({f"f{n}": m["files"]["MODEL_CARD.md"] for n in range(10_000)}),
    "folders in folders": lambda m: m["files"].update({"a/" * 100 + "b": m["files"]["MODEL_CARD.md"]}),
    "a name with a zero": lambda m: m["files"].update({"a\0b": m["files"]["MODEL_CARD.md"]}),
    "a graph that is no file": lambda m: m["components"]["sam2"]["forms"]["standard"]["float32"]["graphs"].update(
        track=7
    ),
    "tolerances in words": lambda m: m["components"]["yamnet"]["forms"]["standard"]["float32"].update(
        tolerances={"x": "y"}
    ),
    "a source of a source": lambda m: m["components"]["yamnet"].update(source={"a": {"b": {}}}),
    "a licence as long as a book": lambda m: m["components"]["yamnet"].update(licence="x" * 10_000),
    "a component that is a list": lambda m: m["components"].update(sam2=[]),
    "a component with a strange name": lambda m: m["components"].update({"\x1b[2J": m["components"]["sam2"]}),
    "a thousand components": lambda m: m["components"].update({f"c{n}": m["components"]["sam2"] for n in range(1000)}),
    "notes that are a number": lambda m: m.update(notes=1e3),
    "defaults that are a list": lambda m: m.update(defaults=[1]),
    "a schema that is a list": lambda m: m.update(schema=["alref-edge.bundle/2"]),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_hostile_manifest_is_refused(name: str) -> None:
    manifest = json.loads(TEXT)
    MANIFESTS[name](manifest)
    with pytest.raises(BundleError) as caught:
        Manifest.from_json(json.dumps(manifest))
    assert caught.value.mend
    assert len(str(caught.value)) < 2000


# Files.


def sparse(path: Path, size: int) -> None:
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def listed_at(root: Path, name: str, size: int) -> None:
    manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    manifest["files"][name]["size"] = size
    (root / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def vast(size: int) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        sparse(root / "sam2/weights.bin", size)
        listed_at(root, "sam2/weights.bin", size)

    return make


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        (root / name).write_bytes(content)
        relist(root, name)

    return make


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a manifest of 3 GiB": (lambda root: sparse(root / MANIFEST, 3 << 30), "larger than it may be"),
    "a manifest of 64 GiB": (lambda root: sparse(root / MANIFEST, 64 << 30), "larger than it may be"),
    "a manifest that is a pipe": (lambda r: ((r / MANIFEST).unlink(), os.mkfifo(r / MANIFEST)), "not a regular file"),
    "a manifest that is a folder": (lambda r: ((r / MANIFEST).unlink(), (r / MANIFEST).mkdir()), "not a regular file"),
    "a manifest that is a link": (
        lambda r: ((r / MANIFEST).rename(r.parent / "m"), (r / MANIFEST).symlink_to(r.parent / "m")),
        "not a bundle",
    ),
    "weights of 1 TiB": (vast(1 << 40), "does not fit its schema"),
    "weights of 60 GiB of nothing": (vast(60 << 30), "mostly holes"),
    "weights larger than listed": (lambda root: sparse(root / "sam2/weights.bin", 1 << 40), "not the size"),
    "a vocabulary of 50 MB": (written("grounding_dino/vocab.txt", b"a\n" * 25_000_000), "larger than it may be"),
    "labels of 2 MB": (written("beats_as2m/labels.json", b" " * (2 << 20)), "larger than it may be"),
    "a graph of 20 MB": (written("sam2/track.onnx", b"\0" * (20 << 20)), "larger than it may be"),
    "ten thousand files more": (
        lambda root: [(root / f"x{number}").write_bytes(b"") for number in range(3000)],
        "more than a bundle can",
    ),
    "a hundred folders of a hundred": (
        lambda root: [
            (root / f"x{number}/y{inner}").mkdir(parents=True) for number in range(50) for inner in range(60)
        ],
        "more than a bundle can",
    ),
    "folders without end": (lambda root: (root / ("a/" * 40)).mkdir(parents=True), "more than a bundle can"),
}


@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_refused_before_they_cost_anything(nano: Path, name: str) -> None:
    spoil, said = FILES[name]
    spoil(nano)
    began = time.monotonic()
    with pytest.raises(BundleError, match=said) as caught:
        Bundle.open(nano)
    assert caught.value.mend
    assert time.monotonic() - began < 5


TABLES: dict[str, tuple[str, bytes]] = {
    "labels nested without end": ("beats_as20k/labels.json", b"[" * 100_000),
    "labels nested and closed": ("beats_as20k/labels.json", b"[" * 100_000 + b"]" * 100_000),
    "labels that are numbers": ("beats_as20k/labels.json", b"[[1, 2]]"),
    "labels of three": ("beats_as20k/labels.json", b'[["a", "b", "c"]]'),
    "labels without a name": ("beats_as20k/labels.json", b"[" + b'["a", "b"], ' * 6 + b'["c", " "]]'),
    "a label too many": ("beats_as20k/labels.json", b'[["a", "b"], ["c", "d"]]'),
    "labels that are no text": ("beats_as20k/labels.json", b'[["\xff", "b"]]'),
    "a vocabulary nested without end": ("languagebind/vocab.json", b'{"a":' * 100_000),
    "ids that are no numbers": ("languagebind/vocab.json", b'{"<|startoftext|>": 1, "<|endoftext|>": 1e999}'),
    "ids below none": ("languagebind/vocab.json", b'{"<|startoftext|>": -1, "<|endoftext|>": 2}'),
    "ids beyond bounds": ("languagebind/vocab.json", b'{"<|startoftext|>": 1, "<|endoftext|>": 18446744073709551615}'),
    "merges of strangers": ("languagebind/merges.txt", b"q\xc3\xa9 zz\n"),
    "merges that are no text": ("languagebind/merges.txt", b"\xff\xfe"),
    "words that are no text": ("grounding_dino/vocab.txt", b"\xff\xfe"),
    "no words": ("grounding_dino/vocab.txt", b"\n" * 1000),
}


@pytest.mark.parametrize("name", TABLES)
def test_hostile_tables_are_refused(nano: Path, name: str) -> None:
    path, content = TABLES[name]
    written(path, content)(nano)
    component = Bundle.open(nano).component(path.split("/")[0])
    with pytest.raises(BundleError) as caught:
        NETWORKS[component.kind](component, "cpu")
    assert caught.value.mend


# What a graph promises.

NETWORKS: dict[str, Callable[..., Any]] = {
    "beats": Beats.from_component,
    "grounding_dino": GroundingDino.from_component,
    "languagebind": LanguageBind.from_component,
    "yamnet": YamNet.from_component,
    "sam2": lambda component, device: [Sam2Graphs.open(component, device).session(each) for each in component.graphs],
}


def without(model: Any, name: str) -> None:
    kept = [each for each in model.graph.output if each.name != name]
    del model.graph.output[:]
    model.graph.output.extend(kept)


def dims(model: Any, name: str, *shape: int | str) -> None:
    """Declare an output of another shape, and make it so."""
    value = next(each for each in model.graph.output if each.name == name)
    kind = value.type.tensor_type.elem_type
    value.CopyFrom(onnx.helper.make_tensor_value_info(name, kind, list(shape)))
    node = next(each for each in model.graph.node if name in each.output)
    node.output[list(node.output).index(name)] = f"{name}/before"
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([each if isinstance(each, int) else -1 for each in shape]), f"{name}/s")
    )
    flat = onnx.numpy_helper.from_array(np.array([-1]), f"{name}/f")
    zero = onnx.numpy_helper.from_array(np.array([0]), f"{name}/z")
    model.graph.initializer.extend([flat, zero])
    model.graph.node.extend(
        [
            onnx.helper.make_node("Reshape", [f"{name}/before", f"{name}/f"], [f"{name}/flat"]),
            onnx.helper.make_node("Gather", [f"{name}/flat", f"{name}/z"], [f"{name}/one"], axis=0),
            onnx.helper.make_node("Squeeze", [f"{name}/one"], [f"{name}/scalar"]),
            onnx.helper.make_node("Expand", [f"{name}/scalar", f"{name}/s"], [name]),
        ]
    )


def renamed(model: Any, name: str) -> None:
    value = next(each for each in model.graph.input if each.name == name)
    value.name = "stranger"
    for node in model.graph.node:
        for place, each in enumerate(node.input):
            node.input[place] = "stranger" if each == name else each


def outputs() -> Iterator[tuple[str, str, str]]:
    for name, component in json.loads(TEXT)["components"].items():
        if name == "beats_as20k":
            continue  # the same as beats_as2m
        for path in component["forms"]["standard"]["float32"]["graphs"].values():
            model = onnx.load(ROOT / "engines" / "nano" / path, load_external_data=False)
            yield from ((name, path, each.name) for each in model.graph.output if each.name != "iou")


@pytest.mark.parametrize(("name", "path", "output"), list(outputs()), ids=lambda each: each.rsplit("/")[-1])
def test_a_graph_without_what_its_network_needs_does_not_open(nano: Path, name: str, path: str, output: str) -> None:
    changes: dict[str, Callable[[Any], object]] = {
        "missing": lambda model: without(model, output),
        "a number": lambda model: dims(model, output),
        "empty": lambda model: dims(model, output, 0),
        "of another size": lambda model: dims(model, output, 3, 5, 7, 9),
        "another input": lambda model: renamed(model, model.graph.input[0].name),
    }
    original = onnx.load(nano / path, load_external_data=False)
    component = Bundle.open(nano).component(name)
    # By hand: the signature is what is looked at here, and a bundle for each would cost minutes.
    by_hand = dataclasses.replace(component, opened={})
    for change in changes.values():
        model = type(original)()
        model.CopyFrom(original)
        change(model)
        (nano / path).write_bytes(model.SerializeToString())
        with pytest.raises((BundleError, EngineError)) as caught:
            NETWORKS[component.kind](by_hand, "cpu")
        assert caught.value.mend


# What is verified is what runs.


def replaced(path: Path, content: bytes) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(content)
    other.replace(path)


def linked(path: Path, content: bytes) -> None:
    elsewhere = path.parent.parent.parent / "elsewhere"
    elsewhere.write_bytes(content)
    path.unlink()
    path.symlink_to(elsewhere)


def overwritten(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        file.write(content)


def cut(path: Path, content: bytes) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path, content: bytes) -> None:
    os.truncate(path, 0)


def mask(bundle: Bundle) -> np.ndarray:
    """What the networks of a bundle answer: every file of SAM 2's and Grounding DINO's takes part."""
    image = (np.random.default_rng(0).random((64, 96, 3)) * 255).astype(np.uint8)
    with GroundingDino.from_component(bundle.component("grounding_dino"), "cpu") as detector:
        found = detector.predict_raw(detector.encode_image(image), detector.encode_text("the red circle"))
    with Sam2Graphs.open(bundle.component("sam2"), "cpu") as graphs:
        spec = graphs.session("track").inputs
        feeds = {
            name: np.ones([each if isinstance(each, int) else 1 for each in tensor.shape], tensor.dtype)
            for name, tensor in spec.items()
        }
        feeds["slots"] *= 0
        tracked = graphs.session("track").run(feeds)["low_res"]
    return np.concatenate([each.ravel() for each in (*found, tracked)])


@pytest.mark.parametrize("way", [replaced, linked, overwritten, cut, emptied], ids=lambda way: way.__name__)
@pytest.mark.parametrize(
    "name", ["sam2/track.onnx", "sam2/weights.bin", "grounding_dino/weights.bin", "grounding_dino/vocab.txt"]
)
def test_what_was_verified_is_what_runs(nano: Path, name: str, way: Callable[[Path, bytes], None]) -> None:
    expected = mask(Bundle.open())
    bundle = Bundle.open(nano)
    time.sleep(0.02)  # file systems tell times to some milliseconds
    content = bytearray((nano / name).read_bytes())
    content[len(content) // 2 :: 7] = bytes(len(content[len(content) // 2 :: 7]))
    way(nano / name, bytes(content))
    if way in (replaced, linked):
        np.testing.assert_array_equal(mask(bundle), expected)
    else:
        with pytest.raises(BundleError, match=rf"{name} was altered"):
            mask(bundle)


def test_files_given_back_their_times_are_looked_at_again(nano: Path) -> None:
    bundle = Bundle.open(nano)
    path = nano / "sam2/weights.bin"
    before = path.stat()
    time.sleep(0.02)
    overwritten(path, b"\1" * 1000)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BundleError, match="altered"):
        mask(bundle)
    overwritten(path, (ROOT / "engines/nano/sam2/weights.bin").read_bytes())
    np.testing.assert_array_equal(mask(bundle), mask(Bundle.open()))


def test_a_bundle_leaves_no_file_open(nano_bundle: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    bundle = Bundle.open(nano_bundle)
    assert len(os.listdir("/proc/self/fd")) == before + len(bundle.manifest.files)
    del bundle
    assert len(os.listdir("/proc/self/fd")) == before


# From the command line.

REQUESTS: dict[str, tuple[Callable[[Path], object], int]] = {
    "a configuration without bounds": (
        lambda root: (root / MANIFEST).write_text(with_value("sam2", ("num_maskmem",), "1000000000")),
        BundleError.exit_code,
    ),
    "a configuration of no number": (
        lambda root: (root / MANIFEST).write_text(with_value("sam2", ("pixel_std", 0), "NaN")),
        BundleError.exit_code,
    ),
    "a vocabulary of 50 MB": (FILES["a vocabulary of 50 MB"][0], BundleError.exit_code),
    "a manifest of 3 GiB": (FILES["a manifest of 3 GiB"][0], BundleError.exit_code),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_command_line_says_it_in_a_line(nano: Path, name: str) -> None:
    spoil, code = REQUESTS[name]
    spoil(nano)
    done = CliRunner().invoke(app, ["bundle", "verify", str(nano)])
    assert done.exit_code == code
    assert isinstance(done.exception, SystemExit)
    assert done.stderr.startswith("error: ")
    assert issubclass(BundleError, AlrefError)


def test_reading_a_hostile_manifest_takes_little_memory(nano: Path) -> None:
    sparse(nano / MANIFEST, 3 << 30)
    code = (
        "import re, sys\nfrom pathlib import Path\nfrom alref_edge.bundle import Bundle\n"
        "try:\n    Bundle.open(sys.argv[1])\nexcept Exception as error:\n    print(type(error).__name__)\n"
        # The peak of this process alone: that of getrusage may be the parent's.
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(nano)], capture_output=True, text=True, check=True)
    error, kilobytes = done.stdout.split()
    assert error == "BundleError"
    assert int(kilobytes) < 300_000
