"""Reductions over axes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import NUMBERS, SMALL, Call, axes, axis_lists, dtypes, optional, row, shapes, values

S = mx.sym
X = S.var("x")

SHAPE = {"x": (2, 3, 4, 5)}


def _call(operator, **parameters):
    return lambda: getattr(S, operator)(X, **parameters)


ACCEPTED = [
    Row(operator, name, _call(operator, **parameters), SHAPE, 1e-5, 1e-5)
    for operator in ("mean", "sum", "max", "min", "prod")
    for name, parameters in [
        ("all", {}),
        ("empty_axis", {"axis": ()}),
        ("all_keepdims", {"keepdims": True}),
        ("one", {"axis": 1}),
        ("negative", {"axis": -1, "keepdims": True}),
        ("two", {"axis": (2, 3)}),
        ("exclude", {"axis": (0, 1), "exclude": True}),
        ("exclude_keepdims", {"axis": 1, "exclude": True, "keepdims": True}),
        ("every_axis_named", {"axis": (0, 1, 2, 3)}),
    ]
]
ACCEPTED += [
    Row(operator, name, _call(operator, **parameters), SHAPE, 0.0, 0.0)
    for operator in ("argmax", "argmin")
    for name, parameters in [
        ("flat", {}),
        ("flat_keepdims", {"keepdims": True}),
        ("axis", {"axis": 1}),
        ("last_axis", {"axis": -1, "keepdims": True}),
    ]
]
ACCEPTED += [
    Row("mean", "float16", _call("mean", axis=(2, 3)), SHAPE, 1e-2, 1e-2, {"x": "float16"}),
    Row("argmax", "vector", _call("argmax", axis=0), {"x": (7,)}, 0.0, 0.0),
    Row("norm", "all", _call("norm"), SHAPE, 1e-5, 1e-5),
    Row("norm", "axis", _call("norm", axis=1, keepdims=True), SHAPE, 1e-5, 1e-5),
    Row("norm", "ord_1", _call("norm", ord=1, axis=-1), SHAPE, 1e-5, 1e-5),
]


def _with_nan(rng, shape):
    """Returns numbers, some of which are none."""
    return np.where(rng.uniform(size=shape) < 0.3, np.nan, rng.standard_normal(shape))


def _nothing_else(rng, shape):
    return np.full(shape, np.nan)


ACCEPTED += [
    Row(operator, name, _call(operator, **parameters), shapes, 1e-5, 1e-5, fills={"x": _with_nan})
    for operator in ("nansum", "nanprod")
    for name, parameters, shapes in [
        ("all", {}, SHAPE),
        ("axis", {"axis": 1, "keepdims": True}, SHAPE),
        ("two", {"axis": (-1, 0)}, SHAPE),
        ("exclude", {"axis": 2, "exclude": True}, SHAPE),
        ("every_axis_excluded", {"axis": (0, 1, 2, 3), "exclude": True}, SHAPE),
        ("vector", {"axis": 0}, {"x": (7,)}),
    ]
]
ACCEPTED += [
    Row("nansum", "nothing_else", _call("nansum"), {"x": (2, 3)}, 0.0, 0.0, fills={"x": _nothing_else}),
    Row("nanprod", "nothing_else", _call("nanprod"), {"x": (2, 3)}, 0.0, 0.0, fills={"x": _nothing_else}),
    Row("norm", "two_axes", _call("norm", axis=(1, 2)), SHAPE, 1e-5, 1e-5),
    Row("norm", "ord_1_two_axes", _call("norm", ord=1, axis=(0, -1), keepdims=True), SHAPE, 1e-5, 1e-5),
    Row("norm", "out_dtype", _call("norm", axis=1, out_dtype="float32"), SHAPE, 1e-5, 1e-5),
    Row("norm", "one_element", _call("norm", axis=0), {"x": (1,)}, 1e-5, 1e-5),
]
ACCEPTED += [
    Row("moments", name, _call("moments", **parameters), shapes, 1e-5, 1e-5)
    for name, parameters, shapes in [
        ("one", {"axes": 1}, SHAPE),
        ("two", {"axes": (0, -1), "keepdims": True}, SHAPE),
        ("all", {"axes": (0, 1, 2, 3)}, SHAPE),
        ("vector", {"axes": 0}, {"x": (9,)}),
        ("single", {"axes": 0}, {"x": (1, 3)}),
    ]
]
ACCEPTED += [
    Row("argmax_channel", name, _call("argmax_channel"), shapes, 0.0, 0.0, {"x": dtype})
    for name, shapes, dtype in [
        ("matrix", {"x": (5, 7)}, "float32"),
        ("float16", {"x": (5, 7)}, "float16"),
        ("one_channel", {"x": (3, 1)}, "float32"),
        ("images", {"x": (2, 3, 4, 5)}, "float32"),
    ]
]

REFUSED = [
    Refusal("norm", "ord", _call("norm", ord=3), SHAPE, "ord: found 3, required 1 or 2"),
    Refusal(
        "norm",
        "out_dtype",
        _call("norm", out_dtype="float64"),
        SHAPE,
        "out_dtype: found float64, required None or float32",
    ),
    Refusal("moments", "unknown_shape", _call("moments", axes=0), {}, "number of axes: found an unknown shape"),
    Refusal(
        "moments",
        "seven_axes",
        _call("moments", axes=0),
        {"x": (1, 2, 1, 2, 1, 2, 1)},
        "number of axes: found 7, required at most 6",
    ),
    Refusal("moments", "float16", _call("moments", axes=0), SHAPE, "dtype of input 0: found float16", {"x": "float16"}),
]


@st.composite
def _numbers(draw: st.DrawFn, operator: str) -> Row:
    shape, dtype = draw(shapes()), draw(dtypes())
    axis = st.none() | axes(len(shape)) | axis_lists(len(shape))
    parameters = optional(draw, axis=axis, keepdims=st.booleans(), exclude=st.booleans())
    # What an infinity gives depends on the order of adding.
    fills = {"x": draw(values(dtype, special=(0.0, float("nan"))))}
    return row(draw, Call(operator, "x", **parameters), {"x": shape}, dtype, atol=1e-5, fills=fills)


@st.composite
def _moments(draw: st.DrawFn) -> Row:
    shape, dtype = draw(shapes()), draw(dtypes())
    parameters = {"axes": draw(axis_lists(len(shape), 1)), **optional(draw, keepdims=st.booleans())}
    return row(draw, Call("moments", "x", **parameters), {"x": shape}, dtype, atol=1e-5, special=SMALL)


@st.composite
def _channels(draw: st.DrawFn) -> Row:
    # A vector crashes MXNet.
    call = Call("argmax_channel", "x")
    return row(draw, call, {"x": draw(shapes(2))}, draw(dtypes()), rtol=0, atol=0, special=NUMBERS)


@st.composite
def _reduction(draw: st.DrawFn, operator: str) -> Row:
    shape = draw(shapes())
    axis = st.one_of(axis_lists(len(shape)), axes(len(shape)), st.none())
    parameters = optional(draw, axis=axis, keepdims=st.booleans(), exclude=st.booleans())
    # The order of a sum decides between inf and NaN, and how much is left of a difference of large numbers.
    special = NUMBERS if operator in ("max", "min") else SMALL
    return row(draw, Call(operator, "x", **parameters), {"x": shape}, draw(dtypes()), atol=1e-5, special=special)


@st.composite
def _arg(draw: st.DrawFn, operator: str) -> Row:
    shape = draw(shapes())
    parameters = optional(draw, axis=st.one_of(axes(len(shape)), st.none()), keepdims=st.booleans())
    # Where NaN is among the numbers, no order of them is right.
    return row(draw, Call(operator, "x", **parameters), {"x": shape}, draw(dtypes()), rtol=0, atol=0, special=NUMBERS)


@st.composite
def _norm(draw: st.DrawFn) -> Row:
    shape = draw(shapes())
    parameters = optional(
        draw,
        ord=st.sampled_from((1, 2, 3)),
        axis=st.one_of(axis_lists(len(shape)), axes(len(shape)), st.none()),
        keepdims=st.booleans(),
    )
    if draw(st.integers(0, 5)) == 5:
        parameters["out_dtype"] = draw(st.sampled_from(("float32", "float64")))
    return row(draw, Call("norm", "x", **parameters), {"x": shape}, draw(dtypes()), atol=1e-5, special=SMALL)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    **{name: _reduction(name) for name in ("mean", "sum", "max", "min", "prod")},
    **{name: _arg(name) for name in ("argmax", "argmin")},
    "norm": _norm(),
    "nansum": _numbers("nansum"),
    "nanprod": _numbers("nanprod"),
    "moments": _moments(),
    "argmax_channel": _channels(),
}
