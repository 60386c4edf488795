"""Look-ups by index: Embedding and take. MXNet clips an index that is out of range, ONNX does not define it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from mxnet_trt_property.graph import Tensor
from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import INTS, dtype_of, positive, shape_of
from mxnet_trt_property.operators.registry import FLOATS, NodeInfo, Parameters, needs_shape, operator, reason

# The largest count of rows whose every index float32 holds exactly.
_FLOAT_INDICES = 2**24


@dataclass(frozen=True)
class EmbeddingParameters(Parameters):
    """Parameters of Embedding; `dtype` only helps the inference of the weight's."""

    IGNORED = Parameters.IGNORED | {"dtype", "sparse_grad"}

    input_dim: int
    output_dim: int


@dataclass(frozen=True)
class TakeParameters(Parameters):
    """Parameters of take."""

    axis: int = 0
    mode: str = "clip"


def _check_data(name: str, tensor: Tensor) -> Optional[str]:
    if tensor.dtype is None or tensor.dtype in FLOATS:
        return None
    return reason(f"dtype of {name}", found=tensor.dtype.name, required=" or ".join(d.name for d in FLOATS))


def _check_count(count: int, indices: Tensor) -> Optional[str]:
    if count > _FLOAT_INDICES and (indices.dtype is None or indices.dtype in FLOATS):
        return reason("number of rows", found=count, required=f"at most {_FLOAT_INDICES} with indices in floats")
    return None


def _gather(data: str, indices: str, axis: int, count: int, dtype: np.dtype[Any], w: OnnxWriter) -> str:
    # Clipped before the conversion: a float beyond int32 has no defined integer, and between -1 and 0 both
    # orders give 0.
    if dtype == np.float16:
        indices, dtype = w.cast(indices, np.dtype("float32")), np.dtype("float32")
    clipped = w.node("Min", [w.node("Max", [indices, w.scalar(0, dtype)]), w.scalar(count - 1, dtype)])
    if dtype not in INTS:
        clipped = w.cast(clipped, np.dtype("int32"))
    return w.node("Gather", [data, clipped], axis=axis)


def _check_embedding(params: EmbeddingParameters, node: NodeInfo) -> Optional[str]:
    return _check_data("weight", node.inputs[1]) or _check_count(params.input_dim, node.inputs[0])


@operator("Embedding", parameters=EmbeddingParameters, check=_check_embedding, weights=(1,), dtypes=FLOATS + INTS)
def _embedding(params: EmbeddingParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [_gather(inputs[1], inputs[0], 0, params.input_dim, dtype_of(node.inputs[0]), w)]


def _check_take(params: TakeParameters, node: NodeInfo) -> Optional[str]:
    if params.mode != "clip":
        return reason("mode", found=params.mode, required="clip")
    shape = node.inputs[0].shape
    if shape is None:
        return needs_shape("number of rows")
    return _check_data("a", node.inputs[0]) or _check_count(shape[positive(params.axis, len(shape))], node.inputs[1])


@operator("take", parameters=TakeParameters, check=_check_take, dtypes=FLOATS + INTS)
def _take(params: TakeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.inputs[0])
    axis = positive(params.axis, len(shape))
    return [_gather(inputs[0], inputs[1], axis, shape[axis], dtype_of(node.inputs[1]), w)]
