"""Tables that make Grounding DINO's graphs exact at every image size.

The graphs hold no height or width. Whatever depends on them is an index or coordinate table made here in numpy:
window partition with its zero padding and cyclic shift (Swin, `window_partition` and `BasicLayer.forward` of the
official `swin_transformer.py`), patch merging of odd maps, the 3x3 stride-2 projection of the last level, sine
positions (`PositionEmbeddingSineHW`), reference points and proposal centres (`transformer.py`, `utils.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from alref_edge.errors import EngineError

Tables = Mapping[str, np.ndarray]

# A video has one size; at 1333x750 pixels its tables take 4 MB.
_KEPT_SIZES = 4


@dataclass(frozen=True)
class Geometry:
    """The numbers of a Grounding DINO model on which its tables depend.

    Attributes:
        depths: Swin blocks in each of the four stages; every second block of a stage is shifted.
        window_size: side of a Swin window, in tokens.
        d_model: width of the transformer.
        num_queries: proposals that the decoder refines.
        temperature: of the sine positions, the same for both axes.
        patch_size: pixels a side of a Swin patch.
    """

    depths: tuple[int, ...]
    window_size: int
    d_model: int
    num_queries: int
    temperature: float = 20.0
    patch_size: int = 4

    def __post_init__(self) -> None:
        positive = (*self.depths, self.window_size, self.num_queries, self.patch_size)
        if len(self.depths) != 4 or min(positive) < 1 or self.d_model < 4 or self.d_model % 4:
            raise EngineError(
                "The Grounding DINO configuration makes no geometry.",
                expected="four stages, positive sizes, d_model a multiple of 4",
                got=f"depths {self.depths}, window_size {self.window_size}, d_model {self.d_model}",
                mend="export the component again.",
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Geometry:
        """Read it from a component's config (`swin`, `d_model`, `num_queries`, `position_temperature`)."""
        try:
            swin = config["swin"]
            return cls(
                depths=tuple(int(depth) for depth in swin["depths"]),
                window_size=int(swin["window_size"]),
                d_model=int(config["d_model"]),
                num_queries=int(config["num_queries"]),
                temperature=float(config["position_temperature"]),
                patch_size=int(swin["patch_size"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(
                "The Grounding DINO configuration is incomplete.", got=repr(error), mend="export the component again."
            ) from error

    def stage_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width, in tokens, of the maps of the four Swin stages for an image of `height` x `width` px."""
        if height < 1 or width < 1:
            raise EngineError("An image needs at least one pixel.", got=f"{height}x{width}")
        sizes = [(-(-height // self.patch_size), -(-width // self.patch_size))]
        for _ in range(3):
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        return sizes

    def level_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width of the four feature levels: Swin stages 2 to 4, and one of stride 2 on the last.

        Raises:
            EngineError: the levels hold fewer tokens than the decoder has queries (the official code fails there too).
        """
        sizes = self.stage_sizes(height, width)[1:]
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        tokens = sum(rows * columns for rows, columns in sizes)
        if tokens < self.num_queries:
            raise EngineError(
                f"An image of {height}x{width} px is too small for the detector.",
                expected=f"at least {self.num_queries} feature tokens",
                got=f"{tokens}",
                mend="enlarge the image, or crop one that is very long and narrow.",
            )
        return sizes


def backbone_tables(height: int, width: int, config: Mapping[str, Any] | Geometry) -> Tables:
    """Index tables of the `backbone` graph, int64; an index equal to the number of tokens means a row of zeros.

    They are made once a size; those of the last sizes are kept, and none can be altered.

    Args:
        height, width: the image's size in pixels, as the graph receives it.
        config: the component's config, or the geometry made of it.

    Returns:
        For each stage s in 0..3, with N_s tokens, W_s windows of n = window_size² tokens:
        `windows_s` [W_s, n] tokens of each window, `unwindows_s` [N_s] the place of each token among the W_s·n;
        where the stage has a shifted block, `shifted_s` and `unshifted_s` likewise, and `kinds_s` [W_s], which mask a
        shifted window takes: 0 none, 1 the last row of windows, 2 the last column, 3 both;
        `merge_s` [N_s+1, 4] for s < 3: the four tokens merged into one; `stride` [N_4, 9]: the 3x3 neighbourhoods of
        the fourth level.

    Raises:
        EngineError: the size is not positive, or too small for the model.
    """
    return _backbone_tables(height, width, config if isinstance(config, Geometry) else Geometry.from_config(config))


@lru_cache(_KEPT_SIZES)
def _backbone_tables(height: int, width: int, geometry: Geometry) -> Tables:
    last = geometry.level_sizes(height, width)[-2:]
    stages = geometry.stage_sizes(height, width)
    tables: dict[str, np.ndarray] = {}
    for stage, ((rows, columns), depth) in enumerate(zip(stages, geometry.depths, strict=True)):
        tables[f"windows_{stage}"], tables[f"unwindows_{stage}"] = _windows(rows, columns, geometry.window_size, 0)
        if depth > 1:
            tables[f"shifted_{stage}"], tables[f"unshifted_{stage}"] = _windows(
                rows, columns, geometry.window_size, geometry.window_size // 2
            )
            tables[f"kinds_{stage}"] = _kinds(rows, columns, geometry.window_size)
        if stage < 3:
            tables[f"merge_{stage}"] = _merge(rows, columns)
    tables["stride"] = _neighbourhoods(*last)
    return _frozen(tables)


def decoder_tables(height: int, width: int, config: Mapping[str, Any] | Geometry) -> Tables:
    """Coordinate tables of the `decoder` graph, float32, for each level l in 0..3 of h_l x w_l tokens; kept likewise.

    Args:
        height, width: the image's size in pixels, as the backbone received it.
        config: the component's config, or the geometry made of it.

    Returns:
        `rows_l` [h_l, d/2] and `columns_l` [w_l, d/2], sine positions along each axis;
        `row_centres_l` [h_l] and `column_centres_l` [w_l], the tokens' centres, normalised to 0..1.

    Raises:
        EngineError: the size is not positive, or too small for the model.
    """
    return _decoder_tables(height, width, config if isinstance(config, Geometry) else Geometry.from_config(config))


@lru_cache(_KEPT_SIZES)
def _decoder_tables(height: int, width: int, geometry: Geometry) -> Tables:
    tables: dict[str, np.ndarray] = {}
    for level, (rows, columns) in enumerate(geometry.level_sizes(height, width)):
        tables[f"rows_{level}"] = _sine(rows, geometry.d_model // 2, geometry.temperature)
        tables[f"columns_{level}"] = _sine(columns, geometry.d_model // 2, geometry.temperature)
        tables[f"row_centres_{level}"] = _centres(rows)
        tables[f"column_centres_{level}"] = _centres(columns)
    return _frozen(tables)


def _frozen(tables: dict[str, np.ndarray]) -> Tables:
    """The same, which nobody can alter any more: they are shared."""
    for table in tables.values():
        table.flags.writeable = False
    return MappingProxyType(tables)


def _windows(rows: int, columns: int, size: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
    padded_rows, padded_columns = -(-rows // size) * size, -(-columns // size) * size
    tokens = np.full((padded_rows, padded_columns), rows * columns, dtype=np.int64)
    tokens[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    tokens = np.roll(tokens, (-shift, -shift), axis=(0, 1))
    grid = tokens.reshape(padded_rows // size, size, padded_columns // size, size)
    windows = grid.transpose(0, 2, 1, 3).reshape(-1, size * size)
    places = np.empty(rows * columns + 1, dtype=np.int64)
    places[windows.reshape(-1)] = np.arange(windows.size)
    return np.ascontiguousarray(windows), places[:-1].copy()


def _kinds(rows: int, columns: int, size: int) -> np.ndarray:
    window_rows, window_columns = -(-rows // size), -(-columns // size)
    kinds = np.zeros((window_rows, window_columns), dtype=np.int64)
    kinds[-1, :] += 1
    kinds[:, -1] += 2
    return kinds.reshape(-1)


def _merge(rows: int, columns: int) -> np.ndarray:
    tokens = np.full((rows + rows % 2, columns + columns % 2), rows * columns, dtype=np.int64)
    tokens[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    parts = [tokens[0::2, 0::2], tokens[1::2, 0::2], tokens[0::2, 1::2], tokens[1::2, 1::2]]
    return np.stack([part.reshape(-1) for part in parts], axis=-1)


def _neighbourhoods(source: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    rows, columns = source
    tokens = np.full((2 * target[0] + 1, 2 * target[1] + 1), rows * columns, dtype=np.int64)
    tokens[1 : rows + 1, 1 : columns + 1] = np.arange(rows * columns).reshape(rows, columns)
    parts = [tokens[i : i + 2 * target[0] : 2, j : j + 2 * target[1] : 2] for i in range(3) for j in range(3)]
    return np.stack([part.reshape(-1) for part in parts], axis=-1)


def _sine(length: int, width: int, temperature: float) -> np.ndarray:
    positions = np.arange(1, length + 1, dtype=np.float32)
    positions = positions / (np.float32(length) + np.float32(1e-6)) * np.float32(2 * np.pi)
    exponents = np.float32(2) * (np.arange(width, dtype=np.float32) // 2) / np.float32(width)
    angles = positions[:, None] / np.float32(temperature) ** exponents
    table = np.empty((length, width), dtype=np.float32)
    table[:, 0::2] = np.sin(angles[:, 0::2])
    table[:, 1::2] = np.cos(angles[:, 1::2])
    return table


def _centres(length: int) -> np.ndarray:
    return ((np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(length)).astype(np.float32)
