"""The tables against the operations that they stand for, written out on small maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from alref_edge.errors import EngineError
from alref_edge.models.grounding_dino.geometry import Geometry, backbone_tables, decoder_tables

SIZES = [(240, 320), (333, 500), (65, 97), (91, 47), (32, 224), (750, 1333)]
SMALL = Geometry(depths=(1, 1, 2, 1), window_size=7, d_model=16, num_queries=4)
LARGE = Geometry(depths=(2, 2, 6, 2), window_size=12, d_model=256, num_queries=4)


def _tokens(rows: int, columns: int) -> np.ndarray:
    """Distinct values by place, with the zero row that an index of N means."""
    return np.append(np.arange(1, rows * columns + 1), 0)


@pytest.mark.parametrize("geometry", [SMALL, LARGE])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_windows_are_pad_roll_partition_and_back(geometry: Geometry, height: int, width: int) -> None:
    tables = backbone_tables(height, width, geometry)
    size = geometry.window_size
    for stage, (rows, columns) in enumerate(geometry.stage_sizes(height, width)):
        map_rc = _tokens(rows, columns)[:-1].reshape(rows, columns)
        padded = np.pad(map_rc, ((0, -rows % size), (0, -columns % size)))
        shifts = {"windows": 0, "shifted": size // 2}
        for name, back in (("windows", "unwindows"), ("shifted", "unshifted")):
            if geometry.depths[stage] == 1 and name == "shifted":
                assert f"{name}_{stage}" not in tables
                continue
            rolled = np.roll(padded, (-shifts[name], -shifts[name]), (0, 1))
            expected = [
                rolled[r : r + size, c : c + size].reshape(-1)
                for r in range(0, padded.shape[0], size)
                for c in range(0, padded.shape[1], size)
            ]
            windows = _tokens(rows, columns)[tables[f"{name}_{stage}"]]
            np.testing.assert_array_equal(windows, expected)
            np.testing.assert_array_equal(windows.reshape(-1)[tables[f"{back}_{stage}"]], map_rc.reshape(-1))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_kinds_name_the_masks_of_the_official_slices(height: int, width: int) -> None:
    tables = backbone_tables(height, width, LARGE)
    size, shift = LARGE.window_size, LARGE.window_size // 2
    for stage, (rows, columns) in enumerate(LARGE.stage_sizes(height, width)):
        padded = (rows + -rows % size, columns + -columns % size)
        regions = np.zeros(padded, int)
        slices = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
        for count, (down, across) in enumerate((a, b) for a in slices for b in slices):
            regions[down, across] = count
        kinds = iter(tables[f"kinds_{stage}"])
        for r in range(0, padded[0], size):
            for c in range(0, padded[1], size):
                window, kind = regions[r : r + size, c : c + size], next(kinds)
                assert (len(np.unique(window[:, 0])) > 1) == bool(kind & 1)
                assert (len(np.unique(window[0])) > 1) == bool(kind & 2)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_merging_takes_the_four_phases_of_the_padded_map(height: int, width: int) -> None:
    tables = backbone_tables(height, width, SMALL)
    sizes = SMALL.stage_sizes(height, width)
    for stage, (rows, columns) in enumerate(sizes[:3]):
        padded = np.pad(_tokens(rows, columns)[:-1].reshape(rows, columns), ((0, rows % 2), (0, columns % 2)))
        phases = [padded[0::2, 0::2], padded[1::2, 0::2], padded[0::2, 1::2], padded[1::2, 1::2]]
        merged = _tokens(rows, columns)[tables[f"merge_{stage}"]]
        np.testing.assert_array_equal(merged, np.stack(phases, -1).reshape(-1, 4))
        assert phases[0].shape == sizes[stage + 1]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_stride_gathers_the_neighbourhoods_of_a_padded_stride_2_convolution(height: int, width: int) -> None:
    rows, columns = SMALL.level_sizes(height, width)[2]
    padded = np.pad(_tokens(rows, columns)[:-1].reshape(rows, columns), 1)
    expected = [
        padded[r : r + 3, c : c + 3].reshape(-1)
        for r in range(0, padded.shape[0] - 2, 2)
        for c in range(0, padded.shape[1] - 2, 2)
    ]
    taken = _tokens(rows, columns)[backbone_tables(height, width, SMALL)["stride"]]
    np.testing.assert_array_equal(taken, expected)
    assert len(expected) == np.prod(SMALL.level_sizes(height, width)[3])


def test_level_sizes_follow_the_ceilings_of_each_stride() -> None:
    assert LARGE.stage_sizes(333, 500) == [(84, 125), (42, 63), (21, 32), (11, 16)]
    assert LARGE.level_sizes(333, 500) == [(42, 63), (21, 32), (11, 16), (6, 8)]


def test_centres_and_sines() -> None:
    tables = decoder_tables(240, 320, LARGE)
    for level, (rows, columns) in enumerate(LARGE.level_sizes(240, 320)):
        np.testing.assert_allclose(tables[f"row_centres_{level}"], (np.arange(rows) + 0.5) / rows, rtol=1e-6)
        np.testing.assert_allclose(tables[f"column_centres_{level}"], (np.arange(columns) + 0.5) / columns, rtol=1e-6)
        sines = tables[f"rows_{level}"].astype(np.float64)
        np.testing.assert_allclose(sines[:, 0::2] ** 2 + sines[:, 1::2] ** 2, 1, atol=1e-6)
        angles = 2 * np.pi * np.arange(1, rows + 1) / (rows + 1e-6)
        np.testing.assert_allclose(sines[:, 2], np.sin(angles / 20 ** (2 / 128)), atol=2e-6)
        assert all(table.dtype == np.float32 for table in tables.values())


@pytest.mark.parametrize("dtype", [np.int64])
def test_index_tables_are_int64_and_in_range(dtype: type) -> None:
    tables = backbone_tables(91, 147, LARGE)
    assert all(table.dtype == dtype and table.min() >= 0 for table in tables.values())
    for stage, (rows, columns) in enumerate(LARGE.stage_sizes(91, 147)):
        assert tables[f"windows_{stage}"].max() <= rows * columns
        assert tables[f"unshifted_{stage}"].max() < tables[f"shifted_{stage}"].size


def test_an_image_with_fewer_tokens_than_queries_is_refused() -> None:
    geometry = Geometry(depths=(2, 2, 6, 2), window_size=7, d_model=256, num_queries=900)
    with pytest.raises(EngineError, match="too small"):
        backbone_tables(64, 96, geometry)
    with pytest.raises(EngineError, match="at least one pixel"):
        decoder_tables(0, 96, geometry)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"swin": {"depths": [1, 1, 2], "window_size": 7, "patch_size": 4}, "d_model": 64, "num_queries": 4},
        {
            "swin": {"depths": [1, 1, 2, 1], "window_size": 0, "patch_size": 4},
            "d_model": 64,
            "num_queries": 4,
            "position_temperature": 20,
        },
    ],
)
def test_a_bad_configuration_is_refused(config: dict) -> None:
    with pytest.raises(EngineError):
        Geometry.from_config(config)


@pytest.mark.parametrize("make", [backbone_tables, decoder_tables])
def test_tables_are_made_once_a_size_and_model_and_cannot_be_altered(
    make: Callable[[int, int, Geometry], Mapping[str, np.ndarray]],
) -> None:
    first = make(240, 320, SMALL)
    others = [make(320, 240, SMALL), make(240, 320, LARGE), make(241, 320, SMALL)]
    assert make(240, 320, replace(SMALL)) is first
    assert not any(first is other for other in others)
    for table in first.values():
        with pytest.raises(ValueError, match="read-only"):
            table[...] = 0
    with pytest.raises(TypeError):
        first["more"] = np.zeros(1)  # type: ignore[index]
    for size in range(300, 310):
        make(size, size, SMALL)
    again = make(240, 320, SMALL)
    assert again is not first, "a server that sees many sizes keeps a few"
    assert first.keys() == again.keys()
    assert all(np.array_equal(first[name], again[name]) for name in first)
