"""Segments of sound: cut by features that change, and read from the published files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alref_edge.bundle.configs import YamNetConfig
from alref_edge.errors import InputError
from alref_edge.pipeline.audio_segments import (
    FRAME_S,
    AudioSegment,
    AudioSegmentSettings,
    cosines,
    cut,
    read_audio_segments,
    segment_audio,
)
from alref_edge.runtime.session import TensorSpec

ROOT = Path(__file__).parent.parent.parent
PUBLISHED = Path(os.environ.get("ALREF_REFERENCE", ROOT.parent / "shared" / "reference")) / "al_ref_sam2"


class Bands:
    """A session whose features are the energies of four bands, so that tones of different pitch are at right angles."""

    inputs = {"patches": TensorSpec("patches", np.dtype(np.float32), ("N", 96, 64))}  # noqa: RUF012
    outputs = {  # noqa: RUF012
        "scores": TensorSpec("scores", np.dtype(np.float32), ("N", 2)),
        "features": TensorSpec("features", np.dtype(np.float32), ("N", 4)),
    }
    provider = device = "cpu"

    def run(self, feeds: Any) -> dict[str, np.ndarray]:
        energy_nb = np.exp(feeds["patches"]).mean(axis=1).reshape(-1, 4, 16).sum(axis=2) - 16 * 0.001
        energy_nb = energy_nb.round(4)  # of silence exactly 0
        loud_n = energy_nb.sum(axis=1) > 30
        return {"features": energy_nb, "scores": np.stack([loud_n, ~loud_n], axis=1).astype(np.float32)}


@pytest.fixture(scope="module")
def yamnet() -> Any:
    from alref_edge.models.yamnet import YamNet

    return YamNet(Bands(), YamNetConfig(patch_frames=96, mel_bands=64))  # type: ignore[arg-type]


def sound(*seconds: tuple[float, float], amplitude: float = 0.3) -> np.ndarray:
    """float32 [samples] at 16 kHz: tones of (hertz, seconds); 0 Hz is silence."""
    parts = [np.sin(2 * np.pi * hertz * np.arange(round(length * 16000)) / 16000) for hertz, length in seconds]
    return (amplitude * np.concatenate(parts)).astype(np.float32)


def pairs(segments: tuple[AudioSegment, ...]) -> list[tuple[int, int]]:
    return [(each.start_s, each.end_s) for each in segments]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([(300, 5)], [(0, 5)]),
        ([(300, 2), (5000, 3)], [(0, 2), (2, 5)]),
        ([(300, 1), (5000, 1), (300, 1), (5000, 1), (300, 1)], [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        ([(300, 9), (5000, 1)], [(0, 9), (9, 10)]),
        ([(0, 2), (300, 3)], [(0, 2), (2, 5)]),
        ([(0, 5)], [(0, 5)]),
        ([(300, 0.3)], [(0, 1)]),
        ([(300, 4.98)], [(0, 5)]),
        ([(300, 4.9)], [(0, 4)]),
        ([(300, 4), (5000, 0.9)], [(0, 4)]),
    ],
    ids=str,
)
def test_sound_is_cut_where_it_changes(yamnet: Any, seconds: list[Any], expected: list[Any]) -> None:
    assert pairs(segment_audio(sound(*seconds), yamnet)) == expected


def test_feature_hop_and_threshold_are_the_users(yamnet: Any) -> None:
    wave = np.concatenate([sound((300, 2)), sound((300, 3), amplitude=0.01)])
    assert pairs(segment_audio(wave, yamnet)) == [(0, 5)]
    assert pairs(segment_audio(wave, yamnet, AudioSegmentSettings(feature="scores"))) == [(0, 2), (2, 5)]
    wave = sound((300, 2), (5000, 1), (300, 2))
    assert pairs(segment_audio(wave, yamnet, AudioSegmentSettings(hop_s=1))) == [(0, 2), (2, 3), (3, 5)]
    assert pairs(segment_audio(wave, yamnet, AudioSegmentSettings(hop_s=2))) == [(0, 2), (2, 4), (4, 5)]
    assert pairs(segment_audio(wave, yamnet, AudioSegmentSettings(hop_s=0.48))) == [
        (0, 5)
    ]  # overlapping frames change less
    assert pairs(segment_audio(wave, yamnet, AudioSegmentSettings(threshold=-1))) == [(0, 5)]


@pytest.mark.parametrize("change", [{"feature": "logits"}, {"hop_s": 0.0}, {"hop_s": np.nan}, {"threshold": 1.1}])
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        AudioSegmentSettings(**change)


def test_a_sound_without_samples_is_refused(yamnet: Any) -> None:
    with pytest.raises(InputError, match="no sound"):
        segment_audio(np.zeros(0, np.float32), yamnet)


def test_cosines_know_silence() -> None:
    rows = np.array([[1, 0], [2, 0], [0, 1], [1, 1], [0, 0], [0, 0], [3, 4]], np.float32)
    assert cosines(rows) == pytest.approx([1, 0, 0.5**0.5, 0, 1, 0])
    assert cosines(rows[:1]).shape == (0,)


def test_cuts_lie_on_the_nearest_whole_second() -> None:
    """By hand: frames begin at 0, 0.975, ... 8.775 s; a cut before frame i is at second i."""
    low = np.full(9, 1.0)
    low[[0, 4, 8]] = 0.49
    assert pairs(cut(low, FRAME_S, 0.5, seconds=10)) == [(0, 1), (1, 5), (5, 9), (9, 10)]
    assert pairs(cut(low, FRAME_S, 0.49, seconds=10)) == [(0, 10)]
    # Frames at 0, 0.48, 0.96, 1.44: cuts at 0.48 and 1.44 s round to 0, where nothing is to be cut, and 1.
    assert pairs(cut(np.array([0.0, 1.0, 0.0]), 0.48, 0.5, seconds=2)) == [(0, 1), (1, 2)]


def test_a_segment_has_its_samples() -> None:
    wave = np.arange(40_000, dtype=np.float32)
    assert AudioSegment(1, 2).of(wave)[[0, -1]].tolist() == [16000, 31999]
    assert len(AudioSegment(2, 5).of(wave)) == 8000
    with pytest.raises(InputError):
        AudioSegment(2, 2)


@pytest.mark.parametrize(
    ("name", "clips", "segments", "ends"),
    [("ms3", 64, 126, {5}), ("avss", 1554, 3253, {4, 5, 9, 10}), ("v2_binary", 750, 1837, {9, 10})],
)
def test_the_published_files_are_read(name: str, clips: int, segments: int, ends: set[int]) -> None:
    path = PUBLISHED / "audio_segment" / f"{name}_audio_segment.json"
    if not path.is_file():
        pytest.skip(f"no published segments at {path}; set ALREF_REFERENCE")
    read = read_audio_segments(path)
    assert (len(read), sum(map(len, read.values()))) == (clips, segments)
    assert {each[-1].end_s for each in read.values()} == ends
    assert read == {
        clip: tuple(AudioSegment(*pair) for pair in each) for clip, each in json.loads(path.read_text()).items()
    }


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("nothing", "not JSON"),
        ("\xff", "not JSON"),
        ("[]", "an object of clips"),
        ('{"a": [[0, 1]], "a": [[0, 2]]}', "a clip is there twice"),
        ('{"a": []}', "a list of segments"),
        ('{"a": {"0": 1}}', "a list of segments"),
        ('{"a": [[0, 1], 2]}', "whole seconds"),
        ('{"a": [[0, 1.5]]}', "whole seconds"),
        ('{"a": [[0, true]]}', "whole seconds"),
        ('{"a": [[0, 1, 2]]}', "whole seconds"),
        ('{"a": [[0, 0]]}', "whole seconds"),
        ('{"a": [[1, 2]]}', "a segment from 0 on"),
        ('{"a": [[0, 2], [3, 5]]}', "a segment from 2 on"),
        ('{"a": [[0, 2], [1, 5]]}', "a segment from 2 on"),
        ('{"a": [[0, 100000]]}', "whole seconds"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "segments.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=where) as caught:
        read_audio_segments(path)
    assert caught.value.mend


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_audio_segments(tmp_path / "nothing.json")
