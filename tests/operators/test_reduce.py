"""Reductions over axes."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import NUMBERS, SMALL, Call, axes, axis_lists, dtypes, optional, row, shapes

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

REFUSED = [
    Refusal("norm", "matrix", _call("norm", axis=(1, 2)), SHAPE, "axis: found (1, 2), required one axis"),
]


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
}
