"""Arithmetic and comparisons element by element: two tensors, a tensor and a scalar."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.binary import EXACT, FLOATING, Binary, mod, power_by_constant, swapped
from mxnet_trt_property.operators.common import (
    FLOAT32,
    INT32,
    INTS,
    NUMBERS,
    CountedParameters,
    check_scalar_fits,
    dtype_of,
    in_float32,
    recast,
    shape_of,
)
from mxnet_trt_property.operators.registry import FLOATS, Emit, NodeInfo, Parameters, operator, reason

# MXNet's names for operands of equal shapes, which are older than any system.
_SAME_SHAPE = {"add": "elemwise_add", "sub": "elemwise_sub", "mul": "elemwise_mul", "div": "elemwise_div"}
_SHORT = {"add": "plus", "sub": "minus"}

# The scalar comes first where the name begins with an r.
_REVERSED = ("sub", "div", "power", "mod")


@dataclass(frozen=True)
class ScalarParameters(Parameters):
    """Parameters of the operators with a scalar; `is_int` says whether it was written as a whole number."""

    scalar: float = 1.0
    is_int: bool = True


def check_scalar(params: ScalarParameters, node: NodeInfo) -> Optional[str]:
    """Returns why an integer tensor with a scalar is refused: MXNet computes with fractions in float64."""
    dtype = node.inputs[0].dtype
    if dtype in INTS and not params.is_int:
        return reason("scalar", found=f"the fraction {params.scalar} with {dtype}", required="a whole number")
    return check_scalar_fits("scalar", params.scalar, dtype)


def of_tensors(function: Binary) -> Emit:
    """Returns the emission of a function of two tensors, which are converted to the dtype of the result first."""

    def emit(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
        dtype = dtype_of(node.outputs[0])
        left, right = (recast(name, dtype_of(tensor), dtype, w) for name, tensor in zip(inputs, node.inputs))
        return [function(left, right, dtype, w)]

    return emit


def with_scalar(function: Binary) -> Emit:
    """Returns the emission of a function of a tensor and a scalar, both in the dtype of the result."""

    def emit(params: ScalarParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
        dtype = dtype_of(node.outputs[0])
        data = recast(inputs[0], dtype_of(node.inputs[0]), dtype, w)
        return [function(data, w.scalar(params.scalar, dtype), dtype, w)]

    return emit


# MXNet takes the rest of an int64 in double, which loses the digits beyond 2^53.
_DTYPES = {**dict.fromkeys(EXACT, NUMBERS), **dict.fromkeys(FLOATING, FLOATS), "mod": (*FLOATS, INT32)}


def _register(name: str, function: Binary) -> None:
    """Registers the forms of a function: equal shapes, broadcasting, a scalar behind, and a scalar in front."""
    dtypes, short = _DTYPES[name], _SHORT.get(name, name)
    operator(_SAME_SHAPE.get(name, f"_{name}"), f"broadcast_{name}", dtypes=dtypes, zero_dim=True)(of_tensors(function))
    scalars = {f"_{short}_scalar": function}
    if name in _REVERSED:
        scalars[f"_r{short}_scalar"] = swapped(function)
    if name == "power":
        del scalars["_power_scalar"]
    for scalar_name, scalar_function in scalars.items():
        register = operator(scalar_name, parameters=ScalarParameters, check=check_scalar, dtypes=dtypes, zero_dim=True)
        register(with_scalar(scalar_function))


for _name, _function in {**EXACT, **FLOATING, "mod": mod}.items():
    _register(_name, _function)


@operator("_power_scalar", parameters=ScalarParameters, zero_dim=True)
def power_scalar(params: ScalarParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    """Writes a power with a known exponent."""
    return [power_by_constant(inputs[0], params.scalar, dtype_of(node.inputs[0]), w)]


@operator("_contrib_div_sqrt_dim")
def _div_sqrt_dim(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    divisor = math.sqrt(shape_of(node.inputs[0])[-1])
    return [w.node("Div", [inputs[0], w.scalar(divisor, dtype_of(node.inputs[0]))])]


@operator("add_n", parameters=CountedParameters, dtypes=NUMBERS)
@operator("_grad_add", dtypes=NUMBERS)
def _add_n(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    # Not as Sum, which ONNX Runtime has for floats only.
    return [functools.reduce(lambda a, b: w.node("Add", [a, b]), inputs)]


@dataclass(frozen=True)
class QuadraticParameters(Parameters):
    """Parameters of _contrib_quadratic: a x^2 + b x + c."""

    a: float = 0.0
    b: float = 0.0
    c: float = 0.0


@operator("_contrib_quadratic", parameters=QuadraticParameters)
def _quadratic(params: QuadraticParameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    dtype = dtype_of(node.inputs[0])
    slope = w.node("Add", [w.node("Mul", [inputs[0], w.scalar(params.a, dtype)]), w.scalar(params.b, dtype)])
    return [w.node("Add", [w.node("Mul", [slope, inputs[0]]), w.scalar(params.c, dtype)])]


@dataclass(frozen=True)
class SmoothL1Parameters(Parameters):
    """Parameters of smooth_l1; `scalar` is the formula's sigma."""

    IGNORED = Parameters.IGNORED | {"is_int"}

    scalar: float = 1.0


def _check_smooth_l1(params: SmoothL1Parameters, node: NodeInfo) -> Optional[str]:
    if 1e-15 < abs(params.scalar) < 1e15:
        return None
    return reason("scalar", found=params.scalar, required="a size between 1e-15 and 1e15, with a square in float32")


@operator("smooth_l1", parameters=SmoothL1Parameters, check=_check_smooth_l1)
def _smooth_l1(params: SmoothL1Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
    square = params.scalar**2

    def write(x: str) -> str:
        size = w.node("Abs", [x])
        outer = w.node("Sub", [size, w.scalar(0.5 / square, FLOAT32)])
        inner = w.node("Mul", [w.node("Mul", [x, x]), w.scalar(0.5 * square, FLOAT32)])
        is_outer = w.node("Greater", [size, w.scalar(1 / square, FLOAT32)])
        return w.node("Where", [is_outer, outer, inner])

    return [in_float32(dtype_of(node.inputs[0]), inputs, w, write)]
