"""FullyConnected, dot and batch_dot."""

from __future__ import annotations

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

S = mx.sym
X, Y = S.var("x"), S.var("y")


def _dense(*inputs, **parameters):
    return lambda: S.FullyConnected(*(inputs or (X,)), name="op", **parameters)


TWO = {"x": (3, 5), "y": (5, 4)}
BATCH = {"x": (2, 3, 5), "y": (2, 5, 4)}

ACCEPTED = [
    Row("FullyConnected", "2d", _dense(num_hidden=7), {"x": (3, 5)}, 1e-5, 1e-5),
    Row("FullyConnected", "1d", _dense(num_hidden=7), {"x": (3,)}, 1e-5, 1e-5),
    Row("FullyConnected", "1d_not_flat", _dense(num_hidden=7, flatten=False), {"x": (5,)}, 1e-5, 1e-5),
    Row("FullyConnected", "flatten_4d", _dense(num_hidden=7), {"x": (3, 2, 4, 5)}, 1e-5, 1e-5),
    Row("FullyConnected", "no_bias", _dense(num_hidden=7, no_bias=True), {"x": (3, 5)}, 1e-5, 1e-5),
    Row("FullyConnected", "leading_axes", _dense(num_hidden=7, flatten=False), {"x": (3, 2, 4, 5)}, 1e-5, 1e-5),
    Row(
        "FullyConnected",
        "leading_no_bias",
        _dense(num_hidden=7, flatten=False, no_bias=True),
        {"x": (3, 2, 5)},
        1e-5,
        1e-5,
    ),
    Row(
        "FullyConnected", "fed_weight", _dense(X, Y, num_hidden=7, no_bias=True), {"x": (3, 5), "y": (7, 5)}, 1e-5, 1e-5
    ),
    Row(
        "FullyConnected",
        "fed_weight_3d",
        _dense(X, Y, num_hidden=7, no_bias=True, flatten=False),
        {"x": (3, 2, 5), "y": (7, 5)},
        1e-5,
        1e-5,
    ),
    Row("dot", "plain", lambda: S.dot(X, Y), TWO, 1e-5, 1e-5),
    Row(
        "dot",
        "transposed",
        lambda: S.dot(X, Y, transpose_a=True, transpose_b=True),
        {"x": (5, 3), "y": (4, 5)},
        1e-5,
        1e-5,
    ),
    Row("dot", "3d_by_2d", lambda: S.dot(X, Y), {"x": (2, 3, 5), "y": (5, 4)}, 1e-5, 1e-5),
    Row("batch_dot", "plain", lambda: S.batch_dot(X, Y), BATCH, 1e-5, 1e-5),
    Row(
        "batch_dot",
        "transposed",
        lambda: S.batch_dot(X, Y, transpose_b=True),
        {"x": (2, 3, 5), "y": (2, 4, 5)},
        1e-5,
        1e-5,
    ),
]

REFUSED = [
    Refusal(
        "FullyConnected",
        "bias_of_two_axes",
        lambda: S.FullyConnected(X, bias=S.var("b", shape=(7, 1)), num_hidden=7, name="op"),
        {"x": (3, 5)},
        "shape of the bias: found (7, 1), required (7,)",
    ),
    Refusal("dot", "3d_by_3d", lambda: S.dot(X, Y), {"x": (2, 3, 5), "y": (5, 2, 4)}, "required two axes each"),
    Refusal("dot", "unknown_shape", lambda: S.dot(X, Y), {}, "number of axes: found an unknown shape"),
    Refusal("batch_dot", "sparse", lambda: S.batch_dot(X, Y, forward_stype="csr"), {}, "forward_stype: found csr"),
]
