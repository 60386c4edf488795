"""Estimated work of each node of a network, so that `explain` can weigh what TensorRT takes and what it leaves.

A node is written as ONNX, whatever was decided about it, and its products and sums are counted: 2 for each
multiplication with an addition in convolutions, matrix products and recurrent layers, 1 for each element that any other
operator writes. A node that has no conversion counts its outputs' elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import onnx

from mxnet_trt_property import convert, support
from mxnet_trt_property.errors import TensorRTPropertyError
from mxnet_trt_property.graph import Entry, Graph, Node, Tensor

Shape = tuple[int, ...]


def estimate(graph: Graph, tensors: Mapping[Entry, Tensor]) -> dict[int, int]:
    """Returns the estimated floating-point operations of each operator node, by id; 0 where its shapes are unknown."""
    roles = convert.variable_roles(graph, lambda node: True)
    return {node.id: _of_node(graph, tensors, roles, node) for node in graph.operators}


def _of_node(graph: Graph, tensors: Mapping[Entry, Tensor], roles: Mapping[int, convert.Role], node: Node) -> int:
    written = [tensors[e].shape for e in sorted(tensors) if e.node == node.id]
    elements = sum(math.prod(shape) for shape in written if shape is not None)
    try:
        model = convert.convert(*support.cut(graph, tensors, roles, [node])).without_values()
        inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    except (TensorRTPropertyError, onnx.shape_inference.InferenceError):
        return elements
    return _of_graph(inferred.graph, {}) or elements


def _of_graph(graph: onnx.GraphProto, outer: Mapping[str, Shape]) -> int:
    shapes = dict(outer)
    for value in (*graph.input, *graph.output, *graph.value_info):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    shapes.update({tensor.name: tuple(tensor.dims) for tensor in graph.initializer})
    total = 0
    for node in graph.node:
        inputs = [shapes.get(name, ()) for name in node.input]
        outputs = [shapes.get(name, ()) for name in node.output]
        inner = sum(_of_graph(a.g, shapes) for a in node.attribute if a.type == onnx.AttributeProto.GRAPH)
        count = _PRODUCTS.get(node.op_type)
        total += inner + (2 * count(inputs, outputs) if count else sum(math.prod(shape) for shape in outputs))
    return total


def _convolution(inputs: list[Shape], outputs: list[Shape]) -> int:
    return math.prod(outputs[0]) * math.prod(inputs[1][1:])


def _transposed_convolution(inputs: list[Shape], outputs: list[Shape]) -> int:
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _matrix_product(inputs: list[Shape], outputs: list[Shape]) -> int:
    return math.prod(outputs[0]) * (inputs[0][-1] if inputs[0] else 1)


def _gemm(inputs: list[Shape], outputs: list[Shape]) -> int:
    # A is (M, K) or (K, M), C is (M, N): what remains of A without M is K.
    return math.prod(inputs[0]) * outputs[0][-1]


def _recurrent(inputs: list[Shape], outputs: list[Shape]) -> int:
    steps_and_batch = math.prod(inputs[0][:2])
    return steps_and_batch * (math.prod(inputs[1]) + math.prod(inputs[2]))


_PRODUCTS: Mapping[str, Callable[[list[Shape], list[Shape]], int]] = {
    "Conv": _convolution,
    "DeformConv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "MatMul": _matrix_product,
    "Gemm": _gemm,
    "RNN": _recurrent,
    "GRU": _recurrent,
    "LSTM": _recurrent,
}
