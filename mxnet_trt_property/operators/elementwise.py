"""Arithmetic element by element: unary functions, two tensors, a tensor and a scalar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import dtype_of, shape_of
from mxnet_trt_property.operators.registry import Emit, NodeInfo, Parameters, operator, reason

# MXNet's rint and round break ties otherwise than ONNX's Round (to even), so neither is here.
_UNARY = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "softsign": "Softsign",
    "tanh": "Tanh",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "negative": "Neg",
    "reciprocal": "Reciprocal",
    "erf": "Erf",
    "floor": "Floor",
    "ceil": "Ceil",
    "sin": "Sin",
    "cos": "Cos",
}

# The names that begin with elemwise_ want equal shapes, the others broadcast; ONNX covers both.
_BINARY = {
    "elemwise_add": "Add",
    "elemwise_sub": "Sub",
    "elemwise_mul": "Mul",
    "elemwise_div": "Div",
    "_maximum": "Max",
    "_minimum": "Min",
    "broadcast_add": "Add",
    "broadcast_sub": "Sub",
    "broadcast_mul": "Mul",
    "broadcast_div": "Div",
    "broadcast_maximum": "Max",
    "broadcast_minimum": "Min",
}

_SCALAR = {
    "_plus_scalar": "Add",
    "_minus_scalar": "Sub",
    "_mul_scalar": "Mul",
    "_div_scalar": "Div",
    "_maximum_scalar": "Max",
    "_minimum_scalar": "Min",
}

_SCALAR_FIRST = {"_rminus_scalar": "Sub", "_rdiv_scalar": "Div"}

# Beyond this a chain of products rounds visibly otherwise than pow.
_LARGEST_POWER = 4


@dataclass(frozen=True)
class ScalarParameters(Parameters):
    """Parameters of the operators with a scalar; `is_int` matters for integer tensors only."""

    IGNORED = Parameters.IGNORED | {"is_int"}

    scalar: float = 1.0


def _same(op_type: str) -> Emit:
    """Returns an emit that writes one node with the inputs as they are."""

    def emit(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
        return [w.node(op_type, inputs)]

    return emit


def _with_scalar(op_type: str, *, scalar_first: bool) -> Emit:
    def emit(params: ScalarParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
        scalar = w.scalar(params.scalar, dtype_of(node.inputs[0]))
        return [w.node(op_type, [scalar, inputs[0]] if scalar_first else [inputs[0], scalar])]

    return emit


for _name, _type in {**_UNARY, **_BINARY}.items():
    operator(_name)(_same(_type))
for _name, _type in _SCALAR.items():
    operator(_name, parameters=ScalarParameters)(_with_scalar(_type, scalar_first=False))
for _name, _type in _SCALAR_FIRST.items():
    operator(_name, parameters=ScalarParameters)(_with_scalar(_type, scalar_first=True))


@operator("square")
def _square(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("Mul", [inputs[0], inputs[0]])]


@operator("_contrib_div_sqrt_dim")
def _div_sqrt_dim(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    divisor = math.sqrt(shape_of(node.inputs[0])[-1])
    return [w.node("Div", [inputs[0], w.scalar(divisor, dtype_of(node.inputs[0]))])]


@operator("sign")
def _sign(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    # The sign of NaN is 0 in MXNet and NaN in ONNX Runtime.
    dtype = dtype_of(node.inputs[0])
    zero = w.scalar(0, dtype)
    above, below = (w.cast(w.node(op_type, [inputs[0], zero]), dtype) for op_type in ("Greater", "Less"))
    return [w.node("Sub", [above, below])]


@operator("rsqrt")
def _rsqrt(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("Reciprocal", [w.node("Sqrt", inputs)])]


class SumParameters(Parameters):
    """add_n takes the number of its inputs as an attribute that its argument list does not name."""

    IGNORED = Parameters.IGNORED | {"num_args"}


@operator("add_n", parameters=SumParameters)
def _add_n(params: SumParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    return [w.node("Sum", inputs)]


def _check_power(params: ScalarParameters, node: NodeInfo) -> Optional[str]:
    # A power of a negative base is a number only for whole exponents, and engines compute pow through a
    # logarithm that gives NaN there; so whole exponents become products.
    if params.scalar == 0.5 or (params.scalar == int(params.scalar) and 1 <= abs(params.scalar) <= _LARGEST_POWER):
        return None
    required = f"0.5, or a whole number of size 1 to {_LARGEST_POWER}"
    return reason("exponent", found=params.scalar, required=required)


@operator("_power_scalar", parameters=ScalarParameters, check=_check_power)
def _power_scalar(params: ScalarParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    if params.scalar == 0.5:
        return [w.node("Sqrt", inputs)]
    result = inputs[0]
    for _ in range(abs(int(params.scalar)) - 1):
        result = w.node("Mul", [result, inputs[0]])
    return [w.node("Reciprocal", [result]) if params.scalar < 0 else result]
