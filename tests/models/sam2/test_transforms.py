"""Resizing against torch and Pillow, which the official code uses: bit for bit, so that ties fall the same way."""

from __future__ import annotations

from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def fused() -> None:
    """torch without fused multiply-add rounds otherwise, and differs from itself."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("this CPU has no AVX2: torch's own resizes are others")


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("antialias", [True, False])
def test_resize_equals_torch(source: tuple[int, int], target: tuple[int, int], antialias: bool) -> None:
    planes = np.random.default_rng(0).standard_normal((3, *source), np.float32)
    resize = transforms.resize_antialiased if antialias else transforms.resize_bilinear
    resized = resize(planes, *target)
    assert resized.dtype == np.float32
    expected = np.concatenate([interpolate(plane[None], target, antialias=antialias) for plane in planes])
    # Without antialiasing, torch has another kernel for targets whose sides add up to 128 or less.
    close = 0 if antialias or sum(target) > 128 else 1e-6
    np.testing.assert_allclose(resized, expected, rtol=0, atol=close)


# A mask's size, and the model's: frames, masks of another size than the frame's, lines and points.
MASK_SIZES = [
    *(((1, 1), 128), ((1, 7), 128), ((9, 1), 256), ((2, 2), 64), ((3, 5), 128), ((64, 64), 128), ((100, 37), 64)),
    *(((211, 333), 256), ((333, 211), 256), ((211, 333), 1024), ((333, 211), 1024), ((480, 854), 256)),
    *(((720, 1280), 256), ((720, 1280), 1024), ((1023, 1025), 256), ((1000, 37), 64), ((512, 512), 64)),
]


def drawn_masks(height: int, width: int) -> Iterator[np.ndarray]:
    """Masks whose edges tie after a resize, and others."""
    y, x = np.mgrid[:height, :width]
    for side in (1, 2, 3, 8):
        yield (x // side + y // side) % 2 == 0
    yield from (x % 2 == 0, y % 2 == 0, x % 3 == 0, x < width // 2, y < height / 2)
    yield ((x - 0.4 * width) / (0.2 * width)) ** 2 + ((y - 0.7 * height) / (0.25 * height)) ** 2 < 1
    yield (x == width // 2) & (y == height // 2)
    random = np.random.default_rng(height * width)
    yield from (random.random((height, width)) < share for share in (0.1, 0.5))
    yield np.ones((height, width), bool)


@pytest.mark.parametrize(("source", "size"), MASK_SIZES)
def test_mask_prompts_tie_as_in_torch(source: tuple[int, int], size: int) -> None:
    """As `add_new_mask`, `_use_mask_as_output` and `_get_orig_video_res_output` resize, one after the other."""
    frame = (360, 640) if sum(source) <= 128 or source == (211, 333) else source
    for number, mask in enumerate(drawn_masks(*source)):
        plane = mask[None].astype(np.float32)
        if source != (size, size):
            plane = (interpolate(plane, (size, size), antialias=True) >= 0.5).astype(np.float32)
        low_res = interpolate(plane * np.float32(20) - np.float32(10), (size // 4, size // 4), antialias=True)
        shown = interpolate(low_res, frame, antialias=False)
        prompt = transforms.mask_prompt(mask, size)
        assert prompt.shape == (1, 1, size, size)
        np.testing.assert_array_equal(prompt[0], plane, f"prompt of mask {number}")
        logits = transforms.mask_logits(prompt)
        np.testing.assert_array_equal(logits, low_res[0], f"logits of mask {number}")
        np.testing.assert_array_equal(transforms.resize_bilinear(logits, *frame), shown[0], f"mask {number}")


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
    np.testing.assert_array_equal(transforms.image_pixels(image, 64, mean, std)[0], expected)


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
