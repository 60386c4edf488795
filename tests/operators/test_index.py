"""Embedding and take."""

from __future__ import annotations

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

S = mx.sym
X, Y = S.var("x"), S.var("y")

ROWS = {"x": (3, 4)}


def _indices(rng, shape):
    """Returns indices of a table of ten rows, some of them out of its range."""
    return rng.randint(-3, 14, shape)


def _embedding():
    return S.Embedding(X, input_dim=10, output_dim=6, name="op")


ACCEPTED = [
    Row("Embedding", dtype, _embedding, ROWS, 0.0, 0.0, {"x": dtype}, {"x": _indices}) for dtype in ("float32", "int32")
]
ACCEPTED += [
    Row(
        "take",
        f"{dtype}_axis_{axis}",
        lambda a=axis: S.take(Y, X, axis=a),
        {**ROWS, "y": (10, 10, 2)},
        0.0,
        0.0,
        {"x": dtype, "y": "float32"},
        {"x": _indices},
    )
    for dtype in ("float32", "int32", "int64")
    for axis in (0, 1)
]

REFUSED = [
    Refusal(
        "Embedding",
        "many_rows",
        lambda: S.Embedding(X, input_dim=2**24 + 1, output_dim=2, name="op"),
        ROWS,
        "number of rows: found 16777217, required at most 16777216",
    ),
    Refusal(
        "take", "wrap", lambda: S.take(Y, X, mode="wrap"), {**ROWS, "y": (10, 2)}, "mode: found wrap, required clip"
    ),
    Refusal("take", "unknown_shape", lambda: S.take(Y, X), {}, "number of rows: found an unknown shape"),
]
