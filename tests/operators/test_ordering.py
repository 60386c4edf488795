"""Sorting, the largest elements and cumulative sums. Of equal elements MXNet promises no order: there are none here."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, axes, dtypes, optional, seeds, shapes, values

SHAPE = {"x": (2, 3, 5, 4)}
VECTOR = {"x": (37,)}


def _different(rng, shape):
    """Returns different numbers, of both signs."""
    return rng.permutation(int(np.prod(shape))).reshape(shape) - 5


def _row(operator, name, parameters, shapes, dtype="float32"):
    return Row(operator, name, Call(operator, "x", **parameters), shapes, 0.0, 0.0, {"x": dtype}, {"x": _different})


PLACES = [
    ("last", {}, SHAPE),
    ("first_axis", {"axis": 0}, SHAPE),
    ("middle_axis", {"axis": -2}, SHAPE),
    ("flat", {"axis": None}, SHAPE),
    ("vector", {}, VECTOR),
    ("single", {"axis": 1}, {"x": (3, 1)}),
]

ACCEPTED = [
    _row(operator, f"{name}_{'up' if ascend else 'down'}", {**parameters, "is_ascend": ascend}, shapes)
    for operator in ("sort", "argsort")
    for name, parameters, shapes in PLACES
    for ascend in (True, False)
]
ACCEPTED += [
    _row("topk", f"{ret_typ}_{name}", {"k": 2, **parameters, "ret_typ": ret_typ}, shapes)
    for ret_typ in ("indices", "value", "mask", "both")
    for name, parameters, shapes in [*PLACES[:5], ("up", {"is_ascend": True}, SHAPE), ("all", {"k": 0}, SHAPE)]
]
ACCEPTED += [
    _row(operator, dtype, parameters, SHAPE, dtype)
    for dtype in ("int32", "int64")
    for operator, parameters in (("sort", {}), ("argsort", {}), ("topk", {"k": 3, "ret_typ": "both"}))
]
ACCEPTED += [
    _row(operator, f"gives_{dtype}", {**parameters, "dtype": dtype}, SHAPE)
    for dtype in ("float16", "int32", "int64")
    for operator, parameters in (("argsort", {}), ("topk", {"k": 3, "ret_typ": "both"}))
]
ACCEPTED += [
    _row("topk", "default", {}, SHAPE),
    _row("topk", "mask_int32", {"k": 2, "ret_typ": "mask"}, SHAPE, "int32"),
    # The values of equal elements and of infinities are well defined.
    Row(
        "sort",
        "equal_and_infinite",
        Call("sort", "x"),
        {"x": (6,)},
        0.0,
        0.0,
        fills={"x": lambda rng, shape: [1.0, np.inf, 1.0, -np.inf, 0.0, 1.0]},
    ),
]
ACCEPTED += [
    Row("_np_cumsum", name, lambda p=parameters: mx.sym.cumsum(mx.sym.var("x"), **p), shapes, 1e-5, 1e-5, {"x": dtype})
    for name, parameters, shapes, dtype in [
        ("flat", {}, SHAPE, "float32"),
        ("first", {"axis": 0}, SHAPE, "float32"),
        ("last", {"axis": 3}, SHAPE, "float32"),
        ("vector", {"axis": 0}, VECTOR, "float32"),
        ("int32", {"axis": 1}, SHAPE, "int32"),
        ("int64", {"axis": 1}, SHAPE, "int64"),
        ("widened", {"axis": 1, "dtype": "float32"}, SHAPE, "int32"),
    ]
]

REFUSED = [
    Refusal(
        operator,
        "many",
        Call(operator, "x", **parameters),
        {"x": (2, 3841)},
        "number of sorted elements: found 3841, required at most 3840",
    )
    for operator, parameters in (("sort", {}), ("argsort", {}), ("topk", {"k": 3841}))
]
REFUSED += [
    Refusal(operator, "unknown_shape", Call(operator, "x"), {}, "number of elements: found an unknown shape")
    for operator in ("sort", "argsort", "topk")
]
REFUSED += [
    Refusal(
        operator,
        "gives_float64",
        Call(operator, "x", dtype="float64"),
        SHAPE,
        "dtype of the output: found float64, required",
    )
    for operator in ("argsort", "topk")
]
REFUSED += [
    Refusal(
        "_np_cumsum",
        "unknown_shape",
        lambda: mx.sym.cumsum(mx.sym.var("x")),
        {},
        "number of elements: found an unknown shape",
    ),
    Refusal(
        "_np_cumsum",
        "negative",
        lambda: mx.sym.cumsum(mx.sym.var("x"), axis=-1),
        SHAPE,
        "axis: found -1, required None, or 0 and more",
    ),
    Refusal(
        "_np_cumsum",
        "gives_float64",
        lambda: mx.sym.cumsum(mx.sym.var("x"), dtype="float64"),
        SHAPE,
        "dtype of the output: found float64, required",
    ),
]


@st.composite
def _orders(draw: st.DrawFn, operator: str) -> Row:
    shape, dtype, seed = draw(shapes()), draw(dtypes()), draw(seeds())
    parameters = optional(draw, axis=st.none() | axes(len(shape)), is_ascend=st.booleans())
    if operator != "sort":
        parameters.update(optional(draw, dtype=dtypes("float32", "float16", "int32", "int64", "uint8", "float64")))
    if operator == "topk":
        kinds = st.sampled_from(["indices", "value", "mask", "both"])
        parameters.update(optional(draw, k=st.integers(-1, 3), ret_typ=kinds))
    fills = {"x": lambda rng, s: _different(np.random.RandomState(seed), s)}
    return Row(operator, "random", Call(operator, "x", **parameters), {"x": shape}, 0.0, 0.0, {"x": dtype}, fills)


@st.composite
def _sums(draw: st.DrawFn) -> Row:
    shape, dtype = draw(shapes()), draw(dtypes())
    parameters = optional(
        draw,
        axis=st.none() | axes(len(shape)),
        dtype=st.sampled_from([None, "float32", "int32", "int64"]),
    )
    call = Call("cumsum", "x", **parameters)
    fills = {"x": draw(values(dtype, special=()))}
    return Row("_np_cumsum", "random", call, {"x": shape}, 1e-5, 1e-5, {"x": dtype}, fills)


STRATEGIES: dict[str, SearchStrategy[Row]] = {
    **{operator: _orders(operator) for operator in ("sort", "argsort", "topk")},
    "_np_cumsum": _sums(),
}
