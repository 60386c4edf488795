"""Reductions over axes."""

from __future__ import annotations

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

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
