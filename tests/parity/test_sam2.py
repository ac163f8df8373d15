"""SAM 2 beside the official code (sam2 1.1.0), on the same seeded weights and real frames, in float32 on the CPU.

The official code runs in the environment whose Python ALREF_REFERENCE_PYTHON names (`benchmarks/official/install.sh`
makes it). What it answers, and the bundles exported for the comparison, are kept in `.parity_cache`, keyed by what goes
into them, so that a suite which was stopped goes on where it was. The official code answers every tracking job twice,
with oneDNN and without: where masks are small or frames noisy, its distance from itself is the bar (`assert_equal`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alref_edge.bundle import Bundle, Component
from alref_edge.bundle.manifest import FORMS
from alref_edge.bundle.verify import sha256_of
from alref_edge.datasets.synthetic import make_scene
from alref_edge.models.protocols import TrackingOptions
from alref_edge.models.sam2 import Sam2Graphs, Sam2ImagePredictor, Sam2VideoTracker
from tests.models.sam2.jobs import (
    Job,
    Results,
    assert_equal,
    assert_not_trivial,
    read_frames,
    run_job,
    worst_iou,
    write_frames,
    write_mask,
)

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".parity_cache" / "sam2"
BOTH_WAYS = "both"
ONE_FRAME = "one"


def _masks_on(*frames: int) -> list[dict[str, Any]]:
    masks = {1: "bed.png", 2: "wall.png"}
    return [{"frame": frame, "object": key, "mask": name} for frame in frames for key, name in masks.items()]


def _three_objects(by_mask: int, by_box: int, by_points: int) -> list[dict[str, Any]]:
    return [
        {"frame": by_mask, "object": 1, "mask": "bed.png"},
        {"frame": by_box, "object": 2, "box": [300, 100, 700, 400]},
        {"frame": by_points, "object": 3, "points": [[500, 300]], "labels": [1]},
        {
            "frame": by_points,
            "object": 3,
            "points": [[200, 100], [700, 200]],
            "labels": [0, 1],
            "clear_old_points": False,
        },
    ]


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        variant: of the model.
        seed: of its weights, one for which the masks and presence scores vary.
        frames: number of frames.
        step: distance between them in the video.
        prompts: see `benchmarks/official/sam2_video.py`.
        start: first frame of the forward sweep, and of the backward one where there is one.
        backward: whether there is one.
        fill_hole_area: see `TrackingOptions`.
        absent: whether objects are scored absent too.
        fresh: seed of 2 % noise on the shipped weights, which then take the place of seeded ones.
        scene: seed of generated frames, in place of the real video's; frames of fresh weights are of 1280 x 720.
        grain: spread of the noise added to every frame, in grey levels.
        share_of: most masks cover more of the frame than this.
    """

    variant: str
    seed: int
    frames: int
    step: int
    prompts: list[dict[str, Any]]
    start: int
    backward: bool = True
    fill_hole_area: int = 0
    absent: bool = True
    fresh: int | None = None
    scene: int | None = None
    grain: int = 0
    share_of: float = 0.01

    def job(self) -> Job:
        sweeps = [{"reverse": reverse, "start": self.start} for reverse in (False, True)[: 1 + self.backward]]
        return {"prompts": self.prompts, "sweeps": sweeps, "fill_hole_area": self.fill_hole_area}


def _two_objects(*masks: str) -> list[dict[str, Any]]:
    return [{"frame": 0, "object": key, "mask": name} for key, name in enumerate(masks, 1)]


def _fresh(seed: int, prompts: list[dict[str, Any]], **given: Any) -> Case:
    """Shipped weights with noise, on frames whose objects they know."""
    return Case("sam2.1_nano", 3, 30, 1, prompts, 0, backward=False, absent=False, fresh=seed, share_of=2e-3, **given)


CASES = {
    "nano-60-frames": Case("sam2.1_nano", 3, 60, 1, _three_objects(5, 12, 20), 20),
    "nano-10-frames": Case("sam2.1_nano", 3, 10, 3, _three_objects(1, 4, 5), 5, absent=False),
    "nano-holes": Case("sam2.1_nano", 3, 30, 2, _three_objects(1, 4, 5), 5, fill_hole_area=8),
    "sam2-nano-60-frames": Case("sam2_nano", 12, 60, 1, _three_objects(5, 12, 20), 20),
    "nano-fresh-sizes": _fresh(0, _two_objects("scene_0.png", "scene_1.png"), scene=5),
    "nano-fresh-checks": _fresh(1, _two_objects("checks.png", "wide_checks.png")),
    "nano-fresh-noisy": _fresh(2, _two_objects("scene_0.png", "scene_1.png"), scene=5, grain=24),
    "tiny": Case("sam2.1_tiny", 3, 8, 7, _masks_on(2, 5), 5),
    "base-plus": Case("sam2.1_base_plus", 3, 8, 7, _masks_on(2, 5), 5),
    "small-one-frame": Case("sam2.1_small", 3, 2, 20, _masks_on(0), 0, backward=False, absent=False),
    "large-one-frame": Case("sam2.1_large", 3, 2, 20, _masks_on(0), 0, backward=False, absent=False),
}
IMAGE_PROMPTS: list[dict[str, Any]] = [
    {"box": [200, 120, 640, 420]},
    {"points": [[480, 270], [100, 80]], "labels": [1, 0], "multimask": True},
    {"mask_from": 0},
]
SEEDS = {case.variant: case.seed for case in CASES.values()}
# At the full sizes seeded mask logits spread by 10 and more, and with them the float noise that bfloat16 memory
# amplifies; scaled, they spread by a few units. The nano keeps the weights of the shipped bundle.
SHIPPED = {"sam2.1_nano": ROOT / "export" / "nano" / "weights" / "sam2.1_nano.pt"}
MASK_GAIN = {variant: 1.0 if variant.endswith("nano") else 0.25 for variant in SEEDS}


@dataclass
class Workplace:
    """Where checkpoints, bundles and the official results are."""

    python: str
    media: Path
    folder: Path
    checkpoints: dict[tuple[str, int | None], Path] = field(default_factory=dict)
    graphs: tuple[tuple[str, int | None, str], Sam2Graphs] | None = None

    def checkpoint(self, variant: str, fresh: int | None = None) -> Path:
        """The seeded weights, or the shipped ones with noise, in the official format."""
        if (variant, fresh) not in self.checkpoints:
            from export.sam2 import save_seeded_checkpoint

            path = self.folder / f"{variant}-{fresh}.pt"
            if fresh is None:
                save_seeded_checkpoint(variant, SEEDS[variant], path)
                _scale_masks(path, MASK_GAIN[variant])
            else:
                _freshen(SHIPPED[variant], fresh, path)
            self.checkpoints[variant, fresh] = path
        return self.checkpoints[variant, fresh]

    def component(self, variant: str, fresh: int | None, form: str) -> Component:
        """The same weights, exported."""
        from export.bundle import add_to_bundle
        from export.sam2 import export_sam2

        checkpoint = self.checkpoint(variant, fresh)
        sources = [*sorted((ROOT / "export").glob("*.py")), *sorted((ROOT / "export" / "sam2").glob("*.py"))]
        versions = [importlib.metadata.version(package) for package in ("torch", "onnxscript")]
        key = _key(sha256_of(checkpoint), *map(sha256_of, sources), *versions)
        bundle = CACHE / "bundles" / f"{variant}-{key}"
        if not (bundle / "bundle.json").is_file():
            made = self.folder / f"{variant}-graphs"
            add_to_bundle(bundle, export_sam2(variant, made, checkpoint=checkpoint), name=variant)
        return Bundle.open(bundle).component("sam2", forms=(form,))

    def graphs_of(self, variant: str, form: str, fresh: int | None = None) -> Sam2Graphs:
        """The exported graphs, those of one set of weights and one form at a time."""
        if self.graphs is None or self.graphs[0] != (variant, fresh, form):
            if self.graphs is not None:
                self.graphs[1].close()
            self.graphs = ((variant, fresh, form), Sam2Graphs.open(self.component(variant, fresh, form), "cpu"))
        return self.graphs[1]

    def official(
        self,
        module: str,
        variant: str,
        given: dict[str, Path | str],
        job: Path,
        inputs: list[Path],
        fresh: int | None = None,
    ) -> Results:
        """What the official code answers, from the cache where it was asked before."""
        checkpoint = self.checkpoint(variant, fresh)
        runner = ROOT / "benchmarks" / "official" / f"{module}.py"
        options = [str(value) for value in given.values() if isinstance(value, str)]
        key = _key(variant, *options, *map(sha256_of, (checkpoint, runner, job, *inputs)))
        path = CACHE / f"{module}-{variant}-{key}.npz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.folder / path.name
            command = [self.python, "-m", f"benchmarks.official.{module}", "--variant", variant]
            for name, value in {"checkpoint": checkpoint, "job": job, "out": partial, **given}.items():
                command += [f"--{name}", str(value)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            os.replace(partial, path)
        with np.load(path) as saved:
            return dict(saved)


def _scale_masks(checkpoint: Path, gain: float) -> None:
    """Multiply the last layer of the mask heads of a checkpoint."""
    if gain == 1:
        return
    import torch

    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    for name, value in saved["model"].items():
        if re.search(r"output_hypernetworks_mlps\.\d\.layers\.2\.", name):
            value.mul_(gain)
    torch.save(saved, checkpoint)


def _freshen(shipped: Path, seed: int, checkpoint: Path) -> None:
    """Shipped weights, each with noise of 2 % of its tensor's spread: as like them as weights trained anew."""
    import torch

    saved = torch.load(shipped, map_location="cpu", weights_only=True)
    generator = torch.Generator().manual_seed(seed)
    for value in saved["model"].values():
        if value.is_floating_point() and value.numel() > 1:
            value += 0.02 * value.std() * torch.randn(value.shape, generator=generator)
    torch.save(saved, checkpoint)


def _write_case(case: Case, video: Path, folder: Path) -> Path:
    """The case's frames; beside them the masks of a generated scene's objects, of another size and shape than those."""
    if case.fresh is None:
        return write_frames(video, folder, case.frames, case.step)
    if case.scene is None:
        images = [Image.fromarray(frame) for frame in read_frames(write_frames(video, folder, case.frames, case.step))]
    else:
        folder.mkdir()
        scene = make_scene(case.scene, 320, 240)
        images = [Image.fromarray(scene.frame(frame)) for frame in range(case.frames)]
        for number, (mask, size) in enumerate(zip(scene.masks(0), ((333, 211), (211, 333)), strict=False)):
            drawn = Image.fromarray(mask.astype(np.uint8) * 255).resize(size)
            drawn.save(folder.parent / f"scene_{number}.png")
    noise = np.random.default_rng(0)
    for index, image in enumerate(images):
        frame = np.asarray(image.resize((1280, 720)))
        grain = noise.normal(0, case.grain, frame.shape) if case.grain else 0
        noisy = Image.fromarray((frame + grain).clip(0, 255).astype(np.uint8))
        noisy.save(folder / f"{index:05d}.jpg", quality=95)
    return folder


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


@pytest.fixture(scope="module")
def workplace(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    python = os.environ.get("ALREF_REFERENCE_PYTHON")
    if not python:
        pytest.fail("set ALREF_REFERENCE_PYTHON to the python that benchmarks/official/install.sh made")
    folder = tmp_path_factory.mktemp("sam2")
    write_mask(folder / "bed.png", (540, 960), (200, 250, 620, 520))
    write_mask(folder / "wall.png", (540, 960), (500, 40, 900, 300))
    y, x = np.mgrid[:720, :1280]
    for name, side, shape in (("checks.png", 1, (720, 1280)), ("wide_checks.png", 8, (211, 333))):
        check = ((x // side + y // side) % 2 * 255).astype(np.uint8)[: shape[0], : shape[1]]
        Image.fromarray(check).save(folder / name)
    return Workplace(python, media, folder)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CASES)
def test_tracking_equals_the_official_predictor(
    name: str, form: str, workplace: Workplace, record_property: pytest.RecordProperty
) -> None:
    case = CASES[name]
    frames = _write_case(case, workplace.media / "bedroom.mp4", workplace.folder / f"{name}-{form}")
    job = workplace.folder / f"{name}.json"
    job.write_text(json.dumps(case.job(), sort_keys=True))
    masks = [workplace.folder / prompt["mask"] for prompt in case.prompts if "mask" in prompt]
    inputs = [*sorted(frames.iterdir()), *masks]
    official, again = (
        workplace.official("sam2_video", case.variant, {"frames": frames, "onednn": onednn}, job, inputs, case.fresh)
        for onednn in ("on", "off")
    )
    assert len(official["frames_0"]) == case.frames - case.start
    facts = assert_not_trivial(official, absent=case.absent, share_of=case.share_of)
    tracker = Sam2VideoTracker(
        workplace.graphs_of(case.variant, form, case.fresh), TrackingOptions(case.fill_hole_area)
    )
    ours, _ = run_job(tracker, read_frames(frames), case.job(), workplace.folder)
    worst = assert_equal(official, ours, again, noisy=case.grain > 0)
    print(f"{name}, {form}: {worst} {facts}")
    for key, value in {**worst, **facts}.items():
        record_property(key, value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", SEEDS)
def test_image_prompts_equal_the_official_predictor(
    variant: str, form: str, workplace: Workplace, record_property: pytest.RecordProperty
) -> None:
    frames = write_frames(workplace.media / "bedroom.mp4", workplace.folder / "image", 1)
    job = workplace.folder / "image.json"
    job.write_text(json.dumps(IMAGE_PROMPTS, sort_keys=True))
    image = frames / "00000.jpg"
    official = workplace.official("sam2_image", variant, {"image": image}, job, [image])
    predictor = Sam2ImagePredictor(workplace.graphs_of(variant, form))
    predictor.set_image(read_frames(frames)[0])
    shares, worst = [], 0.0
    for number, prompt in enumerate(IMAGE_PROMPTS):
        given = {key: value for key, value in prompt.items() if key != "mask_from"}
        if "mask_from" in prompt:
            given["mask_input"] = official[f"low_res_{prompt['mask_from']}"][0]
        masks, ious, low_res = predictor.predict(**given)
        expected = official[f"low_res_{number}"]
        difference = float(np.abs(low_res - expected).max())
        assert difference <= max(1e-3, 1e-4 * float(expected.std()))
        assert float(np.abs(ious - official[f"ious_{number}"]).max()) <= 1e-3
        assert worst_iou(official[f"masks_{number}"], masks) >= 0.999
        shares += list(official[f"masks_{number}"].mean((1, 2)))
        worst = max(worst, difference)
    assert (np.abs(np.array(shares) - 0.5) < 0.49).mean() >= 0.5, shares
    print(f"{variant}, {form}: image prompts, logits within {worst:.1e}")
    record_property("logits", worst)
