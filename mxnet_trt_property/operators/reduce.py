"""Reductions over axes. MXNet has no 0-d results: a reduction of everything has shape (1,)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, INT64, dtype_of, positive, recast, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason

_REDUCTIONS = {
    "mean": "ReduceMean",
    "sum": "ReduceSum",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "prod": "ReduceProd",
}


@dataclass(frozen=True)
class ReduceParameters(Parameters):
    """Parameters of the reductions; no axis, None or (), means all of them, also with `exclude`."""

    axis: Optional[tuple[int, ...]] = None
    keepdims: bool = False
    exclude: bool = False


@dataclass(frozen=True)
class NormParameters(Parameters):
    """Parameters of norm."""

    ord: int = 2
    axis: Optional[tuple[int, ...]] = None
    out_dtype: Optional[str] = None
    keepdims: bool = False


def _write(op_type: str, axes: Sequence[int], keepdims: bool, ndim: int, data: str, w: OnnxWriter) -> str:
    if keepdims or len(axes) < ndim:
        return w.reduce(op_type, data, axes, keepdims=keepdims)
    return w.reshape(w.reduce(op_type, data, axes, keepdims=True), (1,))


def _axes(params: ReduceParameters, ndim: int) -> list[int]:
    """Returns the axes to reduce; excluding every axis leaves none, which to ONNX would mean all."""
    axes = list(range(ndim))
    if not params.axis:
        return axes
    named = {positive(a, ndim) for a in params.axis}
    return [a for a in axes if (a in named) != params.exclude]


@operator("mean", parameters=ReduceParameters)
@operator("sum", parameters=ReduceParameters)
@operator("max", parameters=ReduceParameters)
@operator("min", parameters=ReduceParameters)
@operator("prod", parameters=ReduceParameters)
def _reduce(params: ReduceParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    axes = _axes(params, ndim)
    if not axes:
        return [inputs[0]]
    return [_write(_REDUCTIONS[node.op], axes, params.keepdims, ndim, inputs[0], w)]


# MXNet's nansum turns an infinity into NaN where more is added after it, which depends on its order of adding.
@operator("nansum", parameters=ReduceParameters)
@operator("nanprod", parameters=ReduceParameters)
def _reduce_numbers(params: ReduceParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    neutral = w.scalar(float(node.op == "nanprod"), dtype_of(node.inputs[0]))
    numbers = w.node("Where", [w.node("IsNaN", inputs), neutral, inputs[0]])
    axes = _axes(params, len(shape_of(node.inputs[0])))
    if not axes:
        return [numbers]
    op_type = "ReduceSum" if node.op == "nansum" else "ReduceProd"
    return [_write(op_type, axes, params.keepdims, len(shape_of(node.inputs[0])), numbers, w)]


@dataclass(frozen=True)
class ArgParameters(Parameters):
    """Parameters of argmax, argmin and their NumPy twins; without an axis the input counts as flat."""

    axis: Optional[int] = None
    keepdims: bool = False


@operator("argmax", parameters=ArgParameters)
@operator("argmin", parameters=ArgParameters)
def arg(params: ArgParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    """Writes the places of the largest or smallest elements, in the dtype of the output: mx.sym's are floats."""
    data, axis = inputs[0], params.axis
    # TensorRT searches in tensors of two axes or more.
    if axis is None or len(shape_of(node.inputs[0])) < 2:
        data, axis = w.reshape(data, (1, -1)), 1
    found = w.node("ArgMax" if node.op.endswith("argmax") else "ArgMin", [data], axis=axis, keepdims=1)
    return [w.reshape(recast(found, INT64, dtype_of(node.outputs[0]), w), shape_of(node.outputs[0]))]


@operator("argmax_channel")
def _argmax_channel(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    found = w.node("ArgMax", inputs, axis=1, keepdims=1)
    return [w.reshape(w.cast(found, dtype_of(node.outputs[0])), shape_of(node.outputs[0]))]


@dataclass(frozen=True)
class MomentsParameters(Parameters):
    """Parameters of moments; MXNet wants at least one axis."""

    axes: Optional[tuple[int, ...]] = None
    keepdims: bool = False


# MXNet copies the shape into six places.
_MOMENTS_AXES = 6


def _check_moments(params: MomentsParameters, node: NodeInfo) -> Optional[str]:
    shape = node.inputs[0].shape
    if shape is None or not params.axes:
        return needs_shape("number of axes")
    if len(shape) > _MOMENTS_AXES:
        return reason("number of axes", found=len(shape), required=f"at most {_MOMENTS_AXES}")
    return None


@operator("moments", parameters=MomentsParameters, check=_check_moments, dtypes=(FLOAT32,))
def _moments(params: MomentsParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    axes = [positive(a, len(shape_of(node.inputs[0]))) for a in params.axes or ()]
    mean = w.reduce("ReduceMean", inputs[0], axes, keepdims=True)
    difference = w.node("Sub", [inputs[0], mean])
    variance = w.reduce("ReduceMean", w.node("Mul", [difference, difference]), axes, keepdims=True)
    return [w.reshape(name, shape_of(node.outputs[0])) for name in (mean, variance)]


def _check_norm(params: NormParameters, node: NodeInfo) -> Optional[str]:
    dtype = node.inputs[0].dtype
    if params.out_dtype is not None and (dtype is None or params.out_dtype != dtype.name):
        return reason("out_dtype", found=params.out_dtype, required=f"None or {dtype or 'a dtype that is not unknown'}")
    if params.ord not in (1, 2):
        return reason("ord", found=params.ord, required="1 or 2")
    return None


@operator("norm", parameters=NormParameters, check=_check_norm)
def _norm(params: NormParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    axes = [positive(a, ndim) for a in params.axis] if params.axis else list(range(ndim))
    return [_write("ReduceL1" if params.ord == 1 else "ReduceL2", axes, params.keepdims, ndim, inputs[0], w)]
