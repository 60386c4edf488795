"""Functions of one tensor, element by element, as ONNX nodes: for MXNet's operators here and for their NumPy twins.

Where ONNX has no such function it is composed, in float32 also beside float16 data: MXNet's CPU kernels compute a half
in float too. Series and cases are chosen so that no engine can lose digits by cancellation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np

from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.operators.common import FLOAT32, NUMBERS, dtype_of, in_float32
from mxnet_trt_property.operators.registry import FLOATS, Emit, NodeInfo, Parameters, operator

Function = Callable[[str, np.dtype[Any], OnnxWriter], str]
"""Writes f(x) for a tensor of the given dtype and returns the result, which has the same dtype."""


def _f32(value: float, w: OnnxWriter) -> str:
    return w.scalar(value, FLOAT32)


def _native(op_type: str) -> Function:
    return lambda x, dtype, w: w.node(op_type, [x])


def _composed(write: Callable[[str, OnnxWriter], str]) -> Function:
    return lambda x, dtype, w: in_float32(dtype, [x], w, lambda name: write(name, w))


def _polynomial(x: str, coefficients: Sequence[float], w: OnnxWriter) -> str:
    """Writes c[0] + c[1] x + c[2] x^2 + ... by Horner's scheme."""
    result = _f32(coefficients[-1], w)
    for coefficient in reversed(coefficients[:-1]):
        result = w.node("Add", [w.node("Mul", [result, x]), _f32(coefficient, w)])
    return result


def _odd_series(z: str, coefficients: Sequence[float], w: OnnxWriter) -> str:
    """Writes z (c[0] + c[1] z^2 + c[2] z^4 + ...)."""
    return w.node("Mul", [z, _polynomial(w.node("Mul", [z, z]), coefficients, w)])


def _is_small(x: str, limit: float, w: OnnxWriter) -> str:
    return w.node("Less", [w.node("Abs", [x]), _f32(limit, w)])


def _log1p(x: str, w: OnnxWriter) -> str:
    # Near 0 the sum 1 + x loses the digits of x; there log(1 + x) = 2 artanh(x / (2 + x)), whose series needs none.
    z = w.node("Div", [x, w.node("Add", [x, _f32(2.0, w)])])
    near = _odd_series(z, [2.0 / (2 * k + 1) for k in range(7)], w)
    far = w.node("Log", [w.node("Add", [x, _f32(1.0, w)])])
    return w.node("Where", [_is_small(x, 0.4, w), near, far])


def _expm1(x: str, w: OnnxWriter) -> str:
    """Writes exp(x) - 1 for float32; near 0 as its series, since the difference loses the digits of x."""
    near = w.node("Mul", [x, _polynomial(x, [1.0 / math.factorial(k + 1) for k in range(9)], w)])
    far = w.node("Sub", [w.node("Exp", [x]), _f32(1.0, w)])
    return w.node("Where", [_is_small(x, 0.5, w), near, far])


def _arctanh(x: str, w: OnnxWriter) -> str:
    near = _odd_series(x, [1.0 / (2 * k + 1) for k in range(8)], w)
    one = _f32(1.0, w)
    ratio = w.node("Div", [w.node("Add", [one, x]), w.node("Sub", [one, x])])
    far = w.node("Mul", [_f32(0.5, w), w.node("Log", [ratio])])
    return w.node("Where", [_is_small(x, 0.3, w), near, far])


def _arcsinh(x: str, w: OnnxWriter) -> str:
    # sign(x) log1p(a + a^2 / (1 + sqrt(1 + a^2))) with a = |x|; the square overflows where log(2 a) is exact enough.
    size, one = w.node("Abs", [x]), _f32(1.0, w)
    square = w.node("Mul", [size, size])
    root = w.node("Sqrt", [w.node("Add", [square, one])])
    near = _log1p(w.node("Add", [size, w.node("Div", [square, w.node("Add", [root, one])])]), w)
    far = w.node("Add", [w.node("Log", [size]), _f32(math.log(2.0), w)])
    result = w.node("Where", [w.node("Less", [size, _f32(1e8, w)]), near, far])
    return w.node("Where", [w.node("Less", [x, _f32(0.0, w)]), w.node("Neg", [result]), result])


def _arccosh(x: str, w: OnnxWriter) -> str:
    # log1p(t + sqrt(2 t + t^2)) with t = x - 1, which is exact where the result is small.
    rest = w.node("Sub", [x, _f32(1.0, w)])
    squares = w.node("Mul", [rest, w.node("Add", [rest, _f32(2.0, w)])])
    near = _log1p(w.node("Add", [rest, w.node("Sqrt", [squares])]), w)
    far = w.node("Add", [w.node("Log", [x]), _f32(math.log(2.0), w)])
    result = w.node("Where", [w.node("Greater", [x, _f32(1e8, w)]), far, near])
    # Far below -1 the root and x cancel to anything.
    return w.node("Where", [w.node("Less", [x, _f32(1.0, w)]), _f32(math.nan, w), result])


def _sinh(x: str, w: OnnxWriter) -> str:
    # Halved exponents: exp(x) overflows before sinh(x) does.
    near = _odd_series(x, [1.0 / math.factorial(2 * k + 1) for k in range(6)], w)
    return w.node("Where", [_is_small(x, 1.0, w), near, _exponentials(x, "Sub", w)])


def _exponentials(x: str, op_type: str, w: OnnxWriter) -> str:
    """Writes (exp(x) + exp(-x)) / 2, or with Sub the difference, without the overflow of exp(x)."""
    half = _f32(0.5, w)
    root = w.node("Exp", [w.node("Mul", [x, half])])
    inverse = w.node("Exp", [w.node("Mul", [x, _f32(-0.5, w)])])
    sides = [w.node("Mul", [w.node("Mul", [half, side]), side]) for side in (root, inverse)]
    return w.node(op_type, sides)


def _scaled(op_type: str, factor: float) -> Function:
    return _composed(lambda x, w: w.node("Mul", [w.node(op_type, [x]) if op_type else x, _f32(factor, w)]))


def _cbrt(x: str, w: OnnxWriter) -> str:
    root = w.node("Pow", [w.node("Abs", [x]), _f32(1.0 / 3.0, w)])
    zero = _f32(0.0, w)
    return w.node("Where", [w.node("Less", [x, zero]), w.node("Neg", [root]), root])


def _rcbrt(x: str, w: OnnxWriter) -> str:
    # The reciprocal of a zero is the infinity of its sign, which the root has lost.
    is_zero = w.node("Equal", [x, _f32(0.0, w)])
    return w.node("Where", [is_zero, w.node("Reciprocal", [x]), w.node("Reciprocal", [_cbrt(x, w)])])


def _rint(x: str, w: OnnxWriter) -> str:
    # MXNet rounds a tie down, where ONNX's Round goes to the even number.
    floor, ceil = w.node("Floor", [x]), w.node("Ceil", [x])
    nearer = w.node("LessOrEqual", [w.node("Sub", [x, floor]), w.node("Sub", [ceil, x])])
    return w.node("Where", [nearer, floor, ceil])


def _trunc(x: str, w: OnnxWriter) -> str:
    is_negative = w.node("Less", [x, _f32(0.0, w)])
    return w.node("Where", [is_negative, w.node("Ceil", [x]), w.node("Floor", [x])])


def _round(x: str, w: OnnxWriter) -> str:
    # A tie goes away from zero. The difference is exact, and not a number for infinity, which is whole already.
    whole = _trunc(x, w)
    up = w.node("GreaterOrEqual", [w.node("Abs", [w.node("Sub", [x, whole])]), _f32(0.5, w)])
    return w.node("Where", [up, w.node("Add", [whole, w.node("Sign", [x])]), whole])


def _sign(x: str, dtype: np.dtype[Any], w: OnnxWriter) -> str:
    # MXNet's sign of a NaN is 0; engines do not agree on theirs.
    zero = w.scalar(0, dtype)
    if dtype not in FLOATS:
        return w.node("Sign", [x])
    ones = [w.cast(w.node(op_type, [x, zero]), dtype) for op_type in ("Greater", "Less")]
    return w.node("Sub", ones)


def _logical_not(x: str, dtype: np.dtype[Any], w: OnnxWriter) -> str:
    return w.cast(w.node("Equal", [x, w.scalar(0, dtype)]), dtype)


_ROUNDINGS: dict[str, Function] = {
    "rint": _composed(_rint),
    "round": _composed(_round),
    "fix": _composed(_trunc),
    "trunc": _composed(_trunc),
    "floor": _native("Floor"),
    "ceil": _native("Ceil"),
}

# What is exact for integers too.
_EXACT: dict[str, Function] = {
    "abs": _native("Abs"),
    "negative": _native("Neg"),
    "sign": _sign,
    "square": lambda x, dtype, w: w.node("Mul", [x, x]),
    "logical_not": _logical_not,
}

_FLOATING: dict[str, Function] = {
    "relu": _native("Relu"),
    "sigmoid": _native("Sigmoid"),
    "softsign": _native("Softsign"),
    "tanh": _native("Tanh"),
    "exp": _native("Exp"),
    "log": _native("Log"),
    "sqrt": _native("Sqrt"),
    "rsqrt": lambda x, dtype, w: w.node("Reciprocal", [w.node("Sqrt", [x])]),
    "reciprocal": _native("Reciprocal"),
    "erf": _native("Erf"),
    "sin": _native("Sin"),
    "cos": _native("Cos"),
    "tan": _native("Tan"),
    "arcsin": _native("Asin"),
    "arccos": _native("Acos"),
    "arctan": _native("Atan"),
    "sinh": _composed(_sinh),
    "cosh": _composed(lambda x, w: _exponentials(x, "Add", w)),
    "arcsinh": _composed(_arcsinh),
    "arccosh": _composed(_arccosh),
    "arctanh": _composed(_arctanh),
    "log1p": _composed(_log1p),
    "expm1": _composed(_expm1),
    "log2": _scaled("Log", 1.0 / math.log(2.0)),
    "log10": _scaled("Log", 1.0 / math.log(10.0)),
    "cbrt": _composed(_cbrt),
    "rcbrt": _composed(_rcbrt),
    "degrees": _scaled("", 180.0 / math.pi),
    "radians": _scaled("", math.pi / 180.0),
}

FUNCTIONS = {**_EXACT, **_ROUNDINGS, **_FLOATING}
"""Every function by MXNet's name."""

EXACT_FUNCTIONS = frozenset(_EXACT)
"""The names of those that are exact for integers too."""


def of_function(function: Function) -> Emit:
    """Returns the emission of a function of one tensor."""

    def emit(params: Parameters, node: NodeInfo, inputs: Sequence[str], w: OnnxWriter) -> Sequence[str]:
        return [function(inputs[0], dtype_of(node.inputs[0]), w)]

    return emit


for _name, _function in FUNCTIONS.items():
    operator(_name, dtypes=NUMBERS if _name in _EXACT else FLOATS, zero_dim=True)(of_function(_function))
