"""Float16 inside a model whose inputs and outputs keep their dtypes.

The conversion itself is ONNX Runtime's (onnxruntime.transformers.float16). Around it: batch normalizations are folded
in float64, weights are rounded so that channels keep their means, positions stay exact, loops get constants of their
own, and no float32 value takes a way through float16.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from mxnet_trt_property.errors import EngineError, message
from mxnet_trt_property.precision.graphs import drop_unread_constants, fold_batch_normalizations, inner_graphs, reads
from mxnet_trt_property.precision.moments import channel_moments
from mxnet_trt_property.precision.rounding import round_weights
from mxnet_trt_property.precision.rules import FLOAT32_OPERATORS, asked_for, entries_with_loops, integers, positions
from mxnet_trt_property.precision.runtime import peak, tool

FLOAT16_MAX = float(np.finfo(np.float16).max)


def to_float16(model: bytes, keep: Collection[str], near: Collection[str], label: str) -> bytes:
    """Returns the model with float16 inside.

    Args:
        model: A serialized ONNX model with its weights, written by `convert`.
        keep: MXNet's nodes (by name) and operators that stay in float32.
        near: ONNX nodes (by name) that stay in float32; see `scan`.
        label: What messages call the model.

    Raises:
        EngineError: ONNX Runtime, which has the converter, is missing, or it failed.
    """
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    moments = channel_moments(proto.graph)
    asked = asked_for(proto.graph, keep) | set(near)
    asked |= fold_batch_normalizations(proto.graph, asked)
    large = {
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and peak(numpy_helper.to_array(tensor)) > FLOAT16_MAX
    }
    own = {node.name for node in proto.graph.node}
    asked |= {n.name for n in proto.graph.node if large.intersection(n.input)} | positions(proto.graph)
    asked |= integers(proto.graph)
    asked |= entries_with_loops(proto.graph)  # the converter does not look inside of loops
    _give_loops_constants_of_their_own(proto.graph)
    round_weights(proto.graph, asked, moments)
    converter = tool("transformers.float16", label)
    sorter = tool("transformers.onnx_model", label)
    try:
        converted = converter.convert_float_to_float16(
            proto,
            min_positive_val=5.96e-08,
            max_finite_val=FLOAT16_MAX,
            keep_io_types=True,
            op_block_list=sorted(FLOAT32_OPERATORS.union(converter.DEFAULT_OP_BLOCK_LIST)),
            node_block_list=sorted(asked),
        )
        _drop_detours(converted.graph, own)
        # The converter appends the casts of the inputs after their first use.
        sorter.OnnxModel.graph_topological_sort(converted.graph)
    except Exception as error:  # it raises whatever it meets
        raise EngineError(
            message(
                f"The model of {label} cannot be written in float16",
                found=f"{type(error).__name__}: {error}",
                next_step="set MXNET_TENSORRT_PRECISION=fp32",
            )
        ) from error
    result: bytes = converted.SerializeToString()
    return result


def _rename_reads(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
        for inner in inner_graphs(node):
            _rename_reads(inner, names)


def _give_loops_constants_of_their_own(graph: onnx.GraphProto) -> None:
    """Copies the constants that loops read: the converter may make float16 of one that others read, too."""
    copies = {tensor.name: f"{tensor.name}/loop" for tensor in graph.initializer}
    for tensor in list(graph.initializer):
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = copies[tensor.name]
    for node in graph.node:
        for inner in inner_graphs(node):
            _rename_reads(inner, copies)
    drop_unread_constants(graph)


def _drop_detours(graph: onnx.GraphProto, own: Collection[str]) -> None:
    """Takes out the way of a float32 value through float16 and back, which the converter writes and which rounds it."""
    added = {n.output[0]: n for n in graph.node if n.op_type == "Cast" and n.name not in own}
    outputs = {value.name for value in graph.output}
    straight: dict[str, str] = {}
    for name, node in added.items():
        first = added.get(node.input[0])
        if first is not None and node.attribute[0].i == onnx.TensorProto.FLOAT:
            straight[name] = first.input[0]
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = straight.get(name, name)
        for inner in inner_graphs(node):
            _rename_reads(inner, {name: cast.input[0] for name, cast in added.items()})
    for name in outputs & set(straight):
        added[name].op_type = "Identity"
        del added[name].attribute[:]
        added[name].input[0] = straight[name]
    read = reads(graph)
    kept = [node for node in graph.node if node.output[0] not in added or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(kept)
