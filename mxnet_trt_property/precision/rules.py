"""What stays in float32 where the rest of a model computes in a narrower type: one rule for all of them."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from mxnet_trt_property import operators
from mxnet_trt_property.precision.graphs import inner_graphs

FLOAT32_OPERATORS = frozenset(
    # Sums of many terms, and statistics made of them.
    "ReduceSum ReduceMean ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp CumSum "
    "LayerNormalization InstanceNormalization GroupNormalization LpNormalization MeanVarianceNormalization LRN "
    "BatchNormalization GlobalAveragePool GlobalLpPool LpPool Softmax LogSoftmax "
    # Small changes of the input are large ones of the output, or leave float16's range.
    "Exp Log Softplus Sinh Cosh Tan Pow Reciprocal Gelu "
    # Rounding, order and positions: a small error of the input is another answer.
    "Floor Ceil Round Mod Sign Equal Greater GreaterOrEqual Less LessOrEqual TopK ArgMax ArgMin NonMaxSuppression "
    "RoiAlign GridSample DeformConv Range Cast".split()
)
"""ONNX operators that stay in float32, by the rule of each line above."""

# Through these a position stays a position: whatever becomes an integer or was one is exact in float32 only.
_CARRY_POSITIONS = frozenset(
    "Add Sub Mul Div Neg Abs Min Max Clip Where Floor Ceil Round Mod Cast Identity Reshape Flatten Transpose Squeeze "
    "Unsqueeze Expand Tile Concat Split Slice Gather GatherND GatherElements ScatterND Pad".split()
)


def asked_for(graph: onnx.GraphProto, keep: Collection[str]) -> set[str]:
    """Returns the ONNX nodes of MXNet's nodes (by name) and operators in `keep`; doc_string is "operator name"."""
    return {node.name for node in graph.node if not {*node.doc_string.split(" ", 1)}.isdisjoint(keep)}


def integers(graph: onnx.GraphProto) -> set[str]:
    """Returns the nodes that count in the integers of arrays that MXNet quantized."""
    entries = ((node.name, operators.find(node.doc_string.partition(" ")[0])) for node in graph.node)
    return {name for name, entry in entries if entry is not None and entry.counts_integers}


def entries_with_loops(graph: onnx.GraphProto) -> set[str]:
    """Returns the nodes of the entries that wrote loops: a loop reads values of its entry's other nodes from inside."""
    loops = {node.doc_string for node in graph.node if inner_graphs(node)}
    return {node.name for node in graph.node if node.doc_string in loops}


def positions(graph: onnx.GraphProto) -> set[str]:
    """Returns the nodes that compute positions in floats: what is cast to an integer, and what was cast from one."""
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    wanted: set[str] = set()  # values that become positions
    found: set[str] = set()
    for node in reversed(graph.node):
        to_integer = node.op_type == "Cast" and types.get(node.output[0]) not in floats
        if to_integer or (node.op_type in _CARRY_POSITIONS and wanted.intersection(node.output)):
            found.add(node.name)
            wanted.update(name for name in node.input if types.get(name) in floats)
    were: set[str] = set()  # values that were positions
    for node in graph.node:
        from_integer = node.op_type in ("Cast", "Range") and types.get(node.input[0]) not in floats
        if from_integer or (node.op_type in _CARRY_POSITIONS and were.intersection(node.input)):
            found.add(node.name)
            were.update(name for name in node.output if types.get(name) in floats)
    return found
