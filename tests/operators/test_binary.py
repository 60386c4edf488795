"""Functions of two tensors, and of a tensor and a scalar, in all dtypes and at their edges."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.harness import Refusal, Row
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import OPERANDS, Call, broadcastable, dtypes, optional, row, shapes

EXACT = (
    "add sub mul maximum minimum logical_and logical_or logical_xor equal not_equal greater greater_equal lesser "
    "lesser_equal"
).split()
ROUNDED = "div mod power hypot".split()
SAME_SHAPE = {"add": "elemwise_add", "sub": "elemwise_sub", "mul": "elemwise_mul", "div": "elemwise_div"}
SCALAR = (
    "_plus_scalar _minus_scalar _rminus_scalar _mul_scalar _div_scalar _rdiv_scalar _mod_scalar _rmod_scalar "
    "_power_scalar _rpower_scalar _hypot_scalar _maximum_scalar _minimum_scalar _logical_and_scalar "
    "_logical_or_scalar _logical_xor_scalar _equal_scalar _not_equal_scalar _greater_scalar _greater_equal_scalar "
    "_lesser_scalar _lesser_equal_scalar"
).split()
WHOLE = [name for name in SCALAR if not any(part in name for part in ("div", "mod", "power", "hypot"))]

INFINITY = float("inf")
EDGES = np.array(
    [0.0, -0.0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, 7.25, -7.5, 1e-30, 3e30, 16777216, INFINITY, -INFINITY, np.nan]
)
SIZE = len(EDGES)


def _edges(rng, shape):
    return np.resize(EDGES, shape)


def _turned(rng, shape):
    return np.resize(EDGES, SIZE).reshape(shape)


def _whole(rng, shape):
    return rng.randint(-4, 5, shape)


ACCEPTED = [
    # Each edge meets each.
    Row(f"broadcast_{name}", "edges", Call(f"broadcast_{name}", "x", "y"), {"x": (SIZE, 1), "y": (1, SIZE)},
        1e-5 if name in ROUNDED else 0.0, 0.0, fills={"x": _turned, "y": _turned})
    for name in EXACT + ROUNDED
]  # fmt: skip
ACCEPTED += [
    Row(f"broadcast_{name}", "float16", Call(f"broadcast_{name}", "x", "y"), {"x": (2, 1, 4), "y": (2, 3, 1)},
        4e-3, 1e-3, {"x": "float16", "y": "float16"})
    for name in EXACT + ROUNDED
]  # fmt: skip
ACCEPTED += [
    Row(operator, dtype, Call(operator, "x", "y"), {"x": (3, 5), "y": (3, 5)}, 0.0, 0.0,
        {"x": dtype, "y": dtype}, {"x": _whole, "y": _whole})
    for name in [*EXACT, "mod"]
    for operator, dtype in ((SAME_SHAPE.get(name, f"_{name}"), "int32"), (f"broadcast_{name}", "int64"))
    if (name, dtype) != ("mod", "int64")
]  # fmt: skip
ACCEPTED += [
    Row(operator, "same_shape", Call(operator, "x", "y"), {"x": (1, 3), "y": (1, 3)}, 1e-5, 0.0)
    for operator in (SAME_SHAPE.get(name, f"_{name}") for name in EXACT + ROUNDED)
]
ACCEPTED += [
    Row(operator, f"edges_{scalar}", Call(operator, "x", scalar=scalar), {"x": (SIZE,)}, 1e-5, 0.0,
        fills={"x": _edges})
    for operator in SCALAR
    for scalar in (0, -2.5, 3)
]  # fmt: skip
ACCEPTED += [
    Row("_power_scalar", f"to_{scalar}", Call("_power_scalar", "x", scalar=scalar), {"x": (SIZE,)}, 1e-5, 0.0,
        fills={"x": _edges})
    for scalar in (0.5, 1, -1, 2, -3, 4, -5, 9, 1.5, -0.25)
]  # fmt: skip
ACCEPTED += [
    Row(operator, dtype, Call(operator, "x", scalar=3), {"x": (2, 3, 1)}, 0.0, 0.0, {"x": dtype}, {"x": _whole})
    for operator in [*WHOLE, "_mod_scalar", "_rmod_scalar"]
    for dtype in ("int32", "int64")
    if "mod" not in operator or dtype == "int32"
]
ACCEPTED += [
    Row("_contrib_quadratic", "all", Call("_contrib_quadratic", "x", a=2, b=-3, c=0.5), {"x": (2, 3)}, 1e-5, 1e-6),
    Row("_contrib_quadratic", "default", Call("_contrib_quadratic", "x"), {"x": (1,)}, 0.0, 0.0),
    Row(
        "_contrib_quadratic", "float16", Call("_contrib_quadratic", "x", a=1), {"x": (4,)}, 4e-3, 1e-3, {"x": "float16"}
    ),
    Row("smooth_l1", "default", Call("smooth_l1", "x"), {"x": (SIZE,)}, 1e-5, 0.0, fills={"x": _edges}),
    Row("smooth_l1", "sigma", Call("smooth_l1", "x", scalar=3), {"x": (SIZE,)}, 1e-5, 0.0, fills={"x": _edges}),
    Row("smooth_l1", "float16", Call("smooth_l1", "x", scalar=0.5), {"x": (3, 5)}, 4e-3, 1e-3, {"x": "float16"}),
    Row("_grad_add", "plain", Call("_grad_add", "x", "y"), {"x": (2, 3), "y": (2, 3)}, 0.0, 0.0),
    Row(
        "_contrib_gradientmultiplier",
        "plain",
        Call("_contrib_gradientmultiplier", "x", scalar=0.5),
        {"x": (2, 3)},
        0.0,
        0.0,
    ),
]
ACCEPTED += [
    Row(
        "add_n",
        dtype,
        Call("add_n", "x", "y", "z"),
        dict.fromkeys("xyz", (2, 3)),
        0.0,
        0.0,
        dict.fromkeys("xyz", dtype),
    )
    for dtype in ("int32", "int64")
]

REFUSED = [
    Refusal("_plus_scalar", "fraction", Call("_plus_scalar", "x", scalar=1.5, is_int=False), {"x": (3,)},
            "scalar: found the fraction 1.5 with int32, required a whole number", {"x": "int32"}),
    Refusal("_minus_scalar", "range", Call("_minus_scalar", "x", scalar=3e9), {"x": (3,)},
            "scalar: found 3000000000.0, required a number in the range of int32", {"x": "int32"}),
    Refusal("smooth_l1", "zero", Call("smooth_l1", "x", scalar=0), {"x": (3,)},
            "scalar: found 0.0, required a size between 1e-15"),
]  # fmt: skip
REFUSED += [
    Refusal(name, "whole", Call(name, "x", scalar=3e9), {"x": (3,)}, "scalar: found 3000000000.0", {"x": "int32"})
    for name in WHOLE
    if name not in ("_plus_scalar", "_minus_scalar")
]
REFUSED += [
    Refusal(name, "int64", Call(name, "x", scalar=2), {"x": (3,)}, "dtype of input 0: found int64", {"x": "int64"})
    for name in SCALAR
    if name not in WHOLE
]
REFUSED += [
    Refusal(f"broadcast_{name}", "int64", Call(f"broadcast_{name}", "x", "y"), {"x": (3,), "y": (3,)},
            "dtype of input 0: found int64", {"x": "int64", "y": "int64"})
    for name in ROUNDED
]  # fmt: skip


@st.composite
def _tensors(draw: st.DrawFn, operator: str) -> Row:
    shape, dtype = draw(shapes()), draw(dtypes())
    both = {"x": shape, "y": shape}
    if operator.startswith("broadcast_"):
        both = {name: draw(broadcastable(shape)) for name in both}
    return row(draw, Call(operator, "x", "y"), both, dtype)


@st.composite
def _scalar(draw: st.DrawFn, operator: str) -> Row:
    dtype = draw(dtypes())
    whole = st.sampled_from((0, 1, -1, 2, 3, 5, -7, 1.5, 3e9))
    scalar = draw(OPERANDS if dtype.startswith("float") else whole)
    # MXNet's front end says of every fraction that it is none.
    parameters = optional(draw, is_int=st.booleans()) if scalar == scalar // 1 else {"is_int": False}
    return row(draw, Call(operator, "x", scalar=scalar, **parameters), {"x": draw(shapes())}, dtype)


@st.composite
def _quadratic(draw: st.DrawFn) -> Row:
    call = Call("_contrib_quadratic", "x", **optional(draw, **{name: st.floats(-3, 3, width=16) for name in "abc"}))
    return row(draw, call, {"x": draw(shapes())}, draw(dtypes()), atol=1e-5)


@st.composite
def _gradient_multiplier(draw: st.DrawFn) -> Row:
    call = Call("_contrib_gradientmultiplier", "x", **optional(draw, scalar=st.sampled_from((0, -1, 0.5))))
    return row(draw, call, {"x": draw(shapes())}, draw(dtypes()))


@st.composite
def _smooth_l1(draw: st.DrawFn) -> Row:
    call = Call("smooth_l1", "x", **optional(draw, scalar=st.sampled_from((0, 0.5, -1, 3, 1e30))))
    return row(draw, call, {"x": draw(shapes())}, draw(dtypes()))


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    **{f"{prefix}{name}": _tensors(f"{prefix}{name}") for name in ROUNDED[1:] for prefix in ("_", "broadcast_")},
    **{
        f"{prefix}logical_{name}": _tensors(f"{prefix}logical_{name}")
        for name in ("and", "or", "xor")
        for prefix in ("_", "broadcast_")
    },
    **{name: _scalar(name) for name in SCALAR if any(part in name for part in ("mod", "rpower", "hypot", "logical"))},
    "_grad_add": _tensors("_grad_add"),
    "_contrib_gradientmultiplier": _gradient_multiplier(),
    "_contrib_quadratic": _quadratic(),
    "smooth_l1": _smooth_l1(),
}
