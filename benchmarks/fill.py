"""Random weights for a bundle that was made without (`python -m benchmarks skeleton`), of a scale that stays finite.

What a weight is for is told by the nodes that take it: products keep the variance of what they multiply, scales of
norms are near one, everything that is added is small. So outputs are finite in float16 too, and mean nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from alref_edge.bundle import Bundle
from alref_edge.bundle.manifest import EXPORT_AGAIN, MANIFEST
from alref_edge.bundle.verify import sha256_of
from alref_edge.errors import AlrefError, BundleError, InputError
from alref_edge.files import PartialFolder

if TYPE_CHECKING:
    import onnx

KEPT = ".kept.npz"
"""What follows a weights file's name in a skeleton: its tables of whole numbers, by where they begin."""

_FILLED = "benchmarks fill: random weights"
_SMALL = 4096  # bytes: a table that goes into no sum or product may be one that must not be random
_MATRIX, _SCALE, _SHIFT, _TABLE, _FIXED = "matrix", "scale", "shift", "table", "fixed"
_RANK = (_TABLE, _SHIFT, _SCALE, _MATRIX, _FIXED)  # of two uses, the later decides
_SEES_THROUGH = frozenset(
    (
        "Cast",
        "Transpose",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Identity",
        "Concat",
        "Slice",
        "Split",
        "Expand",
    )
)
_SCALES = frozenset(("Mul", "Div", "Add", "Sub"))
_PRODUCTS = frozenset(("MatMul", "FusedMatMul", "Gemm", "Conv", "ConvTranspose", "Attention"))
# By operator and input; what is not here is what `_role` says.
_ROLES = {
    ("LayerNormalization", 1): _SCALE,
    ("LayerNormalization", 2): _SHIFT,
    ("SkipLayerNormalization", 2): _SCALE,
    ("SkipLayerNormalization", 3): _SHIFT,
    ("SkipLayerNormalization", 4): _SHIFT,
    ("InstanceNormalization", 1): _SCALE,
    ("InstanceNormalization", 2): _SHIFT,
    ("GroupNormalization", 1): _SCALE,
    ("GroupNormalization", 2): _SHIFT,
    ("GroupNorm", 1): _SCALE,
    ("GroupNorm", 2): _SHIFT,
    ("Gemm", 2): _SHIFT,
    ("Conv", 2): _SHIFT,
    ("ConvTranspose", 2): _SHIFT,
    ("Attention", 2): _SHIFT,
    ("MultiHeadAttention", 3): _SHIFT,
    ("BiasGelu", 1): _SHIFT,
    ("FastGelu", 1): _SHIFT,
    ("BiasAdd", 1): _SHIFT,
}
_RISKY = frozenset(("Abs", "Div", "Pow", "Log", "Sqrt", "Reciprocal", "Range", "Resize", "Equal", "TopK", "ReduceSum"))
# What SAM 2's masks hang on, by nodes' names: an object that is absent, or a mask of one sign, would cost less.
_PRESENCE, _MASKS = "pred_obj_score_head.layers.2", re.compile(r"output_hypernetworks_mlps\.\d\.layers\.2")


@dataclass(frozen=True)
class Region:
    """A run of bytes of a weights file, which one initialiser or several take.

    Attributes:
        offset, length: in bytes.
        dtype: as numpy names it.
        shape: sizes, as the first initialiser has them.
        role: what it is for.
        fan_in: how many products of a matrix go into a sum.
        node: a node that takes it.
    """

    offset: int
    length: int
    dtype: str
    shape: tuple[int, ...]
    role: str
    fan_in: int
    node: str


def main(argv: list[str]) -> int:
    """Fill a skeleton into a new folder, and verify the bundle that it is then."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fill", description=__doc__)
    parser.add_argument("skeleton", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        bundle = fill(arguments.skeleton, arguments.out, seed=arguments.seed)
    except AlrefError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    size = sum(entry.size for entry in bundle.manifest.files.values())
    print(f"{bundle.root}: {size / 1e6:.1f} MB, UNTRAINED")
    return 0


def fill(skeleton: Path, out: Path, *, seed: int = 0) -> Bundle:
    """Write a bundle with random weights.

    Args:
        skeleton: of `benchmarks.skeleton`.
        out: a new folder.
        seed: of the weights.

    Raises:
        BundleError: it is no skeleton, or lacks files beside the weights.
        InputError: something is there already.
    """
    check_new(out)
    manifest = read_manifest(skeleton / MANIFEST)
    regions = regions_of(skeleton, manifest["files"])
    with closing(PartialFolder(Path(os.path.realpath(out)))) as beside:
        for name, entry in manifest["files"].items():
            target = beside.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (skeleton / name).exists():
                shutil.copyfile(skeleton / name, target)
            elif name in regions:
                _write_weights(target, entry["size"], regions[name].values(), skeleton / (name + KEPT), seed)
            else:
                raise BundleError(f"The skeleton {skeleton} lacks {name}.", mend="make it again from a whole bundle.")
            manifest["files"][name] = {"sha256": sha256_of(target), "size": target.stat().st_size}
        for component in manifest["components"].values():
            component["source"] = {"seed": seed}
        manifest |= {"trained": False, "notes": f"{_FILLED}, seed {seed}; of {sha256_of_manifest(skeleton / MANIFEST)}"}
        (beside.folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        beside.publish(replace=False)
    return Bundle.open(out)


def check_new(out: Path) -> None:
    """Raise an InputError if something is there."""
    if out.exists():
        raise InputError(f"There is something at {out} already.", mend="name a folder that is new.")


def is_skeleton(root: Path) -> bool:
    """Whether a folder is a bundle without its weights."""
    return (root / MANIFEST).is_file() and any(root.rglob(f"*{KEPT}"))


def is_filled(skeleton: Path, root: Path) -> bool:
    """Whether a folder is the bundle that `fill` made of a skeleton."""
    return (root / MANIFEST).is_file() and str(read_manifest(root / MANIFEST)["notes"]).endswith(
        sha256_of_manifest(skeleton / MANIFEST)
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest as it stands in its file, whatever its schema.

    Raises:
        BundleError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["components"], content["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"There is no bundle at {path.parent}.", expected=f"a {MANIFEST} in it", got=str(error), mend=EXPORT_AGAIN
        ) from error
    return dict(content)


def sha256_of_manifest(path: Path) -> str:
    """What names a bundle's contents, see `Bundle.sha256`."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def regions_of(root: Path, files: Iterable[str]) -> dict[str, dict[int, Region]]:
    """The weights that a bundle's graphs take: by file and where they begin."""
    import onnx

    found: dict[str, dict[int, Region]] = defaultdict(dict)
    for name in files:
        if name.endswith(".onnx"):
            model = onnx.load(str(root / name), load_external_data=False)
            for location, region in _graph_regions(model):
                file = (PurePosixPath(name).parent / location).as_posix()
                standing = found[file].get(region.offset)
                if standing is None or _RANK.index(region.role) > _RANK.index(standing.role):
                    found[file][region.offset] = region
    return dict(found)


def is_kept(region: Region) -> bool:
    """Whether a skeleton keeps it: whole numbers, which index and shape, and small tables whose use is not known."""
    return region.role == _FIXED


def _graph_regions(model: onnx.ModelProto) -> Iterable[tuple[str, Region]]:
    import onnx

    uses = _Uses(model)
    for tensor in model.graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if not where:
            continue
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        found: Iterable[tuple[str, int, str]] = [(_FIXED, 1, "")]
        if dtype.kind == "f":
            found = uses.of(tensor.name, tuple(tensor.dims), int(where["length"]))
        role, fan_in, node = max(found, key=lambda use: _RANK.index(use[0]), default=(_TABLE, 1, ""))
        yield (
            where["location"],
            Region(int(where["offset"]), int(where["length"]), dtype.name, tuple(tensor.dims), role, fan_in, node),
        )


class _Uses:
    """What a graph's nodes take its initialisers for, through what only moves them or scales them by constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        import onnx

        graph = model.graph
        self._takers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
        self._constant = {tensor.name for tensor in graph.initializer} | {""}
        inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
        self._shapes = {
            each.name: tuple(axis.dim_value for axis in each.type.tensor_type.shape.dim) for each in inferred
        }
        for node in graph.node:
            if all(name in self._constant for name in node.input):
                self._constant.update(node.output)
            for index, name in enumerate(node.input):
                self._takers[name].append((node, index))

    def of(self, name: str, shape: tuple[int, ...], length: int) -> Iterator[tuple[str, int, str]]:
        """Of a value: its role, how many products go into a sum, and the node's name."""
        for node, index in self._takers[name]:
            operator, vector = node.op_type, sum(size > 1 for size in shape) <= 1
            folded = operator in _SCALES and set(node.input) <= self._constant
            if folded or (operator in _SEES_THROUGH and index == 0):
                for output in node.output:
                    yield from self.of(output, self._shapes.get(output, shape), length)
            elif (operator, index) in _ROLES:
                yield _ROLES[operator, index], 1, node.name
            elif operator in _PRODUCTS:
                yield _MATRIX, _fan_in(node, index, shape), node.name
            elif operator in _RISKY and (length <= _SMALL or index == 1):
                yield _FIXED, 1, node.name
            elif operator == "Mul" and vector:
                yield _SCALE, 1, node.name
            elif operator in ("Add", "Sub") and vector:
                yield _SHIFT, 1, node.name
            else:
                yield _TABLE, 1, node.name


def _fan_in(node: onnx.NodeProto, index: int, shape: tuple[int, ...]) -> int:
    if len(shape) < 2:
        return max(1, prod(shape))
    if node.op_type == "Conv":
        return prod(shape[1:])
    if node.op_type == "ConvTranspose":
        return shape[0]
    transposed = any(each.name == ("transA", "transB")[index] and each.i for each in node.attribute if index < 2)
    return shape[-2] if (index == 1) != transposed else shape[-1]


def _write_weights(path: Path, size: int, regions: Iterable[Region], kept: Path, seed: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
    weights = np.memmap(path, np.uint8, "r+")
    with np.load(kept) as numbers:
        for region in sorted(regions, key=lambda region: region.offset):
            end = region.offset + region.length
            if is_kept(region):
                weights[region.offset : end] = numbers[str(region.offset)]
            else:
                values = _drawn(region, np.random.default_rng([seed, region.offset]))
                weights[region.offset : end] = np.frombuffer(values.astype(region.dtype).tobytes(), np.uint8)
    weights.flush()


def _drawn(region: Region, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(region.shape, np.float32)
    if region.role == _SCALE:
        return 1 + np.float32(0.05) * noise
    if region.role != _MATRIX:
        return np.float32(0.05 if region.role == _SHIFT else 0.3) * noise
    if _PRESENCE in region.node:  # what it multiplies is positive
        noise = np.abs(noise)
    elif _MASKS.search(region.node):  # what its results multiply is mostly positive: they sum to nothing
        noise -= noise.mean(axis=1 if region.shape[0] == region.fan_in else 0, keepdims=True)
    return noise * np.float32(region.fan_in**-0.5)
