"""Nonlinearities with parameters."""

from __future__ import annotations

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

S = mx.sym
X = S.var("x")

SHAPE = {"x": (2, 3, 4, 5)}


def _leaky(**parameters):
    return lambda: S.LeakyReLU(X, name="op", **parameters)


ACCEPTED = [
    Row("Activation", kind, lambda k=kind: S.Activation(X, act_type=k), SHAPE, 1e-5, 1e-6)
    for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign")
]
ACCEPTED += [
    Row("LeakyReLU", "leaky", _leaky(), SHAPE, 1e-6, 1e-6),
    Row("LeakyReLU", "slope", _leaky(act_type="leaky", slope=0.1), SHAPE, 1e-6, 1e-6),
    Row("LeakyReLU", "prelu", _leaky(act_type="prelu"), SHAPE, 1e-6, 1e-6),
    Row(
        "LeakyReLU", "prelu_shared", lambda: S.LeakyReLU(X, S.var("g", shape=(1,)), act_type="prelu"), SHAPE, 1e-6, 1e-6
    ),
    Row("LeakyReLU", "prelu_2d", _leaky(act_type="prelu"), {"x": (4, 5)}, 1e-6, 1e-6),
    Row("LeakyReLU", "gelu_float16", _leaky(act_type="gelu"), SHAPE, 1e-2, 1e-3, {"x": "float16"}),
    Row("LeakyReLU", "elu", _leaky(act_type="elu", slope=0.7), SHAPE, 1e-5, 1e-6),
    Row("LeakyReLU", "selu", _leaky(act_type="selu"), SHAPE, 1e-5, 1e-6),
    Row("LeakyReLU", "gelu", _leaky(act_type="gelu"), SHAPE, 1e-5, 1e-6),
    Row("clip", "both", lambda: S.clip(X, a_min=-0.5, a_max=0.7), SHAPE, 0.0, 0.0),
    Row("clip", "float16", lambda: S.clip(X, a_min=0, a_max=6), SHAPE, 0.0, 0.0, {"x": "float16"}),
    Row("hard_sigmoid", "default", lambda: S.hard_sigmoid(X), SHAPE, 1e-6, 1e-6),
    Row("hard_sigmoid", "other", lambda: S.hard_sigmoid(X, alpha=0.6, beta=0.1), SHAPE, 1e-6, 1e-6),
]

REFUSED = [
    Refusal("LeakyReLU", "rrelu", _leaky(act_type="rrelu"), SHAPE, "act_type: found rrelu, required leaky or"),
    Refusal(
        "clip", "swapped", lambda: S.clip(X, a_min=2, a_max=1), SHAPE, "a_min: found 2.0, required at most a_max, 1.0"
    ),
]
