"""Pieces of rewriting an ONNX graph: what nodes read, inner graphs, constants, and what can be folded into weights."""

from __future__ import annotations

import collections
from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


def inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Returns the graphs in a node's attributes: the bodies of a loop."""
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


def reads(graph: onnx.GraphProto) -> set[str]:
    """Returns the names that the nodes of a graph and of its inner graphs read, and its outputs."""
    inner = [reads(g) for node in graph.node for g in inner_graphs(node)]
    own = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    return own.union(*inner)


def drop_unread_constants(graph: onnx.GraphProto) -> None:
    """Takes out the initializers that no node reads."""
    read = reads(graph)
    used = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(used)


def fold_transpositions(graph: onnx.GraphProto) -> None:
    """Writes the transposition of a weight as a weight, so that it can be quantized for each of its channels."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in constants:
            order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            value = np.transpose(numpy_helper.to_array(constants[node.input[0]]), order)
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), node.output[0]))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    drop_unread_constants(graph)


def fold_batch_normalizations(graph: onnx.GraphProto, asked: Collection[str]) -> set[str]:
    """Writes each batch normalization with constant statistics as a scale and a shift, computed in float64.

    Its variances and epsilon are often too small for float16. Behind a convolution that nobody else reads scale and
    shift go into its weights; elsewhere they are two nodes, whose names are returned: those stay in float32.
    """
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.value_info)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    uses = collections.Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    convolutions = {n.output[0]: n for n in graph.node if n.op_type == "Conv" and n.name not in asked}
    nodes: list[onnx.NodeProto] = []
    added: set[str] = set()
    for node in graph.node:
        is_constant = all(name in constants for name in node.input[1:5]) and node.input[0] in ranks
        if node.op_type != "BatchNormalization" or not is_constant or node.name in asked:
            nodes.append(node)
            continue
        gamma, beta, mean, variance = (numpy_helper.to_array(constants[n]).astype(np.float64) for n in node.input[1:5])
        scale = gamma / np.sqrt(variance + next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5))
        shift = beta - mean * scale

        def constant(what: str, value: np.ndarray[Any, Any], node: onnx.NodeProto = node) -> str:
            name = f"{node.name}/{what}"
            graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
            return name

        conv = convolutions.get(node.input[0])
        if conv is not None and uses[conv.output[0]] == 1 and all(name in constants for name in conv.input[1:]):
            weight, *bias = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in conv.input[1:])
            folded = weight * scale.reshape(-1, *([1] * (weight.ndim - 1)))
            shifted = shift + (bias[0] * scale if bias else 0.0)
            inputs = [conv.input[0], constant("weight", folded), constant("bias", shifted)]
            del conv.input[:]
            conv.input.extend(inputs)
            conv.output[0] = node.output[0]
            continue
        shape = (-1, *([1] * (ranks[node.input[0]] - 2)))
        for what, source, target, operator, value in (
            ("scale", node.input[0], f"{node.name}/scaled", "Mul", scale),
            ("shift", f"{node.name}/scaled", node.output[0], "Add", shift),
        ):
            name = node.name if operator == "Mul" else target + "/shifted"
            source_and_value = [source, constant(what, value.reshape(shape))]
            made = onnx.NodeProto(name=name, op_type=operator, input=source_and_value, output=[target])
            made.doc_string = node.doc_string
            nodes.append(made)
            added.add(name)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread_constants(graph)
    return added
