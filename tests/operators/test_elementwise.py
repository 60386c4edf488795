"""Arithmetic element by element."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import SPECIAL, Call, Values, broadcastable, dtypes, optional, row, shapes, values

S = mx.sym
X, Y = S.var("x"), S.var("y")

SHAPE = {"x": (2, 3, 4)}


def _positive(rng, shape):
    return rng.uniform(0.1, 4.0, shape)


def _call(operator, *inputs, **parameters):
    group = S._internal if operator.startswith("_") else S
    return lambda: getattr(group, operator)(*inputs, **parameters)


ACCEPTED = [
    Row(name, "plain", _call(name, X), SHAPE, 1e-5, 1e-6)
    for name in "relu sigmoid softsign tanh exp abs negative reciprocal erf floor ceil sin cos sign square".split()
]
ACCEPTED += [
    Row(name, "positive", _call(name, X), SHAPE, 1e-5, 1e-6, fills={"x": _positive})
    for name in ("log", "sqrt", "rsqrt")
]
ACCEPTED += [
    Row(name, "plain", _call(name, X, Y), {**SHAPE, "y": (2, 3, 4)}, 1e-5, 1e-6)
    for name in "elemwise_add elemwise_sub elemwise_mul elemwise_div _maximum _minimum".split()
]
ACCEPTED += [
    Row(f"broadcast_{name}", kind, _call(f"broadcast_{name}", X, Y), {"x": (2, 1, 4), "y": shape}, 1e-5, 1e-6)
    for name in "add sub mul div maximum minimum".split()
    for kind, shape in (("axes", (2, 3, 1)), ("same", (2, 1, 4)))
]
ACCEPTED += [
    Row(name, "scalar", _call(name, X, scalar=-1.7), SHAPE, 1e-5, 1e-6)
    for name in (
        "_plus_scalar _minus_scalar _mul_scalar _div_scalar _maximum_scalar _minimum_scalar _rminus_scalar _rdiv_scalar"
    ).split()
]
ACCEPTED += [
    # Negative bases, which pow through a logarithm would lose.
    Row("_power_scalar", f"{scalar}", _call("_power_scalar", X, scalar=scalar), SHAPE, 1e-5, 1e-6)
    for scalar in (1, 2, 3, 4, -1, -2)
]
ACCEPTED += [
    Row("_power_scalar", "root", _call("_power_scalar", X, scalar=0.5), SHAPE, 1e-5, 1e-6, fills={"x": _positive}),
    Row("_plus_scalar", "float16", lambda: X + 0.1, SHAPE, 1e-3, 1e-3, {"x": "float16"}),
    Row("_rminus_scalar", "renamed", lambda: S._internal._rminus_scalar(X, scalar=3, name="plain"), SHAPE, 1e-5, 1e-6),
    Row("_contrib_div_sqrt_dim", "plain", lambda: S.contrib.div_sqrt_dim(X), SHAPE, 1e-6, 1e-6),
    Row(
        "sign",
        "nan",
        _call("sign", X),
        SHAPE,
        0.0,
        0.0,
        fills={"x": Values(3, special=SPECIAL)},
    ),
    Row("add_n", "three", lambda: S.add_n(X, Y, X), {**SHAPE, "y": (2, 3, 4)}, 1e-5, 1e-6),
    Row("add_n", "one", lambda: S.add_n(X), SHAPE, 0.0, 0.0),
    Row("elemwise_add", "twice_the_same", lambda: X + X, SHAPE, 0.0, 0.0),
]

REFUSED = [
    Refusal(
        "elemwise_add",
        "float64",
        lambda: X + X,
        SHAPE,
        "dtype of input 0: found float64, required float32 or float16",
        {"x": "float64"},
    ),
]


# Integers are divided by none of these as 0, which would end the process.
SCALARS = (0.0, 1.0, -1.7, 0.1, 2.0, 3.0, 1e-3, 7e4, float("inf"), float("nan"))
WHOLE_SCALARS = (1, 2.0, -3, 1.5)
POWERS = (0.0, 0.5, 1, 2, 3, 4, 5, -1, -2, -0.5, 1.5, 9.0)


@st.composite
def _unary(draw: st.DrawFn, operator: str) -> Row:
    return row(draw, Call(operator, "x"), {"x": draw(shapes())}, draw(dtypes()))


@st.composite
def _binary(draw: st.DrawFn, operator: str) -> Row:
    shape, dtype = draw(shapes()), draw(dtypes())
    both = {"x": shape, "y": shape}
    if operator.startswith("broadcast_"):
        both = {name: draw(broadcastable(shape)) for name in both}
    is_whole_division = operator.endswith("_div") and not dtype.startswith("float")
    fills = {"y": draw(values(dtype, 1, 5))} if is_whole_division else {}
    return row(draw, Call(operator, "x", "y"), both, dtype, fills=fills)


@st.composite
def _scalar(draw: st.DrawFn, operator: str) -> Row:
    dtype = draw(dtypes())
    is_float = dtype.startswith("float")
    scalar = draw(st.sampled_from(SCALARS if is_float else WHOLE_SCALARS))
    fills = {} if is_float else {"x": draw(values(dtype, 1, 5))}
    parameters = optional(draw, is_int=st.booleans())
    return row(draw, Call(operator, "x", scalar=scalar, **parameters), {"x": draw(shapes())}, dtype, fills=fills)


@st.composite
def _power(draw: st.DrawFn) -> Row:
    call = Call("_power_scalar", "x", scalar=draw(st.sampled_from(POWERS)))
    return row(draw, call, {"x": draw(shapes())}, draw(dtypes()))


@st.composite
def _sum(draw: st.DrawFn) -> Row:
    inputs = draw(st.lists(st.sampled_from("xyz"), min_size=1, max_size=4))
    shape = draw(shapes())
    return row(draw, Call("add_n", *inputs), dict.fromkeys(inputs, shape), draw(dtypes()))


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    **{
        name: _unary(name)
        for name in (
            "relu sigmoid softsign tanh exp log sqrt abs negative reciprocal erf floor ceil sin cos sign square rsqrt "
            "_contrib_div_sqrt_dim"
        ).split()
    },
    **{
        name: _binary(name)
        for name in (
            "elemwise_add elemwise_sub elemwise_mul elemwise_div _maximum _minimum broadcast_add broadcast_sub "
            "broadcast_mul broadcast_div broadcast_maximum broadcast_minimum"
        ).split()
    },
    **{
        name: _scalar(name)
        for name in (
            "_plus_scalar _minus_scalar _mul_scalar _div_scalar _maximum_scalar _minimum_scalar _rminus_scalar "
            "_rdiv_scalar"
        ).split()
    },
    "_power_scalar": _power(),
    "add_n": _sum(),
}
