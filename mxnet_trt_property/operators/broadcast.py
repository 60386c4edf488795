"""Broadcasting to a shape, and choices between two tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import ELEMENTS, NUMBERS, check_dtype, dtype_of, shape_of
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator


@dataclass(frozen=True)
class BroadcastToParameters(Parameters):
    """Parameters of broadcast_to; a size of 0 keeps the input's."""

    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class BroadcastAxisParameters(Parameters):
    """Parameters of broadcast_axis."""

    axis: tuple[int, ...] = ()
    size: tuple[int, ...] = ()


@dataclass(frozen=True)
class BroadcastLikeParameters(Parameters):
    """Parameters of broadcast_like."""

    lhs_axes: Optional[tuple[int, ...]] = None
    rhs_axes: Optional[tuple[int, ...]] = None


# The target comes out of MXNet's inference, so the parameters need not be read again.
@operator("broadcast_to", parameters=BroadcastToParameters, dtypes=ELEMENTS)
@operator("broadcast_axis", parameters=BroadcastAxisParameters, dtypes=NUMBERS)
@operator("broadcast_like", parameters=BroadcastLikeParameters, ignored=(1,), dtypes=ELEMENTS)
def _expand(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("Expand", [inputs[0], w.ints(shape_of(node.outputs[0]))])]


def _check_filled(params: Parameters, node: NodeInfo) -> Optional[str]:
    return check_dtype("the output", node.outputs[0], NUMBERS) if node.outputs else None


@operator("zeros_like", check=_check_filled, ignored=(0,))
@operator("ones_like", check=_check_filled, ignored=(0,))
def _filled(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.fill(float(node.op == "ones_like"), shape_of(node.outputs[0]), dtype_of(node.outputs[0]))]


def _check_where(params: Parameters, node: NodeInfo) -> Optional[str]:
    if any(tensor.shape is None for tensor in node.inputs):
        return needs_shape("condition")
    return None


@operator("where", check=_check_where, dtypes=NUMBERS)
def _where(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    is_zero = w.node("Equal", [inputs[0], w.scalar(0, dtype_of(node.inputs[0]))])
    # A condition of one axis chooses whole rows in MXNet, where ONNX would broadcast it from the right.
    missing = len(shape_of(node.inputs[1])) - len(shape_of(node.inputs[0]))
    if missing:
        is_zero = w.reshape(is_zero, (-1, *[1] * missing))
    return [w.node("Where", [is_zero, inputs[2], inputs[1]])]
