"""Bad inputs: each gets its named error, a message that says the mend, its exit code, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from alref_edge.bundle.verify import sha256_of
from alref_edge.cli import app
from alref_edge.errors import AlrefError, BundleError, EngineError, InputError, MediaError, ProviderError
from alref_edge.runtime import SessionOptions, open_session
from alref_edge.runtime.device import Placement
from alref_edge.runtime.ort import CUDA, probe
from tests.media.clips import cut, make_clip, make_folder, make_sound


@dataclass
class Case:
    """One bad request.

    Attributes:
        error: the class that it must get.
        words: what the message must hold; the last one belongs to the mend.
        make: prepares the place (a folder with `clip.mp4` in it) and gives further arguments.
        video: VIDEO.
        text: the sentences.
        bundle: makes the bundle bad, given a copy of the shipped one.
        extra: further arguments.
        command: rvos or avs.
    """

    error: type[AlrefError]
    words: tuple[str, ...]
    make: Callable[[Path], list[str] | None] = lambda place: None
    video: str = "clip.mp4"
    text: tuple[str, ...] = ("a red ball",)
    bundle: Callable[[Path], object] | None = None
    extra: list[str] = field(default_factory=list)
    command: str = "rvos"


def pivots_file(*pivots: dict[str, Any], text: str = "a red ball", schema: str = "alref-edge.pivots/1") -> Any:
    def make(place: Path) -> list[str]:
        raw = {"schema": schema, "sentences": [{"text": text, "pivots": list(pivots)}]}
        (place / "pivots.json").write_text(json.dumps(raw))
        return ["--selector", "replay", "--pivots", "pivots.json"]

    return make


def raw_pivots(content: bytes) -> Any:
    def make(place: Path) -> list[str]:
        (place / "pivots.json").write_bytes(content)
        return ["--selector", "replay", "--pivots", "pivots.json"]

    return make


def writes(name: str, content: bytes) -> Any:
    return lambda place: (place / name).write_bytes(content) and None


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """A bundle whose manifest was changed."""

    def edit(bundle: Path) -> None:
        manifest = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
        change(manifest)
        (bundle / "bundle.json").write_text(json.dumps(manifest), encoding="utf-8")

    return edit


def relisted(name: str, content: bytes) -> Callable[[Path], object]:
    """A bundle in which a file was changed and listed anew, as an exporter's fault would be."""

    def replace(bundle: Path) -> None:
        (bundle / name).write_bytes(content)
        entry = {"sha256": sha256_of(bundle / name), "size": len(content)}
        edited(lambda manifest: manifest["files"].update({name: entry}))(bundle)

    return replace


def first_graph(bundle: Path) -> Path:
    return bundle / "grounding_dino" / "backbone.onnx"


def prompt_graph(bundle: Path) -> bytes:
    return (bundle / "sam2" / "prompt.onnx").read_bytes()


def mixed_sizes(place: Path) -> None:
    make_folder(place / "frames", frames=3)
    Image.new("RGB", (32, 32)).save(place / "frames" / "00003.png")


def damaged_frame(place: Path) -> None:
    make_folder(place / "frames", frames=12)
    cut(place / "frames" / "00010.png", place / "frames" / "00010.png", 0.4)


def linked(bundle: Path) -> None:
    graph = first_graph(bundle)
    graph.rename(bundle.parent / "elsewhere.onnx")
    graph.symlink_to(bundle.parent / "elsewhere.onnx")


def escaping(manifest: dict[str, Any]) -> None:
    manifest["files"]["../elsewhere.onnx"] = next(iter(manifest["files"].values()))


def without_size(manifest: dict[str, Any]) -> None:
    del manifest["components"]["sam2"]["config"]["image_size"]


def occupied(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "precious.txt").write_text("keep me")


BOX = [1, 1, 50, 50]
CASES: dict[str, Case] = {
    # The video.
    "missing": Case(MediaError, ("does not exist", "check the path"), video="nothing.mp4"),
    "address": Case(MediaError, ("an address", "copy the video"), video="https://example.org/clip.mp4"),
    "zero bytes": Case(MediaError, ("0 bytes", "copy the file again"), writes("bad.mp4", b""), "bad.mp4"),
    "truncated": Case(
        MediaError, ("bad.mp4", "To mend it"), lambda place: cut(place / "clip.mp4", place / "bad.mp4", 0.6) and None,
        "bad.mp4",
    ),
    "no video": Case(MediaError, ("bad.mp4", "To mend it"), writes("bad.mp4", b"just words " * 50), "bad.mp4"),
    "audio only": Case(
        MediaError, ("tone.wav", "To mend it"), lambda place: make_sound(place / "tone.wav") and None, "tone.wav"
    ),
    "folder without frames": Case(
        MediaError, ("no frames", "ffmpeg"), lambda place: (place / "frames").mkdir(), "frames"
    ),
    "mixed sizes": Case(MediaError, ("another size", "scale the frames"), mixed_sizes, "frames"),
    "damaged frame": Case(MediaError, ("00010.png", "again"), damaged_frame, "frames"),
    "too many bytes": Case(MediaError, ("bytes", "raise the limit: --limit-bytes"), extra=["--limit-bytes", "100"]),
    "too many pixels": Case(MediaError, ("pixels", "the limit: --limit-pixels"), extra=["--limit-pixels", "1000"]),
    "too many frames": Case(MediaError, ("frames", "raise the limit: --limit-frames"), extra=["--limit-frames", "5"]),
    "too long": Case(MediaError, ("duration", "raise the limit: --limit-seconds"), extra=["--limit-seconds", "0.1"]),
    "a limit of nothing": Case(InputError, ("limit", "above 0"), extra=["--limit-frames", "0"]),
    # The sentences.
    "no sentence": Case(InputError, ("sentences", "--text", "alref-edge avs"), text=()),
    "empty sentence": Case(InputError, ("empty", "say in words"), text=("a red ball", "  ")),
    "only periods": Case(InputError, ("empty", "say in words"), text=(" . . ? ",)),
    "too many words": Case(InputError, ("too long", "shorten it"), text=("a red ball " * 120,)),
    "too many characters": Case(InputError, ("too long", "shorten it"), text=("red " * 2000,)),
    "no Latin letter": Case(InputError, ("No word", "English"), text=("ᚠᚢᚦᚨᚱᚲ ᚷᚹ",)),
    "no file of sentences": Case(InputError, ("cannot be read", "check the path"), extra=["--text-file", "none.txt"]),
    "sentences in another encoding": Case(
        InputError, ("cannot be read", "UTF-8"), writes("latin.txt", b"caf\xe9\n"), extra=["--text-file", "latin.txt"]
    ),
    # The bundle.
    "no bundle": Case(
        BundleError, ("no bundle", "python -m export"), bundle=lambda bundle: bundle.rename(bundle.parent / "moved")
    ),
    "no manifest": Case(
        BundleError, ("not a bundle", "export"), bundle=lambda bundle: (bundle / "bundle.json").unlink()
    ),
    "missing file": Case(BundleError, ("lacks files", "export"), bundle=lambda bundle: first_graph(bundle).unlink()),
    "altered file": Case(
        BundleError, ("altered", "export"),
        bundle=lambda bundle: first_graph(bundle).write_bytes(first_graph(bundle).read_bytes()[:-1] + b"?"),
    ),
    "shortened file": Case(
        BundleError, ("size", "export"), bundle=lambda bundle: cut(first_graph(bundle), first_graph(bundle), 0.5)
    ),
    "unlisted file": Case(
        BundleError, ("does not list", "move them"), bundle=lambda bundle: (bundle / "more.onnx").write_bytes(b"x")
    ),
    "linked file": Case(BundleError, ("links", "replace the link"), bundle=linked),
    "escaping path": Case(BundleError, ("outside the bundle", "export"), bundle=edited(escaping)),
    "another schema": Case(
        BundleError, ("another schema", "export"), bundle=edited(lambda manifest: manifest.update(schema="other/9"))
    ),
    "manifest is no JSON": Case(
        BundleError, ("JSON", "export"), bundle=lambda bundle: (bundle / "bundle.json").write_text("{'a': 1}")
    ),
    "manifest with a field too many": Case(
        BundleError, ("schema", "export"), bundle=edited(lambda manifest: manifest.update(colour="red"))
    ),
    "no such component": Case(
        BundleError, ("no component 'grounding_dino'", "python -m export grounding_dino"),
        bundle=edited(lambda manifest: manifest["components"].pop("grounding_dino")),
    ),
    "incomplete configuration": Case(BundleError, ("onfiguration", "export"), bundle=edited(without_size)),
    "a configuration beyond bounds": Case(
        BundleError, ("num_maskmem", "export"),
        bundle=edited(lambda manifest: manifest["components"]["sam2"]["config"].update(num_maskmem=10**9)),
    ),
    "a vocabulary of 50 MB": Case(
        BundleError, ("larger", "export"), bundle=relisted("grounding_dino/vocab.txt", b"a\n" * 25_000_000)
    ),
    "another network's graph": Case(
        EngineError, ("backbone.onnx", "export"),
        bundle=lambda bundle: relisted("grounding_dino/backbone.onnx", prompt_graph(bundle))(bundle),
    ),
    "senseless defaults": Case(
        BundleError, ("default settings", "export"),
        bundle=edited(lambda manifest: manifest.update(defaults={"rvos": {"sample_step": 0}})),
    ),
    "a graph that is none": Case(
        EngineError, ("backbone.onnx", "export"), bundle=relisted("grounding_dino/backbone.onnx", b"not a graph")
    ),
    "a precision that there is not": Case(
        InputError, ("float32 or float16", "the bundle has: float32"), extra=["--precision", "float8"]
    ),
    # The device.
    "unknown device": Case(ProviderError, ("no such device", "choose"), extra=["--device", "npu"]),
    "no CUDA": Case(ProviderError, (CUDA, "--allow-fallback"), extra=["--device", "cuda"]),
    # The sound.
    "a picture for a sound": Case(
        MediaError, ("a JPEG image", "give a sound"),
        lambda place: Image.new("RGB", (64, 48)).save(place / "a.jpg") or ["--audio", "a.jpg"], text=(), command="avs",
    ),
    "words for a sound": Case(
        MediaError, ("Got: text", "give a sound"),
        lambda place: writes("a.wav", b"just words " * 50)(place) or ["--audio", "a.wav"], text=(), command="avs",
    ),
    "too long a sound": Case(
        MediaError, ("limit", "--limit-seconds"),
        lambda place: make_sound(place / "a.wav") and ["--audio", "a.wav", "--limit-seconds", "0.6"],
        text=(), command="avs",
    ),
    # Where the result goes.
    "output below a file": Case(InputError, ("cannot be written", "--out"), extra=["--out", "clip.mp4/out"]),
    "output is a file": Case(InputError, ("not a folder", "--out"), extra=["--out", "clip.mp4"]),
    "output in a place that takes none": Case(
        InputError, ("cannot be written", "--out"), extra=["--out", "/proc/no/out"]
    ),
    "output is occupied": Case(InputError, ("not empty", "--overwrite"), occupied),
    "output holds something else": Case(InputError, ("something else", "--out"), occupied, extra=["--overwrite"]),
    "unknown form of masks": Case(InputError, ("form of masks", "png, rle, none"), extra=["--masks", "gif"]),
    # The selector and its file.
    "unknown selector": Case(InputError, ("no such selector", "choose one"), extra=["--selector", "oracle"]),
    "replay without a file": Case(InputError, ("--pivots FILE", "give both"), extra=["--selector", "replay"]),
    "no file of pivots": Case(
        InputError, ("cannot be read", "check the path"), extra=["--selector", "replay", "--pivots", "none.json"]
    ),
    "pivots are no JSON": Case(InputError, ("not JSON", "write it as"), raw_pivots(b"\xff{")),
    "pivots of another schema": Case(InputError, ("schema", "write it as"), pivots_file(schema="other/1")),
    "pivots of another sentence": Case(InputError, ("this sentence", "in --text"), pivots_file(text="a blue cube")),
    "pivot beyond the video": Case(
        InputError, ("beyond the video", "made for this video"), pivots_file({"frame": 12, "box": BOX})
    ),
    "pivot outside the frame": Case(
        InputError, ("outside the frame", "made for this video"), pivots_file({"frame": 3, "box": [200, 10, 260, 40]})
    ),
    "pivot with its corners swapped": Case(
        InputError, ("x0 < x1", "write it as"), pivots_file({"frame": 3, "box": [50, 50, 1, 1]})
    ),
    "two pivots on one frame": Case(
        InputError, ("one pivot a frame", "write it as"), pivots_file(*2 * [{"frame": 3, "box": BOX}])
    ),
    # Numbers.
    "one pivot in attention": Case(
        InputError, ("max_pivots_in_attention", "change it"), extra=["--max-pivots-in-attention", "1"]
    ),
    "a hole of negative area": Case(InputError, ("fill_hole_area", "change it"), extra=["--fill-holes", "-3"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 12 frames, 128x96."""
    return make_clip(tmp_path_factory.mktemp("good") / "clip.mp4", frames=12)


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if "bundle" not in path.relative_to(folder).parts
    }


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 25


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, clip: Path, nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    if name == "no CUDA" and probe(Placement("cuda")).works:
        pytest.skip("CUDA works here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "dumb")
    shutil.copy(clip, tmp_path / "clip.mp4")
    arguments = [case.command, case.video]
    for text in case.text:
        arguments += ["--text", text]
    bundle = nano_bundle
    if case.bundle is not None:
        bundle = Path(shutil.copytree(nano_bundle, tmp_path / "bundle"))
        case.bundle(bundle)
    arguments += [*(case.make(tmp_path) or []), "--bundle", str(bundle), *case.extra]
    arguments += [] if "--out" in case.extra else ["--out", "out"]
    arguments += [] if "--device" in case.extra else ["--device", "cpu"]
    before = contents(tmp_path)

    done = CliRunner().invoke(app, arguments)
    raised = CliRunner().invoke(app, [*arguments, "--debug"]).exception

    assert type(raised) is case.error, raised
    assert done.exit_code == case.error.exit_code
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("using the shipped bundle")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    for words in case.words:
        assert words in lines[0]
    assert contents(tmp_path) == before


def good_feeds(session: Any) -> dict[str, np.ndarray]:
    sizes = {"B": 1}
    return {
        name: np.zeros([size if isinstance(size, int) else sizes.get(size, 1) for size in spec.shape], spec.dtype)
        for name, spec in session.inputs.items()
    }


def test_tensors_that_do_not_fit_a_session_are_refused(nano_bundle: Path) -> None:
    with open_session(nano_bundle / "sam2" / "image_encoder.onnx", device="cpu") as session:
        good = good_feeds(session)
        (name,) = good
        session.run(good)
        for bad, words in (
            ({name: good[name].astype(np.float64)}, "float64"),
            ({name: good[name][:, :, 1:]}, "does not fit"),
            ({name: good[name][0]}, "does not fit"),
            ({"picture": good[name]}, "names do not fit"),
            ({}, "names do not fit"),
        ):
            with pytest.raises(EngineError, match=words) as caught:
                session.run(bad)
            assert caught.value.exit_code == 5
    with pytest.raises(EngineError, match="open it again"):
        session.run(good)
    with pytest.raises(EngineError, match="fewer than no threads"):
        SessionOptions(threads=-1)
    with pytest.raises(EngineError, match="no graph at"):
        open_session(nano_bundle / "sam2" / "nothing.onnx", device="cpu")
