"""Which operators a version of TensorRT builds with int8 inputs: asked by building the smallest network of each.

TensorRT-RTX 1.5 builds products but no convolutions, for any GPU; 1.7 builds both.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import onnx

from mxnet_trt_property.engines.trt_build import Library
from mxnet_trt_property.errors import BuildInterruptedError, EngineError
from mxnet_trt_property.onnx_writer import OnnxWriter, Value

_CHANNELS = 16  # a size that int8 kernels like


class _Shapes(NamedTuple):
    """A network of one operator; `axis` is that of the weight's output channels."""

    data: tuple[int, ...]
    weight: tuple[int, ...]
    axis: int
    result: tuple[int, ...]


_PROBES = {
    "Conv": _Shapes((1, 16, 8, 8), (16, 16, 3, 3), 0, (1, 16, 6, 6)),
    "ConvTranspose": _Shapes((1, 16, 8, 8), (16, 16, 3, 3), 1, (1, 16, 10, 10)),
    "Gemm": _Shapes((4, 16), (16, 16), 1, (4, 16)),
    "MatMul": _Shapes((4, 16), (16, 16), 1, (4, 16)),
}


@functools.cache
def unbuilt(library: Library) -> frozenset[str]:
    """Returns the ONNX operators that the library does not build with int8 inputs and weights.

    TensorRT itself has all of them, and its builds need a GPU: only TensorRT-RTX is asked.
    """
    if library.title != "TensorRT-RTX":
        return frozenset()
    return frozenset(op_type for op_type in _PROBES if not _is_built(library, op_type))


def quantized(model: onnx.ModelProto, op_types: frozenset[str]) -> list[onnx.NodeProto]:
    """Returns the nodes of these operators whose data are dequantized right in front of them."""
    sources = {name: node.op_type for node in model.graph.node for name in node.output}
    return [n for n in model.graph.node if n.op_type in op_types and sources.get(n.input[0]) == "DequantizeLinear"]


def _is_built(library: Library, op_type: str) -> bool:
    try:
        library.build(_probe(op_type), f"an int8 {op_type}")
    except BuildInterruptedError:
        raise
    except EngineError:
        return False
    return True


def _probe(op_type: str) -> bytes:
    shapes = _PROBES[op_type]
    float32, w = np.dtype("float32"), OnnxWriter()
    scale, zero = w.scalar(0.02, float32), w.scalar(0, np.dtype("int8"))
    channels = (np.full(_CHANNELS, 0.01, np.float32), np.zeros(_CHANNELS, np.int8))
    data = w.node("QuantizeLinear", [w.reserve("x"), scale, zero])
    data = w.node("DequantizeLinear", [data, scale, zero])
    weight = [w.constant(array) for array in (np.ones(shapes.weight, np.int8), *channels)]
    result = w.node(op_type, [data, w.node("DequantizeLinear", weight, axis=shapes.axis)])
    model = w.model([Value("x", shapes.data, float32)], [Value(result, shapes.result, float32)], [])
    return model.serialize({}, "a probe")
