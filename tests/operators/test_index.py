"""Look-ups by index: Embedding, take, pick, batch_take and one_hot."""

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

ACCEPTED += [
    Row(
        "take",
        f"wrap_{dtype}_axis_{axis}",
        Call("take", "y", "x", axis=axis, mode="wrap"),
        {**ROWS, "y": (10, 7, 2)},
        0.0,
        0.0,
        {"x": dtype, "y": "float32"},
        {"x": lambda rng, shape: rng.randint(-25, 25, shape)},
    )
    for dtype in ("float32", "int32", "int64")
    for axis in (0, -2)
]
ACCEPTED += [
    Row(
        "take",
        f"of_{dtype}",
        Call("take", "y", "x"),
        {**ROWS, "y": (10,)},
        0.0,
        0.0,
        {"x": "int32", "y": dtype},
        {"x": _indices},
    )
    for dtype in ("float16", "int32", "int64")
]
ACCEPTED += [
    Row(
        "pick",
        f"{mode}_{dtype}_{name}",
        Call("pick", "y", "x", mode=mode, **parameters),
        {"x": picked, "y": shape},
        0.0,
        0.0,
        {"x": dtype, "y": "float32"},
        {"x": _indices},
    )
    for mode in ("clip", "wrap")
    for dtype in ("float32", "float16", "int32", "int64")
    for name, parameters, shape, picked in [
        ("last", {}, (3, 4, 5), (3, 4)),
        ("first_kept", {"axis": 0, "keepdims": True}, (3, 4, 5), (1, 4, 5)),
    ]
]
ACCEPTED += [
    # The index may have the axis whether the output has it or not.
    Row("pick", "index_has_axis", Call("pick", "y", "x", axis=1), {"x": (3, 1, 5), "y": (3, 4, 5)}, 0.0, 0.0),
    Row("pick", "vector", Call("pick", "y", "x", axis=0), {"x": (1,), "y": (7,)}, 0.0, 0.0),
    Row("pick", "of_int32", Call("pick", "y", "x"), {"x": (3,), "y": (3, 7)}, 0.0, 0.0, {"y": "int32", "x": "int32"}),
]
ACCEPTED += [
    Row("batch_take", name, Call("batch_take", "y", "x"), shapes, 0.0, 0.0, {"x": "int32", "y": dtype}, {"x": _indices})
    for name, dtype, shapes in [
        ("float32", "float32", {"x": (4,), "y": (4, 10)}),
        ("float16", "float16", {"x": (1,), "y": (1, 3)}),
        ("single", "int32", {"x": (5,), "y": (5, 1)}),
    ]
]
ACCEPTED += [
    Row("one_hot", name, Call("one_hot", "x", depth=10, **parameters), ROWS, 0.0, 0.0, {"x": dtype}, {"x": _indices})
    for name, dtype, parameters in [
        ("float32", "float32", {}),
        ("float16", "float16", {"dtype": "float16"}),
        ("int32", "int32", {"dtype": "int32", "on_value": 7.9, "off_value": -1}),
        ("int64", "int64", {"dtype": "int64"}),
        ("values", "int32", {"on_value": 0.5, "off_value": float("-inf")}),
    ]
]
ACCEPTED += [
    Row(
        "one_hot",
        "fractions",
        Call("one_hot", "x", depth=3),
        {"x": (6,)},
        0.0,
        0.0,
        fills={"x": lambda rng, shape: [-1.5, -0.5, 0.5, 2.5, 3.0, 1e9]},
    ),
    Row("one_hot", "depth_1", Call("one_hot", "x", depth=1), {"x": (2, 2)}, 0.0, 0.0, fills={"x": _indices}),
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
        "take",
        "raise",
        Call("take", "y", "x", mode="raise"),
        {**ROWS, "y": (10, 2)},
        "mode: found raise, required clip",
    ),
    Refusal(
        "take",
        "many_rows",
        Call("take", "y", "x"),
        {**ROWS, "y": (2**24 + 1,)},
        "number of rows: found 16777217, required at most 16777216",
    ),
    Refusal("take", "unknown_shape", lambda: S.take(Y, X), {}, "number of rows: found an unknown shape"),
    Refusal("pick", "unknown_shape", Call("pick", "y", "x"), {}, "number of rows: found an unknown shape"),
    Refusal(
        "pick",
        "many_rows",
        Call("pick", "y", "x"),
        {"x": (1,), "y": (1, 2**24 + 1)},
        "number of rows: found 16777217, required at most 16777216",
    ),
    Refusal(
        "batch_take",
        "unknown_shape",
        Call("batch_take", "y", "x"),
        {},
        "number of axes: found an unknown shape",
        {"x": "int32"},
    ),
    Refusal(
        "batch_take",
        "three_axes",
        Call("batch_take", "y", "x"),
        {"x": (2, 3), "y": (2, 3, 4)},
        "number of axes: found 3, required 2",
        {"x": "int32"},
    ),
    Refusal("one_hot", "uint8", Call("one_hot", "x", depth=3, dtype="uint8"), ROWS, "dtype of the output: found uint8"),
    *(
        Refusal("one_hot", name, Call("one_hot", "x", depth=3, dtype="int32", **{name: 1e10}), ROWS, f"{name}: found 1")
        for name in ("on_value", "off_value")
    ),
    Refusal("one_hot", "many_rows", Call("one_hot", "x", depth=2**24 + 1), ROWS, "number of rows: found 16777217"),
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


@st.composite
def _picks(draw: st.DrawFn) -> Row:
    shape, dtype, index = draw(shapes()), draw(dtypes()), draw(INDICES)
    axis = draw(axes(len(shape)))
    parameters = optional(draw, keepdims=st.booleans(), mode=st.sampled_from(["clip", "wrap"]))
    picked = list(shape)
    picked[axis] = 1
    if len(shape) > 1 and draw(st.booleans()):
        picked.pop(axis)
    call = Call("pick", "y", "x", axis=axis, **parameters)
    # MXNet has 32 bits for these, and no definition for what they do not hold.
    both, fills = {"x": tuple(picked), "y": shape}, {"x": draw(values(index, -9, 12, special=()))}
    return row(draw, call, both, dtype, rtol=0, atol=0, dtypes={"x": index}, fills=fills)


@st.composite
def _batch_takes(draw: st.DrawFn) -> Row:
    shape, dtype = draw(shapes(2, 2)), draw(dtypes())
    call, both, fills = Call("batch_take", "y", "x"), {"x": shape[:1], "y": shape}, {"x": draw(values("int32", -9, 12))}
    return row(draw, call, both, dtype, rtol=0, atol=0, dtypes={"x": "int32"}, fills=fills)


@st.composite
def _one_hots(draw: st.DrawFn) -> Row:
    index = draw(INDICES)
    level = st.sampled_from([0.0, 1.0, -2.5, 7.9, float("inf")])
    parameters = optional(draw, on_value=level, off_value=level, dtype=INDICES)
    call = Call("one_hot", "x", depth=draw(st.integers(1, 6)), **parameters)
    fills = {"x": draw(values(index, -9, 12, special=_beyond(index)))}
    return row(draw, call, {"x": draw(shapes())}, index, rtol=0, atol=0, fills=fills)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    "Embedding": _embeddings(),
    "take": _take(),
    "pick": _picks(),
    "batch_take": _batch_takes(),
    "one_hot": _one_hots(),
}
