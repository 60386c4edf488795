"""Reductions over axes. MXNet has no 0-d results: a reduction of everything has shape (1,)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import dtype_of, positive, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator, reason

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


@operator("mean", parameters=ReduceParameters)
@operator("sum", parameters=ReduceParameters)
@operator("max", parameters=ReduceParameters)
@operator("min", parameters=ReduceParameters)
@operator("prod", parameters=ReduceParameters)
def _reduce(params: ReduceParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    axes = list(range(ndim))
    if params.axis:
        named = {positive(a, ndim) for a in params.axis}
        axes = [a for a in axes if (a in named) != params.exclude]
    # Excluding every axis leaves nothing to reduce, and to ONNX no axes would mean all.
    if not axes:
        return [inputs[0]]
    return [_write(_REDUCTIONS[node.op], axes, params.keepdims, ndim, inputs[0], w)]


@dataclass(frozen=True)
class ArgParameters(Parameters):
    """Parameters of argmax and argmin; without an axis the input counts as flat."""

    axis: Optional[int] = None
    keepdims: bool = False


@operator("argmax", parameters=ArgParameters)
@operator("argmin", parameters=ArgParameters)
def _arg(params: ArgParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    data, axis = inputs[0], params.axis
    # TensorRT searches in tensors of two axes or more.
    if axis is None or len(shape_of(node.inputs[0])) == 1:
        data, axis = w.reshape(data, (1, -1)), 1
    found = w.node("ArgMax" if node.op == "argmax" else "ArgMin", [data], axis=axis, keepdims=1)
    # MXNet's indices are floats.
    return [w.reshape(w.cast(found, dtype_of(node.outputs[0])), shape_of(node.outputs[0]))]


def _check_norm(params: NormParameters, node: NodeInfo) -> Optional[str]:
    if params.out_dtype is not None:
        return reason("out_dtype", found=params.out_dtype, required=None)
    if params.ord not in (1, 2):
        return reason("ord", found=params.ord, required="1 or 2")
    if params.axis is not None and len(params.axis) > 1:
        return reason("axis", found=params.axis, required="one axis, or None for all")
    return None


@operator("norm", parameters=NormParameters, check=_check_norm)
def _norm(params: NormParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    axes = [positive(a, ndim) for a in params.axis] if params.axis else list(range(ndim))
    return [_write("ReduceL1" if params.ord == 1 else "ReduceL2", axes, params.keepdims, ndim, inputs[0], w)]
