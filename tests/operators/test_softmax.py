"""The softmax family and the loss layers."""

from __future__ import annotations

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

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

REFUSED = [
    Refusal(kind, name, lambda k=kind, i=inputs, p=parameters: getattr(S, k)(*i, **p), {"x": (2, 3), **shapes}, reason)
    for kind in ("softmax", "softmin", "log_softmax")
    for name, inputs, parameters, shapes, reason in [
        ("dtype", (X,), {"dtype": "float16"}, {}, "dtype: found float16, required None or the input's, float32"),
        ("length", (X, Y), {"use_length": True}, {"y": (2,)}, "use_length: found True, required False"),
    ]
    if name == "dtype" or kind == "softmax"
]
REFUSED += [
    Refusal(
        "SoftmaxOutput", "4d", _output(), SHAPE, "number of axes: found 4, required 2 where no mode names the axis"
    ),
    Refusal("SoftmaxOutput", "unknown_shape", _output(), {}, "number of axes: found an unknown shape"),
    Refusal("SoftmaxActivation", "4d", lambda: S.SoftmaxActivation(X), SHAPE, "number of axes: found 4, required 2"),
]
