"""Embedding and take."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, axes, dtypes, optional, row, shapes, values

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


def _beyond(dtype: str) -> tuple[float, ...]:
    """Returns indices of more than 32 bits; infinite ones, as these are in float16, MXNet cannot convert."""
    return (3e9, -3e9) if dtype in ("float32", "float64") else ()


INDICES = dtypes("float32", "int32", "int64", "float16", "float64", "int8", "uint8")


@st.composite
def _embeddings(draw: st.DrawFn) -> Row:
    indices = draw(INDICES)
    rows, columns = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    parameters = optional(draw, sparse_grad=st.booleans(), dtype=st.sampled_from(("float32", "float16")))
    call = Call("Embedding", "x", input_dim=rows, output_dim=columns, name="op", **parameters)
    fills = {"x": draw(values(indices, -9, 12, special=_beyond(indices)))}
    return row(draw, call, {"x": draw(shapes())}, indices, rtol=0, atol=0, fills=fills)


@st.composite
def _take(draw: st.DrawFn) -> Row:
    shape, indices, dtype = draw(shapes()), draw(INDICES), draw(dtypes())
    parameters = optional(draw, axis=axes(len(shape)), mode=st.sampled_from("clip clip clip wrap raise".split()))
    in_range = parameters.get("mode") == "raise"
    size = shape[parameters.get("axis", 0)]
    bounds = (0, size) if in_range else (-9, 12)
    fills = {"x": draw(values(indices, *bounds, whole=in_range, special=() if in_range else _beyond(indices)))}
    call = Call("take", "y", "x", **parameters)
    both = {"x": draw(shapes(max_dims=3)), "y": shape}
    return row(draw, call, both, dtype, rtol=0, atol=0, dtypes={"x": indices}, fills=fills)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {"Embedding": _embeddings(), "take": _take()}
