"""Pooling and adaptive pooling."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import FINITE, SMALL, Call, dtypes, optional, row, tuples

S = mx.sym
X = S.var("x")


def _pool(**parameters):
    return lambda: S.Pooling(X, name="op", **parameters)


def _old(**parameters):
    return lambda: S.Pooling_v1(X, name="op", **parameters)


def _adaptive(**parameters):
    return lambda: S.contrib.AdaptiveAvgPooling2D(X, name="op", **parameters)


IMAGE = {"x": (2, 3, 10, 11)}
# Kernel 3 and stride 2: 'full' reaches one beyond the input on an axis of even size.
FULL = {"kernel": (3, 3), "stride": (2, 2), "pooling_convention": "full"}

ACCEPTED = [
    Row("Pooling", f"{kind}_{name}", _pool(pool_type=kind, **parameters), shapes, 1e-5, 1e-6)
    for kind in ("max", "avg", "sum")
    for name, parameters, shapes in [
        ("1d", {"kernel": (3,), "stride": (2,), "pad": (1,)}, {"x": (2, 3, 10)}),
        ("2d", {"kernel": (3, 2)}, IMAGE),
        ("stride_pad", {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)}, IMAGE),
        ("uneven", {"kernel": (3, 4), "stride": (3, 2), "pad": (0, 2)}, IMAGE),
        ("3d", {"kernel": (2, 2, 2), "stride": (2, 2, 2)}, {"x": (1, 2, 5, 6, 7)}),
        ("global", {"kernel": (1, 1), "global_pool": True}, IMAGE),
        ("global_1d", {"global_pool": True}, {"x": (2, 3, 10)}),
        ("global_3d", {"global_pool": True, "pad": (1, 1, 1), "kernel": (2, 2, 2)}, {"x": (1, 2, 3, 4, 5)}),
        ("full", FULL, IMAGE),
        ("full_pad", {**FULL, "pad": (1, 1)}, IMAGE),
        ("full_1d", {"kernel": (4,), "stride": (3,), "pad": (1,), "pooling_convention": "full"}, {"x": (2, 3, 10)}),
        ("full_stride", {"kernel": (2, 2), "stride": (3, 3), "pooling_convention": "full"}, {"x": (1, 2, 8, 11)}),
    ]
]
ACCEPTED += [
    Row("Pooling", f"avg_{name}", _pool(pool_type="avg", count_include_pad=False, **parameters), IMAGE, 1e-5, 1e-6)
    for name, parameters in [
        ("exclude_pad", {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)}),
        ("exclude_pad_full", {**FULL, "pad": (1, 1)}),
    ]
]
ACCEPTED += [
    # ONNX Runtime 1.19 would merge the two and forget that the padding counts.
    Row(
        "Pooling",
        "avg_exclude_pad_behind_pad",
        lambda: S.Pooling(
            S.Pad(X, mode="constant", pad_width=(0, 0, 0, 0, 1, 1, 1, 1)),
            kernel=(3, 3),
            pool_type="avg",
            count_include_pad=False,
            name="op",
        ),
        IMAGE,
        1e-5,
        1e-6,
    ),
    Row("Pooling", "float16", _pool(kernel=(3, 3), pool_type="avg", pad=(1, 1)), IMAGE, 1e-2, 1e-3, {"x": "float16"}),
    Row("Pooling", "float16_sum", _pool(kernel=(3, 3), pool_type="sum"), IMAGE, 1e-2, 1e-2, {"x": "float16"}),
    Row("Pooling", "lp_1", _pool(pool_type="lp", p_value=1, kernel=(2, 2)), IMAGE, 1e-5, 1e-6),
    Row(
        "Pooling", "lp_2", _pool(pool_type="lp", p_value=2, kernel=(3, 3), stride=(2, 2), pad=(1, 1)), IMAGE, 1e-5, 1e-6
    ),
    Row("Pooling", "lp_2_global", _pool(pool_type="lp", p_value=2, global_pool=True), IMAGE, 1e-5, 1e-6),
    Row("_contrib_AdaptiveAvgPooling2D", "one", lambda: S.contrib.AdaptiveAvgPooling2D(X), IMAGE, 1e-5, 1e-6),
    Row(
        "_contrib_AdaptiveAvgPooling2D",
        "divides",
        lambda: S.contrib.AdaptiveAvgPooling2D(X, output_size=(5, 11)),
        IMAGE,
        1e-5,
        1e-6,
    ),
    Row(
        "_contrib_AdaptiveAvgPooling2D",
        "square",
        lambda: S.contrib.AdaptiveAvgPooling2D(X, output_size=2),
        {"x": (1, 3, 4, 6)},
        1e-5,
        1e-6,
    ),
]

ACCEPTED += [
    Row("Pooling", f"{layout}_{kind}_{name}", _pool(pool_type=kind, layout=layout, **parameters), shapes, 1e-5, 1e-6)
    for kind in ("max", "avg", "sum")
    for name, layout, parameters, shapes in [
        ("stride", "NWC", {"kernel": (3,), "stride": (2,), "pad": (1,)}, {"x": (2, 10, 3)}),
        ("full_pad", "NHWC", {**FULL, "pad": (1, 1)}, {"x": (2, 10, 11, 3)}),
        ("global", "NHWC", {"global_pool": True}, {"x": (1, 5, 7, 4)}),
        ("plain", "NDHWC", {"kernel": (2, 3, 2), "stride": (1, 2, 2)}, {"x": (1, 5, 6, 7, 2)}),
    ]
]
ACCEPTED += [
    # A root of what is left of a sum near zero is steep.
    Row("Pooling", "lp_3", _pool(pool_type="lp", p_value=3, kernel=(2, 3), pad=(1, 1)), IMAGE, 1e-5, 1e-5),
    Row("Pooling", "lp_3_global", _pool(pool_type="lp", p_value=3, global_pool=True), IMAGE, 1e-5, 1e-6),
    Row("Pooling", "lp_2_nhwc", _pool(pool_type="lp", p_value=2, kernel=(2, 3), layout="NHWC"), IMAGE, 1e-5, 1e-6),
]
ACCEPTED += [
    Row(
        "_contrib_AdaptiveAvgPooling2D",
        f"to_{height}_{width}",
        _adaptive(output_size=(height, width)),
        shapes,
        1e-5,
        1e-6,
    )
    for height, width, shapes in [
        (3, 3, IMAGE),
        (7, 2, IMAGE),
        (1, 6, IMAGE),
        (6, 6, {"x": (1, 1, 6, 9)}),
        # More windows than pixels: they overlap.
        (8, 13, {"x": (1, 2, 3, 5)}),
        (2, 3, {"x": (2, 1, 1, 1)}),
    ]
]
ACCEPTED += [
    Row(
        "_contrib_AdaptiveAvgPooling2D",
        "infinite",
        _adaptive(output_size=(3, 3)),
        {"x": (1, 1, 5, 5)},
        1e-5,
        1e-6,
        # An infinite pixel must reach the windows that hold it only.
        fills={"x": lambda rng, shape: np.where(np.arange(25).reshape(shape) == 12, np.inf, 1.0)},
    ),
    Row(
        "_contrib_AdaptiveAvgPooling2D",
        "float16",
        _adaptive(output_size=(3, 3)),
        IMAGE,
        1e-2,
        1e-3,
        {"x": "float16"},
    ),
]

ACCEPTED += [
    Row("Pooling_v1", f"{kind}_{name}", _old(pool_type=kind, **parameters), IMAGE, 1e-5, 1e-6)
    for kind in ("max", "avg", "sum")
    for name, parameters in [
        ("2d", {"kernel": (3, 2), "stride": (2, 3)}),
        ("stride_pad", {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)}),
        ("full", FULL),
        ("full_pad", {**FULL, "pad": (1, 2)}),
        ("global", {"kernel": (2, 2), "pad": (1, 1), "global_pool": True}),
    ]
]

REFUSED = [
    Refusal(
        "Pooling_v1",
        "wide_pad",
        _old(kernel=(2, 2), pad=(2, 1)),
        {},
        "pad: found (2, 1), required less than the kernel",
    ),
    Refusal("Pooling", "lp_4", _pool(kernel=(2, 2), pool_type="lp", p_value=4), {}, "p_value: found 4, required 1, 2"),
    Refusal(
        "Pooling",
        "outside_nhwc",
        _pool(kernel=(1, 1), stride=(2, 2), pooling_convention="full", layout="NHWC"),
        {"x": (1, 4, 4, 2)},
        "start 4, required less than 4",
    ),
    Refusal(
        "Pooling", "wide_pad", _pool(kernel=(2, 2), pad=(2, 1)), {}, "pad: found (2, 1), required less than the kernel"
    ),
    Refusal(
        "Pooling",
        "outside",
        _pool(kernel=(1, 1), stride=(2, 2), pooling_convention="full"),
        {"x": (1, 2, 4, 4)},
        "start 4, required less than 4",
    ),
    Refusal(
        "Pooling",
        "outside_unknown",
        _pool(kernel=(1, 1), stride=(2, 2), pooling_convention="full"),
        {},
        "found an unknown shape",
    ),
    Refusal(
        "Pooling",
        "same",
        _pool(kernel=(3,), pooling_convention="same"),
        {},
        "pooling_convention: found same, required valid or full",
    ),
]


@st.composite
def _random_pooling(draw: DrawFn) -> Row:
    ndim = draw(st.integers(1, 3))

    def axes(low: int, high: int) -> SearchStrategy[tuple[int, ...]]:
        return st.just(()) | st.tuples(*[st.integers(low, high)] * ndim)

    first, last = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}[ndim]
    parameters = {
        "kernel": draw(st.tuples(*[st.integers(1, 4)] * ndim)),
        "pool_type": draw(st.sampled_from(["max", "avg", "sum", "lp"])),
        "global_pool": draw(st.integers(0, 4)) == 0,
        "pooling_convention": draw(st.sampled_from(["valid", "full"])),
        "stride": draw(axes(1, 4)),
        "pad": draw(axes(0, 3)),
        "p_value": draw(st.integers(1, 3)),
        "count_include_pad": draw(st.sampled_from([None, True, False])),
        "layout": draw(st.sampled_from([None, first, last])),
    }
    shape = draw(st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 7)] * ndim))
    if parameters["layout"] == last:
        shape = (shape[0], *shape[2:], shape[1])
    return Row("Pooling", f"{parameters}", _pool(**parameters), {"x": shape}, 1e-5, 1e-5)


@st.composite
def _random_old(draw: DrawFn) -> Row:
    def pair(low: int, high: int) -> SearchStrategy[tuple[int, ...]]:
        return st.tuples(st.integers(low, high), st.integers(low, high))

    parameters = {
        "kernel": draw(pair(1, 4)),
        "pool_type": draw(st.sampled_from(["max", "avg", "sum"])),
        "global_pool": draw(st.integers(0, 4)) == 0,
        "pooling_convention": draw(st.sampled_from(["valid", "full"])),
        "stride": draw(st.just(()) | pair(1, 4)),
        "pad": draw(st.just(()) | pair(0, 3)),
    }
    shape = draw(st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(2, 8)] * 2))
    return Row("Pooling_v1", f"{parameters}", _old(**parameters), {"x": shape}, 1e-5, 1e-5)


@st.composite
def _pooling(draw: st.DrawFn) -> Row:
    ndim = draw(st.sampled_from((1, 2, 2, 2, 3)))
    layouts = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
    parameters = optional(
        draw,
        pool_type=st.sampled_from("max avg avg sum lp".split()),
        kernel=tuples(st.integers(1, 4), ndim),
        global_pool=st.booleans(),
        pooling_convention=st.sampled_from("valid full full same".split()),
        stride=tuples(st.integers(1, 3), ndim),
        pad=tuples(st.integers(0, 2), ndim),
        count_include_pad=st.booleans(),
        layout=st.sampled_from((None, layouts[ndim])),
    )
    if parameters.get("pool_type") == "lp":
        parameters["p_value"] = draw(st.integers(1, 3))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *draw(tuples(st.integers(1, 8), ndim)))
    # The largest of only -inf is the lowest finite number on a CPU.
    special = (*FINITE, float("inf")) if parameters.get("pool_type", "max") == "max" else SMALL
    return row(draw, Call("Pooling", "x", name="op", **parameters), {"x": shape}, draw(dtypes()), special=special)


@st.composite
def _adaptive(draw: st.DrawFn) -> Row:
    sizes = st.one_of(st.integers(1, 6), tuples(st.integers(1, 9), 1), tuples(st.integers(1, 9), 2), st.just(()))
    call = Call("_contrib_AdaptiveAvgPooling2D", "x", **optional(draw, output_size=sizes))
    return row(draw, call, {"x": draw(tuples(st.integers(1, 8), 4))}, draw(dtypes()), special=SMALL)


STRATEGIES: dict[str, SearchStrategy[Row]] = {
    "Pooling": _pooling() | _random_pooling(),
    "Pooling_v1": _random_old(),
    "_contrib_AdaptiveAvgPooling2D": _adaptive(),
}
