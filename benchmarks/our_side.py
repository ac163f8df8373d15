"""What programs need to run `alref-edge` beside the official code, and to compare what both made."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alref_edge.media import natural_key


def run_ours(
    command: str, source: Path, options: Sequence[str], out: Path, bundle: Path | None, threads: int
) -> dict[str, Any]:
    """Run `alref-edge` on the CPU, without an overlay.

    Args:
        command: rvos or avs.
        source: the video.
        options: further ones.
        out: the folder of the result.
        bundle: None for the shipped one.
        threads: of the CPU.

    Returns:
        The record of the result; `wall_s` in it has the seconds of the whole process.

    Raises:
        subprocess.CalledProcessError: it failed, and has said why.
    """
    arguments = [sys.executable, "-m", "alref_edge", command, str(source), "--out", str(out), "--no-overlay", *options]
    arguments += ["--device", "cpu", "--threads", str(threads)]
    arguments += [] if bundle is None else ["--bundle", str(bundle)]
    start = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    record: dict[str, Any] = json.loads((out / "result.json").read_text())
    return {**record, "wall_s": seconds}


def read_maps(folder: Path) -> np.ndarray:
    """The indexed PNGs of a folder in the order of the frames whose names they bear, uint8 `[T, H, W]`."""
    paths = sorted(folder.glob("*.png"), key=lambda path: natural_key(path.name))
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def prompted_box(pivot: Mapping[str, Any]) -> list[float] | None:
    """The box of a result's pivot as it was found, which may reach beyond the frame."""
    box: list[float] | None = pivot.get("prompt_box", pivot["box"])
    return box


def iou_t(one_thw: np.ndarray, other_thw: np.ndarray) -> np.ndarray:
    """IoU of two bool masks on each frame, `[T]`; 1 where both are empty."""
    union = (one_thw | other_thw).sum((1, 2))
    return np.where(union == 0, 1.0, (one_thw & other_thw).sum((1, 2)) / np.maximum(union, 1))


def box_error(one: Sequence[float], other: Sequence[float], width: int, height: int) -> float:
    """The largest distance of two boxes' sides, as a share of the frame's."""
    return float((np.abs(np.subtract(one, other)) / [width, height, width, height]).max())
