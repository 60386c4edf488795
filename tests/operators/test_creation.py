"""Tensors made of parameters, and of the shape of another tensor."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import FLOATS, INTS, Call, axes, dtypes, optional, shapes

S = mx.sym
X = S.var("x")

SHAPE = {"x": (2, 3, 4)}


def _row(operator, name, build, shapes=None, dtypes=None):
    return Row(operator, name, build, shapes or {}, 0.0, 0.0, dtypes or {})


ACCEPTED = [
    _row(operator, f"{name}_{dtype}", Call(operator, shape=shape, dtype=dtype))
    for operator in ("_zeros", "_ones")
    for dtype in ("float32", "float16", "int32", "int64")
    for name, shape in (("vector", (3,)), ("matrix", (2, 3)), ("single", (1, 1)))
]
ACCEPTED += [
    _row("_zeros", "with_data", lambda: S.zeros((2, 3)) + X, {"x": (2, 3)}),
    # The first size follows from the other side.
    _row("_zeros", "unknown_size", lambda: S.elemwise_add(S.zeros((0, 3)), X), {"x": (2, 3)}),
    _row("_zeros", "result_of_the_model", lambda: S.Group([S.zeros((2, 3)), S.relu(X)]), SHAPE),
    _row("_zeros_without_dtype", "plain", lambda: S._internal._zeros_without_dtype(shape=(2, 3)) + X, {"x": (2, 3)}),
    _row(
        "_zeros_without_dtype",
        "float16",
        lambda: S._internal._zeros_without_dtype(shape=(2, 3)) + X,
        {"x": (2, 3)},
        {"x": "float16"},
    ),
]
ACCEPTED += [
    _row("_full", f"{name}_{dtype}", Call("_full", shape=(2, 3), value=value, dtype=dtype))
    for dtype in ("float32", "float16", "int32", "int64")
    for name, value in (("positive", 2.5), ("negative", -3.7), ("zero", 0.0))
]
ACCEPTED += [
    _row("_full", "infinite", Call("_full", shape=(2,), value=float("inf"))),
    _row("_full", "nan", Call("_full", shape=(2,), value=float("nan"))),
]
ACCEPTED += [
    _row("_arange", f"{name}_{dtype}", Call("_arange", dtype=dtype, **parameters))
    for dtype in ("float32", "float16", "int32", "int64")
    for name, parameters in [
        ("stop", {"start": 5.0}),
        ("range", {"start": 2.0, "stop": 7.0}),
        ("backwards", {"start": 9.0, "stop": -3.0, "step": -2.0}),
        ("repeat", {"start": 1.0, "stop": 4.0, "repeat": 3}),
    ]
]
ACCEPTED += [
    _row("_arange", "fractions", Call("_arange", start=0.1, stop=7.7, step=0.3)),
    _row("_arange", "fractions_float16", Call("_arange", start=0.1, stop=7.7, step=0.3, dtype="float16")),
    _row("_arange", "with_data", lambda: S.arange(6) * X, {"x": (6,)}),
    _row(
        "_arange",
        "inferred",
        lambda: S.elemwise_add(S.arange(2, step=3, infer_range=True), X),
        {"x": (5,)},
    ),
]
ACCEPTED += [
    _row("_linspace", f"{name}_{dtype}", Call("_linspace", dtype=dtype, **parameters))
    for dtype in ("float32", "float16", "int32")
    for name, parameters in [
        ("plain", {"start": 0.0, "stop": 9.0, "num": 7}),
        ("open", {"start": 3.0, "stop": -8.0, "num": 5, "endpoint": False}),
        ("single", {"start": 3.0, "stop": 8.0, "num": 1}),
    ]
]
ACCEPTED += [
    _row("_eye", f"{name}_{dtype}", Call("_eye", dtype=dtype, **parameters))
    for dtype in ("float32", "float16", "int32", "int64")
    for name, parameters in [
        ("square", {"N": 3}),
        ("above", {"N": 3, "M": 5, "k": 2}),
        ("below", {"N": 4, "M": 2, "k": -1}),
        ("beyond", {"N": 2, "k": 5}),
    ]
]
ACCEPTED += [
    _row(
        "_contrib_arange_like", f"{name}_{dtype}", Call("_contrib_arange_like", "x", **parameters), SHAPE, {"x": dtype}
    )
    for dtype in ("float32", "float16")
    for name, parameters in [
        ("all", {}),
        ("axis", {"axis": 1}),
        ("last_axis", {"axis": -1, "start": 0.5, "step": -0.3}),
        ("repeat", {"repeat": 2, "start": 1.0}),
    ]
]
ACCEPTED += [
    _row(operator, name, Call(operator, "x"), {"x": shape}, {"x": dtype})
    for operator in ("shape_array", "size_array")
    for name, shape, dtype in (
        ("float32", (2, 3, 4), "float32"),
        ("vector", (7,), "float16"),
        ("float64", (1, 5), "float64"),
    )
]

REFUSED = [
    Refusal(operator, "float64", call, SHAPE, "dtype of the output: found float64, required float32")
    for operator, call in [
        ("_zeros", Call("_zeros", shape=(2,), dtype="float64")),
        ("_ones", Call("_ones", shape=(2,), dtype="float64")),
        ("_full", Call("_full", shape=(2,), dtype="float64", value=1.0)),
        ("_arange", Call("_arange", start=3.0, dtype="float64")),
        ("_linspace", Call("_linspace", start=1.0, stop=3.0, num=3, dtype="float64")),
        ("_eye", Call("_eye", N=3, dtype="float64")),
    ]
]
REFUSED += [
    Refusal(
        "_contrib_arange_like",
        "float64",
        Call("_contrib_arange_like", "x"),
        SHAPE,
        "dtype of the output: found float64, required float32",
        {"x": "float64"},
    ),
    Refusal(
        "_full",
        "value",
        Call("_full", shape=(2,), value=3e9, dtype="int32"),
        SHAPE,
        "value: found 3000000000.0, required",
    ),
    *(
        Refusal(operator, "bounds", call, SHAPE, f"bounds: found {found}")
        for operator, call, found in [
            ("_arange", Call("_arange", start=3e9, stop=3.1e9, step=1e8, dtype="int32"), "(3000000000.0, "),
            ("_contrib_arange_like", Call("_contrib_arange_like", "x", step=float("nan")), "(0.0, nan, nan)"),
            ("_linspace", Call("_linspace", start=0, stop=1e5, num=3, dtype="float16"), "(0.0, 100000.0)"),
        ]
    ),
    *(
        Refusal(operator, "large", call, SHAPE, "number of elements: found 1048577, required at most 1048576")
        for operator, call in [
            ("_arange", Call("_arange", start=2**20 + 1)),
            ("_linspace", Call("_linspace", start=1.0, stop=3.0, num=2**20 + 1)),
            ("_eye", Call("_eye", N=1, M=2**20 + 1)),
        ]
    ),
    Refusal(
        "_contrib_arange_like",
        "large",
        Call("_contrib_arange_like", "x"),
        {"x": (2, 2**20)},
        "number of elements: found 2097152, required at most 1048576",
    ),
    *(
        Refusal(operator, "unknown_shape", Call(operator, "x"), {}, "output: found an unknown shape")
        for operator in ("shape_array", "size_array")
    ),
    Refusal(
        "_zeros_without_dtype",
        "unknown_shape",
        lambda: S._internal._zeros_without_dtype(shape=(0, 3)) + X,
        {},
        "output: found an unknown shape",
    ),
    Refusal("_zeros", "unknown_shape", lambda: S.zeros((0, 3)) + X, {}, "output: found an unknown shape"),
]

OUTPUTS = dtypes(*FLOATS, *INTS, "float64")
NUMBERS = st.sampled_from([0.0, 1.0, -1.0, 0.3, -2.7, 5.0, 3e9, float("inf"), float("nan")])


@st.composite
def _created(draw: st.DrawFn, operator: str, **parameters: SearchStrategy) -> Row:
    given = {name: draw(choice) for name, choice in parameters.items()}
    return _row(operator, "random", Call(operator, **given, **optional(draw, dtype=OUTPUTS)))


@st.composite
def _without_dtype(draw: st.DrawFn) -> Row:
    shape = draw(shapes())
    inner = Call("_zeros_without_dtype", shape=shape)
    call, dtype = Call("elemwise_add", inner, "x"), draw(dtypes())
    return _row("_zeros_without_dtype", "random", call, {"x": shape}, {"x": dtype})


@st.composite
def _ranges(draw: st.DrawFn) -> Row:
    start, step, count = draw(NUMBERS), draw(NUMBERS.filter(bool)), draw(st.integers(1, 9))
    parameters = optional(draw, dtype=OUTPUTS, repeat=st.integers(1, 3))
    return _row("_arange", "random", Call("_arange", start=start, stop=start + step * count, step=step, **parameters))


@st.composite
def _spaces(draw: st.DrawFn) -> Row:
    parameters = optional(draw, dtype=OUTPUTS, endpoint=st.booleans())
    call = Call("_linspace", start=draw(NUMBERS), stop=draw(NUMBERS), num=draw(st.integers(1, 9)), **parameters)
    return _row("_linspace", "random", call)


@st.composite
def _eyes(draw: st.DrawFn) -> Row:
    parameters = optional(draw, M=st.integers(0, 4), k=st.integers(-5, 5), dtype=OUTPUTS)
    return _row("_eye", "random", Call("_eye", N=draw(st.integers(1, 4)), **parameters))


@st.composite
def _ranges_like(draw: st.DrawFn) -> Row:
    shape = draw(shapes())
    parameters = optional(draw, axis=axes(len(shape)), start=NUMBERS, step=NUMBERS, repeat=st.integers(1, 3))
    return _row(
        "_contrib_arange_like",
        "random",
        Call("_contrib_arange_like", "x", **parameters),
        {"x": shape},
        {"x": draw(dtypes())},
    )


@st.composite
def _of_shape(draw: st.DrawFn, operator: str) -> Row:
    return _row(operator, "random", Call(operator, "x"), {"x": draw(shapes())}, {"x": draw(dtypes())})


STRATEGIES: dict[str, SearchStrategy[Row]] = {
    "_zeros": _created("_zeros", shape=shapes()),
    "_ones": _created("_ones", shape=shapes()),
    "_full": _created("_full", shape=shapes(), value=NUMBERS),
    "_zeros_without_dtype": _without_dtype(),
    "_arange": _ranges(),
    "_linspace": _spaces(),
    "_eye": _eyes(),
    "_contrib_arange_like": _ranges_like(),
    "shape_array": _of_shape("shape_array"),
    "size_array": _of_shape("size_array"),
}
