"""Look-ups and writes by coordinates, diagonals and flat indices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.harness import Refusal, Row, mx, plugin_outputs, stock_outputs
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, Values, axes, dtypes, optional, seeds, shapes, values


def _coordinates(*sizes, least=0):
    """Returns a fill: row i of the indices is a coordinate along an axis of sizes[i]."""

    def fill(rng, shape):
        return np.stack([rng.randint(least * size, size, shape[1:]) for size in sizes])

    return fill


def _different(*sizes):
    """Returns a fill whose coordinates are those of different elements: of equal ones no order is promised."""

    def fill(rng, shape):
        flat = rng.permutation(math.prod(sizes))[: math.prod(shape[1:])]
        return np.stack(np.unravel_index(flat, sizes)).reshape(shape)

    return fill


def _row(operator, name, call, shapes, dtypes=None, fills=None):
    return Row(operator, name, call, shapes, 0.0, 0.0, dtypes or {}, fills or {})


ACCEPTED = [
    _row(
        "gather_nd",
        f"{name}_{dtype}",
        Call("gather_nd", "y", "x"),
        {"x": indices, "y": shape},
        {"x": dtype, "y": "float32"},
        {"x": _coordinates(*shape[: indices[0]], least=-1)},
    )
    for dtype in ("float32", "int32", "int64")
    for name, shape, indices in [
        ("element", (3, 4), (2, 5)),
        ("rows", (3, 4, 2), (1, 6)),
        ("matrix", (3, 4, 2), (2, 2, 3)),
        ("single", (1, 1), (2, 1)),
    ]
]
ACCEPTED += [
    _row(
        "gather_nd",
        f"of_{dtype}",
        Call("gather_nd", "y", "x"),
        {"x": (2, 5), "y": (3, 4)},
        {"x": "int32", "y": dtype},
        {"x": _coordinates(3, 4)},
    )
    for dtype in ("float16", "int32", "int64")
]
ACCEPTED += [
    _row(
        "scatter_nd",
        f"{name}_{dtype}_{index}",
        Call("scatter_nd", "y", "x", shape=shape),
        {"x": indices, "y": (*indices[1:], *shape[indices[0] :])},
        {"x": index, "y": dtype},
        {"x": _different(*shape[: indices[0]])},
    )
    for dtype, index in (("float32", "int32"), ("float16", "int64"), ("int32", "int32"), ("float32", "float32"))
    for name, shape, indices in [
        ("elements", (3, 4), (2, 5)),
        ("rows", (5, 4, 2), (1, 3)),
        ("matrix", (3, 4, 2), (2, 2, 3)),
    ]
]
ACCEPTED += [
    _row(
        "_contrib_index_copy",
        f"{dtype}_{index}",
        Call("_contrib_index_copy", "x", "y", "z"),
        {"x": (5, 2, 3), "y": (3,), "z": (3, 2, 3)},
        {"x": dtype, "y": index, "z": dtype},
        {"y": lambda rng, shape: rng.permutation(5)[:3]},
    )
    for dtype, index in (("float32", "int32"), ("float32", "int64"), ("float16", "int32"), ("int32", "int32"))
]
ACCEPTED += [
    _row("diag", f"{name}_{dtype}", Call("diag", "x", **parameters), {"x": shape}, {"x": dtype})
    for dtype in ("float32", "float16", "int32")
    for name, shape, parameters in [
        ("vector", (3,), {}),
        ("vector_above", (3,), {"k": 2}),
        ("vector_below", (1,), {"k": -1}),
        ("matrix", (3, 5), {}),
        ("above", (3, 5), {"k": 3}),
        ("below", (4, 3), {"k": -2}),
        ("stack", (2, 3, 4), {"axis1": 1, "axis2": 2}),
        ("swapped", (2, 3, 4, 2), {"axis1": -2, "axis2": 1, "k": 1}),
    ]
]
ACCEPTED += [
    _row("diag", "not_finite", Call("diag", "x"), {"x": (3,)}, {}, {"x": lambda rng, shape: [np.nan, np.inf, -np.inf]}),
]
ACCEPTED += [
    _row(
        "_ravel_multi_index",
        f"{name}_{dtype}",
        Call("_ravel_multi_index", "x", shape=shape),
        {"x": (len(shape), 6)},
        {"x": dtype},
        {"x": _coordinates(*(abs(size) for size in shape))},
    )
    for dtype in ("float32", "int32", "int64")
    for name, shape in [("plain", (3, 4, 5)), ("one_axis", (7,)), ("open", (-1, 4))]
]
ACCEPTED += [
    _row(
        "_unravel_index",
        f"{name}_{dtype}",
        Call("_unravel_index", "x", shape=shape),
        {"x": (6,)},
        {"x": dtype},
        {"x": lambda rng, s, shape=shape: rng.randint(0, abs(math.prod(shape)), s)},
    )
    for dtype in ("float32", "int32", "int64")
    for name, shape in [("plain", (3, 4, 5)), ("one_axis", (7,)), ("open", (-1, 4))]
]

ACCEPTED += [
    _row(
        "gather_nd",
        "fractions",
        Call("gather_nd", "y", "x"),
        {"x": (1, 6), "y": (4, 2)},
        fills={"x": lambda rng, shape: [[-3.5, -0.5, 0.5, 2.9, -4.0, 3.0]]},
    ),
]

REFUSED = [
    Refusal(
        "gather_nd",
        "float16_indices",
        Call("gather_nd", "y", "x"),
        {"x": (1, 3), "y": (4,)},
        "dtype of indices: found float16, required float32 or int32 or int64",
        {"x": "float16", "y": "float32"},
    ),
    Refusal("gather_nd", "unknown_shape", Call("gather_nd", "y", "x"), {}, "size of each axis: found an unknown shape"),
    Refusal(
        "gather_nd",
        "many_rows",
        Call("gather_nd", "y", "x"),
        {"x": (1, 3), "y": (2**24 + 1,)},
        "number of rows: found 16777217",
    ),
    Refusal(
        "scatter_nd",
        "unknown_shape",
        Call("scatter_nd", "y", "x", shape=(3,)),
        {},
        "size of each axis: found an unknown shape",
    ),
    Refusal(
        "scatter_nd",
        "many_rows",
        Call("scatter_nd", "y", "x", shape=(2**24 + 1,)),
        {"x": (1, 3), "y": (3,)},
        "number of rows: found 16777217",
    ),
    Refusal(
        "_contrib_index_copy",
        "float_index",
        Call("_contrib_index_copy", "x", "y", "z"),
        {"x": (5, 2), "y": (3,), "z": (3, 2)},
        "dtype of index_vector: found float32, required int32 or int64",
    ),
    Refusal(
        "_contrib_index_copy",
        "unknown_shape",
        Call("_contrib_index_copy", "x", "y", "z"),
        {},
        "number of rows: found an unknown shape",
    ),
    Refusal("diag", "unknown_shape", Call("diag", "x"), {}, "size of the diagonal, which must not be 0,: found"),
    Refusal(
        "diag", "empty", Call("diag", "x", k=3), {"x": (2, 3)}, "size of the diagonal, which must not be 0,: found"
    ),
    Refusal(
        "_ravel_multi_index",
        "unknown_shape",
        Call("_ravel_multi_index", "x", shape=(3, 4)),
        {},
        "number of axes: found an unknown shape",
    ),
    Refusal(
        "_unravel_index",
        "unknown_shape",
        Call("_unravel_index", "x", shape=(3, 4)),
        {},
        "number of axes: found an unknown shape",
    ),
    Refusal(
        "_unravel_index",
        "matrix",
        Call("_unravel_index", "x", shape=(3, 4)),
        {"x": (2, 3)},
        "number of axes: found 2, required 1",
    ),
]

INDICES = dtypes("float32", "int32", "int64", "float16", "uint8", "float64")


@pytest.mark.parametrize("index", [-4, 3, 99])
def test_an_index_out_of_range_is_an_error(index: int) -> None:
    """As it is in MXNet."""
    symbol = Call("gather_nd", "y", "x")()
    arrays = {"x": np.array([[0, index]], "int32"), "y": np.arange(3, dtype="float32")}
    for outputs in (stock_outputs, plugin_outputs):
        with pytest.raises((mx.MXNetError, IndexError)):
            outputs(symbol, arrays)


@st.composite
def _coordinate_rows(draw: st.DrawFn, operator: str) -> Row:
    shape, dtype, index = draw(shapes()), draw(dtypes()), draw(INDICES)
    count = draw(st.integers(1, len(shape)))
    rest = draw(shapes(max_dims=2, max_side=3))
    if operator == "scatter_nd":
        rest = (draw(st.integers(1, math.prod(shape[:count]))),)
    seed = draw(seeds())
    least = 0 if operator == "scatter_nd" or index == "uint8" else -1
    chosen = _different(*shape[:count]) if operator == "scatter_nd" else _coordinates(*shape[:count], least=least)
    fills = {"x": lambda rng, s: chosen(np.random.RandomState(seed), s)}
    both = {"x": (count, *rest), "y": shape}
    call = Call("gather_nd", "y", "x")
    if operator == "scatter_nd":
        both["y"] = (*rest, *shape[count:])
        call = Call("scatter_nd", "y", "x", shape=shape)
    return _row(operator, "random", call, both, {"x": index, "y": dtype}, {**fills, "y": draw(values(dtype))})


@st.composite
def _index_copies(draw: st.DrawFn) -> Row:
    shape, dtype, index = draw(shapes()), draw(dtypes()), draw(INDICES)
    count, seed = draw(st.integers(1, shape[0])), draw(seeds())
    fills = {"y": lambda rng, s: np.random.RandomState(seed).permutation(shape[0])[:count]}
    all_shapes = {"x": shape, "y": (count,), "z": (count, *shape[1:])}
    call = Call("_contrib_index_copy", "x", "y", "z")
    given = {"x": dtype, "y": index, "z": dtype}
    fills.update({name: draw(values(dtype)) for name in ("x", "z")})
    return _row("_contrib_index_copy", "random", call, all_shapes, given, fills)


@st.composite
def _diagonals(draw: st.DrawFn) -> Row:
    shape, dtype = draw(shapes()), draw(dtypes())
    parameters = optional(draw, k=st.integers(-3, 3))
    if len(shape) > 1:
        parameters.update(optional(draw, axis1=axes(len(shape)), axis2=axes(len(shape))))
    return _row(
        "diag", "random", Call("diag", "x", **parameters), {"x": shape}, {"x": dtype}, {"x": draw(values(dtype))}
    )


@st.composite
def _flat_rows(draw: st.DrawFn, operator: str) -> Row:
    shape, dtype, count = draw(shapes()), draw(INDICES), draw(st.integers(1, 5))
    open_shape = (-1, *shape[1:]) if draw(st.booleans()) else shape
    fills = {"x": Values(draw(seeds()), 0, 40, whole=True)}
    given = (len(shape), count) if operator == "_ravel_multi_index" else (count,)
    return _row(operator, "random", Call(operator, "x", shape=open_shape), {"x": given}, {"x": dtype}, fills)


STRATEGIES: dict[str, SearchStrategy[Row]] = {
    "gather_nd": _coordinate_rows("gather_nd"),
    "scatter_nd": _coordinate_rows("scatter_nd"),
    "_contrib_index_copy": _index_copies(),
    "diag": _diagonals(),
    "_ravel_multi_index": _flat_rows("_ravel_multi_index"),
    "_unravel_index": _flat_rows("_unravel_index"),
}
