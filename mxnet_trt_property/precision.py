"""Precision as a rewrite of the ONNX model: TensorRT builds strongly typed networks, so types in the model decide.

FP16: every operator computes in float16 but those of `FLOAT32_OPERATORS`, the nodes that the user names, those whose
weights float16 cannot hold, and those that went beyond float16 in a run on real inputs. Inputs and outputs keep their
dtypes. The conversion itself is ONNX Runtime's (onnxruntime.transformers.float16).
"""

from __future__ import annotations

import collections
import importlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from mxnet_trt_property.errors import EngineError, message

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

FLOAT16_MAX = float(np.finfo(np.float16).max)
# A run on other inputs may give larger values than the first batch did.
_LIMIT = FLOAT16_MAX / 4
_PEAK = "peak of "


def to_float16(model: bytes, keep: Collection[str], near: Collection[str], label: str) -> bytes:
    """Returns the model with float16 inside.

    Args:
        model: A serialized ONNX model with its weights, written by `convert`.
        keep: MXNet's nodes (by name) and operators that stay in float32.
        near: ONNX nodes (by name) that stay in float32; see `beyond_float16`.
        label: What messages call the model.

    Raises:
        EngineError: ONNX Runtime, which has the converter, is missing, or it failed.
    """
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    asked = {n.name for n in proto.graph.node if not {*n.doc_string.split(" ", 1)}.isdisjoint(keep)} | set(near)
    asked |= _fold_batch_normalizations(proto.graph, asked)
    large = {
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and _peak(numpy_helper.to_array(tensor)) > FLOAT16_MAX
    }
    own = {node.name for node in proto.graph.node}
    asked |= {n.name for n in proto.graph.node if large.intersection(n.input)} | _positions(proto.graph)
    # A loop reads values of its entry's other nodes from inside, where the converter does not look.
    loops = {n.doc_string for n in proto.graph.node if _inner_graphs(n)}
    asked |= {n.name for n in proto.graph.node if n.doc_string in loops}
    _give_loops_constants_of_their_own(proto.graph)
    tools = _tools(label)
    try:
        converted = tools["float16"].convert_float_to_float16(
            proto,
            min_positive_val=5.96e-08,
            max_finite_val=FLOAT16_MAX,
            keep_io_types=True,
            op_block_list=sorted(FLOAT32_OPERATORS.union(tools["float16"].DEFAULT_OP_BLOCK_LIST)),
            node_block_list=sorted(asked),
        )
        _drop_detours(converted.graph, own)
        # The converter appends the casts of the inputs after their first use.
        tools["onnx_model"].OnnxModel.graph_topological_sort(converted.graph)
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


def beyond_float16(model: bytes, inputs: Sequence[np.ndarray[Any, Any]], label: str) -> dict[str, float]:
    """Runs the float32 model once and returns the nodes that come near the end of float16's range.

    Args:
        model: A serialized ONNX model with its weights, not converted.
        inputs: An array for each input of the model.
        label: What messages call the model.

    Returns:
        For each such node's name the largest absolute value of its outputs and inputs.

    Raises:
        EngineError: ONNX Runtime is missing, or refuses the model.
    """
    proto = onnx.load_from_string(model)
    runtime = _tools(label)["onnxruntime"]
    try:
        inferred = onnx.shape_inference.infer_shapes(proto)
        floats = {
            value.name
            for value in (*inferred.graph.value_info, *inferred.graph.output)
            if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        }
        written = [name for node in proto.graph.node for name in node.output if name in floats]
        feed = {value.name: array for value, array in zip(proto.graph.input, inputs)}
        peaks = {k: _peak(v) for k, v in feed.items() if v.dtype == np.float32}
        del proto.graph.output[:]
        for name in written:
            # The peak alone leaves the run: all values at once would need far more memory than a run does.
            proto.graph.node.add(op_type="Abs", input=[name], output=[f"size of {name}"])
            node = proto.graph.node.add(op_type="ReduceMax", input=[f"size of {name}"], output=[_PEAK + name])
            node.attribute.add(name="keepdims", type=onnx.AttributeProto.INT, i=0)
            peak = proto.graph.output.add(name=_PEAK + name)
            peak.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        # Optimizations would merge the very values that are looked at.
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        peaks.update(zip(written, map(float, session.run([_PEAK + name for name in written], feed))))
    except Exception as error:  # its exception types share no base of their own
        raise EngineError(
            message(
                f"{label} cannot be run on its first inputs to see what exceeds float16",
                found=f"{type(error).__name__}: {error}",
                next_step="set MXNET_TENSORRT_PRECISION=fp32",
            )
        ) from error
    near = {name: peak for name, peak in peaks.items() if _LIMIT < peak < np.inf}
    found: dict[str, float] = {}
    for node in onnx.load_from_string(model).graph.node:
        met = [near[name] for name in (*node.input, *node.output) if name in near]
        if met:
            found[node.name] = max(met)
    return found


def _peak(array: np.ndarray[Any, Any]) -> float:
    return float(np.abs(array).max()) if array.size else 0.0


def _tools(label: str) -> Mapping[str, Any]:
    try:
        return {
            "onnxruntime": importlib.import_module("onnxruntime"),
            "float16": importlib.import_module("onnxruntime.transformers.float16"),
            "onnx_model": importlib.import_module("onnxruntime.transformers.onnx_model"),
        }
    except Exception as error:  # a broken installation raises more than ImportError
        raise EngineError(
            message(
                f"The model of {label} cannot be written in float16 without ONNX Runtime, which has the converter",
                found=f"{type(error).__name__}: {error}",
                next_step="pip install onnxruntime, or set MXNET_TENSORRT_PRECISION=fp32",
            )
        ) from None


def _positions(graph: onnx.GraphProto) -> set[str]:
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


def _inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


def _rename_reads(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
        for inner in _inner_graphs(node):
            _rename_reads(inner, names)


def _give_loops_constants_of_their_own(graph: onnx.GraphProto) -> None:
    """Copies the constants that loops read: the converter may make float16 of one that others read, too."""
    copies = {tensor.name: f"{tensor.name}/loop" for tensor in graph.initializer}
    for tensor in list(graph.initializer):
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = copies[tensor.name]
    for node in graph.node:
        for inner in _inner_graphs(node):
            _rename_reads(inner, copies)
    read = _reads(graph)
    used = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(used)


def _reads(graph: onnx.GraphProto) -> set[str]:
    """Returns the names that the nodes of a graph and of its inner graphs read, and its outputs."""
    inner = [_reads(g) for node in graph.node for g in _inner_graphs(node)]
    own = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    return own.union(*inner)


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
        for inner in _inner_graphs(node):
            _rename_reads(inner, {name: cast.input[0] for name, cast in added.items()})
    for name in outputs & set(straight):
        added[name].op_type = "Identity"
        del added[name].attribute[:]
        added[name].input[0] = straight[name]
    read = _reads(graph)
    kept = [node for node in graph.node if node.output[0] not in added or node.output[0] in read]
    del graph.node[:]
    graph.node.extend(kept)


def _fold_batch_normalizations(graph: onnx.GraphProto, asked: Collection[str]) -> set[str]:
    """Writes each batch normalization with constant statistics as a scale and a shift, computed in float64.

    Its variances and epsilon are often too small for float16. Behind a convolution that nobody else reads scale and
    shift go into its weights; elsewhere they are two nodes, whose names are returned: those stay in float32.
    """
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in (*graph.input, *graph.value_info)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    reads = collections.Counter(name for node in graph.node for name in node.input)
    reads.update(value.name for value in graph.output)
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
        if conv is not None and reads[conv.output[0]] == 1 and all(name in constants for name in conv.input[1:]):
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
    read = _reads(graph)
    used = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(used)
    return added
