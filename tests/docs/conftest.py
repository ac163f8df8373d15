"""The folder in which a reader tries what the documents say."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from alref_edge.datasets.synthetic import make_scene
from alref_edge.datasets.synthetic.clips import write_clip
from alref_edge.datasets.synthetic.sound import make_sound
from alref_edge.mllm.endpoint import ServerState, write_state
from alref_edge.writing.recording import TWO_STAGE
from tests.conftest import ROOT
from tests.media.sounds import make_sound_file
from tests.mllm.fake_server import KEY, FakeServer

CLIPS = ("VIDEO", "video.mp4", "one.mp4", "two.mp4", "alref-demo/clip.mp4")
"""Each is a clip of two seconds, with sound."""


@pytest.fixture(scope="session")
def belongings(tmp_path_factory: pytest.TempPathFactory, nano_bundle: Path) -> Path:
    """What the documents take a reader to have, under the names that it has there.

    Clips, a folder of frames with its sound, a bundle of official weights (the shipped one stands for it), recorded
    decisions of two sides, and weights of a language model.
    """
    folder = tmp_path_factory.mktemp("belongings")
    scene = make_scene(3, 112, 112, 16)
    sound = make_sound(scene)
    write_clip(folder / "clip.mp4", scene, sound)
    for name in CLIPS:
        (folder / name).parent.mkdir(exist_ok=True)
        os.link(folder / "clip.mp4", folder / name)
    (folder / "FRAMES").mkdir()
    for second in range(2):
        Image.fromarray(scene.frame(8 * second)).save(folder / "FRAMES" / f"{second}.png")
    make_sound_file(folder / "sound.wav", sound.wave_16khz, 16_000)
    (folder / "engines").mkdir()
    (folder / "engines" / "large").symlink_to(nano_bundle)
    for side in ("gpt_results", "FOLDER"):
        answers = folder / side / "clip" / "stage_2" / "0" / TWO_STAGE
        answers.parent.mkdir(parents=True)
        answers.write_text(json.dumps({"exp": "the dog", "res_list": [{"target_frame_id": 2, "target_object_id": 1}]}))
    return folder


@pytest.fixture
def place(belongings: Path, tmp_path: Path) -> Path:
    """A folder of its own with all of it."""
    for each in belongings.rglob("*"):
        if each.is_file() or each.is_symlink():
            target = tmp_path / each.relative_to(belongings)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(each.resolve())
    return tmp_path


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user, for whom an LLM's server runs that gives the least answer a schema allows."""
    home = tmp_path_factory.mktemp("home")
    folders = {"XDG_CACHE_HOME": str(home / "cache"), "XDG_RUNTIME_DIR": str(home / "run")}
    with FakeServer() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in folders.items():
            patch.setenv(name, value)
        write_state(ServerState(server.url, KEY, "fake", os.getpid(), time.time()))
        yield {**os.environ, **folders, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
