"""Float16 graphs from float32 ones, by a written policy.

What gains by float16 is made of it: products with weights and between activations, and what lies between them. What
loses by it stays float32: operators whose rounding moves a mask or a box, and all arithmetic on their results until
the next product. Types spread as torch promotes them, so coordinates, angles and logarithms pass through reshapes and
sums at full width, which general converters do not see to. Softmax and LayerNormalization take float16: the second
accumulates in float32 by its definition, the first does in ONNX Runtime and TensorRT.

Constants are computed in float32 and rounded once. Engines fold that when they load a graph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alref_edge.errors import InputError
from export.fused import register_schemas

PRECISIONS = ("float32", "float16")

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
# Products: float16 whatever comes in, unless the policy names their weights.
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Attention", "MultiHeadAttention"})
# Float32 in every component: functions of coordinates and angles, statistics, and what engines lack in float16.
_FLOAT32_OPERATORS = frozenset(
    {
        *("Sin", "Cos", "Log", "Exp", "Pow", "Sqrt", "Reciprocal"),
        *("ReduceMean", "ReduceSum", "InstanceNormalization", "GroupNormalization"),
        *("Resize", "GridSample", "TopK"),
    }
)
# What moves constants and leaves them as they are: it moves rounded ones, so that a file need not hold both.
_MOVES = frozenset({"Concat", "Slice", "Split", "Transpose", "Unsqueeze"})
# Inputs of an operator that float32 graphs and float16 graphs have alike.
_ALWAYS_FLOAT32 = {"Resize": frozenset({1, 2})}
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Policy:
    """What of a component's graphs is float32 in its float16 graphs, and what crosses their borders as float16.

    Attributes:
        float32_weights: patterns of weights' names: a product with such a weight stays float32.
        float32_inputs: inputs that keep their width inside the graph; other float32 inputs are rounded at its border.
        float16_borders: inputs and outputs that are float16 themselves: what a graph hands to another on the device.
    """

    float32_weights: tuple[str, ...] = ()
    float32_inputs: frozenset[str] = frozenset()
    float16_borders: frozenset[str] = frozenset()


POLICIES: dict[str, Policy] = {
    # Scores decide which mask is taken and whether there is an object at all; prompts are places in pixels.
    "sam2": Policy(
        float32_weights=("iou_prediction_head", "pred_obj_score_head", r"(^|\.)gaussian$"),
        float32_inputs=frozenset({"point_coords", "pointer_pos", "object_score", "low_res", "has_mask"}),
        # Memories are rounded to bfloat16, of which float16 loses nothing but what is next to zero.
        float16_borders=frozenset({"embed", "feat_s0", "feat_s1", "bank", "memory"}),
    ),
    # Boxes are refined in logits: a step of float16 would be half a pixel of a large image.
    "grounding_dino": Policy(
        float32_weights=(r"(^|\.)(box|proposal_box)\.",),
        float32_inputs=frozenset(f"{kind}_centres_{level}" for kind in ("row", "column") for level in range(4)),
        float16_borders=frozenset({"features"}),
    ),
    # Logits of attention grow with the length; from the relative positions on they are summed, and made weights, at
    # full width.
    "beats": Policy(float32_weights=(r"relative_attention_bias\.weight$",)),
    # Similarities are what is asked for: embeddings and their lengths are computed at full width.
    "languagebind": Policy(float32_weights=(r"(^|\.)(text|visual)_projection\.",)),
    # Convolutions; the mean over the patch is a ReduceMean, float32 already.
    "yamnet": Policy(),
}


# Where things are sampled stays float32, as `GridSample` wants: from the biases on, so that each product is cast once.
POLICIES["grounding_dino.cuda"] = replace(
    POLICIES["grounding_dino"],
    float32_weights=(
        *POLICIES["grounding_dino"].float32_weights,
        r"attention\.(offsets\.bias|weights\.bias|value_bias)$",
    ),
)


def check_precisions(precisions: Sequence[str]) -> None:
    """Raise an InputError unless they are precisions that can be exported, at least one."""
    if not precisions or not set(precisions) <= set(PRECISIONS):
        raise InputError(
            "There is no such precision.",
            expected=", ".join(PRECISIONS),
            got=list(precisions),
            mend="name one or both.",
        )


def to_float16(model: onnx.ModelProto, policy: Policy) -> onnx.ModelProto:
    """A float16 copy of a float32 model whose weights lie in it.

    Inputs and outputs keep their names and, where the policy does not say otherwise, their types.
    """
    return _Conversion(model, policy).model


def write_float16(graphs: Mapping[str, Path], component: str) -> dict[str, Path]:
    """Float16 graphs of a component beside its float32 ones, by its policy."""
    paths = {}
    for name, path in graphs.items():
        paths[name] = path.with_name(f"{path.stem}.float16.onnx")
        onnx.save(to_float16(onnx.load(path), POLICIES[component]), paths[name])
    return paths


class _Conversion:
    """One model's way to float16, node by node.

    `held` is what each value of the new graph is; `same` names the casts made of it.
    """

    def __init__(self, model: onnx.ModelProto, policy: Policy) -> None:
        self.types, self.policy = element_types(model), policy
        self.protected = [re.compile(pattern) for pattern in policy.float32_weights]
        self.weights = {each.name: each for each in model.graph.initializer if each.data_type == FLOAT}
        self.constants = {each.name for each in model.graph.initializer}
        self.moved: dict[str, onnx.NodeProto] = {}
        self.held: dict[str, int] = dict.fromkeys(self.weights, FLOAT)
        self.same: dict[tuple[str, int], str] = {}
        self.rounded: list[TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.model = _without_weights(model)
        graph = self.model.graph
        self._enter(graph.input)
        for node in model.graph.node:
            self._convert(node)
        self._leave(graph.output)
        used = self._drop_unread({each.name for each in graph.output})
        kept = [each for each in (*model.graph.initializer, *self.rounded) if each.name in used]
        del graph.node[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(kept)

    def _enter(self, inputs: Iterable[onnx.ValueInfoProto]) -> None:
        for each in inputs:
            if self.types[each.name] != FLOAT:
                continue
            self.held[each.name] = FLOAT if each.name in self.policy.float32_inputs else HALF
            if each.name in self.policy.float16_borders:
                each.type.tensor_type.elem_type = HALF
            elif self.held[each.name] == HALF:
                self.same[each.name, HALF] = self._cast(each.name, HALF)
                self.same[each.name, FLOAT] = each.name

    def _leave(self, outputs: Iterable[onnx.ValueInfoProto]) -> None:
        for each in outputs:
            if self.types[each.name] != FLOAT:
                continue
            wanted = HALF if each.name in self.policy.float16_borders else FLOAT
            each.type.tensor_type.elem_type = wanted
            if self.held[each.name] != wanted:
                inner = f"{each.name}/inner"
                for node in self.nodes:
                    for names in (node.input, node.output):
                        names[:] = [inner if name == each.name else name for name in names]
                self.nodes.append(helper.make_node("Cast", [inner], [each.name], f"{each.name}/Cast", to=wanted))

    def _drop_unread(self, outputs: set[str]) -> set[str]:
        """Leaves out what nobody reads, such as constants in a width that is not asked for; returns what is read."""
        used, kept = set(outputs), []
        for node in reversed(self.nodes):
            if used.intersection(node.output):
                used.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        return used

    def _convert(self, original: onnx.NodeProto) -> None:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        kind: int = FLOAT
        if all(name in self.constants for name in node.input if name):
            self._constant(node)
        elif node.op_type == "Cast":
            target = next(each for each in node.attribute if each.name == "to")
            kind = HALF if self.types[node.input[0]] == TensorProto.BOOL else FLOAT
            target.i = kind if target.i == FLOAT else target.i
            if node.input[0] in self.held:
                node.input[0] = self._as(node.input[0], self.held[node.input[0]])
        else:
            kind = self._kind(node)
            always = _ALWAYS_FLOAT32.get(node.op_type, ())
            for index, name in enumerate(node.input):
                if self.types.get(name) == FLOAT:
                    node.input[index] = self._as(name, FLOAT if index in always else kind)
        self.held.update({name: kind for name in node.output if self.types.get(name) == FLOAT})
        self.nodes.append(node)

    def _constant(self, node: onnx.NodeProto) -> None:
        """Notes what a node makes of constants, and whether it only moves weights."""
        self.constants.update(node.output)
        read = [name for name in node.input if self.types.get(name) == FLOAT]
        if node.op_type in _MOVES and read and all(name in self.weights or name in self.moved for name in read):
            self.moved.update(dict.fromkeys(node.output, node))

    def _weights(self, name: str) -> set[str]:
        """The weights that a value is, moved or not."""
        if name in self.moved:
            return set().union(*(self._weights(each) for each in self.moved[name].input))
        return {name} & self.weights.keys()

    def _kind(self, node: onnx.NodeProto) -> int:
        """What a node's float32 inputs and outputs become."""
        read = [name for name in node.input if self.types.get(name) == FLOAT]
        if not read:  # it makes float32 of other things
            return FLOAT
        weights = {weight for name in read for weight in self._weights(name)}
        if any(pattern.search(name) for name in weights for pattern in self.protected):
            return FLOAT
        if node.op_type in _PRODUCTS:
            return HALF
        if node.op_type in _FLOAT32_OPERATORS:
            return FLOAT
        return FLOAT if any(self.held[name] == FLOAT for name in read if name not in self.constants) else HALF

    def _as(self, name: str, wanted: int) -> str:
        """The name of a value in the type wanted, cast where need be."""
        if (name, wanted) in self.same:
            return self.same[name, wanted]
        if self.held[name] == wanted:
            return name
        if name in self.weights:
            wide = numpy_helper.to_array(self.weights[name])
            narrow = np.clip(wide, -_LARGEST, _LARGEST).astype(np.float16)
            self.rounded.append(numpy_helper.from_array(narrow, f"{name}/float16"))
            self.same[name, wanted] = self.rounded[-1].name
        elif name in self.moved and wanted == HALF:
            self._move_rounded(self.moved[name])
        else:
            self.same[name, wanted] = self._cast(name, wanted)
        return self.same[name, wanted]

    def _move_rounded(self, original: onnx.NodeProto) -> None:
        """A node that moves constants once more, of rounded ones."""
        node = onnx.NodeProto()
        node.CopyFrom(original)
        node.name = f"{original.output[0]}/float16/{original.op_type}"
        for index, name in enumerate(node.input):
            if self.types.get(name) == FLOAT:
                node.input[index] = self._as(name, HALF)
        node.output[:] = [f"{name}/float16" if name else "" for name in original.output]
        self.same.update({(name, HALF): f"{name}/float16" for name in original.output if name})
        self.nodes.append(node)

    def _cast(self, name: str, wanted: int) -> str:
        made = f"{name}/{'float16' if wanted == HALF else 'float32'}"
        self.nodes.append(helper.make_node("Cast", [name], [made], f"{made}/Cast", to=wanted))
        return made


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value of a model."""
    register_schemas()
    bare = _without_weights(model)
    for tensor in model.graph.initializer:
        bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    graph = onnx.shape_inference.infer_shapes(bare).graph
    return {each.name: each.type.tensor_type.elem_type for each in (*graph.input, *graph.value_info, *graph.output)}


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that costs little: its nodes, inputs and outputs."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    bare.graph.name = model.graph.name
    for field in ("node", "input", "output"):
        getattr(bare.graph, field).extend(getattr(model.graph, field))
    return bare
