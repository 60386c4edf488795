"""The int8 operators of mx.contrib.quantization: integers are equal, ties at half a step aside, and so are ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, Values, optional, seeds, tuples

S = mx.sym.contrib
X, Y, Z = (mx.sym.var(name) for name in "xyz")
W, B = mx.sym.var("w"), mx.sym.var("b")
WEIGHT_RANGE = [mx.sym.var(name) for name in ("w_low", "w_high")]
BIAS_RANGE = [mx.sym.var(name) for name in ("b_low", "b_high")]

IMAGE = (2, 3, 6, 7)
ONE = (1,)


def full(value: float) -> Any:
    return lambda rng, shape: np.full(shape, value)


RANGES = {"y": full(-3.7), "z": full(2.9), "w_low": full(-0.31), "w_high": full(0.27), "b_low": full(-1.1)}
RANGES["b_high"] = full(0.7)
SIGNED = {**RANGES, **{name: Values(i, -127, 128, whole=True) for i, name in enumerate("xwb")}}
UNSIGNED = {**SIGNED, "x": Values(7, 0, 256, whole=True)}


def one(name: str, operator: Any, dtype: str = "int8", shape: Any = IMAGE, atol: float = 0.0, **parameters: Any) -> Row:
    """Returns a row of an operator of one array with its range."""
    fills = SIGNED if dtype == "int8" else UNSIGNED
    label = name if dtype == "int8" else f"{name}_uint8"
    build = lambda: operator(X, Y, Z, name="op", **parameters)  # noqa: E731
    kind = f"_contrib_{operator.__name__}"
    return Row(kind, label, build, {"x": shape, "y": ONE, "z": ONE}, 1e-6, atol, {"x": dtype}, fills)


def product(name: str, operator: Any, dtype: str, shape: Any, *, bias: bool, **parameters: Any) -> Row:
    """Returns a row of a convolution or of a fully connected layer."""

    def build() -> Any:
        arrays = [X, W, B, Y, Z, *WEIGHT_RANGE, *BIAS_RANGE] if bias else [X, W, Y, Z, *WEIGHT_RANGE]
        names = ["data", "weight", "bias"] if bias else ["data", "weight"]
        ranges = [f"{end}_{of}" for of in names for end in ("min", "max")]
        return operator(**dict(zip([*names, *ranges], arrays)), no_bias=not bias, name="op", **parameters)

    fills = SIGNED if dtype == "int8" else UNSIGNED
    shapes = {"x": shape, "y": ONE, "z": ONE}
    return Row(f"_contrib_{operator.__name__}", f"{name}_{dtype}", build, shapes, 1e-6, 0.0, {"x": dtype}, fills)


def quantize(name: str, shape: Any = IMAGE, **parameters: Any) -> Row:
    return Row("_contrib_quantize_v2", name, lambda: S.quantize_v2(X, name="op", **parameters), {"x": shape}, 1e-6, 0.0)


def requantize(name: str, **parameters: Any) -> Row:
    fills = {"x": Values(3, -50000, 50000, whole=True), "y": full(-4e4), "z": full(4e4)}
    shapes = {"x": IMAGE, "y": ONE, "z": ONE}
    build = lambda: S.requantize(X, Y, Z, name="op", **parameters)  # noqa: E731
    return Row("_contrib_requantize", name, build, shapes, 1e-6, 0.0, {"x": "int32"}, fills)


def two(operator: str, name: str, build: Any, dtypes: Any, shapes: Any = None) -> Row:
    fills = {
        **SIGNED,
        **{k: Values(i, 0 if d == "uint8" else -127, 256 if d == "uint8" else 128, whole=True)
           for i, (k, d) in enumerate(dtypes.items())},
        "a": full(-1.3), "c": full(2.2), "d": full(-0.5), "e": full(3.1),
    }  # fmt: skip
    all_shapes = {**dict.fromkeys(dtypes, IMAGE), **(shapes or {}), **dict.fromkeys("acde", ONE)}
    return Row(operator, name, build, all_shapes, 1e-6, 0.0, dtypes, fills)


A, C, D, E = (mx.sym.var(name) for name in "acde")
BYTES = {"x": "int8", "y": "int8"}


def _concat(**parameters: Any) -> Any:
    return S.quantized_concat(X, Y, A, C, D, E, num_args=2, name="op", **parameters)


def _add(**parameters: Any) -> Any:
    return S.quantized_elemwise_add(X, Y, A, C, D, E, name="op", **parameters)


def _batch_norm(**parameters: Any) -> Any:
    names = ("gamma", "beta", "moving_mean", "moving_var")
    given = {name: mx.sym.var(f"op_{name}") for name in names}
    return S.quantized_batch_norm(X, *given.values(), Y, Z, name="op", **parameters)


RANGE = {"min_calib_range": -2.5, "max_calib_range": 1.5}

ACCEPTED = [
    quantize("calibrated", **RANGE),
    quantize("own_range"),
    quantize("own_range_unsigned", out_type="uint8"),
    quantize("auto", min_calib_range=0.0, max_calib_range=1.7, out_type="auto"),
    quantize("auto_signed", **RANGE, out_type="auto"),
    quantize("saturated", min_calib_range=-0.1, max_calib_range=0.1),
    quantize("matrix", (5, 4), **RANGE),
    one("image", S.dequantize),
    one("image", S.dequantize, "uint8"),
    one("matrix", S.dequantize, shape=(4, 5)),
    requantize("calibrated", min_calib_range=-0.7, max_calib_range=0.3),
    requantize("own_range"),
    requantize("auto", min_calib_range=0.0, max_calib_range=0.4, out_type="auto"),
    *(
        # MXNet's kernel on the CPU takes uint8 only.
        product(f"{name}{'_bias' if bias else ''}", S.quantized_conv, "uint8", shape, bias=bias, **parameters)
        for bias in (False, True)
        for name, shape, parameters in [
            ("plain", IMAGE, {"kernel": (3, 3), "num_filter": 4}),
            ("strided", IMAGE, {"kernel": (3, 2), "num_filter": 4, "stride": (2, 1), "pad": (1, 1), "layout": "NCHW"}),
            ("3d", (1, 2, 4, 5, 6), {"kernel": (2, 2, 2), "num_filter": 3}),
        ]
    ),
    *(
        product(f"{name}{'_bias' if bias else ''}", S.quantized_fully_connected, dtype, shape, bias=bias, **parameters)
        for bias in (False, True)
        for dtype in ("int8", "uint8")
        for name, shape, parameters in [
            ("plain", (4, 10), {"num_hidden": 6}),
            ("flattened", IMAGE, {"num_hidden": 5}),
        ]
    ),
    *(
        one(name, S.quantized_pooling, dtype, **parameters)
        for dtype in ("int8", "uint8")
        for name, parameters in [
            ("max", {"kernel": (2, 2), "stride": (2, 2), "pool_type": "max"}),
            ("max_pad", {"kernel": (3, 3), "pad": (1, 1), "pool_type": "max"}),
            ("avg", {"kernel": (2, 3), "pool_type": "avg"}),
            ("avg_global", {"kernel": (1, 1), "global_pool": True, "pool_type": "avg"}),
        ]
    ),
    one("relu", S.quantized_act, act_type="relu"),
    one("image", S.quantized_flatten),
    one("image", S.quantized_flatten, "uint8"),
    two("_contrib_quantized_concat", "channels", _concat, BYTES),
    two("_contrib_quantized_concat", "rows", lambda: _concat(dim=2), BYTES, {"y": (2, 3, 4, 7)}),
    two("_contrib_quantized_elemwise_add", "int32", _add, BYTES),
    two("_contrib_quantized_elemwise_add", "calibrated", lambda: _add(**RANGE), BYTES),
    two("_contrib_quantized_elemwise_add", "int32_uint8", _add, dict.fromkeys("xy", "uint8")),
    Row(
        "_contrib_quantized_batch_norm",
        "calibrated",
        lambda: _batch_norm(min_calib_range=-9.0, max_calib_range=7.0),
        {"x": IMAGE, "y": ONE, "z": ONE},
        1e-6,
        0.0,
        {"x": "int8"},
        SIGNED,
    ),
]

ARRAY = {"x": IMAGE, "y": ONE, "z": ONE}


def _unbiased(operator: Any, **parameters: Any) -> Any:
    """Returns an operator whose weight is data."""
    ends = ("min_data", "max_data", "min_weight", "max_weight")
    ranges = dict(zip(ends, (A, C, D, E)))
    return operator(data=X, weight=Y, **ranges, no_bias=True, name="op", **parameters)


REFUSED = [
    Refusal(
        "_contrib_quantize_v2",
        "empty_range",
        lambda: S.quantize_v2(X, min_calib_range=0.0, max_calib_range=0.0, name="op"),
        {"x": IMAGE},
        "calibrated range: found 0 to 0",
    ),
    Refusal(
        "_contrib_quantize_v2", "integers", lambda: S.quantize_v2(X), {"x": IMAGE}, "dtype of the data", {"x": "int8"}
    ),
    Refusal(
        "_contrib_requantize",
        "empty_range",
        lambda: S.requantize(X, Y, Z, min_calib_range=0.0, max_calib_range=0.0),
        ARRAY,
        "calibrated range: found 0 to 0",
        {"x": "int32"},
    ),
    Refusal(
        "_contrib_quantized_conv",
        "computed_weight",
        lambda: _unbiased(S.quantized_conv, kernel=(1, 1), num_filter=4),
        {"x": IMAGE, "y": (4, 3, 1, 1)},
        "weight: found a value that changes between runs",
        {"x": "uint8", "y": "int8"},
    ),
    Refusal(
        "_contrib_quantized_fully_connected",
        "computed_weight",
        lambda: _unbiased(S.quantized_fully_connected, num_hidden=4),
        {"x": (2, 4), "y": (4, 4)},
        "weight: found a value that changes between runs",
        {"x": "int8", "y": "int8"},
    ),
    Refusal(
        "_contrib_quantized_pooling",
        "overhang",
        lambda: S.quantized_pooling(
            X, Y, Z, kernel=(2, 2), stride=(3, 3), pool_type="max", pooling_convention="full", name="op"
        ),
        {},
        "pooling_convention full",
        {"x": "int8"},
    ),
    Refusal(
        "_contrib_quantized_act", "unsigned", lambda: S.quantized_act(X, Y, Z, act_type="relu"), ARRAY,
        "dtype of the data: found uint8", {"x": "uint8"},
    ),
    Refusal(
        "_contrib_quantized_flatten", "floats", lambda: S.quantized_flatten(X, Y, Z), ARRAY,
        "dtype of input 0: found float32",
    ),
    Refusal(
        "_contrib_quantized_elemwise_add",
        "two_kinds",
        _add,
        {"x": IMAGE, "y": IMAGE},
        "dtypes of the operands: found int8 and uint8",
        {"x": "int8", "y": "uint8"},
    ),
    Refusal(
        "_contrib_quantized_batch_norm", "uncalibrated", _batch_norm, ARRAY, "calibrated range: found none",
        {"x": "int8"},
    ),
]  # fmt: skip


# ---- random rows: half a step may be rounded either way ----


def _bounds(draw: DrawFn) -> dict[str, Values]:
    return {"y": Values(draw(seeds()), -5.0, 0.0), "z": Values(draw(seeds()), 0.1, 5.0)}


def _integers(draw: DrawFn, dtype: str) -> Values:
    low, high = (0, 256) if dtype == "uint8" else (-127, 128)
    return Values(draw(seeds()), low, high, whole=True)


def _row(draw: DrawFn, call: Call, shapes: Any, dtypes: Any, fills: Any, atol: float = 1.0) -> Row:
    drawn = {name: _integers(draw, dtype) for name, dtype in dtypes.items() if name not in fills}
    return Row(call.operator, "random", call, shapes, 1e-5, atol, dtypes, {**drawn, **fills})


def _image(draw: DrawFn) -> tuple[int, ...]:
    return draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 6), st.integers(2, 6)))


def _calibrated(draw: DrawFn) -> dict[str, float]:
    low = draw(st.sampled_from((-2.0, -0.1, 0.0)))
    return draw(st.sampled_from(({}, {"min_calib_range": low, "max_calib_range": 1.5})))


@st.composite
def _quantizations(draw: DrawFn) -> Row:
    parameters = {**_calibrated(draw), **optional(draw, out_type=st.sampled_from(("int8", "uint8", "auto")))}
    call = Call("_contrib_quantize_v2", "x", **parameters)
    low = draw(st.sampled_from((0.0, -3.0)))
    return _row(draw, call, {"x": _image(draw)}, {"x": "float32"}, {"x": Values(draw(seeds()), low, 3.0)})


@st.composite
def _requantizations(draw: DrawFn) -> Row:
    parameters = {**_calibrated(draw), **optional(draw, out_type=st.sampled_from(("int8", "auto")))}
    call = Call("_contrib_requantize", "x", "y", "z", **parameters)
    fills = {"x": Values(draw(seeds()), -90000, 90000, whole=True), "y": Values(0, -5e4, -4e4), "z": Values(0, 1, 4e4)}
    return _row(draw, call, {"x": _image(draw), "y": ONE, "z": ONE}, {"x": "int32"}, fills)


def _ones(operator: str, dtypes: tuple[str, ...], **parameters: SearchStrategy[Any]) -> SearchStrategy[Row]:
    @st.composite
    def rows(draw: DrawFn) -> Row:
        call = Call(operator, "x", "y", "z", **{name: draw(choice) for name, choice in parameters.items()})
        dtype = draw(st.sampled_from(dtypes))
        return _row(draw, call, {"x": _image(draw), "y": ONE, "z": ONE}, {"x": dtype}, _bounds(draw))

    return rows()


@st.composite
def _products(draw: DrawFn, operator: str) -> Row:
    conv = operator.endswith("conv")
    # Without a bias the inputs would have to go by name.
    names = ["x", "w", "b"]
    ends = ["y", "z", "w_low", "w_high", "b_low", "b_high"]
    parameters: dict[str, Any] = {}
    if conv:
        parameters.update(num_filter=draw(st.integers(1, 4)), kernel=draw(tuples(st.integers(1, 2), 2)))
        parameters.update(optional(draw, stride=tuples(st.integers(1, 2), 2), pad=tuples(st.integers(0, 1), 2)))
    else:
        parameters.update(num_hidden=draw(st.integers(1, 4)), **optional(draw, flatten=st.just(True)))
    dtype = "uint8" if conv else draw(st.sampled_from(("int8", "uint8")))
    fills = {**_bounds(draw), **{k: v for k, v in SIGNED.items() if k not in "xyz"}}
    shapes = {"x": _image(draw), "y": ONE, "z": ONE}
    return _row(draw, Call(operator, *names, *ends, **parameters), shapes, {"x": dtype}, fills)


@st.composite
def _pairs(draw: DrawFn, operator: str) -> Row:
    kinds = {name: draw(st.sampled_from(("int8", "int8", "uint8"))) for name in "xy"}
    parameters = _calibrated(draw) if operator.endswith("add") else {"num_args": 2, **optional(draw, dim=st.just(1))}
    shape = _image(draw)
    fills = {name: Values(draw(seeds()), low, low + 1.5) for name, low in zip("acde", (-2.0, 0.1, -2.0, 0.1))}
    call = Call(operator, *"xyacde", **parameters)
    # An int32 sum counts in steps of 2^-31 of its range.
    atol = 1e4 if operator.endswith("add") and "min_calib_range" not in parameters else 1.0
    return _row(draw, call, {"x": shape, "y": shape, **dict.fromkeys("acde", ONE)}, kinds, fills, atol)


@st.composite
def _normalizations(draw: DrawFn) -> Row:
    names = ("gamma", "beta", "moving_mean", "moving_var")
    parameters = {**_calibrated(draw), **optional(draw, eps=st.sampled_from((1e-3, 1e-5)))}
    call = Call("_contrib_quantized_batch_norm", "x", *names, "y", "z", **parameters)
    return _row(draw, call, {"x": _image(draw), "y": ONE, "z": ONE}, {"x": "int8"}, _bounds(draw))


BOTH = ("int8", "uint8")
STRATEGIES: dict[str, SearchStrategy[Row]] = {
    "_contrib_quantize_v2": _quantizations(),
    "_contrib_dequantize": _ones("_contrib_dequantize", BOTH),
    "_contrib_requantize": _requantizations(),
    "_contrib_quantized_conv": _products("_contrib_quantized_conv"),
    "_contrib_quantized_fully_connected": _products("_contrib_quantized_fully_connected"),
    "_contrib_quantized_pooling": _ones(
        "_contrib_quantized_pooling",
        BOTH,
        kernel=tuples(st.integers(1, 2), 2),
        pool_type=st.sampled_from(("max", "avg")),
        stride=tuples(st.integers(1, 2), 2),
    ),
    "_contrib_quantized_act": _ones("_contrib_quantized_act", BOTH, act_type=st.just("relu")),
    "_contrib_quantized_flatten": _ones("_contrib_quantized_flatten", BOTH),
    "_contrib_quantized_concat": _pairs("_contrib_quantized_concat"),
    "_contrib_quantized_elemwise_add": _pairs("_contrib_quantized_elemwise_add"),
    "_contrib_quantized_batch_norm": _normalizations(),
}
