"""A scene as a video."""

from __future__ import annotations

import numpy as np
import pytest

from alref_edge.datasets.synthetic import SceneSource, make_scene
from alref_edge.errors import InputError


def test_a_scene_is_a_video() -> None:
    scene = make_scene(3, 96, 128, num_frames=7, fps=8)
    source = SceneSource(scene)
    assert (source.info.width, source.info.height, source.info.fps, source.frame_count()) == (96, 128, 8, 7)
    np.testing.assert_allclose(source.times_s(), np.arange(7) / 8)
    forward, backward = list(source.frames()), list(source.frames_reversed())
    assert [index for index, _ in forward] == list(range(7))
    assert [index for index, _ in backward] == list(range(6, -1, -1))
    for index, image in [*forward, *backward]:
        np.testing.assert_array_equal(image, scene.frame(index))
    assert source.decoded == 14
    assert [index for index, _ in source.frames_at([5, 2])] == [2, 5]
    with pytest.raises(InputError, match="no such frame"):
        source.frames_at([7])


def test_the_last_frame_of_each_second_alone() -> None:
    scene = make_scene(3, 96, 128, num_frames=23, fps=8)
    source = SceneSource(scene, every=8)
    assert (source.frame_count(), source.info.frames, source.info.fps, source.info.duration_s) == (2, 2, 1, 2)
    np.testing.assert_allclose(source.times_s(), [0, 1])
    for index, image in source.frames():
        np.testing.assert_array_equal(image, scene.frame((7, 15)[index]))
    with pytest.raises(InputError, match="no such frame"):
        source.frames_at([2])
