"""Frames resized by graphs: to the bit what Pillow makes of them, and what the host's own resizing makes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alref_edge.models import resizing
from alref_edge.models.grounding_dino import preprocess
from alref_edge.models.sam2 import transforms
from alref_edge.runtime import open_session

pytest.importorskip("torch")
from export.resizing import write_postprocess, write_preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SQUARE = 128
SIZES = [(540, 960), (97, 131), (128, 300), (128, 128), (1000, 37), (700, 320), (3, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("resizing")
    write_preprocess(made / "video.onnx", MEAN, STD, levels=True, size=SQUARE)
    write_preprocess(made / "video_tall.onnx", MEAN, STD, levels=True, rows_first=True, size=SQUARE)
    write_preprocess(made / "any.onnx", MEAN, STD, levels=True)
    write_preprocess(made / "any_tall.onnx", MEAN, STD, levels=True, rows_first=True)
    write_preprocess(made / "image.onnx", MEAN, STD, levels=False, size=SQUARE)
    write_postprocess(made / "masks.onnx", 64)
    return made


def images() -> Iterator[np.ndarray]:
    """Noise, which has every step of levels, a smooth image, and one of black and white."""
    rng = np.random.default_rng(3)
    for height, width in SIZES:
        yield rng.integers(0, 256, (height, width, 3), np.uint8)
        y, x = np.mgrid[:height, :width]
        yield np.stack([255 * y // height, 255 * x // width, (x + y) % 256], axis=2).astype(np.uint8)
        yield 255 * rng.integers(0, 2, (height, width, 3), np.uint8)


def test_a_frame_is_to_the_bit_what_pillow_makes_of_it(folder: Path) -> None:
    wanted = resizing.signature(2, SQUARE, SQUARE)
    with (
        open_session(folder / "video.onnx", device="cpu", signature=wanted) as wide,
        open_session(folder / "video_tall.onnx", device="cpu", signature=wanted) as tall,
    ):
        pixels = resizing.Preprocessor(wide, tall, resizing.pillow_bicubic)
        for image in images():
            got = pixels(image, SQUARE, SQUARE).numpy()
            np.testing.assert_array_equal(got, transforms.video_pixels(image, SQUARE, MEAN, STD), str(image.shape))


@pytest.mark.parametrize("size", [(199, 333), (750, 133), (128, 128)])
def test_an_image_of_any_size_is_to_the_bit_what_pillow_makes_of_it(folder: Path, size: tuple[int, int]) -> None:
    signature = resizing.signature(2, "h", "w")
    with (
        open_session(folder / "any.onnx", device="cpu", signature=signature) as wide,
        open_session(folder / "any_tall.onnx", device="cpu", signature=signature) as tall,
    ):
        pixels = resizing.Preprocessor(wide, tall, resizing.pillow_bilinear)
        for image in images():
            wanted = preprocess.normalise(preprocess.resize(image, size), MEAN, STD)
            np.testing.assert_array_equal(pixels(image, *size).numpy(), wanted, str(image.shape))


@pytest.mark.parametrize("weights", [resizing.pillow_bicubic, resizing.pillow_bilinear])
def test_whole_numbers_stay_whole_within_float32(weights: resizing.Weights) -> None:
    """Of frames up to 8K, shrunk: neither part's products with bytes reach a sum that float32 would round."""
    for source, target in ((7680, 1024), (4320, 1024), (720, 1024), (7680, 1333)):
        coarse, fine = weights(source, target).astype(np.float64)
        for part, unit in ((coarse, 2.0**-10), (fine, 2.0**-22)):
            counted = part / unit
            np.testing.assert_array_equal(counted, np.rint(counted))
            assert (255 * np.abs(counted).sum(1)).max() < 2**24


def test_pillows_weights_are_known_by_their_sum() -> None:
    for weights in (resizing.pillow_bicubic, resizing.pillow_bilinear):
        for source, target in ((960, 1024), (1080, 1024), (7, 3)):
            np.testing.assert_allclose(weights(source, target).sum((0, 2)), 1, atol=1e-6)
    wanted = np.asarray(Image.fromarray(np.eye(8, dtype=np.uint8) * 255).resize((8, 5), Image.Resampling.BICUBIC))
    down = resizing.pillow_bicubic(8, 5).sum(0)
    np.testing.assert_allclose(np.clip(255 * down, 0, 255), wanted, atol=0.5)


def test_an_image_is_what_the_host_makes_of_it(folder: Path) -> None:
    with open_session(folder / "image.onnx", device="cpu", signature=resizing.signature(1, SQUARE, SQUARE)) as session:
        pixels = resizing.Preprocessor(session, None, transforms.antialiased_matrix)
        for image in images():
            got = pixels(image, SQUARE, SQUARE).numpy()
            np.testing.assert_allclose(got, transforms.image_pixels(image, SQUARE, MEAN, STD), atol=2e-5)


@pytest.mark.parametrize(("height", "width"), [(540, 960), (97, 131), (30, 7), (64, 64)])
def test_masks_come_as_bits(folder: Path, height: int, width: int) -> None:
    rng = np.random.default_rng(5)
    coarse = rng.standard_normal((3, 9, 9)).astype(np.float32)
    low_res = transforms.resize_bilinear(coarse, 64, 64)
    low_res[1] = -1024
    with open_session(folder / "masks.onnx", device="cpu") as session:
        rows, columns = transforms.bilinear_matrix(64, height), transforms.bilinear_matrix_of_bytes(64, width)
        bits = session.run({"low_res": low_res[:, None], "rows": rows, "columns": columns})["bits"]
    assert bits.shape == (3, height, -(-width // 8))
    got = np.unpackbits(bits, axis=2, count=width).view(bool)
    wanted = transforms.resize_bilinear(low_res, height, width)
    sure = np.abs(wanted) > 1e-5
    np.testing.assert_array_equal(got[sure], wanted[sure] > 0)
    assert sure.mean() > 0.999
    assert not got[1].any()
    assert 0.2 < got[0].mean() < 0.8


def test_matrices_of_a_few_sizes_are_kept(folder: Path) -> None:
    made: list[tuple[int, int]] = []

    def weights(source: int, target: int) -> np.ndarray:
        made.append((source, target))
        return np.zeros((target, source), np.float32)

    with open_session(folder / "masks.onnx", device="cpu") as session:
        kept = resizing.Matrices(session)
        for source in (4, 5, 4, *range(10, 40), 4):
            assert kept.of(weights, source, 3).shape == (3, source)
    assert made == [(4, 3), (5, 3), *((source, 3) for source in range(10, 40)), (4, 3)]
