"""Bfloat16 inside a model whose inputs and outputs keep their dtypes.

A node computes in bfloat16 unless `rules` keeps it in float32. For an engine with bfloat16 its float inputs and outputs
are of that type. For one without (ONNX Runtime's CPU provider has hardly a kernel) the node computes in float32 between
values that are rounded to bfloat16: the same numbers, but for the order and width of the sums inside of a node.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from mxnet_trt_property.precision.graphs import drop_unread_constants, fold_batch_normalizations, inner_graphs, reads
from mxnet_trt_property.precision.rules import FLOAT32_OPERATORS, asked_for, entries_with_loops, integers, positions
from mxnet_trt_property.precision.runtime import peak
from mxnet_trt_property.precision.scan import BFLOAT16_MAX

# Interpolation weights are positions, and recurrences sum over time.
_FLOAT32_ONLY = FLOAT32_OPERATORS | {"Resize", "Loop", "If", "Scan", "LSTM", "GRU", "RNN"}
# These move numbers and compute none.
_MOVES = frozenset(
    "Identity Reshape Flatten Transpose Squeeze Unsqueeze Expand Tile Concat Split Slice Gather GatherND "
    "GatherElements Pad".split()
)
_SUFFIX = "/bfloat16"


def to_bfloat16(model: bytes, keep: Collection[str], near: Collection[str], *, native: bool) -> bytes:
    """Returns the model with bfloat16 inside.

    Args:
        model: A serialized ONNX model with its weights, written by `convert`.
        keep: MXNet's nodes (by name) and operators that stay in float32.
        near: ONNX nodes (by name) that stay in float32; see `scan`.
        native: Whether the engine has bfloat16; otherwise values are rounded to it and computed on in float32.
    """
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    graph = proto.graph
    asked = asked_for(graph, keep) | set(near)
    asked |= fold_batch_normalizations(graph, asked)
    asked |= positions(graph) | entries_with_loops(graph) | integers(graph)
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    types.update({name: onnx.TensorProto.FLOAT for node in graph.node for name in _folded_outputs(node, types)})
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    large = {name for name, value in constants.items() if peak(value[np.isfinite(value)]) > BFLOAT16_MAX}
    floats = {name for name, kind in types.items() if kind == onnx.TensorProto.FLOAT} | set(constants)
    narrow = [
        node
        for node in graph.node
        if node.op_type not in _FLOAT32_ONLY
        and node.name not in asked
        and floats.intersection(node.input)
        and not large.intersection(node.input)
    ]
    _Rewrite(graph, floats, constants, native).write(_useful(graph, narrow))
    result: bytes = proto.SerializeToString()
    return result


def _useful(graph: onnx.GraphProto, narrow: list[onnx.NodeProto]) -> set[str]:
    """Returns the nodes without those that move numbers to float32 nodes only.

    They would round for nothing; and TensorRT-RTX 1.7 fails to build a recurrent layer behind a Gather of bfloat16.
    """
    chosen = {node.name for node in narrow}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    for node in reversed(graph.node):
        if node.op_type in _MOVES and not any(chosen & readers.get(name, set()) for name in node.output):
            chosen.discard(node.name)
    return chosen


def _folded_outputs(node: onnx.NodeProto, types: dict[str, int]) -> list[str]:
    """Returns the outputs of nodes that folding wrote, which inference has not seen."""
    return [name for name in node.output if name not in types and name.endswith("/scaled")]


def round_to_bfloat16(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns float32 numbers rounded to bfloat16, ties to even, as the upper 16 bits of each (uint16)."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    # Rounding may carry the payload of a NaN into its exponent.
    found: np.ndarray[Any, Any] = np.where(np.isnan(value), 0x7FC0, rounded).astype(np.uint16)
    return found


class _Rewrite:
    """Gives nodes bfloat16 values in place of float32 ones, and float32 ones to whoever else reads them."""

    def __init__(
        self, graph: onnx.GraphProto, floats: Collection[str], constants: dict[str, Any], native: bool
    ) -> None:
        self._graph = graph
        self._floats = floats
        self._constants = constants
        self._native = native
        self._nodes: list[onnx.NodeProto] = []
        self._made: set[str] = set()

    def write(self, chosen: Collection[str]) -> None:
        outputs = {value.name for value in self._graph.output}
        wide = outputs | {name for node in self._graph.node for name in (node.input if node.name not in chosen else ())}
        wide = wide.union(*(reads(inner) for node in self._graph.node for inner in inner_graphs(node)))
        for node in self._graph.node:
            if node.name not in chosen:
                self._nodes.append(node)
                continue
            for i, name in enumerate(node.input):
                if name in self._floats:
                    node.input[i] = self._narrow(name)
            self._nodes.append(node)
            for i, name in enumerate(node.output):
                if name in self._floats:
                    node.output[i] = self._widen(name, name in wide)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        # What was inferred is the type of what went before.
        del self._graph.value_info[:]
        drop_unread_constants(self._graph)

    def _narrow(self, name: str) -> str:
        """Returns the name of a value in bfloat16, or in float32 and rounded."""
        result = name + _SUFFIX
        if result in self._made:
            return result
        self._made.add(result)
        if name in self._constants:
            bits = round_to_bfloat16(self._constants[name])
            if self._native:
                tensor = self._graph.initializer.add(name=result, data_type=onnx.TensorProto.BFLOAT16)
                tensor.dims.extend(bits.shape)
                tensor.raw_data = bits.tobytes()
            else:
                value = (bits.astype(np.uint32) << 16).view(np.float32)
                self._graph.initializer.append(numpy_helper.from_array(value, result))
        else:
            self._round(name, result)
        return result

    def _widen(self, name: str, is_read: bool) -> str:
        """Returns the new name of an output that was called `name`, which stays the float32 value where it is read."""
        result = name + _SUFFIX
        self._made.add(result)
        if self._native:
            if is_read:
                self._cast(result, name, onnx.TensorProto.FLOAT)
            return result
        exact = name + "/exact"
        self._round(exact, result)
        if is_read:
            self._nodes.append(onnx.NodeProto(op_type="Identity", name=name + "/read", input=[result], output=[name]))
        return exact

    def _round(self, source: str, target: str) -> None:
        if self._native:
            self._cast(source, target, onnx.TensorProto.BFLOAT16)
        else:
            self._cast(source, target + "/rounded", onnx.TensorProto.BFLOAT16)
            self._cast(target + "/rounded", target, onnx.TensorProto.FLOAT)

    def _cast(self, source: str, target: str, kind: int) -> None:
        node = onnx.NodeProto(op_type="Cast", name=f"{target}/cast", input=[source], output=[target])
        node.attribute.add(name="to", type=onnx.AttributeProto.INT, i=kind)
        self._nodes.append(node)
