"""The command line, as a user meets it."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.cli.console import printable, progress_line, warn
from alref_edge.cli.rvos import read_sentences
from alref_edge.datasets.synthetic import make_scene
from alref_edge.media import open_video
from alref_edge.pipeline.measure import Progress
from tests.media.clips import make_clip

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "alref_edge"]


def alref(
    *arguments: object, cwd: Path | None = None, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [*prefix, *COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 12 frames, with sound-free H.264."""
    return make_clip(tmp_path_factory.mktemp("cli") / "clip.mp4", frames=12)


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        done = alref("--help")
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert "doctor" in done.stdout
    assert "Exit codes" in done.stdout
    assert min(seconds) < 0.4


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, alref_edge.cli\n"
        "heavy = {'numpy', 'rich', 'av', 'PIL', 'onnxruntime', 'tokenizers', 'pycocotools', 'soxr'}\n"
        "heavy.add('importlib.metadata')\n"
        "print(*heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"importlib.metadata"}


def test_the_version_is_printed() -> None:
    done = alref("--version")
    assert done.stdout.startswith("alref-edge ")
    assert done.returncode == 0


def test_real_frames_end_to_end(media: Path, tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    for frame, image in open_video(media / "dog_silent_audio.mp4").frames(stop=21):
        Image.fromarray(image).save(tmp_path / "dog" / f"{frame:03d}.jpg", quality=95)
    done = alref(
        "rvos", "dog", "--text", "the dog", "--text", "a person on the left", "--out", "out", "--device", "cpu",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    frames = record["input"]["frames"]
    assert frames == record["counters"]["frames"] == 21
    assert record["counters"]["encoded_forward"] <= frames
    assert record["counters"]["encoded_backward"] <= frames
    assert (tmp_path / "out" / "overlay.mp4").stat().st_size > 1000
    for entry in record["sentences"]:
        names = sorted(path.name for path in (tmp_path / "out" / entry["masks"]["folder"]).iterdir())
        assert names == [f"{frame:03d}.png" for frame in range(frames)]
        assert entry["pivots"]
        assert entry["text"] in done.stdout
    assert 'using the shipped bundle "nano"' in done.stderr
    assert "\x1b" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dog", "out"]


def test_without_a_network_it_prints_the_same(clip: Path, tmp_path: Path) -> None:
    cut_off = ("unshare", "--net", "--map-root-user")
    if not shutil.which("unshare") or subprocess.run([*cut_off, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not permit unshare --net")
    arguments = ("rvos", clip, "--text", "a ball", "--text", "a wall", "--out", "out", "--device", "cpu")
    printed = []
    for prefix in ((), cut_off):
        done = alref(*arguments, "--overwrite", cwd=tmp_path, prefix=prefix)
        masks = [path.read_bytes() for path in sorted((tmp_path / "out" / "masks").rglob("*.png"))]
        printed.append((done.returncode, done.stdout, done.stderr, masks))
    assert printed[0][0] == 0
    assert printed[0] == printed[1]


def test_json_on_stdout_is_the_result_file_and_replays_to_the_same_masks(clip: Path, tmp_path: Path) -> None:
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("a ball\n\na wall\n", encoding="utf-8")
    first = alref("rvos", clip, "--text-file", sentences, "--out", "one", "--json", "--no-overlay", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)
    assert record == json.loads((tmp_path / "one" / "result.json").read_text())
    assert [entry["text"] for entry in record["sentences"]] == ["a ball", "a wall"]
    assert record["overlay"] is None
    again = alref(
        "rvos", clip, "--text-file", sentences, "--selector", "replay", "--pivots", tmp_path / "one" / "result.json",
        "--out", "two", "--no-overlay", cwd=tmp_path,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    for path in (tmp_path / "two" / "masks").rglob("*.png"):
        theirs = tmp_path / "one" / path.relative_to(tmp_path / "two")
        with Image.open(path) as mine, Image.open(theirs) as other:
            np.testing.assert_array_equal(np.asarray(mine) > 0, np.asarray(other) > 0)


def test_the_output_folder_is_named_after_the_input(clip: Path, tmp_path: Path) -> None:
    for _ in range(2):
        done = alref(
            "rvos", clip, "--text", "a ball", "--masks", "rle", "--no-overlay", "--report", "--overwrite", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    out = tmp_path / "clip-alref"
    assert sorted(path.name for path in out.iterdir()) == ["masks", "report.html", "result.json"]
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["00-a-ball.json"]
    assert "a ball" in (out / "report.html").read_text(encoding="utf-8")


def test_a_byte_order_mark_is_no_part_of_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "sentences.txt").write_text("\ufeffa ball\na wall\n", encoding="utf-8")
    assert read_sentences(["a dog"], tmp_path / "sentences.txt") == ["a dog", "a ball", "a wall"]


def test_a_file_name_that_is_no_utf8(clip: Path, tmp_path: Path) -> None:
    video = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    try:
        shutil.copy(clip, video)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    done = alref("rvos", video.name, "--text", "a ball", "--masks", "none", "--no-overlay", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("caf\ufffd-alref\n")
    out = tmp_path / os.fsdecode(b"caf\xe9-alref")
    record = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert record["input"]["path"] == "caf\ufffd.mp4"


def test_what_the_terminal_cannot_show_is_replaced() -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert printable("caf\udce9 é", screen) == "caf? ?"
    assert printable("caf\udce9 é", io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == "caf\ufffd é"


def started(*arguments: object, cwd: Path, waits_for: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A command that has begun to write: something is there by a pattern of names."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*prefix, *COMMAND, *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 90
    while not list(cwd.glob(waits_for)) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    assert list(cwd.glob(waits_for)), process.communicate(timeout=60)
    return process


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("long") / "clip.mp4", frames=400)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, long_clip: Path, number: signal.Signals, code: int, times: int
) -> None:
    process = started(
        "rvos", long_clip, "--text", "a ball", "--out", "deep/out", "--device", "cpu",
        cwd=tmp_path, waits_for="deep/.out.partial-????????",
    )  # fmt: skip
    time.sleep(1)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.01 * (times - 1))
    _, errors = process.communicate(timeout=60)
    # A second signal may find the process at its very end.
    assert process.returncode in ({code} if times == 1 else {code, -number})
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


SYNTH = ("synth", "data", "--seeds", "0:60", "--layout", "ref-youtube-vos")


@pytest.mark.parametrize(
    ("arguments", "partial"),
    [
        (SYNTH, ".data.partial-????????/*"),
        (("demo", "--device", "cpu"), ".alref-demo.partial-????????/clip.mp4"),
        (("eval", "sound", "--seeds", "0:2", "--json", "scores.json"), ".scores.json.*.partial"),
    ],
    ids=["synth", "demo", "eval"],
)
def test_a_terminal_that_is_closed_leaves_nothing_of_any_command(
    tmp_path: Path, arguments: tuple[str, ...], partial: str
) -> None:
    process = started(*arguments, cwd=tmp_path, waits_for=partial)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 129
    assert list(tmp_path.iterdir()) == []


def test_nohup_outlives_the_terminal(tmp_path: Path) -> None:
    arguments = ("synth", "data", "--seeds", "0:6", "--layout", "ref-youtube-vos")
    process = started(*arguments, cwd=tmp_path, waits_for=".data.partial-????????", prefix=("nohup",))
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "data").is_dir()


@pytest.mark.parametrize(
    ("arguments", "partial"),
    [
        (SYNTH, ".data.partial-????????/*"),
        (("eval", "sound", "--seeds", "0:2", "--json", "data"), ".data.*.partial"),
    ],
    ids=["a folder", "a file"],
)
def test_what_a_killed_command_left_is_named_and_removed(
    tmp_path: Path, arguments: tuple[str, ...], partial: str
) -> None:
    process = started(*arguments, cwd=tmp_path, waits_for=partial)
    process.kill()
    process.wait(timeout=60)
    (left,) = {path if path.name.endswith("partial") else path.parent for path in tmp_path.glob(partial)}
    # One whose process lives, of another name and of this one.
    (tmp_path / ".data2.partial-0a0a0a0a").mkdir()
    alive = tmp_path / ".data.0b0b0b0b.partial"
    with alive.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        short = ("synth", "data", "--seeds", "0:1")
        done = alref(*short, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"warning: a run that was killed left {left}: the same command with --clean removes it." in done.stderr
        assert done.stderr.count("warning:") == 1
        assert left.exists()
        done = alref(*short, "--overwrite", "--clean", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, ".data2.partial-0a0a0a0a", "data"]


def test_a_run_to_a_name_that_another_writes_is_refused_at_once(tmp_path: Path, clip: Path) -> None:
    first = started(*SYNTH, cwd=tmp_path, waits_for=".data.partial-????????/*")
    for arguments in (("rvos", clip, "--text", "a ball", "--out", "data"), ("synth", "data", "--clean")):
        done = alref(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: Another run is writing to {tmp_path / 'data'}.")
        assert "give another output folder" in done.stderr
        assert done.stderr.count("\n") == 1
    assert first.poll() is None
    first.kill()
    first.wait(timeout=60)
    done = alref("synth", "data", "--seeds", "0:1", "--clean", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def shell(line: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command by bash, with whatever `line` does to its streams."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["bash", "-c", f'set -o pipefail; "$@" {line}', "bash", *COMMAND, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">&-", 9, "it is closed"),
        (">/dev/full", 9, "No space left on device"),
        ("<&- >&- 2>&-", 9, ""),
        ("| true", 9, ""),
    ],
)
def test_a_result_stands_whatever_becomes_of_what_is_printed(
    tmp_path: Path, clip: Path, line: str, code: int, said: str
) -> None:
    done = shell(line, "rvos", clip, "--text", "a ball", "--text", "a wall", "--out", "out", cwd=tmp_path)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert said in done.stderr
    assert ("error:" in done.stderr) == bool(said)
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    for entry in record["sentences"]:
        assert len(list((tmp_path / "out" / entry["masks"]["folder"]).iterdir())) == 12
    assert open_video(tmp_path / "out" / "overlay.mp4").frame_count() == 12


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("doctor",), 9), (("--help",), 9), (("--version",), 9), (("rvos", "--help"), 9), (("doctor", "--json"), 9),
     (("run",), 2), (("rvos", "nothing.mp4", "--text", "x"), 3)],
)  # fmt: skip
@pytest.mark.parametrize("line", [">&-", ">/dev/full 2>/dev/full", ">&- 2>&-"])
def test_no_stream_brings_a_traceback(tmp_path: Path, arguments: tuple[str, ...], code: int, line: str) -> None:
    done = shell(line, *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_an_error_is_one_line_and_a_traceback_only_on_demand(tmp_path: Path) -> None:
    done = alref("rvos", "nothing.mp4", "--text", "a dog", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("error: nothing.mp4 does not exist.")
    assert done.stderr.count("\n") == 1
    done = alref("rvos", "nothing.mp4", "--text", "a dog", "--debug", cwd=tmp_path)
    assert "Traceback" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_says_what_works(nano_bundle: Path, tmp_path: Path) -> None:
    done = alref("doctor", "--bundle", nano_bundle, "--json")
    report = json.loads(done.stdout)
    states = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert done.returncode == 0
    assert report["can_run"]
    assert states["CPUExecutionProvider"] == states["bundle"] == states["numpy"] == "ok"
    for finding in report["findings"]:
        assert (finding["mend"] != "") == (finding["state"] != "ok")
    ill = alref("doctor", "--bundle", tmp_path)
    assert ill.returncode == 1
    assert "is not a bundle" in ill.stdout
    assert "videos cannot be run yet" in ill.stdout


def test_the_doctor_looks_for_all_that_the_package_needs() -> None:
    from alref_edge.doctor import _NEEDED

    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert sorted(_NEEDED) == sorted(re.split("[><=]", each)[0] for each in needed)


def test_the_doctor_finds_two_builds_of_one_module(monkeypatch: pytest.MonkeyPatch, nano_bundle: Path) -> None:
    from alref_edge import doctor

    versions = {
        "onnxruntime": "1.20", "onnxruntime-gpu": "1.20", "transformers": "5.1", "languagebind": "0.1", "vllm": "0.20"
    }  # fmt: skip
    monkeypatch.setattr(doctor, "_version", versions.get)
    faults = {
        finding.name: finding.mend for finding in doctor.examine(nano_bundle).findings if finding.state == "fault"
    }
    assert set(faults) == {"onnxruntime and onnxruntime-gpu", "extras export and reference", "extra mllm"}
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in faults["onnxruntime and onnxruntime-gpu"]


def test_a_bundle_is_verified(nano_bundle: Path, tmp_path: Path) -> None:
    done = alref("bundle", "verify", nano_bundle)
    assert done.returncode == 0
    assert "whole" in done.stdout
    facts = json.loads(alref("bundle", "verify", nano_bundle, "--json").stdout)
    assert set(facts["components"]) == {
        "sam2", "grounding_dino", "beats_as20k", "beats_as2m", "languagebind", "yamnet",
    }  # fmt: skip
    assert facts["trained"]
    copy = shutil.copytree(nano_bundle, tmp_path / "bundle")
    graph = next(copy.rglob("*.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    done = alref("bundle", "verify", copy)
    assert done.returncode == 4
    assert "altered" in done.stderr


ATTACK = "\x1b]0;title\x07\x1b[2J\x1b[32mall is well\x1b[0m\r\x08\x7f\x9b31m\u2028\u202eforged"
CONTROLS = {*map(chr, [*range(0x20), *range(0x7F, 0xA0)]), "\u2028", "\u2029", "\u202e"} - {"\n"}


def on_a_terminal(*arguments: str, cwd: Path) -> tuple[int, str]:
    """What a command prints on a terminal, without our own colours and progress, and without carriage returns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "TERM": "xterm"}
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    printed = bytearray()
    with suppress(OSError):  # EIO: the other side has ended
        while more := os.read(ours, 1 << 16):
            printed += more
    os.close(ours)
    text = re.sub(r"\r\x1b\[K(\w+ +\[[#.]*\] \d+/\d+ [^\r]*)?", "", printed.decode().replace("\r\n", "\n"))
    return process.wait(timeout=60), re.sub(r"\x1b\[(3[13]|0)m(?=(error|warning|interrupted):|\n)", "", text)


def _bad_bundle(place: Path, nano_bundle: Path) -> list[str]:
    shutil.copytree(nano_bundle, place / "bundle")
    (place / "bundle" / ATTACK).touch()
    return ["rvos", "clip.mp4", "--text", "a ball", "--bundle", "bundle"]


def _bad_frame(place: Path, nano_bundle: Path) -> list[str]:
    (place / "frames").mkdir()
    (place / "frames" / f"1{ATTACK}.png").write_bytes(bytes(99))
    return ["rvos", "frames", "--text", "a ball"]


def _bad_pivots(place: Path, nano_bundle: Path) -> list[str]:
    (place / "p.json").write_text(json.dumps({"schema": ATTACK}))
    return ["rvos", "clip.mp4", "--text", "a ball", "--selector", "replay", "--pivots", "p.json"]


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (_bad_bundle, 4),
        (_bad_frame, 3),
        (_bad_pivots, 2),
        (lambda place, bundle: ["rvos", ATTACK, "--text", "x"], 3),
        (lambda place, bundle: ["rvos", "clip.mp4", "--text", "x", "--masks", ATTACK], 2),
        (lambda place, bundle: ["doctor", "--bundle", ATTACK], 1),
        (lambda place, bundle: ["doctor", "--bundle", ATTACK + "\nok       bundle: whole"], 1),
        (lambda place, bundle: [f"rvos{ATTACK}"], 2),
        (lambda place, bundle: ["rvos", "clip.mp4", f"--{ATTACK}"], 2),
        (lambda place, bundle: ["rvos", "clip.mp4", "--threads", ATTACK], 2),
        (lambda place, bundle: ["eval", "synthetic", "--seeds", ATTACK], 2),
        (lambda place, bundle: ["agree", "--reference", ATTACK, "--ours", "."], 2),
        (lambda place, bundle: ["mllm", "serve", "--model", ATTACK], 2),
    ],
)
def test_nothing_foreign_steers_a_terminal(
    tmp_path: Path, clip: Path, nano_bundle: Path, prepare: Callable[[Path, Path], list[str]], code: int
) -> None:
    shutil.copy(clip, tmp_path / "clip.mp4")
    got, printed = on_a_terminal(*prepare(tmp_path, nano_bundle), cwd=tmp_path)
    assert not CONTROLS.intersection(printed), printed
    assert "\nok       bundle" not in printed
    assert got == code, printed


def test_a_sentence_can_forge_no_line(tmp_path: Path, clip: Path) -> None:
    forged = "a ball\nthe circle: pivots frame 0 (0.99); masks masks/01-forged"
    arguments = ("rvos", str(clip), "--text", forged, "--text", f"a {ATTACK} wall", "--out", "out", "--masks", "none")
    code, printed = on_a_terminal(*arguments, "--no-overlay", cwd=tmp_path)
    assert code == 0, printed
    assert not CONTROLS.intersection(printed)
    summary = [line for line in printed.splitlines() if not line.startswith(("using", "warning"))]
    assert len(summary) == 3
    assert summary[0].startswith("a ball\\nthe circle: pivots frame 0 (0.99)")
    assert "\\x1b]0;title\\x07\\x1b[2J" in summary[1]
    code, printed = on_a_terminal(*arguments, "--no-overlay", "--overwrite", "--json", "--quiet", cwd=tmp_path)
    assert not CONTROLS.intersection(printed)
    record = json.loads(printed[printed.index("{") : printed.rindex("}") + 1])
    assert [entry["text"] for entry in record["sentences"]] == [forged, f"a {ATTACK} wall"]


def test_quiet_is_without_notices_but_not_without_warnings(tmp_path: Path, clip: Path) -> None:
    (tmp_path / ".out.partial-0a0a0a0a").mkdir()
    arguments = ("rvos", clip, "--text", "a ball", "--out", "out", "--masks", "none", "--no-overlay")
    loud = alref(*arguments, cwd=tmp_path).stderr.splitlines()
    quiet = alref(*arguments, "--overwrite", "--quiet", cwd=tmp_path).stderr.splitlines()
    assert [line for line in loud if line.startswith("warning: ")] == quiet
    assert len(loud) == len(quiet) + 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    with progress_line(screen) as progress:
        assert progress is not None
        for done in range(1, 6):
            progress(Progress("forward", done, 5))
    shown = screen.getvalue()
    assert "forward" in shown
    assert "5/5" in shown
    assert "frames/s" in shown
    assert shown.endswith("\r\x1b[K")
    with progress_line(screen, quiet=True) as nothing:
        assert nothing is None


def test_a_line_for_a_person_takes_the_place_of_the_line_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the LLM's server is asked again in the midst of it."""
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with progress_line() as progress:
        assert progress is not None
        progress(Progress("forward", 1, 5))
        warn("a request is sent again")
        progress(Progress("forward", 5, 5))
    said = re.sub("\x1b\\[[0-9]+m", "", screen.getvalue())
    assert "\r\x1b[Kwarning: a request is sent again\n\r\x1b[Kforward" in said


def test_a_folders_masks_and_an_images_overlay(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    scene = make_scene(3)
    for frame, name in enumerate(("1.jpg", "2.png", "10.jpeg", "größe.png")):
        Image.fromarray(scene.frame(frame)).save(tmp_path / "frames" / name)
    done = alref("rvos", "frames", "--text", "the cross", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out" / "masks" / "00-the-cross").iterdir()) == [
        "1.png", "10.png", "2.png", "größe.png"
    ]  # fmt: skip
    record = json.loads((tmp_path / "out" / "result.json").read_bytes())
    assert record["input"]["frame_names"] == ["1", "2", "10", "größe"]
    done = alref("rvos", "frames/2.png", "--text", "the cross 红", "--report", "--out", "one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "masks", "overlay.png", "report.html", "result.json"
    ]  # fmt: skip
    assert "note: the overlay's font (Latin, Greek, Cyrillic) lacks '红'" in done.stderr
    done = alref("rvos", "frames/2.png", "--text", "the cross", "--out", "one", "--overwrite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["masks", "overlay.png", "result.json"]


def test_warnings_and_errors_name_their_sentence(clip: Path, tmp_path: Path) -> None:
    pivots = [{"text": "nothing", "pivots": []}, {"text": "a", "pivots": [{"frame": 0, "box": [-9, -9, 40, 40]}]}]
    (tmp_path / "pivots.json").write_text(json.dumps({"schema": "alref-edge.pivots/1", "sentences": pivots}))
    replay = ("--selector", "replay", "--pivots", tmp_path / "pivots.json", "--no-overlay")
    done = alref("rvos", clip, *replay, "--text", "nothing", "--text", "a", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning: 'nothing': no pivot is given for this sentence: its masks are empty\n" in done.stderr
    nothing, other = json.loads((tmp_path / "out" / "result.json").read_text())["sentences"]
    assert (nothing["pivots"], nothing["fell_back"], nothing["start_frame"]) == ([], False, None)
    assert other["pivots"][0]["box"] == [0, 0, 40, 40]
    for name, some in (("00-nothing", False), ("01-a", True)):
        masks = (tmp_path / "out" / "masks" / name).iterdir()
        assert any(np.asarray(Image.open(path)).any() for path in masks) == some
    (tmp_path / "many.txt").write_text(f"the cross\n{'heart ' * 100}\nthe ball\n")
    done = alref("rvos", clip, "--text-file", tmp_path / "many.txt", "--out", "out2", cwd=tmp_path)
    assert done.returncode == 2
    assert "tokens in 'heart heart" in done.stderr
    assert len(done.stderr.splitlines()[-1]) < 400


@pytest.mark.parametrize(
    ("seconds_a_frame", "frames"),
    [(0.05, []), (0.5, range(20, 101, 20)), (3, range(10, 101, 10)), (25, [3, *range(6, 10, 3), 10])],
)
def test_progress_in_a_log_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, seconds_a_frame: float, frames: Sequence[int]
) -> None:
    now = [0.0]
    monkeypatch.setattr("alref_edge.cli.console.time.monotonic", lambda: now[0])
    log = io.StringIO()
    with progress_line(log) as progress:
        assert progress is not None
        for done in range(1, 11 if seconds_a_frame > 10 else 101):
            now[0] += seconds_a_frame
            progress(Progress("forward", done, 100))
    assert log.getvalue().splitlines() == [f"forward {frame}/100" for frame in frames]


def test_progress_counts_each_stage_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("alref_edge.cli.console.time.monotonic", lambda: now[0])
    log = Terminal()
    monkeypatch.setenv("TERM", "dumb")
    with progress_line(log) as progress:
        assert progress is not None
        for stage, frame in (("pivots", 4), ("forward", 0), ("forward", 1), ("backward", 3)):
            now[0] += 11
            progress(Progress(stage, frame, 10))
    assert log.getvalue().splitlines() == ["pivots 4/10", "forward 1/10", "backward 3/10"]
