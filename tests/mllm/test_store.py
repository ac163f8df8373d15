"""The cache of answers and the transcript: whole files only, shared by threads and processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from alref_edge.errors import AlrefError, CapacityError, InputError
from alref_edge.mllm.questions import Question
from alref_edge.mllm.store import AnswerCache, Known, Transcript, cache_key

QUESTION: Question[object] = Question("pivot_frame", "1", b"\x89PNG image", "Which frame?", {"type": "object"}, dict)
KEY = cache_key("tiny", QUESTION, max_tokens=100, seed=0)
GOOD = Known('{"frame": 1}', False)


def test_an_answer_is_kept(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "new" / "cache")
    assert cache.get(KEY) is None
    odd = Known('{"frame": "\ud800 ü \u2028"}', True)
    cache.put(KEY, odd, {"model": "tiny"})
    assert AnswerCache(tmp_path / "new" / "cache").get(KEY) == odd
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / "new" / "cache" / KEY[:2] / f"{KEY}.json"]
    cache.put(KEY, GOOD, {})
    assert cache.get(KEY) == GOOD


def test_the_key_holds_whatever_the_answer_depends_on() -> None:
    keys = [
        KEY,
        cache_key("other", QUESTION, max_tokens=100, seed=0),
        cache_key("tiny", QUESTION, max_tokens=101, seed=0),
        cache_key("tiny", QUESTION, max_tokens=100, seed=1),
        cache_key("tiny", QUESTION, max_tokens=100, seed=0, thinking=True),
    ]
    changes = {
        "template": "pivot_box",
        "version": "2",
        "image_png": b"\x89PNG other",
        "prompt": "Which frame\ud800?",
        "schema": {"type": "array"},
    }
    keys += [
        cache_key("tiny", replace(QUESTION, **{name: value}), max_tokens=100, seed=0) for name, value in changes.items()
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key("tiny", replace(QUESTION, parse=list), max_tokens=100, seed=0) == KEY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"format": 1}',
        json.dumps({"format": 2, "key": KEY, "text": "{}", "repaired": False}).encode(),
        json.dumps({"format": 1, "key": "another", "text": "{}", "repaired": False}).encode(),
        json.dumps({"format": 1, "key": KEY, "text": 7, "repaired": False}).encode(),
        json.dumps({"format": 1, "key": KEY, "text": "{}", "repaired": 1}).encode(),
        json.dumps({"format": 1, "key": KEY, "text": "x" * 2_000_000, "repaired": False}).encode(),
    ],
)
def test_what_is_damaged_counts_as_not_there_and_is_written_over(content: bytes, tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.put(KEY, GOOD, {})
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(content)
    assert cache.get(KEY) is None
    cache.put(KEY, GOOD, {})
    assert cache.get(KEY) == GOOD


WRITER = """
import sys
from alref_edge.mllm.store import AnswerCache, Known
cache = AnswerCache(sys.argv[1])
for number in range(60):
    key = f"{number % 3:064x}"
    cache.put(key, Known("x" * 5000, False), {})
    assert cache.get(key) == Known("x" * 5000, False)
"""


def test_processes_share_a_cache(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)]) for _ in range(3)]
    assert [writer.wait(30) for writer in writers] == [0, 0, 0]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3


@pytest.mark.parametrize("kind", [AnswerCache, Transcript])
@pytest.mark.parametrize("place", ["file", "file/below", "nul\0", "/proc/nothing"])
def test_a_folder_that_cannot_be_written_is_refused_up_front(kind: type, place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        kind(f"{tmp_path}/{place}" if not place.startswith("/") else place)


def test_a_transcript_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "transcript.jsonl").mkdir()
    with pytest.raises(InputError, match=r"transcript.jsonl cannot be written"):
        Transcript(tmp_path)


def test_lines_are_whole_and_images_are_written_once(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    with ThreadPoolExecutor(16) as threads:
        for number in range(200):
            question = replace(QUESTION, image_png=b"%d" % (number % 4), prompt=f"{number}: \ud800\n" + "x" * 20_000)
            threads.submit(transcript.add, question, {"answers": [{"text": "{}", "problem": None}]})
    transcript.close()
    transcript.add(QUESTION, {})  # dropped
    lines = (tmp_path / "transcript.jsonl").read_bytes().splitlines()
    entries = [json.loads(line) for line in lines]
    assert sorted(int(entry["prompt"].split(":")[0]) for entry in entries) == list(range(200))
    assert all(entry["template"] == "pivot_frame" and entry["version"] == "1" for entry in entries)
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == sorted(
        {f"{entry['image']}.png" for entry in entries}
    )
    assert (tmp_path / "images" / f"{entries[0]['image']}.png").read_bytes() in (b"0", b"1", b"2", b"3")


def test_a_second_transcript_adds_to_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        transcript = Transcript(tmp_path)
        transcript.add(QUESTION, {})
        transcript.close()
    assert len((tmp_path / "transcript.jsonl").read_text().splitlines()) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "transcript.jsonl").symlink_to("/dev/full")
    with pytest.raises(CapacityError, match=r"transcript.jsonl cannot be written.*No space left"):
        Transcript(tmp_path).add(QUESTION, {})


FILLS_UP = """
import resource, sys
from dataclasses import replace
from alref_edge.errors import AlrefError
from alref_edge.mllm.store import Transcript
from tests.mllm.test_store import QUESTION
transcript = Transcript(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for number in range(10):
    try:
        transcript.add(replace(QUESTION, prompt="x" * 3000), {})
    except AlrefError as error:
        print(number, error)
        break
"""


def test_a_line_for_which_there_is_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FILLS_UP, str(tmp_path)], capture_output=True, text=True, cwd=root, check=False
    )
    assert done.stdout.startswith("3 ")
    assert "transcript.jsonl cannot be written" in done.stdout
    lines = (tmp_path / "transcript.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert all(json.loads(line)["prompt"] == "x" * 3000 for line in lines)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AlrefError, match="cannot be written"):
        AnswerCache(tmp_path)
