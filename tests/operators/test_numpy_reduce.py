"""The reductions of mx.np."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import FINITE, Call, axes, axis_lists, optional, row, shapes, values

SUMS = ("_np_sum", "_np_prod", "_npi_mean")
EXTREMES = ("_np_max", "_np_min")
MOMENTS = ("_npi_var", "_npi_std")
ARGS = ("_npi_argmax", "_npi_argmin")


def _whole(rng, shape):
    return rng.randint(-4, 5, shape)


ACCEPTED = [
    Row(operator, name, Call(operator, "x", **parameters), {"x": shape}, 1e-5, 1e-5)
    for operator in (*SUMS, *EXTREMES, *MOMENTS)
    for name, parameters, shape in [
        ("all", {}, (2, 3, 4)),
        ("all_keepdims", {"keepdims": True}, (2, 3, 4)),
        ("one", {"axis": 1}, (2, 3, 4)),
        ("two_keepdims", {"axis": (0, -1), "keepdims": True}, (1, 3, 4)),
        ("none", {"axis": ()}, (2, 3)),
        ("zero_dim", {}, ()),
    ]
    if operator not in MOMENTS or name not in ("none", "zero_dim")
]
ACCEPTED += [
    Row(operator, dtype, Call(operator, "x", axis=1), {"x": (2, 5)}, 1e-5, 1e-5, {"x": dtype}, {"x": _whole})
    for operator in (*SUMS, *EXTREMES)
    for dtype in ("int32", "int64")
]
ACCEPTED += [
    Row(operator, "float16", Call(operator, "x", axis=0), {"x": (5, 3)}, 4e-3, 1e-3, {"x": "float16"})
    for operator in (*SUMS, *EXTREMES, *MOMENTS)
]
ACCEPTED += [
    Row("_np_sum", "widened", Call("_np_sum", "x", dtype="float32"), {"x": (4, 5)}, 1e-5, 1e-5, {"x": "float16"}),
    Row("_np_sum", "integers", Call("_np_sum", "x", dtype="int64"), {"x": (4, 5)}, 0.0, 0.0, {"x": "int32"},
        {"x": _whole}),
    Row("_npi_var", "ddof", Call("_npi_var", "x", axis=1, ddof=1), {"x": (2, 4)}, 1e-5, 1e-5),
]  # fmt: skip
ACCEPTED += [
    Row(operator, name, Call(operator, "x", **parameters), {"x": shape}, 0.0, 0.0)
    for operator in ARGS
    for name, parameters, shape in [
        ("flat", {}, (2, 3, 4)),
        ("flat_keepdims", {"keepdims": True}, (2, 3)),
        ("axis", {"axis": 1}, (2, 3, 4)),
        ("last", {"axis": -1, "keepdims": True}, (1, 5)),
        ("vector", {"axis": 0}, (7,)),
    ]
]

REFUSED = [
    Refusal(operator, "initial", Call(operator, "x", initial=1), {"x": (2, 3)}, "initial: found 1.0, required None")
    for operator in (*SUMS, *EXTREMES)
]
REFUSED += [
    Refusal("_np_sum", "bool", Call("_np_sum", "x", dtype="bool"), {"x": (2, 3)}, "dtype of the result: found bool"),
    Refusal(
        "_np_sum",
        "rounded",
        Call("_np_sum", "x", dtype="int32"),
        {"x": (2, 3)},
        "dtype of the result: found int32, required float32 or float16",
    ),
    Refusal(
        "_npi_mean",
        "rounded",
        Call("_npi_mean", "x", dtype="int32"),
        {"x": (2, 3)},
        "dtype of the result: found int32",
        {"x": "int32"},
    ),
    Refusal("_np_sum", "size_0", Call("_np_sum", "x"), {"x": (0, 3)}, "shape of input 0: found (0, 3)"),
]
REFUSED += [
    Refusal(operator, "dtype", Call(operator, "x", dtype="int32"), {"x": (2, 3)}, "dtype: found int32, required None")
    for operator in MOMENTS
]

DTYPES = st.sampled_from(("float32",) * 4 + ("float16", "float64", "int32", "int64", "int8", "bool"))


@st.composite
def _reduce(draw: st.DrawFn, operator: str) -> Row:
    shape, dtype = draw(shapes(0)), draw(DTYPES)
    choices = {"axis": st.one_of(axes(len(shape)), axis_lists(len(shape))) if shape else st.none()}
    choices["keepdims"] = st.booleans()
    if operator in SUMS:
        choices["dtype"] = st.sampled_from((None, "float32", "float16", "int32", "int64", "float64", "bool"))
        choices["initial"] = st.sampled_from((None, None, 1.0))
    if operator in MOMENTS:
        choices["ddof"] = st.integers(0, 2)
        # To divide by no elements ends the process where the result is an integer.
        choices["dtype"] = st.sampled_from((None, "float32", "float16", "float64"))
    parameters = optional(draw, **choices)
    if operator in MOMENTS and not dtype.startswith("float"):
        parameters.pop("ddof", None)
    one = "float16" if "float16" in (dtype, parameters.get("dtype")) else "float32"
    fills = {"x": draw(values("int32", 0, 2)) if dtype == "bool" else draw(values(dtype, special=FINITE))}
    call = Call(operator, "x", **parameters)
    return row(draw, call, {"x": shape}, one, dtypes={"x": dtype}, fills=fills, atol=1e-4)


@st.composite
def _arg(draw: st.DrawFn, operator: str) -> Row:
    shape = draw(shapes(0))
    choices = {"axis": axes(len(shape)) if shape else st.none(), "keepdims": st.booleans()}
    return row(draw, Call(operator, "x", **optional(draw, **choices)), {"x": shape}, draw(DTYPES), special=FINITE)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    **{name: _reduce(name) for name in (*SUMS, *EXTREMES, *MOMENTS)},
    **{name: _arg(name) for name in ARGS},
}
