"""Int8 as pairs of QuantizeLinear and DequantizeLinear, which ONNX Runtime's quantization tool writes for TensorRT.

Convolutions and matrix products with constant weights are quantized: symmetric int8, the weights for each output
channel, the input by its calibrated range. Everything else, bias included, stays in float32. Each output is float32,
so that nothing is rounded that no int8 kernel reads.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from mxnet_trt_property.errors import EngineError, message
from mxnet_trt_property.logs import warn_once
from mxnet_trt_property.precision.calibration import QUANTIZED_OPERATORS
from mxnet_trt_property.precision.graphs import fold_batch_normalizations, fold_transpositions
from mxnet_trt_property.precision.rules import asked_for, entries_with_loops, integers, positions
from mxnet_trt_property.precision.runtime import tool
from mxnet_trt_property.precision.tables import Ranges


def to_int8(model: bytes, keep: Collection[str], ranges: Ranges, label: str, without: Collection[str] = ()) -> bytes:
    """Returns the model with quantized inputs and weights.

    Args:
        model: A serialized ONNX model with its weights, written by `convert`.
        keep: MXNet's nodes (by name) and operators that stay in float32.
        ranges: The smallest and largest value of each input of a convolution or product, by its ONNX name.
        label: What messages call the model.
        without: ONNX operators that the engine does not build in int8.

    Raises:
        EngineError: ONNX Runtime is missing or fails, or the ranges are those of another network.
    """
    proto = onnx.load_from_string(model)
    graph = proto.graph
    fold_transpositions(graph)
    proto = onnx.shape_inference.infer_shapes(proto)
    graph = proto.graph
    asked = asked_for(graph, keep)
    asked |= fold_batch_normalizations(graph, asked) | positions(graph) | entries_with_loops(graph)
    asked |= integers(graph)
    could = [node for node in graph.node if node.name not in asked and _has_weights(graph, node)]
    nodes = [node for node in could if node.input[0] in ranges]
    _tell_uncalibrated(could, nodes, label)
    left = [node for node in nodes if node.op_type in without]
    if left:
        nodes = [node for node in nodes if node.op_type not in without]
        warn_once(
            f"{label}: {len(left)} nodes stay in float32, since the engine does not build them in int8",
            found=", ".join(sorted({node.op_type for node in left})),
            next_step="nothing, results are right; MXNET_TENSORRT_PRECISION=fp16 may be faster with this engine",
        )
    if not nodes:
        return proto.SerializeToString()  # type: ignore[no-any-return]
    tools = tool("quantization", label)
    data = tool("quantization.calibrate", label)
    try:
        extents = {
            name: data.TensorData(lowest=np.float32(low), highest=np.float32(high))
            for name, (low, high) in ranges.items()
        }
        with _quiet():
            quantizer = tools.QDQQuantizer(
                proto,
                True,
                False,
                tools.QuantType.QInt8,
                tools.QuantType.QInt8,
                extents,
                [node.name for node in nodes],
                [],
                list(QUANTIZED_OPERATORS),
                {
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "DedicatedQDQPair": True,
                    "OpTypesToExcludeOutputQuantization": list(QUANTIZED_OPERATORS),
                    "QDQOpTypePerChannelSupportToAxis": {"MatMul": 1},
                },
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        written = quantizer.model.model
    except Exception as error:  # it raises whatever it meets
        raise EngineError(
            message(
                f"The model of {label} cannot be quantized to int8",
                found=f"{type(error).__name__}: {error}",
                next_step="set MXNET_TENSORRT_PRECISION=fp16, or name nodes in MXNET_TENSORRT_KEEP_FP32",
            )
        ) from error
    result: bytes = written.SerializeToString()
    return result


def _has_weights(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Whether a node is one that int8 kernels compute, with float32 weights that are constants."""
    if node.op_type not in QUANTIZED_OPERATORS:
        return False
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name in node.input[1:2]}
    if not tensors or node.input[0] in {tensor.name for tensor in graph.initializer}:
        return False
    weight = tensors[node.input[1]]
    if weight.data_type != onnx.TensorProto.FLOAT or not np.isfinite(numpy_helper.to_array(weight)).all():
        return False
    # The weights of a deconvolution have their output channels on axis 1, which groups cut.
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute):
        return False
    return len(weight.dims) >= 2 and not (node.op_type == "ConvTranspose" and groups > 1)


def _tell_uncalibrated(could: list[Any], nodes: list[Any], label: str) -> None:
    without = sorted(
        {node.doc_string.partition(" ")[2] for node in could} - {n.doc_string.partition(" ")[2] for n in nodes}
    )
    if not without:
        return
    names = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
    if not nodes:
        raise EngineError(
            message(
                f"The calibration table is not one of {label}: it knows none of the inputs to quantize",
                found=f"no range for the inputs of {names}",
                next_step="calibrate this network: mxnet-trt calibrate --help",
            )
        )
    warn_once(
        f"{label}: {len(without)} nodes stay in float32, since the calibration has no range of theirs",
        found=names,
        next_step="nothing, results are right; calibrate this network again for more speed",
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the tool's words on the root logger out of the program's log: they are about files that it did not read."""
    root = logging.getLogger()
    words = lambda record: not record.pathname.rpartition("onnxruntime")[1]  # noqa: E731
    root.addFilter(words)
    try:
        yield
    finally:
        root.removeFilter(words)
