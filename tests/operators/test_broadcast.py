"""Broadcasting to a shape, comparisons and choices."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, axis_lists, broadcastable, dtypes, row, shapes, values

S = mx.sym
X, Y = S.var("x"), S.var("y")

SHAPE = {"x": (2, 3, 1)}
SIZES = {**SHAPE, "y": (2, 3, 6)}
SAME = {"x": (2, 3, 4), "y": (2, 3, 4)}
KINDS = "equal not_equal greater greater_equal lesser lesser_equal".split()


def _small(rng, shape):
    """Returns whole numbers, so that some are equal and some are 0."""
    return rng.randint(-1, 2, shape)


ACCEPTED = [
    Row("broadcast_to", "zero_keeps", lambda: S.broadcast_to(X, shape=(0, 3, 5)), SHAPE, 0.0, 0.0),
    Row("broadcast_axis", "one", lambda: S.broadcast_axis(X, axis=2, size=4), SHAPE, 0.0, 0.0),
    Row("broadcast_axis", "two", lambda: S.broadcast_axis(X, axis=(0, 2), size=(3, 4)), {"x": (1, 3, 1)}, 0.0, 0.0),
    Row("broadcast_like", "plain", lambda: S.broadcast_like(X, Y), {**SHAPE, "y": (2, 3, 6)}, 0.0, 0.0),
    Row(
        "broadcast_like",
        "axes",
        lambda: S.broadcast_like(X, Y, lhs_axes=(2,), rhs_axes=(0,)),
        {**SHAPE, "y": (6, 3)},
        0.0,
        0.0,
    ),
    Row("zeros_like", "plain", lambda: S.zeros_like(X) + X, SHAPE, 0.0, 0.0),
    Row("ones_like", "plain", lambda: S.ones_like(X) + X, SHAPE, 0.0, 0.0),
]
ACCEPTED += [
    Row(
        f"broadcast_{kind}",
        "axes",
        lambda k=kind: getattr(S, f"broadcast_{k}")(X, Y),
        {**SHAPE, "y": (2, 1, 4)},
        0.0,
        0.0,
        fills={"x": _small, "y": _small},
    )
    for kind in KINDS
]
ACCEPTED += [
    Row(
        f"_{kind}",
        "same",
        lambda k=kind: getattr(S._internal, f"_{k}")(X, Y),
        SAME,
        0.0,
        0.0,
        fills={"x": _small, "y": _small},
    )
    for kind in KINDS
]
ACCEPTED += [
    Row(
        f"_{kind}_scalar",
        "one",
        lambda k=kind: getattr(S._internal, f"_{k}_scalar")(X, scalar=1),
        SHAPE,
        0.0,
        0.0,
        fills={"x": _small},
    )
    for kind in KINDS
]
ACCEPTED += [
    Row("where", dtype, lambda: S.where(X, Y, Y * 2), SAME, 0.0, 0.0, {"x": dtype, "y": "float32"}, {"x": _small})
    for dtype in ("float32", "int32")
]
ACCEPTED += [
    Row("where", "rows", lambda: S.where(X, Y, Y * 2), {"x": (3,), "y": (3, 2, 1)}, 0.0, 0.0, fills={"x": _small}),
    Row("where", "vector", lambda: S.where(X, Y, Y * 2), {"x": (3,), "y": (3,)}, 0.0, 0.0, fills={"x": _small}),
]
ACCEPTED += [
    Row("where", f"{name}_values", lambda: S.where(X, Y, Y * 2), SAME, 0.0, 0.0, {"y": name}, {"x": _small})
    for name in ("float16", "int32", "int64")
]
ACCEPTED += [
    Row(name, f"{dtype}_data", lambda f=function: f(X), SHAPE, 0.0, 0.0, {"x": dtype})
    for name, function in [
        ("broadcast_to", lambda x: S.broadcast_to(x, shape=(2, 3, 4))),
        ("broadcast_axis", lambda x: S.broadcast_axis(x, axis=2, size=3)),
        ("broadcast_like", lambda x: S.broadcast_like(x, S.slice_axis(x, axis=2, begin=0, end=1))),
    ]
    for dtype in ("int32", "int64", "float16")
    if name != "broadcast_like" or dtype == "float16"
]
ACCEPTED += [
    Row(
        call.operator,
        f"of_{dtype}",
        call,
        {**SHAPE, "y": (2, 3, 6)} if "y" in call.inputs else SHAPE,
        0.0,
        0.0,
        {"x": dtype, "y": dtype},
    )
    for dtype in ("int32", "int64", "bool")
    for call in (
        Call("broadcast_to", "x", shape=(0, 3, 5)),
        Call("broadcast_axis", "x", axis=2, size=4),
        Call("broadcast_like", "x", "y"),
        Call("zeros_like", "x"),
        Call("ones_like", "x"),
    )
    # Of these MXNet's CPU has bool.
    if dtype != "bool" or call.operator in ("broadcast_to", "broadcast_like")
]
ACCEPTED += [
    Row(
        "where",
        f"of_{dtype}",
        Call("where", "z", "x", "y"),
        {**SAME, "z": SAME["x"]},
        0.0,
        0.0,
        {"x": dtype, "y": dtype, "z": "int32"},
        {"z": _small},
    )
    for dtype in ("int32", "int64")
]

REFUSED = [
    Refusal(
        "where",
        "uint8",
        Call("where", "z", "x", "y"),
        {**SAME, "z": SAME["x"]},
        "dtype of input 1: found uint8, required float32",
        {"x": "uint8", "y": "uint8"},
    ),
    *(
        Refusal(operator, "float64", Call(operator, "x"), SHAPE, "dtype of the output: found float64", {"x": "float64"})
        for operator in ("zeros_like", "ones_like")
    ),
    Refusal("where", "unknown_shape", lambda: S.where(X, Y, Y * 2), {}, "condition: found an unknown shape"),
]


def _target(draw: st.DrawFn, shape: tuple[int, ...]) -> list[int]:
    """Draws what a shape broadcasts to."""
    return [draw(st.integers(1, 4)) if size == 1 else size for size in shape]


@st.composite
def _broadcast_to(draw: st.DrawFn) -> Row:
    shape = draw(shapes())
    target = tuple(draw(st.sampled_from((0, size))) for size in _target(draw, shape))
    return row(draw, Call("broadcast_to", "x", shape=target), {"x": shape}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _broadcast_axis(draw: st.DrawFn) -> Row:
    shape = draw(broadcastable(draw(shapes())))
    ones = [i for i, size in enumerate(shape) if size == 1]
    axes = tuple(draw(st.lists(st.sampled_from(ones), unique=True, max_size=3))) if ones else ()
    size = tuple(draw(st.integers(1, 4)) for _ in axes)
    call = Call("broadcast_axis", "x", axis=axes, size=size)
    return row(draw, call, {"x": shape}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _broadcast_like(draw: st.DrawFn) -> Row:
    target = draw(shapes())
    shape = draw(broadcastable(target))
    dtype = draw(dtypes())
    parameters = {}
    if draw(st.booleans()):
        axes = draw(axis_lists(len(shape), min_size=1))
        parameters = {"lhs_axes": axes, "rhs_axes": axes}
    call = Call("broadcast_like", "x", "y", **parameters)
    return row(draw, call, {"x": shape, "y": target}, dtype, rtol=0, atol=0)


@st.composite
def _like(draw: st.DrawFn, operator: str) -> Row:
    return row(draw, Call(operator, "x"), {"x": draw(shapes())}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _comparison(draw: st.DrawFn, operator: str) -> Row:
    shape, dtype = draw(shapes()), draw(dtypes())
    fills = {name: draw(values(dtype, -1, 2, whole=True)) for name in ("x", "y")}
    if operator.endswith("_scalar"):
        scalar = draw(st.sampled_from((0.0, 1.0, -1, 0.5, 0.1, 1e30, float("nan"), float("inf"))))
        call, both = Call(operator, "x", scalar=scalar), {"x": shape}
    else:
        is_equal = operator.startswith("_")
        both = {name: shape if is_equal else draw(broadcastable(shape)) for name in ("x", "y")}
        call = Call(operator, "x", "y")
    return row(draw, call, both, dtype, rtol=0, atol=0, fills={name: fills[name] for name in both})


@st.composite
def _where(draw: st.DrawFn) -> Row:
    shape, dtype, condition = draw(shapes()), draw(dtypes()), draw(dtypes())
    both = {"x": draw(st.sampled_from((shape, shape[:1]))), "y": shape, "z": shape}
    fills = {"x": draw(values(condition, -1, 2, whole=True))}
    call = Call("where", "x", "y", "z")
    return row(draw, call, both, dtype, rtol=0, atol=0, dtypes={"x": condition}, fills=fills)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    "broadcast_to": _broadcast_to(),
    "broadcast_axis": _broadcast_axis(),
    "broadcast_like": _broadcast_like(),
    "zeros_like": _like("zeros_like"),
    "ones_like": _like("ones_like"),
    "where": _where(),
    **{name: _comparison(name) for kind in KINDS for name in (f"broadcast_{kind}", f"_{kind}", f"_{kind}_scalar")},
}
