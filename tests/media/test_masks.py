"""PNG files and run-length encodings."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from alref_edge import files
from alref_edge.errors import CapacityError, InputError, MediaError
from alref_edge.media import (
    DAVIS_PALETTE,
    Limits,
    decode_rle,
    encode_rle,
    object_colour,
    write_indexed_png,
    write_mask_png,
)


def masks() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[:61, :83]
    return [
        np.zeros((61, 83), bool),
        np.ones((61, 83), bool),
        draw.random((61, 83)) < 0.5,
        (rows - 30) ** 2 + (columns - 40) ** 2 < 400,
        np.eye(5, dtype=bool),
        np.ones((1, 1), bool),
        np.tile([True, False], (700, 400)),
    ]


def test_the_palette_is_that_of_davis() -> None:
    assert DAVIS_PALETTE.shape == (256, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 7: (128, 128, 128), 8: (64, 0, 0)}
    known |= {21: (128, 64, 128), 22: (0, 192, 128), 255: (224, 224, 192)}
    for index, colour in known.items():
        assert tuple(DAVIS_PALETTE[index]) == colour
    assert object_colour(0) == (128, 0, 0)
    assert len({object_colour(index) for index in range(255)}) == 255
    assert all(any(object_colour(index)) for index in range(600))


def test_indexed_png_holds_the_labels_and_the_palette(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 256, (37, 53), np.uint8)
    write_indexed_png(tmp_path / "a.png", labels)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), labels)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), DAVIS_PALETTE[labels])
    write_indexed_png(tmp_path / "a.png", labels.astype(np.int64) // 2)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), labels // 2)


@pytest.mark.parametrize("mask", masks(), ids=str)
def test_mask_png(mask: np.ndarray, tmp_path: Path) -> None:
    write_mask_png(tmp_path / "m.png", mask)
    image = Image.open(tmp_path / "m.png")
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), np.where(mask, 255, 0))
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_a_capacity_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_a_full_disk(path: Path) -> tuple[IO[bytes], Path]:
        return open("/dev/full", "wb"), path.with_suffix(".partial")

    monkeypatch.setattr(files, "open_beside", on_a_full_disk)
    for side in (2, 400):
        with pytest.raises(CapacityError, match=r"cannot be written.*No space left"):
            write_mask_png(tmp_path / "m.png", np.random.default_rng(0).random((side, side)) < 0.5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "kind"), [(errno.EDQUOT, CapacityError), (errno.EROFS, InputError)])
def test_a_used_up_quota_is_a_full_disk(number: int, kind: type[Exception]) -> None:
    assert type(files.unwritable(Path("m.png"), OSError(number, os.strerror(number)))) is kind


def test_files_get_the_permissions_of_plain_files(tmp_path: Path) -> None:
    write_mask_png(tmp_path / "m.png", np.ones((2, 2), bool))
    (tmp_path / "plain").write_text("")
    assert os.stat(tmp_path / "m.png").st_mode == os.stat(tmp_path / "plain").st_mode


@pytest.mark.parametrize("mask", masks(), ids=str)
def test_run_lengths_go_there_and_back(mask: np.ndarray) -> None:
    rle = json.loads(json.dumps(encode_rle(mask)))
    assert rle["size"] == list(mask.shape)
    np.testing.assert_array_equal(decode_rle(rle), mask)
    np.testing.assert_array_equal(coco.decode({**rle, "counts": rle["counts"].encode()}), mask)


def test_slices_and_transposes_are_encoded_by_value() -> None:
    mask = masks()[2]
    np.testing.assert_array_equal(decode_rle(encode_rle(mask[::2, 5:40])), mask[::2, 5:40])
    np.testing.assert_array_equal(decode_rle(encode_rle(mask.T)), mask.T)


GOOD = encode_rle(masks()[3])


@pytest.mark.parametrize(
    "rle",
    [
        None,
        {},
        {"size": [61, 83]},
        {"size": [61], "counts": GOOD["counts"]},
        {"size": [61, -83], "counts": GOOD["counts"]},
        {"size": ["61", "83"], "counts": GOOD["counts"]},
        {"size": [61, 83], "counts": [5000, 63]},
        {"size": [61, 83], "counts": ""},
        {"size": [61, 83], "counts": GOOD["counts"][:-3]},
        {"size": [61, 83], "counts": GOOD["counts"] + "oooooo"},
        {"size": [61, 83], "counts": "é" * 10},
        {"size": [60, 83], "counts": GOOD["counts"]},
        {"size": [1 << 20, 1 << 20], "counts": GOOD["counts"]},
    ],
    ids=str,
)
def test_bad_run_lengths_never_reach_the_decoder(rle: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco, "decode", lambda _: pytest.fail("the decoder was called"))
    with pytest.raises(MediaError):
        decode_rle(rle)


def test_run_lengths_keep_to_the_limit() -> None:
    with pytest.raises(MediaError, match="pixels"):
        decode_rle(GOOD, Limits(pixels=61 * 83 - 1))


@pytest.mark.parametrize(
    "labels", [np.zeros((2, 2)), np.zeros((2, 2, 3), np.uint8), np.full((2, 2), 256), -np.eye(2, dtype=int)]
)
def test_label_maps_of_another_form(labels: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_indexed_png(tmp_path / "x.png", labels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros((1, 2, 2), bool), np.zeros((0, 2), bool)])
def test_masks_of_another_form(mask: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_mask_png(tmp_path / "x.png", mask)
    with pytest.raises(InputError):
        encode_rle(mask)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "gone" / "x.png", tmp_path / "folder.png"):
        with pytest.raises(InputError, match="cannot be written"):
            write_mask_png(path, np.ones((2, 2), bool))
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder.png"]
