"""Images as the official transforms make them, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import InputError
from alref_edge.models.grounding_dino import preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# (height, width) before and after the official RandomResize([800], max_size=1333).
OFFICIAL_SIZES = (
    ((540, 960), (750, 1333)),
    ((480, 640), (800, 1066)),
    ((1080, 1920), (750, 1333)),
    ((1920, 1080), (1333, 750)),
    ((800, 800), (800, 800)),
    ((800, 1333), (800, 1333)),
    ((750, 1333), (750, 1333)),
    ((1333, 400), (1333, 400)),
    ((33, 1000), (44, 1333)),
    ((100, 101), (800, 808)),
    ((1001, 777), (1030, 800)),
    ((801, 1335), (800, 1333)),
    ((719, 1279), (749, 1332)),
    ((3, 2), (1200, 800)),
)


@pytest.mark.parametrize(("size", "expected"), OFFICIAL_SIZES)
def test_network_sizes_are_the_official_ones(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert preprocess.network_size(*size) == expected


def test_network_size_of_another_model() -> None:
    assert preprocess.network_size(540, 960, short=320, long=533) == (300, 533)


@pytest.mark.parametrize("size", [(0, 10), (10, 0), (1, 4000)])
def test_images_without_a_size(size: tuple[int, int]) -> None:
    with pytest.raises(InputError):
        preprocess.network_size(*size)


def test_pixels_equal_torchvision() -> None:
    """The official transforms are torchvision's on a PIL image."""
    pytest.importorskip("torch", reason="torch is in the export environment")
    from export.torchvision_ops import declare_operators

    declare_operators()
    from torchvision.transforms import functional

    image = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
    size = preprocess.network_size(97, 131, short=160, long=210)
    official = functional.resize(Image.fromarray(image), list(size))
    official = functional.normalize(functional.to_tensor(official), MEAN, STD)
    ours = preprocess.normalise(preprocess.resize(image, size), MEAN, STD)
    assert ours.shape == (1, 3, *size)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_array_equal(ours[0], official.numpy())


def test_an_image_of_the_networks_size_is_left_alone() -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    assert preprocess.resize(image, (40, 50)) is image


def test_one_pixel_is_an_image_and_none_is_not() -> None:
    assert preprocess.network_size(1, 1, short=8, long=16) == (8, 8)
    assert preprocess.network_size(1, 2, short=8, long=16) == (8, 16)
    for size in ((0, 5), (5, 0)):
        with pytest.raises(InputError, match="no pixels"):
            preprocess.network_size(*size, short=8, long=16)
