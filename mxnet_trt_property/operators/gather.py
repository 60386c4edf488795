"""Look-ups and writes by coordinates: gather_nd, scatter_nd, index_copy, diagonals and flat indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, INT64, INTS, NUMBERS, check_dtype, dtype_of, positive, shape_of
from mxnet_trt_property.operators.indices import check_count
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason


@dataclass(frozen=True)
class ScatterParameters(Parameters):
    """Parameters of scatter_nd."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class DiagParameters(Parameters):
    """Parameters of diag; the axes do not matter to a vector, which becomes a diagonal."""

    k: int = 0
    axis1: int = 0
    axis2: int = 1


@dataclass(frozen=True)
class RavelParameters(Parameters):
    """Parameters of _ravel_multi_index and _unravel_index; the first size is not read."""

    shape: Optional[tuple[int, ...]] = None


def _check_coordinates(shape: Optional[tuple[int, ...]], node: NodeInfo) -> Optional[str]:
    if shape is None or node.inputs[1].shape is None:
        return needs_shape("size of each axis")
    sizes = shape[: node.inputs[1].shape[0]]
    return next((text for text in (check_count(size, node.inputs[1]) for size in sizes) if text), None)


def _coordinates(node: NodeInfo, indices: str, w: OnnxWriter) -> str:
    """Returns indices as ONNX has them: the coordinates of an element lie in the last axis."""
    axes = list(range(len(shape_of(node.inputs[1]))))
    return w.transpose(indices, [*axes[1:], 0])


def _check_gather_nd(params: Parameters, node: NodeInfo) -> Optional[str]:
    # MXNet adds to the indices in their own dtype, and rounds as it does so.
    return check_dtype("indices", node.inputs[1], (FLOAT32, *INTS)) or _check_coordinates(node.inputs[0].shape, node)


@operator("gather_nd", check=_check_gather_nd, dtypes=NUMBERS)
def _gather_nd(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype = dtype_of(node.inputs[1])
    sizes = np.array(shape_of(node.inputs[0])[: shape_of(node.inputs[1])[0]])
    shifted = w.node("Add", [_coordinates(node, inputs[1], w), w.constant(sizes.astype(dtype))])
    shifted = w.cast(shifted, INT64)
    # TensorRT knows no negative indices. One out of range is an error in MXNet and, as long as it stays out of range,
    # in ONNX Runtime; TensorRT does not look.
    size = w.constant(sizes.astype(INT64))
    is_negative = w.node("Less", [shifted, size])
    is_below = w.node("Less", [shifted, w.scalar(0, INT64)])
    places = w.node("Where", [is_negative, shifted, w.node("Sub", [shifted, size])])
    return [w.node("GatherND", [inputs[0], w.node("Where", [is_below, size, places])])]


def _check_scatter_nd(params: ScatterParameters, node: NodeInfo) -> Optional[str]:
    return _check_coordinates(params.shape, node)


# Of several values for one place MXNet promises none.
@operator("scatter_nd", parameters=ScatterParameters, check=_check_scatter_nd, dtypes=NUMBERS)
def _scatter_nd(params: ScatterParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    zeros = w.fill(0, params.shape, dtype_of(node.inputs[0]))
    places = w.cast(_coordinates(node, inputs[1], w), INT64)
    return [w.node("ScatterND", [zeros, places, inputs[0]])]


def _check_index_copy(params: Parameters, node: NodeInfo) -> Optional[str]:
    if any(tensor.shape is None for tensor in node.inputs):
        return needs_shape("number of rows")
    return check_dtype("index_vector", node.inputs[1], INTS)


@operator("_contrib_index_copy", check=_check_index_copy, dtypes=NUMBERS)
def _index_copy(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    rows = w.reshape(w.cast(inputs[1], INT64), (-1, 1))
    return [w.node("ScatterND", [inputs[0], rows, inputs[2]])]


def _check_diag(params: DiagParameters, node: NodeInfo) -> Optional[str]:
    if node.inputs[0].shape is None or not node.outputs or node.outputs[0].shape is None:
        return needs_shape("size of the diagonal, which must not be 0,")
    return None


@operator("diag", parameters=DiagParameters, check=_check_diag, dtypes=NUMBERS)
def _diag(params: DiagParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape, out = shape_of(node.inputs[0]), shape_of(node.outputs[0])
    if len(shape) == 1:
        # Places off the diagonal look up a zero that stands behind the vector.
        row, column = np.indices(out)
        places = np.where(column == row + params.k, np.minimum(row, column), shape[0])
        zero = w.constant(np.zeros(1, dtype_of(node.inputs[0])))
        return [w.node("Gather", [w.node("Concat", [inputs[0], zero], axis=0), w.constant(places)], axis=0)]
    one, two = positive(params.axis1, len(shape)), positive(params.axis2, len(shape))
    others = [axis for axis in range(len(shape)) if axis not in (one, two)]
    flat = w.reshape(w.transpose(inputs[0], [*others, one, two]), (-1, shape[one] * shape[two]))
    first = np.arange(out[-1])
    places = (first - min(params.k, 0)) * shape[two] + first + max(params.k, 0)
    return [w.reshape(w.node("Gather", [flat, w.constant(places)], axis=1), out)]


def _check_ravel(params: RavelParameters, node: NodeInfo) -> Optional[str]:
    return needs_shape("number of axes") if node.inputs[0].shape is None else None


@operator("_ravel_multi_index", parameters=RavelParameters, check=_check_ravel, dtypes=NUMBERS)
def _ravel_multi_index(params: RavelParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    # MXNet adds in the dtype of the indices and cuts off after each axis.
    dtype, sizes = dtype_of(node.inputs[0]), params.shape or ()
    flat = ""
    for axis, size in enumerate(sizes):
        term = w.slice(inputs[0], (0,), (axis,), (axis + 1,), (1,))
        if flat:
            scaled = w.node("Mul", [flat, w.scalar(size, INT64)])
            term = w.node("Add", [w.cast(scaled, dtype), term])
        flat = w.cast(term, INT64)
    return [w.reshape(w.cast(flat, dtype), shape_of(node.outputs[0]))]


def _check_unravel(params: RavelParameters, node: NodeInfo) -> Optional[str]:
    shape = node.inputs[0].shape
    if shape is None:
        return needs_shape("number of axes")
    # MXNet takes the number of indices from the first axis alone.
    return None if len(shape) == 1 else reason("number of axes", found=len(shape), required=1)


@operator("_unravel_index", parameters=RavelParameters, check=_check_unravel, dtypes=NUMBERS)
def _unravel_index(params: RavelParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    rest = w.cast(inputs[0], INT64)
    rows: list[str] = []
    for size in reversed((params.shape or ())[1:]):
        divisor = w.scalar(size, INT64)
        quotient = w.node("Div", [rest, divisor])
        rows.insert(0, w.node("Sub", [rest, w.node("Mul", [quotient, divisor])]))
        rest = quotient
    stacked = [w.unsqueeze(row, (0,)) for row in (rest, *rows)]
    return [w.cast(w.node("Concat", stacked, axis=0), dtype_of(node.inputs[0]))]
