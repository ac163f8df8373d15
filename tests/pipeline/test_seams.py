"""Networks of one's own in place of the bundle's: these know the truth of a scene, so masks are the truth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from alref_edge.bundle import Bundle, Component
from alref_edge.cli import app
from alref_edge.datasets.synthetic import Scene, SceneSource, make_scene
from alref_edge.doctor import examine
from alref_edge.errors import BundleError, EngineError, InputError
from alref_edge.evaluation import evaluate_synthetic
from alref_edge.models.grounding_dino import GroundingDino
from alref_edge.models.protocols import Network, Stage, TrackingCounters, TrackingOptions
from alref_edge.pipeline import Networks, Pipeline, RvosSettings
from alref_edge.pipeline.networks import DETECTOR
from alref_edge.runtime import SessionOptions
from alref_edge.types import Detections, Tag

RATE = 16_000
# Three shapes, one object each, in view all the time.
SHAPES = ("circle", "star", "square")


class Truth:
    """A scene, and which frame an image is."""

    provider = "truth"

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._frames = {scene.frame(index).tobytes(): index for index in range(scene.num_frames)}

    def frame_of(self, image_hw3_u8: np.ndarray) -> int:
        return self._frames[image_hw3_u8.tobytes()]

    def close(self) -> None:
        """Nothing is held."""


class TruthDetector(Truth):
    """The box of the shape that is asked for, best on the last frame, and beside it another's, which scores less."""

    def encode_text(self, caption: str) -> int:
        return SHAPES.index(caption)

    def encode_image(self, image_hw3_u8: np.ndarray) -> int:
        return self.frame_of(image_hw3_u8)

    def detect(self, image: int, text: int, *, box_threshold: float, text_threshold: float) -> Detections:
        rows = [(text + 1) % len(SHAPES), text]
        scores = np.array([0.4, 0.5 + image / 1000], np.float32)
        found = Detections(self.scene.boxes(image)[rows], scores, tuple(SHAPES[row] for row in rows))
        return found[scores > box_threshold]


@dataclass(frozen=True)
class Encoded:
    """A frame by its index in the scene."""

    index: int
    nbytes: int = 8


@dataclass(frozen=True)
class Tracked:
    """The objects on a frame of a part of the scene, and their true masks."""

    frame: int
    object_ids: tuple[Hashable, ...]
    masks_nhw: np.ndarray

    def mask_hw(self, row: int) -> np.ndarray:
        return np.asarray(self.masks_nhw[row])


class TruthVideo:
    """An object is whatever its mask covers most of where it is prompted."""

    def __init__(self, truth: Truth) -> None:
        self.truth, self.counters = truth, TrackingCounters()
        self._numbers: dict[Hashable, int] = {}

    def encode(self, image_hw3_u8: np.ndarray) -> Encoded:
        return Encoded(self.truth.frame_of(image_hw3_u8))

    def add_mask(self, frame: int, object_id: Hashable, mask_hw: np.ndarray, image: Encoded) -> None:
        self._numbers[object_id] = int((self.truth.scene.masks(image.index) & mask_hw).sum((1, 2)).argmax())

    def propagate(
        self,
        frames: Iterable[tuple[int, np.ndarray]],
        *,
        reverse: bool,
        starts: Mapping[Hashable, int],
        features: Callable[[int], Any],
        stage: Stage,
    ) -> Iterator[Tracked]:
        for frame, image in frames:
            reached = tuple(each for each, start in starts.items() if (frame <= start if reverse else frame >= start))
            masks_nhw = self.truth.scene.masks(self.truth.frame_of(image))
            yield Tracked(frame, reached, masks_nhw[[self._numbers[each] for each in reached]])

    def close(self) -> None:
        """Nothing is held."""


class TruthSegmenter(Truth):
    """Boxes become the masks of the objects whose boxes they are. It is its own image segmenter and tracker."""

    def image_segmenter(self) -> TruthSegmenter:
        return TruthSegmenter(self.scene)

    def video_tracker(self, tracking: TrackingOptions) -> TruthSegmenter:
        return self

    def start(self, num_frames: int, height: int, width: int) -> TruthVideo:
        assert (height, width) == (self.scene.height, self.scene.width)
        return TruthVideo(self)

    def set_image(self, image_hw3_u8: np.ndarray) -> None:
        self._frame = self.frame_of(image_hw3_u8)

    def predict_boxes(self, boxes_n4: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        distances_nm = np.abs(boxes_n4[:, None] - self.scene.boxes(self._frame)[None]).sum(-1)
        masks_nhw = self.scene.masks(self._frame)[distances_nm.argmin(1)]
        return masks_nhw, np.ones(len(masks_nhw), np.float32), masks_nhw.astype(np.float32)


# A second sounds as its level says: bit k stands for shape k.
def spoken(seconds: Sequence[Sequence[str]]) -> np.ndarray:
    levels = [0.1 * sum(1 << SHAPES.index(name) for name in names) for names in seconds]
    return np.repeat(np.array(levels, np.float32), RATE)


def named(sample: float) -> tuple[str, ...]:
    return tuple(name for bit, name in enumerate(SHAPES) if round(10 * sample) >> bit & 1)


class TruthEar(Truth):
    """Tags, features and labels of such a sound."""

    shortest = 1
    labels = tuple((name, name) for name in SHAPES)

    def tag(self, wave_16khz: np.ndarray, top: int) -> tuple[Tag, ...]:
        heard = {name for sample in np.unique(wave_16khz) for name in named(float(sample))}
        return tuple(Tag(name, name, 0.9) for name in SHAPES if name in heard)

    def frames(self, wave_16khz: np.ndarray, *, hop_s: float) -> TruthEar:
        middles = np.arange(0.4875, len(wave_16khz) / RATE - 0.4, hop_s)
        levels = np.round(10 * wave_16khz[(middles * RATE).astype(int)]).astype(int)
        self.features_nd = self.scores_nc = np.eye(8, dtype=np.float32)[levels]
        return self

    def sounding(
        self, waves_16khz: Sequence[np.ndarray], labels: Sequence[str], *, separator: str, synonyms: Mapping[str, str]
    ) -> list[tuple[str, ...]]:
        return [tuple(name for name in labels if name in named(float(wave[0]))) for wave in waves_16khz]

    def nearest(self, labels: Sequence[str], categories: Sequence[str]) -> list[str]:
        return list(labels)


@pytest.fixture(scope="module")
def scene() -> Scene:
    made = make_scene(1918)
    assert tuple(each.shape for each in made.objects) == SHAPES
    return made


def pipeline_with(bundle: Path, **instead: Network) -> Pipeline:
    return Pipeline(Networks(Bundle.open(bundle), "cpu", SessionOptions(), instead=instead))


def truth_of(scene: Scene, name: str) -> np.ndarray:
    return np.stack([scene.masks(frame)[SHAPES.index(name)] for frame in range(scene.num_frames)])


@pytest.mark.parametrize("changes", [{}, {"sample_step": 3}, {"box_threshold": 0.9}])
def test_a_detector_and_a_tracker_that_know_the_truth_come_to_it(
    changes: dict[str, Any], scene: Scene, nano_bundle: Path
) -> None:
    with pipeline_with(nano_bundle, grounding_dino=TruthDetector(scene), sam2=TruthSegmenter(scene)) as pipeline:
        results = list(pipeline.rvos(SceneSource(scene), SHAPES, settings=RvosSettings().changed(changes)))
    for result in results:
        masks_thw = np.stack([mask_hw for _, mask_hw in result.masks()])
        np.testing.assert_array_equal(masks_thw, truth_of(scene, result.sentence))
        assert result.run.providers == {"grounding_dino": "truth", "sam2": "truth"}
        assert result.fell_back == ("box_threshold" in changes)
    frames = {(): [30], ("sample_step",): [12, 27, 39], ("box_threshold",): [0]}[tuple(changes)]
    assert [[pivot.frame for pivot in result.pivots] for result in results] == [frames] * len(SHAPES)


def test_a_video_that_nobody_but_the_truth_looks_at_and_listens_to_comes_to_it(scene: Scene, nano_bundle: Path) -> None:
    heard = (("circle",), ("circle", "square"), (), ("square",), ("square",))
    names = ("beats_as20k", "beats_as2m", "languagebind", "yamnet")
    networks = {
        **dict.fromkeys(names, TruthEar(scene)),
        "grounding_dino": TruthDetector(scene),
        "sam2": TruthSegmenter(scene),
    }
    with pipeline_with(nano_bundle, **networks) as pipeline:
        run = pipeline.avs(SceneSource(scene), spoken(heard))
    assert run.labels == heard
    assert run.report.providers == dict.fromkeys(pipeline.bundle.manifest.components, "truth")
    assert [each.name for each in run] == ["circle", "square"]
    for each in run:
        truth_thw = truth_of(scene, each.name)
        for frame in range(scene.num_frames):
            np.testing.assert_array_equal(each.tracked(frame), truth_thw[frame])
            assert each.mask(frame).any() == (each.name in heard[frame // scene.fps])


def test_a_network_stands_for_a_component_that_there_is(scene: Scene, nano_bundle: Path) -> None:
    with pytest.raises(InputError, match=r"does not have.*sam2.*owl"):
        pipeline_with(nano_bundle, owl=TruthDetector(scene))


def test_given_networks_are_closed_with_the_others_and_not_used_after(scene: Scene, nano_bundle: Path) -> None:
    closed: list[str] = []

    class Closing(TruthDetector):
        def close(self) -> None:
            closed.append("detector")

    with Networks(Bundle.open(nano_bundle), "cpu", SessionOptions(), instead={"grounding_dino": Closing(scene)}) as own:
        assert isinstance(own.detector, Closing)
    own.close()
    assert closed == ["detector"]
    with pytest.raises(EngineError, match="closed"):
        _ = own.detector


def bundle_with(change: Callable[[dict[str, Any]], None], bundle: Path, folder: Path) -> Path:
    """A copy of a bundle, with other components."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    change(manifest["components"])
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def finding_of(bundle: Path) -> tuple[str, str, str]:
    """What the doctor says of a bundle."""
    (found,) = (each for each in examine(bundle).findings if each.name == "bundle")
    return found.state, found.detail, found.mend


def test_a_detector_of_a_new_kind_is_one_line_in_a_table_for_doctor_and_evaluation_too(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def owl(component: Component, device: str, *, options: SessionOptions) -> GroundingDino:
        return GroundingDino.from_component(replace(component, kind="grounding_dino"), device, options=options)

    def hatch(components: dict[str, Any]) -> None:
        components["snowy"] = {**components.pop("grounding_dino"), "kind": "owl"}

    bundle = bundle_with(hatch, nano_bundle, tmp_path / "bundle")
    state, detail, _ = finding_of(bundle)
    assert (state, "no component 'grounding_dino'" in detail) == ("fault", True)
    monkeypatch.setitem(DETECTOR.kinds, "owl", owl)  # type: ignore[arg-type]
    assert finding_of(bundle)[0] == "ok"
    measured = []
    for each in (nano_bundle, bundle):
        with Pipeline.from_bundle(each, "cpu", threads=1) as pipeline:
            measured.append(evaluate_synthetic(pipeline, range(1), size=96, frames=11))
            assert "snowy" in pipeline.networks.providers or each == nano_bundle
    assert measured[0].scores == measured[1].scores
    assert any(score.top_boxes for score in measured[1].scores)


def test_of_two_detectors_one_is_chosen_by_name(scene: Scene, nano_bundle: Path, tmp_path: Path) -> None:
    bundle = bundle_with(lambda each: each.update(owl=each["grounding_dino"]), nano_bundle, tmp_path / "bundle")
    refusal = r"more than one detector.*grounding_dino, owl.*--component grounding_dino"
    for components in ((), ("owl", "grounding_dino"), ("sam2",)):
        with pytest.raises(BundleError, match=refusal):
            Pipeline.from_bundle(bundle, "cpu", components=components)
    state, detail, mend = finding_of(bundle)
    assert (state, "grounding_dino, owl" in detail, "components=" in mend) == ("fault", True, True)
    with pytest.raises(InputError, match=r"does not have.*grounding_dino.*eagle"):
        Pipeline.from_bundle(bundle, "cpu", components=["eagle"])
    with Pipeline.from_bundle(bundle, "cpu", components=["owl"]) as pipeline:
        (result,) = pipeline.rvos(scene.frame(0)[None], "the circle")
    assert result.run.providers.keys() == {"owl", "sam2"}
    Image.fromarray(scene.frame(0)).save(tmp_path / "image.png")
    options = ["--text", "the circle", "--bundle", str(bundle), "--out", str(tmp_path / "out"), "--masks", "none"]
    done = CliRunner().invoke(app, ["rvos", str(tmp_path / "image.png"), *options, "--component", "owl"])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "result.json").read_text())["device"]["providers"].keys() == {"owl", "sam2"}


def test_of_two_that_match_sounds_with_words_one_is_chosen_by_name(nano_bundle: Path, tmp_path: Path) -> None:
    bundle = bundle_with(lambda each: each.update(other=each["languagebind"]), nano_bundle, tmp_path / "bundle")
    with (
        Pipeline.from_bundle(bundle, "cpu") as pipeline,
        pytest.raises(BundleError, match=r"more than one sound-text matcher.*languagebind, other"),
    ):
        pipeline.avs(tmp_path / "no video")
