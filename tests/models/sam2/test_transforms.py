"""Resizing against torch and Pillow, which the official code uses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from alref_edge.errors import InputError
from alref_edge.models.sam2 import transforms

torch = pytest.importorskip("torch")

SIZES = [
    ((72, 128), (102, 102)),
    ((540, 960), (256, 256)),
    ((480, 854), (1024, 1024)),
    ((1080, 1920), (1024, 1024)),
    ((100, 37), (64, 64)),
    ((64, 64), (16, 16)),
    ((64, 64), (64, 256)),
    ((1, 1), (64, 64)),
    ((501, 3), (128, 128)),
]


def interpolate(planes: np.ndarray, size: tuple[int, int], *, antialias: bool) -> np.ndarray:
    tensor = torch.from_numpy(planes)[None]
    resized = torch.nn.functional.interpolate(
        tensor, size=size, mode="bilinear", align_corners=False, antialias=antialias
    )
    return resized[0].numpy()


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("antialias", [True, False])
def test_resize_equals_torch(source: tuple[int, int], target: tuple[int, int], antialias: bool) -> None:
    planes = np.random.default_rng(0).standard_normal((3, *source), np.float32)
    resize = transforms.resize_antialiased if antialias else transforms.resize_bilinear
    resized = resize(planes, *target)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, interpolate(planes, target, antialias=antialias), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("source", "target"), [pair for pair in SIZES if pair[1][0] == pair[1][1]])
def test_mask_prompt_equals_torch_at_ties_too(source: tuple[int, int], target: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).random(source) > 0.5
    expected = interpolate(mask[None].astype(np.float32), target, antialias=True) >= 0.5
    prompt = transforms.mask_prompt(mask, target[0])
    assert prompt.shape == (1, 1, *target)
    np.testing.assert_array_equal(prompt[0], expected)


def test_video_pixels_equal_the_official_loader(tmp_path: pytest.TempPathFactory) -> None:
    misc = pytest.importorskip("sam2.utils.misc")
    image = np.random.default_rng(2).integers(0, 256, (93, 71, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "0.png")  # lossless: the loader takes any name it is given
    pixels, height, width = misc._load_img_as_tensor(str(tmp_path / "0.png"), 64)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = torch.zeros(3, 64, 64)
    expected[:] = pixels
    expected -= torch.tensor(mean)[:, None, None]
    expected /= torch.tensor(std)[:, None, None]
    assert (height, width) == (93, 71)
    np.testing.assert_array_equal(transforms.video_pixels(image, 64, mean, std)[0], expected.numpy())


def test_image_pixels_equal_the_official_transforms() -> None:
    image = np.random.default_rng(3).integers(0, 256, (93, 171, 3), np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy()).float().div(255)
    expected = interpolate(tensor.numpy(), (64, 64), antialias=True)
    expected = (expected - np.float32(mean)[:, None, None]) / np.float32(std)[:, None, None]
    np.testing.assert_allclose(transforms.image_pixels(image, 64, mean, std)[0], expected, rtol=0, atol=1e-6)


def test_points_are_scaled_as_the_official_code_scales_them() -> None:
    points = np.random.default_rng(4).random((50, 2), np.float32) * 900
    expected = torch.from_numpy(points) / torch.tensor([960, 540]) * 256
    np.testing.assert_array_equal(transforms.to_model_points(points, 540, 960, 256), expected.numpy())


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_only_rgb_bytes_are_images(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="not RGB bytes"):
        transforms.video_pixels(image, 16, (0, 0, 0), (1, 1, 1))
