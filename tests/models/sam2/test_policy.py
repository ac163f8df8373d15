"""SAM 2's policy against the official functions."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from alref_edge.errors import BundleError, InputError
from alref_edge.models.sam2 import policy
from alref_edge.models.sam2.policy import Sam2Config

torch = pytest.importorskip("torch")

CONFIG = Sam2Config(
    image_size=64,
    hidden_dim=16,
    mem_dim=4,
    num_maskmem=7,
    max_obj_ptrs_in_encoder=16,
    pointer_tpos=True,
    pointer_tpos_signed=True,
    only_past_pointers=True,
    multimask_min_points=0,
    multimask_max_points=1,
    stability_delta=0.05,
    stability_threshold=0.98,
    pixel_mean=(0.5, 0.5, 0.5),
    pixel_std=(0.25, 0.25, 0.25),
)


@pytest.mark.parametrize("limit", [None, 2, 3, 5])
def test_closest_prompts_equal_the_official_selection(limit: int | None) -> None:
    pytest.importorskip("sam2")
    from export.torchvision_ops import declare_operators

    declare_operators()
    from sam2.modeling.sam2_utils import select_closest_cond_frames

    generator = np.random.default_rng(0)
    for _ in range(200):
        prompted = [int(frame) for frame in generator.permutation(40)[: generator.integers(1, 9)]]
        frame = int(generator.integers(0, 40))
        selected, _ = select_closest_cond_frames(frame, dict.fromkeys(prompted), -1 if limit is None else limit)
        assert policy.closest_prompts(frame, prompted, limit) == list(selected)


class Recorder:
    """Stands in for memory attention: keeps what it is given."""

    def __call__(self, **given: Any) -> Any:
        self.given = given
        return given["curr"][-1] if isinstance(given["curr"], list) else given["curr"]


@pytest.mark.parametrize(
    ("reverse", "family21", "limit"), list(product([False, True], [False, True], [None, 2])), ids=str
)
def test_memory_plan_equals_the_official_choice(reverse: bool, family21: bool, limit: int | None) -> None:
    """The official method runs on memories that carry their frame number, which is read off its attention's input."""
    pytest.importorskip("sam2")
    from export.torchvision_ops import declare_operators

    declare_operators()
    from sam2.modeling.sam2_base import SAM2Base

    config = msgspec.structs.replace(CONFIG, pointer_tpos=family21, pointer_tpos_signed=family21)
    generator = np.random.default_rng(7)
    for _ in range(60):
        num_frames = int(generator.integers(4, 40))
        frame = int(generator.integers(0, num_frames))
        prompted = [int(t) for t in generator.permutation(num_frames)[: generator.integers(1, 5)] if t != frame]
        if not prompted:
            continue
        recent = {int(t) for t in np.flatnonzero(generator.random(num_frames) < 0.7)} - {frame, *prompted}

        def output(t: int) -> dict[str, Any]:
            return {
                "maskmem_features": torch.full((1, 4, 1, 1), float(t)),
                "maskmem_pos_enc": [torch.zeros(1, 4, 1, 1)],
                "obj_ptr": torch.full((1, 4), float(t)),
            }

        attention = Recorder()
        official = SimpleNamespace(
            hidden_dim=4,
            mem_dim=4,
            num_maskmem=7,
            training=False,
            memory_temporal_stride_for_eval=1,
            max_cond_frames_in_attn=-1 if limit is None else limit,
            maskmem_tpos_enc=torch.arange(7.0).reshape(7, 1, 1, 1),
            use_obj_ptrs_in_encoder=True,
            max_obj_ptrs_in_encoder=16,
            only_obj_ptrs_in_the_past_for_eval=True,
            use_signed_tpos_enc_to_obj_ptrs=family21,
            add_tpos_enc_to_obj_ptrs=True,
            proj_tpos_enc_in_obj_ptrs=False,
            obj_ptr_tpos_proj=torch.nn.Identity(),
            memory_attention=attention,
        )
        SAM2Base._prepare_memory_conditioned_features(
            official,
            frame_idx=frame,
            is_init_cond_frame=False,
            current_vision_feats=[torch.zeros(1, 1, 4)],
            current_vision_pos_embeds=[torch.zeros(1, 1, 4)],
            feat_sizes=[(1, 1)],
            output_dict={
                "cond_frame_outputs": {t: output(t) for t in prompted},
                "non_cond_frame_outputs": {t: output(t) for t in recent},
            },
            num_frames=num_frames,
            track_in_reverse=reverse,
        )
        plan = policy.plan_memory(
            frame, prompted, recent, num_frames, reverse=reverse, config=config, max_prompts=limit
        )
        tokens = attention.given["memory"][:, 0, 0].tolist()
        positions = attention.given["memory_pos"][:, 0]
        count = len(plan.memories)
        assert plan.lengths == (
            len(tokens) - attention.given["num_obj_ptr_tokens"],
            attention.given["num_obj_ptr_tokens"],
        )
        assert [t for t, _ in plan.memories] + [t for t, _ in plan.pointers] == tokens
        assert [6 - p for _, p in plan.memories] == positions[:count, 0].tolist()
        span = policy.pointer_span(num_frames, config)
        distances = np.array([d for _, d in plan.pointers]) / span
        np.testing.assert_allclose(positions[count:, 0], np.sin(distances), atol=1e-6)


def test_choose_mask_equals_the_official_decoder() -> None:
    pytest.importorskip("sam2")
    from export.torchvision_ops import declare_operators

    declare_operators()
    from sam2.modeling.sam.mask_decoder import MaskDecoder

    generator = np.random.default_rng(3)
    stable = 0
    settings = SimpleNamespace(dynamic_multimask_stability_delta=0.05)
    for number in range(200):
        masks = generator.standard_normal((4, 8, 8)).astype(np.float32)
        masks[0] *= (0.05, 5.0)[number % 2]
        masks[0] = np.where(np.abs(masks[0]) < 0.05, masks[0] + 0.2, masks[0]) if number % 2 else masks[0]
        ious = generator.random(4).astype(np.float32)
        pointers = generator.standard_normal((4, 5)).astype(np.float32)
        decoder = SimpleNamespace(
            dynamic_multimask_stability_delta=0.05,
            dynamic_multimask_stability_thresh=0.98,
            _get_stability_scores=lambda logits: MaskDecoder._get_stability_scores(settings, logits),
        )
        expected, iou = MaskDecoder._dynamic_multimask_via_stability(
            decoder, torch.from_numpy(masks)[None], torch.from_numpy(ious)[None]
        )
        chosen = policy.choose_mask(masks, ious, pointers, 2, CONFIG)
        np.testing.assert_array_equal(chosen.logits_hw, expected[0, 0])
        assert chosen.iou == float(iou)
        np.testing.assert_array_equal(chosen.pointer_c, pointers[0])
        stable += bool((chosen.logits_hw == masks[0]).all())
        best = 1 + int(np.argmax(ious[1:]))
        for points in (0, 1):
            chosen = policy.choose_mask(masks, ious, pointers, points, CONFIG)
            np.testing.assert_array_equal(chosen.logits_hw, masks[best])
            np.testing.assert_array_equal(chosen.pointer_c, pointers[best])
    assert 20 < stable < 180


def test_an_empty_mask_is_stable() -> None:
    assert policy.stability(np.full((4, 4), -5.0, np.float32), 0.05) == 1.0


def test_a_configuration_says_what_it_lacks() -> None:
    with pytest.raises(BundleError, match="incomplete") as caught:
        Sam2Config.from_mapping({"image_size": 64})
    assert "stability_delta" in str(caught.value)


@pytest.mark.parametrize("change", [{"image_size": 65}, {"num_maskmem": 0}, {"pixel_std": (1.0, 1.0)}], ids=str)
def test_an_impossible_configuration_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BundleError):
        Sam2Config.from_mapping({**msgspec.structs.asdict(CONFIG), **change})


@pytest.mark.parametrize(
    ("points", "labels"),
    [
        (np.zeros((1, 3)), np.ones(1)),
        (np.zeros((2, 2)), np.ones(1)),
        (np.zeros(2), np.ones(1)),
        (np.array([[np.nan, 0]]), np.ones(1)),
        (np.zeros((1, 2)), np.array([2])),
    ],
)
def test_malformed_points_are_refused(points: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(InputError):
        policy.check_points(points, labels)


def test_stability_counts_what_is_above_a_threshold_not_what_is_on_it() -> None:
    delta = np.float32(0.05)
    logits = np.array([[1.0, delta, 0.0, -delta]], np.float32)
    assert policy.stability(logits, 0.05) == pytest.approx(1 / 3)


def test_boxes_come_alone_or_in_rows() -> None:
    for shape in ((4,), (1, 4), (3, 4)):
        policy.check_box(np.ones(shape))
    for shape in ((), (3,), (4, 1), (0, 5), (1, 2, 4)):
        with pytest.raises(InputError, match="not four finite numbers"):
            policy.check_box(np.ones(shape))
