"""The operators of mx.np and mx.npx that move, join, cut and repeat elements.

NumPy's semantics have 0-d arrays, and MXNet's inference has resolved every code and default: the shape of the result is
taken from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import ELEMENTS, NUMBERS, dtype_of, free_batch, positive, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, operator, reason
from mxnet_trt_property.operators.shape import StackParameters, stack
from mxnet_trt_property.operators.slicing import ReverseParameters, reverse


@dataclass(frozen=True)
class ReshapeParameters(Parameters):
    """Parameters of _np_reshape."""

    newshape: tuple[int, ...]
    order: str = "C"


@dataclass(frozen=True)
class ExtendedReshapeParameters(Parameters):
    """Parameters of _npx_reshape, whose codes from -2 to -6 copy, join and split axes."""

    newshape: tuple[int, ...]
    reverse: bool = False
    order: str = "C"


def _check_order(params: ReshapeParameters, node: NodeInfo) -> Optional[str]:
    return None if params.order == "C" else reason("order", found=params.order, required="C")


@operator("_np_reshape", parameters=ReshapeParameters, check=_check_order, dtypes=ELEMENTS, zero_dim=True)
@operator("_npx_reshape", parameters=ExtendedReshapeParameters, check=_check_order, dtypes=ELEMENTS, zero_dim=True)
def _reshape(params: ReshapeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    target = list(shape_of(node.outputs[0]))
    # -2 copies the first axis and -4 all of them: the batch size stays open. So it does where it is what remains.
    if isinstance(params, ExtendedReshapeParameters) and not params.reverse and params.newshape[:1] in ((-2,), (-4,)):
        target = free_batch(target, shape_of(node.inputs[0]))
    elif params.newshape[:1] == (-1,) and all(size > 0 for size in params.newshape[1:]):
        target[0] = -1
    return [w.reshape(inputs[0], target)]


@dataclass(frozen=True)
class TransposeParameters(Parameters):
    """Parameters of _np_transpose; no axes means all of them in reverse."""

    axes: Optional[tuple[int, ...]] = None


@operator("_np_transpose", parameters=TransposeParameters, dtypes=ELEMENTS, zero_dim=True)
def _transpose(params: TransposeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    ndim = len(shape_of(node.inputs[0]))
    axes = [positive(a, ndim) for a in params.axes or ()] or list(range(ndim))[::-1]
    return [w.transpose(inputs[0], axes) if ndim else inputs[0]]


@dataclass(frozen=True)
class MoveAxisParameters(Parameters):
    """Parameters of _np_moveaxis."""

    source: tuple[int, ...]
    destination: tuple[int, ...]


@operator("_np_moveaxis", parameters=MoveAxisParameters, dtypes=ELEMENTS)
def _moveaxis(params: MoveAxisParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.inputs[0])
    # The axes' own numbers, moved the same way.
    moved = np.moveaxis(np.empty(tuple(range(len(shape)))), params.source, params.destination)
    return [w.transpose(inputs[0], moved.shape)]


@dataclass(frozen=True)
class SqueezeParameters(Parameters):
    """Parameters of _np_squeeze."""

    axis: Optional[tuple[int, ...]] = None


@operator("_np_squeeze", parameters=SqueezeParameters, dtypes=ELEMENTS, zero_dim=True)
def _squeeze(params: SqueezeParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.inputs[0])
    axes = [i for i, size in enumerate(shape) if size == 1]
    if params.axis is not None:
        axes = [positive(a, len(shape)) for a in params.axis]
    return [w.squeeze(inputs[0], axes) if axes else inputs[0]]


@operator("_np_copy", dtypes=ELEMENTS, zero_dim=True)
def _copy(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [inputs[0]]


@dataclass(frozen=True)
class ConcatenateParameters(Parameters):
    """Parameters of _npi_concatenate; without an axis everything is flattened."""

    num_args: int
    axis: Optional[int] = 0


def _check_concatenate(params: ConcatenateParameters, node: NodeInfo) -> Optional[str]:
    # MXNet's inference gives the inputs other shapes than they have.
    return reason("axis", found=None, required="a number") if params.axis is None else None


@operator("_npi_concatenate", parameters=ConcatenateParameters, check=_check_concatenate, dtypes=ELEMENTS)
def _concatenate(params: ConcatenateParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("Concat", inputs, axis=params.axis)]


operator("_npi_stack", parameters=StackParameters, dtypes=ELEMENTS, zero_dim=True)(stack)


@dataclass(frozen=True)
class RowsParameters(Parameters):
    """Parameters of _npi_vstack and _npi_column_stack."""

    num_args: int


def _joined(
    node: NodeInfo, inputs: Sequence[str], axis: int, shape: Callable[[tuple[int, ...]], tuple[int, ...]], w: OnnxWriter
) -> Sequence[str]:
    """Concatenates the inputs after each got the shape that `shape` makes of its own."""
    before = [shape_of(tensor) for tensor in node.inputs]
    parts = [name if shape(old) == old else w.reshape(name, shape(old)) for name, old in zip(inputs, before)]
    return [w.node("Concat", parts, axis=axis)]


@operator("_npi_vstack", parameters=RowsParameters, dtypes=ELEMENTS, zero_dim=True)
def _vstack(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return _joined(node, inputs, 0, lambda shape: (1,) * (2 - len(shape)) + shape, w)


@operator("_npi_column_stack", parameters=RowsParameters, dtypes=ELEMENTS, zero_dim=True)
def _column_stack(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return _joined(node, inputs, 1, lambda shape: shape + (1,) * (2 - len(shape)), w)


@dataclass(frozen=True)
class BroadcastParameters(Parameters):
    """Parameters of _npi_broadcast_to."""

    shape: tuple[int, ...] = ()


@operator("_npi_broadcast_to", parameters=BroadcastParameters, dtypes=ELEMENTS, zero_dim=True)
def _broadcast_to(params: BroadcastParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    shape = shape_of(node.outputs[0])
    return [w.node("Expand", [inputs[0], w.ints(shape)]) if shape else inputs[0]]


operator("_npi_flip", parameters=ReverseParameters, dtypes=ELEMENTS)(reverse)


@dataclass(frozen=True)
class TriangleParameters(Parameters):
    """Parameters of _npi_tril."""

    k: int = 0


@operator("_npi_tril", parameters=TriangleParameters, dtypes=NUMBERS)
def _tril(params: TriangleParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    # One axis is the rows of a matrix and its columns.
    rows, columns = shape_of(node.outputs[0])[-2:]
    kept = w.constant(np.tri(rows, columns, params.k, dtype=np.bool_))
    return [w.node("Where", [kept, inputs[0], w.scalar(0, dtype_of(node.inputs[0]))])]
