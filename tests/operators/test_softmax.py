"""The softmax family and the loss layers."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import FINITE, Call, axes, dtypes, optional, row, shapes, values

S = mx.sym
X, Y = S.var("x"), S.var("y")

SHAPE = {"x": (2, 3, 4, 5)}
LABEL = S.var("label")


def _output(**parameters):
    return lambda: S.SoftmaxOutput(X, LABEL, name="op", **parameters)


ACCEPTED = [
    Row(kind, name, lambda k=kind, p=parameters: getattr(S, k)(X, **p), SHAPE, 1e-5, 1e-6)
    for kind in ("softmax", "softmin", "log_softmax")
    for name, parameters in [
        ("default", {}),
        ("axis", {"axis": 1}),
        ("temperature", {"temperature": 2.5, "axis": -2}),
        ("dtype", {"dtype": "float32"}),
    ]
]
ACCEPTED += [
    Row("softmax", "float16", lambda: S.softmax(X, axis=1, temperature=2), SHAPE, 1e-2, 1e-3, {"x": "float16"}),
    Row("softmax", "vector", lambda: S.softmax(X, axis=0), {"x": (5,)}, 1e-5, 1e-6),
    Row("log_softmax", "vector", lambda: S.log_softmax(X), {"x": (5,)}, 1e-5, 1e-5),
    Row("SoftmaxOutput", "2d", _output(), {"x": (3, 7)}, 1e-5, 1e-6),
    Row("SoftmaxOutput", "multi", _output(multi_output=True), SHAPE, 1e-5, 1e-6),
    Row("SoftmaxOutput", "preserve", _output(preserve_shape=True), SHAPE, 1e-5, 1e-6),
    Row("SoftmaxOutput", "multi_first", _output(preserve_shape=True, multi_output=True), SHAPE, 1e-5, 1e-6),
    Row(
        "SoftmaxOutput",
        "gradient_only",
        _output(grad_scale=2.0, use_ignore=True, normalization="valid"),
        {"x": (3, 7)},
        1e-5,
        1e-6,
    ),
    Row("SoftmaxActivation", "instance", lambda: S.SoftmaxActivation(X), {"x": (3, 7)}, 1e-5, 1e-6),
    Row("SoftmaxActivation", "channel", lambda: S.SoftmaxActivation(X, mode="channel"), SHAPE, 1e-5, 1e-6),
    Row("LogisticRegressionOutput", "plain", lambda: S.LogisticRegressionOutput(X, LABEL), {"x": (3, 7)}, 1e-5, 1e-6),
    Row("LinearRegressionOutput", "plain", lambda: S.LinearRegressionOutput(X, LABEL), {"x": (3, 7)}, 0.0, 0.0),
    Row("MAERegressionOutput", "plain", lambda: S.MAERegressionOutput(X * 2, LABEL), {"x": (3, 7)}, 0.0, 0.0),
]


def _lengths(rng, shape):
    # From nothing to all of the row.
    return np.resize([3, 4, 1, 0, 2], shape)


def _not_a_number_behind(rng, shape):
    values = rng.standard_normal(shape)
    values[..., 3] = np.nan
    return values


ACCEPTED += [
    Row("softmax", name, lambda p=parameters: S.softmax(X, Y, use_length=True, **p),
        {"x": shape, "y": lengths}, 1e-5, 1e-6, {"y": dtype}, {"y": _lengths})
    for name, parameters, shape, lengths, dtype in [
        ("length", {}, (2, 3, 4), (2, 3), "int32"),
        ("length_axis", {"axis": 1}, (2, 4, 3), (2, 3), "int64"),
        ("length_1d", {"axis": 0, "temperature": 0.5}, (4, 5), (5,), "int32"),
        ("length_vector", {}, (4,), (1,), "int32"),
    ]
]  # fmt: skip
ACCEPTED += [
    # What lies behind the length is not read.
    Row("softmax", "length_nan", lambda: S.softmax(X, Y, use_length=True), {"x": (5, 4), "y": (5,)}, 1e-5, 1e-6,
        {"y": "int32"}, {"x": _not_a_number_behind, "y": lambda rng, shape: np.resize([0, 3, 1, 3, 2], shape)}),
    Row("softmax", "widening", lambda: S.softmax(X, dtype="float32"), {"x": (3, 5)}, 2e-3, 1e-5, {"x": "float16"}),
    Row("log_softmax", "narrowing", lambda: S.log_softmax(X, dtype="float16"), {"x": (3, 5)}, 2e-3, 1e-3),
]  # fmt: skip

REFUSED = [
    Refusal(kind, name, lambda k=kind, p=parameters: getattr(S, k)(X, **p), {"x": (2, 3)}, reason)
    for kind in ("softmax", "softmin", "log_softmax")
    for name, parameters, reason in [
        ("dtype", {"dtype": "float64"}, "dtype: found float64, required None or float32"),
        ("cold", {"temperature": 0}, "temperature: found 0.0, required a positive number"),
    ]
]
REFUSED += [
    Refusal("softmax", "unknown_shape", lambda: S.softmax(X, Y, use_length=True), {}, "size of the axis: found an unk"),
    Refusal("softmax", "int32", lambda: S.softmax(X), {"x": (2, 3)}, "dtype of input 0: found int32", {"x": "int32"}),
]
REFUSED += [
    Refusal(
        "SoftmaxOutput", "4d", _output(), SHAPE, "number of axes: found 4, required 2 where no mode names the axis"
    ),
    Refusal("SoftmaxOutput", "unknown_shape", _output(), {}, "number of axes: found an unknown shape"),
    Refusal("SoftmaxActivation", "4d", lambda: S.SoftmaxActivation(X), SHAPE, "number of axes: found 4, required 2"),
]

# What a softmax gives for inf and NaN depends on the build of MXNet: with oneDNN some elements are 0 where all are NaN
# without it.
DEFINED = (*FINITE, float("-inf"))


@st.composite
def _softmax(draw: st.DrawFn, operator: str) -> Row:
    shape, dtype = draw(shapes()), draw(dtypes())
    parameters = optional(
        draw,
        axis=axes(len(shape)),
        temperature=st.sampled_from((0.1, 0.5, 1.0, 2.5, 10.0, -1.0)),
        dtype=st.sampled_from(("float32", "float16", "float64")),
    )
    if operator == "softmax" and draw(st.integers(0, 4)) == 4:
        axis = parameters.get("axis", -1) % len(shape)
        lengths = shape[:axis] + shape[axis + 1 :]
        call = Call(operator, "x", "y", use_length=True, **parameters)
        # A length beyond the axis makes MXNet write behind its memory.
        fills = {"y": draw(values("int32", 0, shape[axis] + 1))}
        return row(draw, call, {"x": shape, "y": lengths}, dtype, dtypes={"y": "int32"}, fills=fills, special=DEFINED)
    # oneDNN's logarithm of 1 is 1.4e-6.
    atol = 1e-5 if operator == "log_softmax" else 1e-6
    return row(draw, Call(operator, "x", **parameters), {"x": shape}, dtype, atol=atol, special=DEFINED)


@st.composite
def _softmax_output(draw: st.DrawFn) -> Row:
    parameters = optional(
        draw,
        multi_output=st.booleans(),
        preserve_shape=st.booleans(),
        grad_scale=st.just(2.0),
        use_ignore=st.booleans(),
        ignore_label=st.just(1.0),
        normalization=st.sampled_from(("null", "batch", "valid")),
        out_grad=st.booleans(),
        smooth_alpha=st.just(0.1),
    )
    return row(
        draw, Call("SoftmaxOutput", "x", "label", **parameters), {"x": draw(shapes())}, draw(dtypes()), special=DEFINED
    )


@st.composite
def _softmax_activation(draw: st.DrawFn) -> Row:
    call = Call("SoftmaxActivation", "x", **optional(draw, mode=st.sampled_from(("instance", "channel"))))
    return row(draw, call, {"x": draw(shapes())}, draw(dtypes()), special=DEFINED)


@st.composite
def _regression_output(draw: st.DrawFn, operator: str) -> Row:
    call = Call(operator, "x", "label", **optional(draw, grad_scale=st.just(3.0)))
    return row(draw, call, {"x": draw(shapes())}, draw(dtypes()))


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    **{name: _softmax(name) for name in ("softmax", "softmin", "log_softmax")},
    **{
        name: _regression_output(name)
        for name in ("LogisticRegressionOutput", "LinearRegressionOutput", "MAERegressionOutput")
    },
    "SoftmaxOutput": _softmax_output(),
    "SoftmaxActivation": _softmax_activation(),
}
