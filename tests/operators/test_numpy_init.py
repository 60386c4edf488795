"""mx.np: arrays out of nothing, alone and beside others."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, optional, row, shapes


def _beside(call):
    return Call("_npi_add", "x", call)


ACCEPTED = [
    Row(operator, name, _beside(Call(operator, **parameters)), {"x": (2, 3)}, 1e-6, 1e-6)
    for operator, name, parameters in [
        ("_npi_zeros", "plain", {"shape": (2, 3)}),
        ("_npi_zeros", "zero_dim", {"shape": ()}),
        ("_npi_ones", "one", {"shape": (1,)}),
        ("_npi_ones", "integers", {"shape": (3,), "dtype": "int32"}),
        ("_npi_arange", "stop", {"start": 0, "stop": 3}),
        ("_npi_arange", "step", {"start": 1.5, "stop": -1.5, "step": -1}),
        ("_npi_arange", "integers", {"start": 2, "stop": 8, "step": 2, "dtype": "int64"}),
    ]
]
ACCEPTED += [
    Row("_npi_ones", "alone", Call("_npi_ones", shape=(2, 3)), {}, 0.0, 0.0),
    Row("_npi_arange", "alone", Call("_npi_arange", start=0, stop=5, repeat=1), {}, 0.0, 0.0),
]
ACCEPTED += [
    Row("_npi_full_like", name, Call("_npi_full_like", "x", **parameters), {"x": shape}, 0.0, 0.0, {"x": dtype})
    for name, parameters, shape, dtype in [
        ("plain", {"fill_value": 2.5}, (2, 3), "float32"),
        ("half", {"fill_value": -1}, (3,), "float16"),
        ("zero_dim", {"fill_value": 3}, (), "float32"),
        ("integers", {"fill_value": 3}, (2,), "int64"),
        ("other_dtype", {"fill_value": 1, "dtype": "int32"}, (2, 1), "float32"),
    ]
]

REFUSED = [
    Refusal("_npi_zeros", "float64", _beside(Call("_npi_zeros", shape=(3,), dtype="float64")), {"x": (3,)},
            "dtype of output 0: found float64", {"x": "float32"}),
    Refusal("_npi_arange", "float16", _beside(Call("_npi_arange", start=0, stop=3, dtype="float16")), {"x": (3,)},
            "dtype of the result: found float16", {"x": "float16"}),
    Refusal("_npi_arange", "long", _beside(Call("_npi_arange", start=0, stop=2**21)), {"x": (1,)},
            "number of elements: found 2097152, required at most"),
    Refusal("_npi_arange", "bounds", _beside(Call("_npi_arange", start=0, stop=2.5e39, step=1e39)), {"x": (1,)},
            "bounds: found (0.0, 1e+39, 3e+39), required finite numbers in the range of float32"),
    Refusal("_npi_full_like", "infinite", Call("_npi_full_like", "x", fill_value=float("inf")), {"x": (3,)},
            "fill_value: found inf, required a number in the range of int32", {"x": "int32"}),
    Refusal("_npi_full_like", "fraction", Call("_npi_full_like", "x", fill_value=1.5), {"x": (3,)},
            "fill_value: found 1.5, required a whole number", {"x": "int32"}),
]  # fmt: skip

DTYPES = ("float32", "float16", "float64", "int32", "int64")


@st.composite
def _filled(draw: st.DrawFn, operator: str) -> Row:
    shape = draw(shapes(0))
    made = Call(operator, shape=shape, **optional(draw, dtype=st.sampled_from(DTYPES)))
    return row(draw, _beside(made), {"x": shape})


@st.composite
def _full_like(draw: st.DrawFn) -> Row:
    parameters = {
        "fill_value": draw(st.sampled_from((0, 1, -2, 1.5, 3e9, float("inf"), float("nan")))),
        **optional(draw, dtype=st.sampled_from(DTYPES)),
    }
    return row(draw, Call("_npi_full_like", "x", **parameters), {"x": draw(shapes(0))}, draw(st.sampled_from(DTYPES)))


@st.composite
def _arange(draw: st.DrawFn) -> Row:
    count, step = draw(st.integers(1, 5)), draw(st.sampled_from((1, 2, -1, 0.5, 0.1, 1e9, 1e38)))
    start = draw(st.sampled_from((0, 1, -3, 0.25)))
    made = Call("_npi_arange", start=start, stop=start + step * (count - 0.5), step=step,
                **optional(draw, dtype=st.sampled_from(DTYPES)))  # fmt: skip
    return row(draw, _beside(made), {"x": (2, 1)})


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    "_npi_zeros": _filled("_npi_zeros"),
    "_npi_ones": _filled("_npi_ones"),
    "_npi_full_like": _full_like(),
    "_npi_arange": _arange(),
}
