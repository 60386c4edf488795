"""FullyConnected, dot and batch_dot."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import SMALL, Call, dtypes, optional, row, shapes

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
    Row("dot", "vectors", lambda: S.dot(X, Y), {"x": (5,), "y": (5,)}, 1e-5, 1e-5),
    Row("dot", "vector_by_matrix", lambda: S.dot(X, Y), {"x": (5,), "y": (5, 3)}, 1e-5, 1e-5),
    Row("dot", "matrix_by_vector", lambda: S.dot(X, Y), {"x": (3, 5), "y": (5,)}, 1e-5, 1e-5),
    Row("dot", "3d_by_3d", lambda: S.dot(X, Y), {"x": (2, 3, 5), "y": (5, 2, 4)}, 1e-5, 1e-5),
    Row("dot", "3d_lhs_turned", lambda: S.dot(X, Y, transpose_a=True), {"x": (5, 2, 3), "y": (5, 4)}, 1e-5, 1e-5),
    Row("dot", "3d_rhs_turned", lambda: S.dot(X, Y, transpose_b=True), {"x": (3, 5), "y": (2, 1, 5)}, 1e-5, 1e-5),
    Row(
        "dot",
        "both_turned",
        lambda: S.dot(X, Y, transpose_a=True, transpose_b=True),
        {"x": (5, 2, 3), "y": (2, 4, 5)},
        1e-5,
        1e-5,
    ),
    Row(
        "batch_dot",
        "4d",
        lambda: S.batch_dot(X, Y, transpose_a=True),
        {"x": (1, 2, 5, 3), "y": (1, 2, 5, 4)},
        1e-5,
        1e-5,
    ),
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
    Refusal("dot", "sparse", lambda: S.dot(X, Y, forward_stype="csr"), TWO, "forward_stype: found csr"),
    Refusal("dot", "unknown_shape", lambda: S.dot(X, Y), {}, "number of axes: found an unknown shape"),
    Refusal("batch_dot", "sparse", lambda: S.batch_dot(X, Y, forward_stype="csr"), {}, "forward_stype: found csr"),
]


@st.composite
def _fully_connected(draw: st.DrawFn) -> Row:
    parameters = optional(draw, no_bias=st.booleans(), flatten=st.booleans())
    call = Call("FullyConnected", "x", num_hidden=draw(st.integers(1, 5)), name="op", **parameters)
    return row(draw, call, {"x": draw(shapes())}, draw(dtypes()), atol=1e-5, special=SMALL)


@st.composite
def _dot(draw: st.DrawFn) -> Row:
    matrices = shapes(min_dims=2, max_dims=2)
    left, right = draw(st.one_of(matrices, shapes(max_dims=3))), draw(st.one_of(matrices, shapes(max_dims=3)))
    parameters = optional(draw, transpose_a=st.booleans(), transpose_b=st.booleans())
    # The sum goes over the last axis on the left and the first on the right, or the other way round.
    inner = right[-1] if parameters.get("transpose_b") else right[0]
    left = (inner, *left[1:]) if parameters.get("transpose_a") else (*left[:-1], inner)
    call = Call("dot", "x", "y", **parameters)
    return row(draw, call, {"x": left, "y": right}, draw(dtypes("float32")), atol=1e-5, special=SMALL)


@st.composite
def _batch_dot(draw: st.DrawFn) -> Row:
    batch, rows, inner, columns = draw(st.tuples(*[st.integers(1, 4)] * 4))
    parameters = optional(draw, transpose_a=st.booleans(), transpose_b=st.booleans())
    left = (inner, rows) if parameters.get("transpose_a") else (rows, inner)
    right = (columns, inner) if parameters.get("transpose_b") else (inner, columns)
    parameters |= optional(draw, forward_stype=st.just("default"))
    call = Call("batch_dot", "x", "y", **parameters)
    both = {"x": (batch, *left), "y": (batch, *right)}
    return row(draw, call, both, draw(dtypes("float32", "float64")), atol=1e-5, special=SMALL)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    "FullyConnected": _fully_connected(),
    "dot": _dot(),
    "batch_dot": _batch_dot(),
}
