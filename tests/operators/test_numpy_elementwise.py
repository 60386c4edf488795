"""mx.np and mx.npx, element by element: dtypes that mix, 0-d arrays, answers in booleans."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.harness import Refusal, Row
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import OPERANDS, Call, broadcastable, row, shapes, values

EXACT = "absolute negative sign square".split()
FLOATING = (
    "reciprocal rint ceil floor trunc fix sqrt cbrt exp expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan "
    "sinh cosh tanh arcsinh arccosh arctanh degrees radians"
).split()
TESTS = "isnan isinf isposinf isneginf isfinite".split()
ARITHMETIC = "add subtract multiply true_divide power mod".split()
REVERSED = "subtract true_divide power mod".split()
COMPARISONS = "equal not_equal greater greater_equal less less_equal".split()
SCALARS = [*(f"{n}_scalar" for n in ARITHMETIC), *(f"r{n}_scalar" for n in REVERSED)]

UNARY = [*(f"_npi_{name}" for name in EXACT + FLOATING), "_npx_relu", "_npx_sigmoid"]
EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, -7.25, float("inf"), float("-inf"), float("nan"))


def _edges(rng, shape):
    return np.resize(np.array(EDGES), shape)


def _bits(rng, shape):
    return rng.randint(0, 2, shape)


def _whole(rng, shape):
    return rng.randint(-4, 5, shape)


def _fill(dtype):
    return {"bool": _bits, "int32": _whole, "int64": _whole}.get(dtype, _edges)


ACCEPTED = [
    Row(name, "edges", Call(name, "x"), {"x": (len(EDGES),)}, 1e-5, 2e-8, fills={"x": _edges}) for name in UNARY
]
ACCEPTED += [Row(name, "zero_dim_float16", Call(name, "x"), {"x": ()}, 4e-3, 1e-6, {"x": "float16"}) for name in UNARY]
ACCEPTED += [
    Row(f"_npi_{name}", dtype, Call(f"_npi_{name}", "x"), {"x": (2, 3)}, 0.0, 0.0, {"x": dtype}, {"x": _whole})
    for name in EXACT
    for dtype in ("int32", "int64")
]
ACCEPTED += [
    Row(f"_npi_{name}", dtype, Call(f"_npi_{name}", "x"), {"x": (1, 22)}, 0.0, 0.0, {"x": dtype}, {"x": _edges})
    for name in [*TESTS, "logical_not"]
    for dtype in ("float32", "float16")
]
ACCEPTED += [
    Row("_npi_logical_not", dtype, Call("_npi_logical_not", "x"), {"x": (5,)}, 0.0, 0.0, {"x": dtype}, {"x": _bits})
    for dtype in ("bool", "int32", "int64")
]
ACCEPTED += [
    # MXNet casts an integer beside a float to the float, and keeps the more precise of two floats.
    Row(f"_npi_{name}", f"{left}_{right}", Call(f"_npi_{name}", "x", "y"), {"x": (11, 1), "y": (1, 11)},
        4e-3 if "float16" in (left, right) else 1e-5, 1e-3 if "float16" in (left, right) else 1e-7,
        {"x": left, "y": right}, {"x": _fill(left), "y": _fill(right)})
    for name in ARITHMETIC
    for left, right in [
        ("float32", "float32"),
        ("float16", "float16"),
        ("float32", "int32"),
        ("int64", "float32"),
        ("float16", "float32"),
        ("bool", "float32"),
        ("int32", "int32"),
        ("int64", "int64"),
    ]
    # MXNet has no true_divide of two kinds of floats.
    if (name, left, right) != ("true_divide", "float16", "float32")
    if left[0] == "f" or right[0] == "f" or name not in ("power", "mod") or (name, left) == ("mod", "int32")
]  # fmt: skip
ACCEPTED += [
    Row(f"_npi_{name}", "zero_dim", Call(f"_npi_{name}", "x", "y"), {"x": (), "y": (2, 1)}, 1e-5, 1e-6)
    for name in [*ARITHMETIC, "hypot"]
]
ACCEPTED += [
    Row(f"_npi_{name}", f"{dtype}_{scalar}", Call(f"_npi_{name}", "x", scalar=scalar, is_int=isinstance(scalar, int)),
        {"x": (3, 4)}, 1e-5, 1e-7, {"x": dtype}, {"x": _fill(dtype)})
    for name in SCALARS
    for dtype, scalar in [("float32", 3), ("float32", -2.5), ("int32", 2), ("int64", 5)]
    if dtype == "float32" or not any(part in name for part in ("power", "mod")) or ("mod" in name and dtype == "int32")
]  # fmt: skip
ACCEPTED += [
    Row("_npi_hypot", "edges", Call("_npi_hypot", "x", "y"), {"x": (11, 1), "y": (11,)}, 1e-5, 0.0,
        fills={"x": _edges, "y": _edges}),
]  # fmt: skip
ACCEPTED += [
    Row(f"_npi_{name}", dtype, Call(f"_npi_{name}", "x", "y"), {"x": (11, 1), "y": (11,)}, 0.0, 0.0,
        {"x": dtype, "y": dtype}, {"x": _fill(dtype), "y": _fill(dtype)})
    for name in COMPARISONS
    for dtype in ("float32", "float16", "int32", "int64")
]  # fmt: skip
ACCEPTED += [
    Row(f"_npi_{name}_scalar", dtype, Call(f"_npi_{name}_scalar", "x", scalar=1), {"x": (11,)}, 0.0, 0.0,
        {"x": dtype}, {"x": _fill(dtype)})
    for name in COMPARISONS
    for dtype in ("float32", "float16", "int32", "int64")
]  # fmt: skip
ACCEPTED += [
    Row("_npi_where", name, Call("_npi_where", "z", "x", "y"), shape, 0.0, 0.0,
        {"z": condition, "x": dtype, "y": dtype}, {"z": _fill(condition)})
    for name, condition, dtype, shape in [
        ("booleans", "bool", "float32", {"z": (2, 3), "x": (2, 3), "y": (2, 3)}),
        ("broadcast", "float32", "float16", {"z": (11, 1), "x": (), "y": (1, 3)}),
        ("integers", "int32", "int64", {"z": (3,), "x": (2, 1), "y": (3,)}),
    ]
]  # fmt: skip
ACCEPTED += [
    Row(f"_npi_where_{side}scalar", dtype, Call(f"_npi_where_{side}scalar", "z", "x", scalar=3),
        {"z": (2, 1), "x": (3,)}, 0.0, 0.0, {"z": "bool", "x": dtype}, {"z": _bits})
    for side in "lr"
    for dtype in ("float32", "int32")
]  # fmt: skip
ACCEPTED += [
    Row("_npi_where_scalar2", "plain", Call("_npi_where_scalar2", "z", x=2.5, y=-1), {"z": (5,)}, 0.0, 0.0,
        {"z": "bool"}, {"z": _bits}),
]  # fmt: skip

REFUSED = [
    Refusal(f"_npi_{name}", "integers", Call(f"_npi_{name}", "x", "y"), {"x": (3,), "y": (3,)},
            "dtype of the result: found int64, required float32 or float16", {"x": "int64", "y": "int64"})
    for name in ("power", "mod")
]  # fmt: skip
REFUSED += [
    Refusal(f"_npi_{name}", "booleans", Call(f"_npi_{name}", "x", "y"), {"x": (3,), "y": (3,)},
            "dtype of the result: found bool", {"x": "bool", "y": "bool"})
    for name in ("add", "subtract", "multiply")
]  # fmt: skip
REFUSED += [
    Refusal("_npi_true_divide", "float64", Call("_npi_true_divide", "x", "y"), {"x": (3,), "y": (3,)},
            "dtype of input 0: found float64", {"x": "float64", "y": "float64"}),
    Refusal("_npi_exp", "size_0", Call("_npi_exp", "x"), {"x": (3, 0)}, "shape of input 0: found (3, 0), required no"),
    Refusal("_npi_where", "booleans", Call("_npi_where", "z", "x", "y"), {"x": (3,), "y": (3,), "z": (3,)},
            "dtype of the values: found bool", {"x": "bool", "y": "bool", "z": "bool"}),
    Refusal("_npi_where_scalar2", "float64", Call("_npi_where_scalar2", "x"), {"x": (3,)}, "dtype of input 0: found",
            {"x": "float64"}),
]  # fmt: skip
REFUSED += [
    Refusal(f"_npi_{name}", "fraction", Call(f"_npi_{name}", "x", scalar=1.5, is_int=False), {"x": (3,)},
            "float64", {"x": "int32"})
    for name in SCALARS
    if "divide" not in name
]  # fmt: skip
REFUSED += [
    Refusal(f"_npi_{name}", "float64", Call(f"_npi_{name}", "x", scalar=1), {"x": (3,)}, "float64", {"x": "float64"})
    for name in SCALARS
    if "divide" in name
]
REFUSED += [
    Refusal(f"_npi_{name}_scalar", "fraction", Call(f"_npi_{name}_scalar", "x", scalar=1.5, is_int=False),
            {"x": (3,)}, "scalar: found the fraction 1.5 with int32", {"x": "int32"})
    for name in COMPARISONS
]  # fmt: skip
REFUSED += [
    Refusal(f"_npi_where_{side}scalar", "fraction", Call(f"_npi_where_{side}scalar", "z", "x", scalar=1.5),
            {"z": (3,), "x": (3,)}, "scalar: found 1.5, required a whole number", {"z": "bool", "x": "int32"})
    for side in "lr"
]  # fmt: skip

ALL = st.sampled_from(("float32",) * 4 + ("float16", "float64", "int32", "int64", "int8", "uint8", "bool"))


@st.composite
def _values_of(draw: st.DrawFn, dtype: str) -> object:
    return draw(values("int32", 0, 2)) if dtype == "bool" else draw(values(dtype))


@st.composite
def _unary(draw: st.DrawFn, operator: str) -> Row:
    dtype = draw(ALL)
    fills = {"x": draw(_values_of(dtype))}
    return row(draw, Call(operator, "x"), {"x": draw(shapes(0))}, dtype, fills=fills, atol=2e-7)


@st.composite
def _tensors(draw: st.DrawFn, operator: str) -> Row:
    shape, left = draw(shapes(0)), draw(ALL)
    both = {name: draw(broadcastable(shape)) for name in "xy"}
    dtypes = {"x": left, "y": draw(st.one_of(st.just(left), ALL))}
    fills = {name: draw(_values_of(dtype)) for name, dtype in dtypes.items()}
    coarsest = "float16" if "float16" in dtypes.values() else "float32"
    return row(draw, Call(operator, "x", "y"), both, coarsest, dtypes=dtypes, fills=fills)


@st.composite
def _scalar(draw: st.DrawFn, operator: str) -> Row:
    dtype = draw(ALL)
    scalar = draw(OPERANDS if dtype.startswith("float") else st.sampled_from((0, 1, -1, 2, 3, -7, 1.5, 3e9)))
    call = Call(operator, "x", scalar=scalar, is_int=isinstance(scalar, int))
    is_integer = dtype not in ("bool", "float16", "float32", "float64")
    # To divide an integer by zero ends the process.
    fills = {"x": draw(values("int32", 1, 5) if is_integer else _values_of(dtype))}
    one = "float16" if dtype == "float16" else "float32"
    return row(draw, call, {"x": draw(shapes(0))}, one, dtypes={"x": dtype}, fills=fills)


@st.composite
def _where(draw: st.DrawFn, operator: str) -> Row:
    shape, condition, dtype = draw(shapes(0)), draw(ALL), draw(ALL)
    names = {"_npi_where": "zxy", "_npi_where_scalar2": "z"}.get(operator, "zx")
    sizes = {name: draw(broadcastable(shape)) for name in names}
    dtypes = {name: condition if name == "z" else dtype for name in names}
    fills = {name: draw(_values_of(kind)) for name, kind in dtypes.items()}
    parameters = {} if operator == "_npi_where" else {"scalar": draw(OPERANDS)}
    if operator == "_npi_where_scalar2":
        parameters = {"x": draw(OPERANDS), "y": draw(OPERANDS)}
    return row(draw, Call(operator, *names, **parameters), sizes, "float32", dtypes=dtypes, fills=fills)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    **{name: _unary(name) for name in [*UNARY, *(f"_npi_{test}" for test in [*TESTS, "logical_not"])]},
    **{f"_npi_{name}": _tensors(f"_npi_{name}") for name in [*ARITHMETIC, "hypot", *COMPARISONS]},
    **{f"_npi_{name}": _scalar(f"_npi_{name}") for name in [*SCALARS, *(f"{c}_scalar" for c in COMPARISONS)]},
    **{name: _where(name) for name in ("_npi_where", "_npi_where_lscalar", "_npi_where_rscalar", "_npi_where_scalar2")},
}
