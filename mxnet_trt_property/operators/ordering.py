"""Sorting, the largest elements, and cumulative sums.

MXNet sorts with std::sort on the CPU and with another order of equal elements on the GPU, and promises none. ONNX
gives the lower index first. So where elements are equal the indices may differ, the values do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import (
    FLOAT32,
    INT64,
    INTS,
    LARGEST_TOPK,
    NUMBERS,
    check_dtype,
    dtype_of,
    positive,
    recast,
    shape_of,
)
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason

# MXNet's CPU sorts no float16, and ONNX Runtime has no cumulative sums of it.
_TYPES = (FLOAT32, *INTS)


@dataclass(frozen=True)
class SortParameters(Parameters):
    """Parameters of sort; without an axis the input counts as flat."""

    axis: Optional[int] = -1
    is_ascend: bool = True


@dataclass(frozen=True)
class ArgsortParameters(SortParameters):
    """Parameters of argsort; `dtype` is the indices'."""

    dtype: str = "float32"


@dataclass(frozen=True)
class TopKParameters(ArgsortParameters):
    """Parameters of topk; a `k` below 1 means all elements."""

    is_ascend: bool = False
    k: int = 1
    ret_typ: str = "indices"


@dataclass(frozen=True)
class CumsumParameters(Parameters):
    """Parameters of _np_cumsum; without an axis the input counts as flat."""

    axis: Optional[int] = None
    dtype: Optional[str] = None


def _count(axis: Optional[int], shape: Sequence[int]) -> int:
    return prod(shape) if axis is None else shape[positive(axis, len(shape))]


def _check(params: SortParameters, node: NodeInfo) -> Optional[str]:
    shape = node.inputs[0].shape
    if shape is None:
        return needs_shape("number of elements")
    wanted = params.k if isinstance(params, TopKParameters) and params.k > 0 else _count(params.axis, shape)
    if wanted > LARGEST_TOPK:
        return reason("number of sorted elements", found=wanted, required=f"at most {LARGEST_TOPK}")
    return next((text for text in (check_dtype("the output", t, NUMBERS) for t in node.outputs) if text), None)


def _sorted(
    node: NodeInfo, data: str, axis: Optional[int], count: int, *, ascending: bool, w: OnnxWriter
) -> tuple[str, str, str, int]:
    """Returns the first `count` values and indices in order, and the data and axis that they are of."""
    shape = shape_of(node.inputs[0])
    # TensorRT sorts tensors of two axes or more.
    if axis is None or len(shape) == 1:
        data, axis = w.reshape(data, (1, -1)), 1
    axis = positive(axis, max(len(shape), 2))
    values, indices = w.nodes("TopK", [data, w.ints([count])], 2, axis=axis, largest=int(not ascending), sorted=1)
    return values, indices, data, axis


@operator("sort", parameters=SortParameters, check=_check, dtypes=_TYPES)
def _sort(params: SortParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    count = _count(params.axis, shape_of(node.inputs[0]))
    values, *_ = _sorted(node, inputs[0], params.axis, count, ascending=params.is_ascend, w=w)
    return [w.reshape(values, shape_of(node.outputs[0]))]


@operator("argsort", parameters=ArgsortParameters, check=_check, dtypes=_TYPES)
def _argsort(params: ArgsortParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    count = _count(params.axis, shape_of(node.inputs[0]))
    _, indices, *_ = _sorted(node, inputs[0], params.axis, count, ascending=params.is_ascend, w=w)
    return [w.reshape(w.cast(indices, dtype_of(node.outputs[0])), shape_of(node.outputs[0]))]


@operator("topk", parameters=TopKParameters, check=_check, dtypes=_TYPES)
def _topk(params: TopKParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape, dtype = shape_of(node.inputs[0]), dtype_of(node.inputs[0])
    count = params.k if params.k > 0 else _count(params.axis, shape)
    values, indices, data, axis = _sorted(node, inputs[0], params.axis, count, ascending=params.is_ascend, w=w)
    if params.ret_typ == "mask":
        flat = data != inputs[0]
        zeros = w.fill(0, (1, prod(shape)) if flat else shape, dtype)
        chosen = list(shape) if not flat else [1, prod(shape)]
        chosen[axis] = count
        mask = w.node("ScatterElements", [zeros, indices, w.fill(1, chosen, dtype)], axis=axis)
        return [w.reshape(mask, shape)]
    out = shape_of(node.outputs[0])
    named = {"value": [values], "indices": [indices], "both": [values, indices]}[params.ret_typ]
    return [
        w.reshape(w.cast(name, dtype_of(t)) if name == indices else name, out) for name, t in zip(named, node.outputs)
    ]


def _check_cumsum(params: CumsumParameters, node: NodeInfo) -> Optional[str]:
    if params.axis is not None and params.axis < 0:
        return reason("axis", found=params.axis, required="None, or 0 and more, as MXNet fails with others")
    if node.inputs[0].shape is None or not node.outputs:
        return needs_shape("number of elements")
    return check_dtype("the output", node.outputs[0], _TYPES)


@operator("_np_cumsum", parameters=CumsumParameters, check=_check_cumsum, dtypes=_TYPES)
def _cumsum(params: CumsumParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    data, dtype = inputs[0], dtype_of(node.outputs[0])
    if params.axis is None:
        data = w.reshape(data, (-1,))
    data = recast(data, dtype_of(node.inputs[0]), dtype, w)
    return [w.node("CumSum", [data, w.scalar(params.axis or 0, INT64)])]
