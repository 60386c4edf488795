"""Look-ups by index along one axis: Embedding, take, pick, batch_take and one_hot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import (
    NUMBERS,
    check_dtype,
    check_output,
    check_scalar_fits,
    dtype_of,
    positive,
    shape_of,
)
from mxnet_trt_property.operators.indices import check_count, clip, place
from mxnet_trt_property.operators.registry import FLOATS, NodeInfo, Parameters, needs_shape, operator, reason


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


@dataclass(frozen=True)
class PickParameters(Parameters):
    """Parameters of pick; MXNet has no pick without an axis."""

    axis: Optional[int] = -1
    keepdims: bool = False
    mode: str = "clip"


@dataclass(frozen=True)
class OneHotParameters(Parameters):
    """Parameters of one_hot; the output has the dtype."""

    IGNORED = Parameters.IGNORED | {"dtype"}

    depth: int
    on_value: float = 1.0
    off_value: float = 0.0


def _check_embedding(params: EmbeddingParameters, node: NodeInfo) -> Optional[str]:
    return check_dtype("weight", node.inputs[1], FLOATS) or check_count(params.input_dim, node.inputs[0])


@operator("Embedding", parameters=EmbeddingParameters, check=_check_embedding, weights=(1,), dtypes=NUMBERS)
def _embedding(params: EmbeddingParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    clipped, _ = clip(inputs[0], dtype_of(node.inputs[0]), 0, params.input_dim - 1, w)
    return [w.node("Gather", [inputs[1], clipped], axis=0)]


def _check_take(params: TakeParameters, node: NodeInfo) -> Optional[str]:
    if params.mode == "raise":
        return reason("mode", found=params.mode, required="clip or wrap, as no engine raises")
    shape = node.inputs[0].shape
    if shape is None:
        return needs_shape("number of rows")
    return check_count(shape[positive(params.axis, len(shape))], node.inputs[1])


@operator("take", parameters=TakeParameters, check=_check_take, dtypes=NUMBERS)
def _take(params: TakeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.inputs[0])
    axis = positive(params.axis, len(shape))
    indices, _ = place(inputs[1], dtype_of(node.inputs[1]), shape[axis], params.mode, w)
    return [w.node("Gather", [inputs[0], indices], axis=axis)]


def _check_pick(params: PickParameters, node: NodeInfo) -> Optional[str]:
    shape = node.inputs[0].shape
    if shape is None or params.axis is None:
        return needs_shape("number of rows")
    return check_count(shape[positive(params.axis, len(shape))], node.inputs[1])


@operator("pick", parameters=PickParameters, check=_check_pick, dtypes=NUMBERS)
def _pick(params: PickParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = list(shape_of(node.inputs[0]))
    axis = positive(params.axis if params.axis is not None else -1, len(shape))
    indices, _ = place(inputs[1], dtype_of(node.inputs[1]), shape[axis], params.mode, w)
    shape[axis] = 1
    picked = w.node("GatherElements", [inputs[0], w.reshape(indices, shape)], axis=axis)
    return [w.reshape(picked, shape_of(node.outputs[0]))]


def _check_batch_take(params: Parameters, node: NodeInfo) -> Optional[str]:
    shape = node.inputs[0].shape
    if shape is None:
        return needs_shape("number of axes")
    # With more axes MXNet reads behind the end of the data.
    return None if len(shape) == 2 else reason("number of axes", found=len(shape), required=2)


@operator("batch_take", check=_check_batch_take, dtypes=NUMBERS)
def _batch_take(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    rows, columns = shape_of(node.inputs[0])
    indices, _ = clip(inputs[1], dtype_of(node.inputs[1]), 0, columns - 1, w)
    picked = w.node("GatherElements", [inputs[0], w.reshape(indices, (rows, 1))], axis=1)
    return [w.reshape(picked, shape_of(node.outputs[0]))]


def _check_one_hot(params: OneHotParameters, node: NodeInfo) -> Optional[str]:
    dtype = node.outputs[0].dtype if node.outputs else None
    return (
        check_output(node, NUMBERS)
        or check_count(params.depth, node.inputs[0])
        or check_scalar_fits("on_value", params.on_value, dtype)
        or check_scalar_fits("off_value", params.off_value, dtype)
    )


@operator("one_hot", parameters=OneHotParameters, check=_check_one_hot, dtypes=NUMBERS)
def _one_hot(params: OneHotParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    # An index out of range has no hot place, and to ONNX's OneHot a negative one counts from the end. -1 and depth
    # match no place, and what is cut off to 0 from above -1 does match the first, as in MXNet.
    indices, dtype = clip(inputs[0], dtype_of(node.inputs[0]), -1, params.depth, w)
    places = w.constant(np.arange(params.depth, dtype=dtype))
    hot = w.node("Equal", [w.unsqueeze(indices, (len(shape_of(node.inputs[0])),)), places])
    values = [w.scalar(value, dtype_of(node.outputs[0])) for value in (params.on_value, params.off_value)]
    return [w.node("Where", [hot, *values])]
