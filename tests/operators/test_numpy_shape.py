"""mx.np and mx.npx: shapes, axes, joins and cuts."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, axes, axis_lists, broadcastable, optional, row, shapes, tuples, values

ACCEPTED = [
    Row(operator, name, Call(operator, "x", **parameters), {"x": shape}, 0.0, 0.0)
    for operator, name, parameters, shape in [
        ("_np_reshape", "rest", {"newshape": (2, -1)}, (2, 3, 4)),
        ("_np_reshape", "first", {"newshape": (-1, 6)}, (2, 3, 4)),
        ("_np_reshape", "zero_dim", {"newshape": ()}, (1, 1)),
        ("_np_reshape", "from_zero_dim", {"newshape": (1, -1)}, ()),
        ("_npx_reshape", "copy", {"newshape": (-2, -1)}, (2, 3, 4)),
        ("_npx_reshape", "all", {"newshape": (-4,)}, (2, 3, 4)),
        ("_npx_reshape", "drop", {"newshape": (-3, -4)}, (1, 3, 4)),
        ("_npx_reshape", "merge", {"newshape": (-5, -2)}, (2, 3, 4)),
        ("_npx_reshape", "split", {"newshape": (-6, 2, -1, -4)}, (6, 3, 4)),
        ("_npx_reshape", "reverse", {"newshape": (-1, -2), "reverse": True}, (2, 3, 4)),
        ("_np_transpose", "default", {}, (2, 3, 4)),
        ("_np_transpose", "none", {"axes": None}, (2, 3)),
        ("_np_transpose", "axes", {"axes": (1, 2, 0)}, (2, 3, 4)),
        ("_np_transpose", "zero_dim", {}, ()),
        ("_np_moveaxis", "one", {"source": 0, "destination": -1}, (2, 3, 4)),
        ("_np_moveaxis", "two", {"source": (2, 0), "destination": (0, 1)}, (2, 3, 4)),
        ("_np_squeeze", "all", {}, (1, 3, 1)),
        ("_np_squeeze", "one", {"axis": -1}, (1, 3, 1)),
        ("_np_squeeze", "zero_dim", {}, (1, 1)),
        ("_np_squeeze", "nothing", {}, (2, 3)),
        ("_np_copy", "plain", {}, (2, 3)),
        ("_np_copy", "zero_dim", {}, ()),
        ("_npi_broadcast_to", "axes", {"shape": (5, 2, 3)}, (2, 1)),
        ("_npi_broadcast_to", "zero_dim", {"shape": (2, 3)}, ()),
        ("_npi_broadcast_to", "same", {"shape": ()}, ()),
        ("_npi_flip", "one", {"axis": 1}, (2, 3, 4)),
        ("_npi_flip", "two", {"axis": (0, 2)}, (2, 3, 4)),
        ("_npi_tril", "main", {}, (3, 4)),
        ("_npi_tril", "above", {"k": 1}, (2, 3, 3)),
        ("_npi_tril", "below", {"k": -1}, (4, 2)),
        ("_npi_tril", "vector", {}, (3,)),
    ]
]
ACCEPTED += [
    Row(operator, name, Call(operator, "x", "y", **parameters), {"x": left, "y": right}, 0.0, 0.0)
    for operator, name, parameters, left, right in [
        ("_npi_concatenate", "axis", {"axis": 1}, (2, 3), (2, 1)),
        ("_npi_concatenate", "default", {}, (2, 3), (4, 3)),
        ("_npi_concatenate", "last", {"axis": -1}, (2, 1, 3), (2, 1, 3)),
        ("_npi_stack", "default", {}, (2, 3), (2, 3)),
        ("_npi_stack", "last", {"axis": -1}, (2, 3), (2, 3)),
        ("_npi_stack", "zero_dim", {}, (), ()),
        ("_npi_vstack", "vectors", {}, (3,), (3,)),
        ("_npi_vstack", "matrices", {}, (2, 3), (1, 3)),
        ("_npi_vstack", "zero_dim", {}, (), ()),
        ("_npi_column_stack", "vectors", {}, (3,), (3,)),
        ("_npi_column_stack", "matrices", {}, (3, 1), (3, 2)),
    ]
]
ACCEPTED += [
    Row(operator, dtype, Call(operator, "x", **parameters), {"x": (2, 3)}, 0.0, 0.0, {"x": dtype})
    for operator, parameters in [
        ("_np_reshape", {"newshape": (3, 2)}),
        ("_np_transpose", {}),
        ("_np_copy", {}),
        ("_npi_flip", {"axis": 0}),
    ]
    for dtype in ("float16", "int32", "int64", "bool")
    # MXNet has no transposition of booleans.
    if dtype != "bool" or operator in ("_np_reshape", "_np_copy")
]

REFUSED = [
    Refusal("_np_reshape", "order", Call("_np_reshape", "x", newshape=(3, 2), order="F"), {"x": (2, 3)},
            "order: found F, required C"),
    Refusal("_npx_reshape", "order", Call("_npx_reshape", "x", newshape=(3, 2), order="F"), {"x": (2, 3)},
            "order: found F, required C"),
    Refusal("_npi_concatenate", "flat", Call("_npi_concatenate", "x", "y", axis=None), {"x": (2,), "y": (2,)},
            "axis: found None, required a number"),
    Refusal("_np_copy", "size_0", Call("_np_copy", "x"), {"x": (0,)}, "shape of input 0: found (0,)"),
]  # fmt: skip

DTYPES = st.sampled_from(("float32",) * 4 + ("float16", "float64", "int32", "int64", "int8", "bool"))


def _moved(draw: st.DrawFn, call: Call, sizes: dict[str, tuple[int, ...]]) -> Row:
    dtype = draw(DTYPES)
    fills = {name: draw(values("int32", 0, 2)) for name in sizes} if dtype == "bool" else {}
    return row(draw, call, sizes, "float32", dtypes=dict.fromkeys(sizes, dtype), fills=fills, rtol=0.0, atol=0.0)


@st.composite
def _reshape(draw: st.DrawFn, operator: str) -> Row:
    shape = draw(shapes(0))
    codes = st.sampled_from((1, 2, 3, -1) if operator == "_np_reshape" else (1, 2, 3, -1, -2, -3, -4, -5, -6))
    target = draw(st.one_of(st.permutations(shape), st.lists(codes, max_size=4)))
    choices = {"order": st.just("C")} if operator == "_np_reshape" else {"reverse": st.booleans()}
    return _moved(draw, Call(operator, "x", newshape=tuple(target), **optional(draw, **choices)), {"x": shape})


@st.composite
def _axes(draw: st.DrawFn, operator: str) -> Row:
    shape = draw(shapes(1))
    ndim = len(shape)
    parameters = {
        "_np_transpose": lambda: optional(draw, axes=st.permutations(range(ndim)).map(tuple)),
        "_np_moveaxis": lambda: dict(
            zip(("source", "destination"), draw(st.integers(1, ndim).flatmap(lambda n: tuples(_axis_set(ndim, n), 2))))
        ),
        "_np_squeeze": lambda: optional(draw, axis=axis_lists(ndim, min_size=1)),
        "_npi_flip": lambda: {"axis": draw(axis_lists(ndim, min_size=1))},
        "_np_copy": dict,
        "_npi_tril": lambda: optional(draw, k=st.integers(-3, 3)),
    }[operator]()
    return _moved(draw, Call(operator, "x", **parameters), {"x": shape})


def _axis_set(ndim: int, size: int) -> st.SearchStrategy[tuple[int, ...]]:
    return axis_lists(ndim, min_size=size, max_size=size)


@st.composite
def _broadcast(draw: st.DrawFn) -> Row:
    target = draw(shapes(0))
    source = draw(broadcastable(target))
    return _moved(
        draw, Call("_npi_broadcast_to", "x", shape=target), {"x": source[draw(st.integers(0, len(source))) :]}
    )


@st.composite
def _join(draw: st.DrawFn, operator: str) -> Row:
    shape = draw(shapes(0, 3))
    sizes = dict.fromkeys("xyz"[: draw(st.integers(1, 3))], shape)
    choices = {"_npi_stack": axes(len(shape) + 1), "_npi_concatenate": axes(max(len(shape), 1))}
    parameters = optional(draw, axis=choices[operator]) if operator in choices else {}
    return _moved(draw, Call(operator, *sizes, **parameters), sizes)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    **{name: _reshape(name) for name in ("_np_reshape", "_npx_reshape")},
    **{
        name: _axes(name)
        for name in ("_np_transpose", "_np_moveaxis", "_np_squeeze", "_npi_flip", "_np_copy", "_npi_tril")
    },
    "_npi_broadcast_to": _broadcast(),
    **{f"_npi_{name}": _join(f"_npi_{name}") for name in ("concatenate", "stack", "vstack", "column_stack")},
}
