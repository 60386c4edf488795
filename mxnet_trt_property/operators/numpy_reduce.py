"""The reductions of mx.np: a reduction of everything is a 0-d array, and one over no axes, (), changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, NUMBERS, check_dtype, dtype_of, positive, recast, shape_of
from mxnet_trt_property.operators.reduce import ArgParameters, arg
from mxnet_trt_property.operators.registry import FLOATS, NodeInfo, Parameters, operator, reason

_LARGEST_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class ExtremeParameters(Parameters):
    """Parameters of _np_max and _np_min."""

    axis: Optional[tuple[int, ...]] = None
    keepdims: bool = False
    initial: Optional[float] = None


@dataclass(frozen=True)
class SumParameters(ExtremeParameters):
    """Parameters of _np_sum, _np_prod and _npi_mean."""

    dtype: Optional[str] = None


@dataclass(frozen=True)
class MomentParameters(Parameters):
    """Parameters of _npi_var and _npi_std."""

    axis: Optional[tuple[int, ...]] = None
    dtype: Optional[str] = None
    ddof: int = 0
    keepdims: bool = False


_REDUCTIONS = {
    "_np_sum": "ReduceSum",
    "_np_prod": "ReduceProd",
    "_np_max": "ReduceMax",
    "_np_min": "ReduceMin",
    "_npi_mean": "ReduceMean",
}


def _axes(axis: Optional[tuple[int, ...]], ndim: int) -> list[int]:
    return list(range(ndim)) if axis is None else [positive(a, ndim) for a in axis] if ndim else []


def _check_reduce(params: ExtremeParameters, node: NodeInfo) -> Optional[str]:
    # MXNet itself knows no initial value yet.
    if params.initial is not None:
        return reason("initial", found=params.initial, required=None)
    # MXNet rounds each float that it adds to an integer, and the mean of integers.
    takes_integers = node.op != "_npi_mean" and node.inputs[0].dtype not in FLOATS
    allowed = NUMBERS if takes_integers else FLOATS
    return check_dtype("the result", node.outputs[0], allowed) if node.outputs else None


@operator("_np_sum", parameters=SumParameters, check=_check_reduce, dtypes=NUMBERS, zero_dim=True)
@operator("_np_prod", parameters=SumParameters, check=_check_reduce, dtypes=NUMBERS, zero_dim=True)
@operator("_np_max", parameters=ExtremeParameters, check=_check_reduce, dtypes=NUMBERS, zero_dim=True)
@operator("_np_min", parameters=ExtremeParameters, check=_check_reduce, dtypes=NUMBERS, zero_dim=True)
@operator("_npi_mean", parameters=SumParameters, check=_check_reduce, dtypes=NUMBERS, zero_dim=True)
def _reduce(params: ExtremeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    data, dtype = inputs[0], dtype_of(node.inputs[0])
    result_dtype = dtype_of(node.outputs[0])
    axes = _axes(params.axis, len(shape_of(node.inputs[0])))
    # MXNet sums halves in float32.
    inner = FLOAT32 if np.float16 in (dtype, result_dtype) else result_dtype
    data = recast(data, dtype, inner, w)
    # To ONNX no axes would mean all.
    if axes:
        data = w.reduce(_REDUCTIONS[node.op], data, axes, keepdims=params.keepdims)
    return [recast(data, inner, result_dtype, w)]


def _check_moment(params: MomentParameters, node: NodeInfo) -> Optional[str]:
    if params.dtype is not None and params.dtype not in [d.name for d in FLOATS]:
        return reason("dtype", found=params.dtype, required="None or float32 or float16")
    return None


@operator("_npi_var", parameters=MomentParameters, check=_check_moment, zero_dim=True)
@operator("_npi_std", parameters=MomentParameters, check=_check_moment, zero_dim=True)
def _moment(params: MomentParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape, data = shape_of(node.inputs[0]), recast(inputs[0], dtype_of(node.inputs[0]), FLOAT32, w)
    axes = _axes(params.axis, len(shape))
    mean = w.reduce("ReduceMean", data, axes, keepdims=True) if axes else data
    centred = w.node("Sub", [data, mean])
    squares = w.node("Mul", [centred, centred])
    if axes:
        squares = w.reduce("ReduceSum", squares, axes, keepdims=params.keepdims)
    count = int(np.prod([shape[a] for a in axes], dtype=np.int64)) - params.ddof
    result = w.node("Div", [squares, w.scalar(count, FLOAT32)])
    result_dtype = dtype_of(node.outputs[0])
    if node.op == "_npi_std":
        if result_dtype != FLOAT32:
            # A variance that a half cannot hold is infinite, and so is its root.
            overflows = w.node("Greater", [result, w.scalar(_LARGEST_HALF, FLOAT32)])
            result = w.node("Where", [overflows, w.scalar(np.inf, FLOAT32), result])
        result = w.node("Sqrt", [result])
    return [recast(result, FLOAT32, result_dtype, w)]


operator("_npi_argmax", "_npi_argmin", parameters=ArgParameters, zero_dim=True)(arg)
