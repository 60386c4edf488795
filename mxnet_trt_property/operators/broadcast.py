"""Broadcasting to a shape, comparisons, and choices between two tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import ELEMENTS, NUMBERS, check_dtype, dtype_of, shape_of
from mxnet_trt_property.operators.elementwise import ScalarParameters
from mxnet_trt_property.operators.registry import NodeInfo, Parameters, needs_shape, operator, reason

# By the middle of MXNet's names: broadcast_greater, _greater (equal shapes) and _greater_scalar.
_COMPARISONS = {
    "equal": ("Equal", False),
    "not_equal": ("Equal", True),
    "greater": ("Greater", False),
    "greater_equal": ("GreaterOrEqual", False),
    "lesser": ("Less", False),
    "lesser_equal": ("LessOrEqual", False),
}


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


def _compare(node: NodeInfo, sides: Sequence[str], kind: str, w: OnnxWriter) -> Sequence[str]:
    op_type, negated = _COMPARISONS[kind]
    result = w.node(op_type, sides)
    if negated:
        result = w.node("Not", [result])
    # MXNet's truth values are 0 and 1 in the dtype of the data.
    return [w.cast(result, dtype_of(node.inputs[0]))]


def _tensors(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return _compare(node, inputs, node.op.replace("broadcast_", "").lstrip("_"), w)


def _scalars(params: ScalarParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    kind = node.op[1:].replace("_scalar", "")
    return _compare(node, [inputs[0], w.scalar(params.scalar, dtype_of(node.inputs[0]))], kind, w)


for _kind in _COMPARISONS:
    operator(f"broadcast_{_kind}", f"_{_kind}")(_tensors)
    operator(f"_{_kind}_scalar", parameters=ScalarParameters)(_scalars)


def _check_where(params: Parameters, node: NodeInfo) -> Optional[str]:
    condition, *values = node.inputs
    if condition.shape is None or values[0].shape is None:
        return needs_shape("condition")
    # A condition of one axis chooses whole rows in MXNet, where ONNX would broadcast it from the right.
    if condition.shape != values[0].shape:
        return reason(
            "shape of the condition", found=condition.shape, required=f"that of the values, {values[0].shape}"
        )
    return None


@operator("where", check=_check_where, dtypes=NUMBERS)
def _where(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    zero = w.scalar(0, dtype_of(node.inputs[0]))
    is_zero = w.node("Equal", [inputs[0], zero])
    return [w.node("Where", [is_zero, inputs[2], inputs[1]])]
