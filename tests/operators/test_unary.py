"""Functions of one tensor, element by element."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
from hypothesis import strategies as st

from tests.harness import Refusal, Row
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, dtypes, row, shapes

EXACT = "abs negative sign square logical_not".split()
ROUNDINGS = "rint round fix trunc floor ceil".split()
FLOATING = (
    "relu softsign tanh exp log sqrt rsqrt reciprocal erf sin cos tan arcsin arccos arctan sinh cosh arcsinh "
    "arccosh arctanh log1p expm1 log2 log10 cbrt rcbrt degrees radians"
).split()

# Small and large, ties, what is not finite, and the edges of the domains and of the composed functions' branches.
EDGES = (
    *(0.0, -0.0, 1e-7, -1e-7, 1e-3, 0.3, -0.3, 0.39, 0.41, 0.5, -0.5, 0.51, 1.0, -1.0, 1.01, 1.5, -1.5, 2.5, -2.5),
    *(7.0, -30.0, 88.5, -89.0, 1e4, 9.9e7, 1.1e8, -1e30, 3e38, 16777217.0, float("inf"), float("-inf"), float("nan")),
)


# What ONNX Runtime gets wrong up to a version: docs/compatibility.md.
RUNTIME = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
FAULTS = {"sqrt": ((1, 19), (math.inf,)), "rsqrt": ((1, 19), (math.inf, -0.0)), "erf": ((1, 23), (math.nan,))}


def _edges(name):
    last, wrong = FAULTS.get(name, ((0, 0), ()))
    values = [v for v in EDGES if last < RUNTIME or str(v) not in map(str, wrong)]
    return lambda rng, shape: np.resize(np.array(values), shape)


ACCEPTED = [
    # The values of a composed function hold relatively, also where they are small.
    Row(name, "edges", Call(name, "x"), {"x": (len(EDGES),)}, 0.0 if name in EXACT + ROUNDINGS else 1e-5, 0.0,
        fills={"x": _edges(name)})
    for name in EXACT + ROUNDINGS + FLOATING
]  # fmt: skip
ACCEPTED += [
    Row(name, "float16", Call(name, "x"), {"x": (1, 3, 5)}, 2e-3, 1e-7, {"x": "float16"})
    for name in EXACT + ROUNDINGS + FLOATING
]
ACCEPTED += [
    Row(name, dtype, Call(name, "x"), {"x": (5, 1)}, 0.0, 0.0, {"x": dtype})
    for name in EXACT
    for dtype in ("int32", "int64")
]
ACCEPTED += [
    # ONNX Runtime's sigmoid is 0 below -18, where the true one is 1e-8 and less.
    Row("sigmoid", "edges", Call("sigmoid", "x"), {"x": (len(EDGES),)}, 1e-5, 2e-8, fills={"x": _edges("sigmoid")}),
    Row("sigmoid", "float16", Call("sigmoid", "x"), {"x": (2, 3)}, 2e-3, 1e-7, {"x": "float16"}),
]

REFUSED = [
    Refusal(name, dtype, Call(name, "x"), {"x": (3,)}, f"dtype of input 0: found {dtype}, required", {"x": dtype})
    for name, dtype in (("exp", "int32"), ("floor", "int64"), ("log1p", "float64"), ("abs", "uint8"))
]


@st.composite
def _unary(draw: st.DrawFn, operator: str) -> Row:
    return row(draw, Call(operator, "x"), {"x": draw(shapes())}, draw(dtypes()), atol=1e-7)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    name: _unary(name)
    for name in (
        "logical_not rint round fix trunc tan arcsin arccos arctan sinh cosh arcsinh arccosh arctanh log1p expm1 log2 "
        "log10 cbrt rcbrt degrees radians"
    ).split()
}
