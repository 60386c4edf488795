"""Functions of two tensors, element by element, as ONNX nodes: for the `mx.sym` operators and for their NumPy twins."""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, in_float32
from mxnet_trt_property.operators.registry import FLOATS

Binary = Callable[[str, str, np.dtype[Any], OnnxWriter], str]
"""Writes f(a, b) for tensors of one dtype that broadcast; the result has the same dtype."""


def native(op_type: str) -> Binary:
    """Returns the function that ONNX has as one node."""
    return lambda a, b, dtype, w: w.node(op_type, [a, b])


def swapped(function: Binary) -> Binary:
    """Returns f(b, a)."""
    return lambda a, b, dtype, w: function(b, a, dtype, w)


def _composed(write: Callable[[str, str, OnnxWriter], str]) -> Binary:
    return lambda a, b, dtype, w: in_float32(dtype, [a, b], w, lambda *sides: write(sides[0], sides[1], w))


def _extremum(op_type: str) -> Binary:
    """Returns the larger or smaller one, as MXNet has it: a NaN on either side is the result.

    ONNX's Max and Min say nothing of NaN, and TensorRT takes the other side.
    """
    better = {"Max": "Greater", "Min": "Less"}[op_type]

    def write(a: str, b: str, dtype: np.dtype[Any], w: OnnxWriter) -> str:
        wins = w.node(better, [a, b])
        if dtype in FLOATS:
            wins = w.node("Or", [wins, w.node("Not", [w.node("Equal", [a, a])])])
        return w.node("Where", [wins, a, b])

    return write


def mod(a: str, b: str, dtype: np.dtype[Any], w: OnnxWriter) -> str:
    """Writes a - b floor(a / b), which has the sign of b, and 0 where b is 0."""
    zero = w.scalar(0, dtype)
    is_zero = w.node("Equal", [b, zero])
    # To divide an integer by zero is an error of the machine's.
    divisor = w.node("Where", [is_zero, w.scalar(1, dtype), b])
    if dtype not in FLOATS:
        rest = w.node("Mod", [a, divisor])
    else:
        rest = in_float32(dtype, [a, divisor], w, lambda *sides: _float_mod(sides[0], sides[1], w))
    return w.node("Where", [is_zero, zero, rest])


def _float_mod(a: str, b: str, w: OnnxWriter) -> str:
    rest = w.node("Mod", [a, b], fmod=1)
    zero = w.scalar(0, FLOAT32)
    # fmod has the sign of a. Where the signs differ MXNet adds b, also to a rest that vanishes in the sum.
    differ = w.node("Less", [w.node("Mul", [w.node("Sign", [rest]), w.node("Sign", [b])]), zero])
    return w.node("Where", [differ, w.node("Add", [rest, b]), rest])


def _power(a: str, b: str, w: OnnxWriter) -> str:
    half = w.node("Mul", [b, w.scalar(0.5, FLOAT32)])
    whole = w.node("Equal", [w.node("Floor", [b]), b])
    odd = w.node("And", [whole, w.node("Not", [w.node("Equal", [w.node("Floor", [half]), half])])])
    zero = w.scalar(0, FLOAT32)
    below = w.node("Less", [a, zero])
    # The reciprocal tells a negative zero from a positive one.
    negative = w.node("Or", [below, w.node("Less", [w.node("Reciprocal", [a]), zero])])
    power = w.node("Pow", [w.node("Abs", [a]), b])
    signed = w.node("Where", [w.node("And", [negative, odd]), w.node("Neg", [power]), power])
    finite = w.node("Greater", [a, w.scalar(-math.inf, FLOAT32)])
    undefined = w.node("And", [w.node("And", [below, finite]), w.node("Not", [whole])])
    return w.node("Where", [undefined, w.scalar(math.nan, FLOAT32), signed])


power: Binary = _composed(_power)
"""a to the power of b. Engines compute it by a logarithm, which knows no negative base: the signs are put in after."""

# Beyond this a chain of products rounds visibly otherwise than pow.
_LARGEST_CHAIN = 4


def power_by_constant(x: str, exponent: float, dtype: np.dtype[Any], w: OnnxWriter) -> str:
    """Writes x to a power that is known: small whole ones are products, of which engines make the most."""
    if 1 <= abs(exponent) <= _LARGEST_CHAIN and exponent == int(exponent):
        result = x
        for _ in range(abs(int(exponent)) - 1):
            result = w.node("Mul", [result, x])
        return w.node("Reciprocal", [result]) if exponent < 0 else result
    if exponent == 0:
        one = w.scalar(1, dtype)
        return w.node("Where", [w.node("Equal", [x, x]), one, one])
    return power(x, w.scalar(exponent, dtype), dtype, w)


def _hypot(a: str, b: str, w: OnnxWriter) -> str:
    a, b = w.node("Abs", [a]), w.node("Abs", [b])
    larger, smaller = (_extremum(kind)(a, b, FLOAT32, w) for kind in ("Max", "Min"))
    ratio = w.node("Div", [smaller, larger])
    root = w.node("Sqrt", [w.node("Add", [w.node("Mul", [ratio, ratio]), w.scalar(1, FLOAT32)])])
    is_zero = w.node("Equal", [larger, w.scalar(0, FLOAT32)])
    result = w.node("Where", [is_zero, larger, w.node("Mul", [larger, root])])
    # One infinite side is enough, also beside a NaN.
    infinity = w.scalar(math.inf, FLOAT32)
    infinite = w.node("Or", [w.node("Equal", [a, infinity]), w.node("Equal", [b, infinity])])
    return w.node("Where", [infinite, infinity, result])


hypot: Binary = _composed(_hypot)
"""The length of (a, b), without the overflow of a square."""


def truth(x: str, dtype: np.dtype[Any], w: OnnxWriter) -> str:
    """Writes whether x is not 0, as booleans; a NaN is not."""
    if dtype == np.bool_:
        return x
    return w.node("Not", [w.node("Equal", [x, w.scalar(0, dtype)])])


def logical(op_type: str) -> Binary:
    """Returns And, Or or Xor of what is not 0, as 0 and 1 of the same dtype."""

    def write(a: str, b: str, dtype: np.dtype[Any], w: OnnxWriter) -> str:
        return w.cast(w.node(op_type, [truth(a, dtype, w), truth(b, dtype, w)]), dtype)

    return write


COMPARISONS = {
    "equal": ("Equal", False),
    "not_equal": ("Equal", True),
    "greater": ("Greater", False),
    "greater_equal": ("GreaterOrEqual", False),
    "lesser": ("Less", False),
    "lesser_equal": ("LessOrEqual", False),
}
"""By MXNet's name: the ONNX operator, and whether its answer is turned round."""


def compare(kind: str, a: str, b: str, w: OnnxWriter) -> str:
    """Writes a comparison of COMPARISONS, as booleans."""
    op_type, negated = COMPARISONS[kind]
    result = w.node(op_type, [a, b])
    return w.node("Not", [result]) if negated else result


def comparison(kind: str) -> Binary:
    """Returns a comparison whose answers are 0 and 1 of the operands' dtype."""
    return lambda a, b, dtype, w: w.cast(compare(kind, a, b, w), dtype)


EXACT: dict[str, Binary] = {
    "add": native("Add"),
    "sub": native("Sub"),
    "mul": native("Mul"),
    "maximum": _extremum("Max"),
    "minimum": _extremum("Min"),
    **{f"logical_{kind}": logical(kind.capitalize()) for kind in ("and", "or", "xor")},
    **{kind: comparison(kind) for kind in COMPARISONS},
}
"""What is exact for integers too."""

FLOATING: dict[str, Binary] = {"div": native("Div"), "power": power, "hypot": hypot}
"""What MXNet rounds to a whole number for integers; they are left to it."""
