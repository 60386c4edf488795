"""The reductions of mx.np: a reduction of everything is a 0-d array, and one over no axes, (), changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, NUMBERS, dtype_of, positive, shape_of
from mxnet_trt_property.operators.registry import FLOATS, NodeInfo, Parameters, operator, reason

_LARGEST_HALF = 65504.0


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


@dataclass(frozen=True)
class ArgParameters(Parameters):
    """Parameters of _npi_argmax and _npi_argmin."""

    axis: Optional[int] = None
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
    found = node.outputs[0].dtype if node.outputs else None
    # MXNet rounds each float that it adds to an integer, and the mean of integers.
    takes_integers = node.op != "_npi_mean" and node.inputs[0].dtype not in FLOATS
    allowed = NUMBERS if takes_integers else FLOATS
    if found is not None and found not in allowed:
        return reason("dtype of the result", found=found.name, required=" or ".join(d.name for d in allowed))
    return None


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
    if dtype != inner:
        data = w.cast(data, inner)
    # To ONNX no axes would mean all.
    if axes:
        data = w.reduce(_REDUCTIONS[node.op], data, axes, keepdims=params.keepdims)
    return [data if inner == result_dtype else w.cast(data, result_dtype)]


def _check_moment(params: MomentParameters, node: NodeInfo) -> Optional[str]:
    if params.dtype is not None and params.dtype not in [d.name for d in FLOATS]:
        return reason("dtype", found=params.dtype, required="None or float32 or float16")
    return None


@operator("_npi_var", parameters=MomentParameters, check=_check_moment, zero_dim=True)
@operator("_npi_std", parameters=MomentParameters, check=_check_moment, zero_dim=True)
def _moment(params: MomentParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape, data = shape_of(node.inputs[0]), inputs[0]
    axes = _axes(params.axis, len(shape))
    if dtype_of(node.inputs[0]) != FLOAT32:
        data = w.cast(data, FLOAT32)
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
    return [result if result_dtype == FLOAT32 else w.cast(result, result_dtype)]


@operator("_npi_argmax", parameters=ArgParameters, zero_dim=True)
@operator("_npi_argmin", parameters=ArgParameters, zero_dim=True)
def _arg(params: ArgParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    data, axis = inputs[0], params.axis
    # TensorRT searches in tensors of two axes or more.
    if axis is None or len(shape_of(node.inputs[0])) < 2:
        data, axis = w.reshape(data, (1, -1)), 1
    found = w.node("ArgMax" if node.op == "_npi_argmax" else "ArgMin", [data], axis=axis, keepdims=1)
    return [w.reshape(found, shape_of(node.outputs[0]))]
