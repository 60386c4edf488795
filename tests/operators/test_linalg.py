"""Stacked matrices: products, diagonals and triangles; khatri_rao."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tests.harness import Refusal, Row
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, optional, row, shapes, values

MATRIX = {"x": (3, 4), "y": (4, 5)}
STACK = {"x": (2, 3, 4), "y": (2, 4, 5)}
TURNED = {"x": (2, 4, 3), "y": (2, 5, 4)}


def _nan_above(rng, shape):
    matrix = rng.standard_normal(shape)
    return np.where(np.tri(shape[-1], dtype=bool), matrix, np.nan)


def _positive(rng, shape):
    return rng.uniform(0.1, 4.0, shape)


ACCEPTED = [
    Row("_linalg_gemm2", name, Call("_linalg_gemm2", "x", "y", **parameters), shape, 1e-5, 1e-5)
    for name, parameters, shape in [
        ("matrix", {}, MATRIX),
        ("stack", {"alpha": -2.5}, STACK),
        ("turned", {"transpose_a": True, "transpose_b": True}, TURNED),
        ("row_axis", {"axis": 0}, {"x": (3, 2, 4), "y": (4, 2, 5)}),
        ("row_axis_turned", {"axis": 1, "transpose_b": True}, {"x": (2, 3, 1, 4), "y": (2, 5, 1, 4)}),
    ]
]
ACCEPTED += [
    Row("_linalg_gemm", name, Call("_linalg_gemm", "x", "y", "z", **parameters), {**shape, "z": third}, 1e-5, 1e-5)
    for name, parameters, shape, third in [
        ("matrix", {}, MATRIX, (3, 5)),
        ("factors", {"alpha": 0.5, "beta": -2}, STACK, (2, 3, 5)),
        ("beta_0", {"beta": 0}, STACK, (2, 3, 5)),
        ("turned", {"transpose_a": True, "transpose_b": True}, TURNED, (2, 3, 5)),
        ("row_axis", {"axis": -3, "transpose_a": True}, {"x": (4, 2, 3), "y": (4, 2, 5)}, (3, 2, 5)),
    ]
]
ACCEPTED += [
    Row("_linalg_syrk", name, Call("_linalg_syrk", "x", **parameters), {"x": shape}, 1e-5, 1e-5)
    for name, parameters, shape in [
        ("matrix", {}, (3, 4)),
        ("transpose", {"transpose": True, "alpha": 1.5}, (2, 3, 4)),
        ("column", {}, (1, 4, 1)),
    ]
]
ACCEPTED += [
    Row("_linalg_trmm", name, Call("_linalg_trmm", "x", "y", **parameters), shape, 1e-5, 1e-5, fills=fills)
    for name, parameters, shape, fills in [
        ("matrix", {}, {"x": (3, 3), "y": (3, 4)}, {}),
        ("upper", {"lower": False, "alpha": 2}, {"x": (2, 3, 3), "y": (2, 3, 4)}, {}),
        ("right", {"rightside": True, "transpose": True}, {"x": (3, 3), "y": (2, 3)}, {}),
        ("nan_not_read", {"transpose": True}, {"x": (3, 3), "y": (3, 1)}, {"x": _nan_above}),
    ]
]
ACCEPTED += [
    Row("_linalg_sumlogdiag", name, Call("_linalg_sumlogdiag", "x"), {"x": shape}, 1e-5, 1e-6, fills={"x": _positive})
    for name, shape in [("matrix", (4, 4)), ("stack", (2, 1, 3, 3)), ("one", (1, 1))]
]
ACCEPTED += [
    Row(f"_linalg_{action}{part}", name, Call(f"_linalg_{action}{part}", "x", **parameters), {"x": shape}, 0.0, 0.0)
    for action, shapes_of_action in [("extract", ((4, 4), (2, 1, 3, 3))), ("make", ((6,), (2, 1, 3)))]
    for part in ("diag", "trian")
    for name, parameters, shape in [
        ("matrix", {}, shapes_of_action[0]),
        ("stack", {}, shapes_of_action[1]),
        ("above", {"offset": 1}, shapes_of_action[1]),
        ("below", {"offset": -2}, shapes_of_action[0]),
        ("upper", {"lower": False}, shapes_of_action[1]),
    ]
    if part == "trian" or name != "upper"
]
ACCEPTED += [
    Row("khatri_rao", "two", Call("khatri_rao", "x", "y"), {"x": (2, 3), "y": (4, 3)}, 1e-6, 1e-6),
    Row("khatri_rao", "three", Call("khatri_rao", "x", "y", "z"), {"x": (2, 1), "y": (1, 1), "z": (3, 1)}, 1e-6, 1e-6),
    Row("khatri_rao", "one", Call("khatri_rao", "x"), {"x": (2, 3)}, 0.0, 0.0),
]

REFUSED = [
    Refusal(operator, "alpha", Call(operator, *inputs, alpha=0), shape, "alpha: found 0.0, required another number")
    for operator, inputs, shape in [
        ("_linalg_gemm2", "xy", MATRIX),
        ("_linalg_gemm", "xyz", {**MATRIX, "z": (3, 5)}),
        ("_linalg_syrk", "x", {"x": (3, 4)}),
        ("_linalg_trmm", "xy", {"x": (3, 3), "y": (3, 4)}),
    ]
]
REFUSED += [
    Refusal("_linalg_gemm2", "unknown_shape", Call("_linalg_gemm2", "x", "y"), {}, "number of axes: found an unknown"),
    Refusal("_linalg_syrk", "float64", Call("_linalg_syrk", "x"), {"x": (3, 4)}, "dtype of input 0", {"x": "float64"}),
]

FACTORS = st.sampled_from((1, -1, 0.5, 3, 0))
DTYPES = st.sampled_from(("float32", "float32", "float32", "float64"))


@st.composite
def _gemm(draw: st.DrawFn, operator: str) -> Row:
    batch = list(draw(shapes(0, 2)))
    parameters = optional(draw, alpha=FACTORS, transpose_a=st.booleans(), transpose_b=st.booleans())
    rows, inner, columns = (draw(st.integers(1, 4)) for _ in range(3))
    axis = draw(st.integers(0, len(batch)))

    def stack(height: int, width: int, turned: bool) -> tuple[int, ...]:
        if turned:
            height, width = width, height
        return (*batch[:axis], height, *batch[axis:], width)

    sizes = {
        "x": stack(rows, inner, parameters.get("transpose_a", False)),
        "y": stack(inner, columns, parameters.get("transpose_b", False)),
    }
    if operator == "_linalg_gemm":
        parameters.update(optional(draw, beta=FACTORS))
        sizes["z"] = stack(rows, columns, False)
    if axis != len(batch) or draw(st.booleans()):
        parameters["axis"] = axis - draw(st.sampled_from((0, len(batch) + 2)))
    return row(draw, Call(operator, *sizes, **parameters), sizes, draw(DTYPES), atol=1e-5, special=False)


@st.composite
def _syrk(draw: st.DrawFn) -> Row:
    call = Call("_linalg_syrk", "x", **optional(draw, alpha=FACTORS, transpose=st.booleans()))
    return row(draw, call, {"x": draw(shapes(2))}, draw(DTYPES), atol=1e-5, special=False)


@st.composite
def _trmm(draw: st.DrawFn) -> Row:
    batch, size, other = draw(shapes(0, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    parameters = optional(draw, alpha=FACTORS, transpose=st.booleans(), rightside=st.booleans(), lower=st.booleans())
    second = (other, size) if parameters.get("rightside") else (size, other)
    both = {"x": (*batch, size, size), "y": (*batch, *second)}
    return row(draw, Call("_linalg_trmm", "x", "y", **parameters), both, draw(DTYPES), atol=1e-5, special=False)


@st.composite
def _sumlogdiag(draw: st.DrawFn) -> Row:
    size, dtype = draw(st.integers(1, 4)), draw(DTYPES)
    shape = (*draw(shapes(0, 2)), size, size)
    return row(draw, Call("_linalg_sumlogdiag", "x"), {"x": shape}, dtype, fills={"x": draw(values(dtype, 0.1, 4.0))})


@st.composite
def _part(draw: st.DrawFn, operator: str) -> Row:
    size = draw(st.sampled_from((1, 3, 6, 10) if operator == "_linalg_maketrian" else (1, 2, 3, 4)))
    shape = (*draw(shapes(0, 2)), size) + ((size,) if "extract" in operator else ())
    choices = {"offset": st.integers(-2, 2), **({"lower": st.booleans()} if "trian" in operator else {})}
    return row(draw, Call(operator, "x", **optional(draw, **choices)), {"x": shape}, draw(DTYPES))


@st.composite
def _khatri_rao(draw: st.DrawFn) -> Row:
    columns = draw(st.integers(1, 4))
    sizes = {name: (draw(st.integers(1, 4)), columns) for name in "xyz"[: draw(st.integers(1, 3))]}
    return row(draw, Call("khatri_rao", *sizes), sizes, draw(DTYPES))


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    "_linalg_gemm": _gemm("_linalg_gemm"),
    "_linalg_gemm2": _gemm("_linalg_gemm2"),
    "_linalg_syrk": _syrk(),
    "_linalg_trmm": _trmm(),
    "_linalg_sumlogdiag": _sumlogdiag(),
    **{
        name: _part(name)
        for name in ("_linalg_extractdiag", "_linalg_makediag", "_linalg_extracttrian", "_linalg_maketrian")
    },
    "khatri_rao": _khatri_rao(),
}
