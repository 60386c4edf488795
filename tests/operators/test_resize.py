"""Resampling of images."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.strategies import SMALL, Call, dtypes, optional, row, tuples

S = mx.sym
X, Y = S.var("x"), S.var("y")

IMAGE = {"x": (2, 3, 5, 7)}


def _resize(*inputs, **parameters):
    return lambda: S.contrib.BilinearResize2D(*(inputs or (X,)), **parameters)


ACCEPTED = [
    Row("UpSampling", "nearest", lambda: S.UpSampling(X, scale=3, sample_type="nearest", num_args=1), IMAGE, 0.0, 0.0),
    Row("depth_to_space", "plain", lambda: S.depth_to_space(X, block_size=2), {"x": (2, 8, 3, 5)}, 0.0, 0.0),
    Row("space_to_depth", "plain", lambda: S.space_to_depth(X, block_size=2), {"x": (2, 3, 4, 6)}, 0.0, 0.0),
]
ACCEPTED += [
    Row("_contrib_BilinearResize2D", name, _resize(**parameters), IMAGE, 1e-5, 1e-5)
    for name, parameters in [
        ("up", {"height": 11, "width": 13}),
        ("down", {"height": 3, "width": 4}),
        ("up_half_pixel", {"height": 11, "width": 13, "align_corners": False}),
        ("down_half_pixel", {"height": 3, "width": 4, "align_corners": False}),
        ("one", {"height": 1, "width": 4}),
        ("one_half_pixel", {"height": 1, "width": 4, "align_corners": False}),
        ("first_pixel", {"height": 1, "width": 1, "align_corners": False}),
        ("same", {"height": 5, "width": 7}),
        ("scale", {"scale_height": 2.3, "scale_width": 1.7}),
        ("scale_half_pixel", {"scale_height": 2.3, "scale_width": 1.7, "align_corners": False}),
        ("even", {"mode": "to_even_up"}),
        ("odd_scale", {"mode": "odd_scale", "scale_height": 2.0, "scale_width": 2.0}),
    ]
]
ACCEPTED += [
    Row("_contrib_BilinearResize2D", "like", _resize(X, Y, mode="like"), {**IMAGE, "y": (1, 1, 8, 9)}, 1e-5, 1e-5),
]

ACCEPTED += [
    Row("_contrib_BilinearResize2D", name, _resize(**parameters), IMAGE, 1e-5, 1e-5)
    for name, parameters in [
        ("even_down", {"mode": "to_even_down"}),
        ("odd_up", {"mode": "to_odd_up", "align_corners": False}),
        ("odd_down", {"mode": "to_odd_down"}),
    ]
]
ACCEPTED += [
    Row("_contrib_BilinearResize2D", "float16", _resize(height=9, width=4), IMAGE, 1e-2, 1e-3, {"x": "float16"}),
    Row("_contrib_BilinearResize2D", "from_one", _resize(height=3, width=2), {"x": (1, 1, 1, 1)}, 1e-5, 1e-5),
]


def _upsample(*inputs, **parameters):
    return lambda: S.UpSampling(*inputs, num_args=len(inputs), name="op", **parameters)


TWO = {"x": (2, 3, 4, 6), "y": (2, 5, 2, 3)}
ACCEPTED += [
    Row("UpSampling", "concat", _upsample(X, Y, scale=2, sample_type="nearest"), TWO, 0.0, 0.0),
    Row("UpSampling", "float16", _upsample(X, scale=2, sample_type="nearest"), IMAGE, 0.0, 0.0, {"x": "float16"}),
    Row(
        "UpSampling",
        "sum",
        _upsample(X, Y, X, scale=1, sample_type="nearest", multi_input_mode="sum"),
        {"x": (1, 3, 4, 6), "y": (1, 3, 2, 3)},
        1e-6,
        1e-6,
    ),
]
ACCEPTED += [
    Row(
        "UpSampling",
        f"bilinear_{scale}",
        _upsample(X, S.var("w"), scale=scale, sample_type="bilinear", num_filter=3),
        IMAGE,
        1e-5,
        1e-5,
    )
    for scale in (1, 2, 3, 4)
]


# Refused by the rule for all operators: half of one pixel is none.
@st.composite
def _random_resize(draw: DrawFn) -> Row:
    modes = ["size", "like", "to_even_down", "to_even_up", "to_odd_down", "to_odd_up", "odd_scale", "scale"]
    mode = draw(st.sampled_from(modes))
    # The mode "size" takes a scale instead, too.
    parameters = {"align_corners": draw(st.booleans()), "mode": "size" if mode == "scale" else mode}
    shapes = {"x": draw(st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 9)] * 2))}
    if mode == "size":
        parameters.update(height=draw(st.integers(1, 12)), width=draw(st.integers(1, 12)))
    elif "scale" in mode:
        parameters.update(scale_height=draw(st.floats(0.3, 3.0)), scale_width=draw(st.floats(0.3, 3.0)))
    elif mode == "like":
        shapes["y"] = draw(st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 9)] * 2))
    inputs = (X, Y) if mode == "like" else (X,)
    return Row("_contrib_BilinearResize2D", f"{parameters}", _resize(*inputs, **parameters), shapes, 1e-5, 1e-5)


@st.composite
def _random_upsampling(draw: DrawFn) -> Row:
    scale, (batch, channels, height, width) = draw(st.integers(1, 4)), draw(st.tuples(*[st.integers(1, 4)] * 4))
    if draw(st.booleans()):
        build = _upsample(X, S.var("w"), scale=scale, sample_type="bilinear", num_filter=channels)
        return Row("UpSampling", f"bilinear_{scale}", build, {"x": (batch, channels, height, width)}, 1e-5, 1e-5)
    mode, ratio = draw(st.sampled_from(["concat", "sum"])), draw(st.integers(1, 3))
    build = _upsample(X, Y, scale=scale, sample_type="nearest", multi_input_mode=mode)
    others = channels if mode == "sum" else draw(st.integers(1, 4))
    shapes = {"x": (batch, channels, height * ratio, width * ratio), "y": (batch, others, height, width)}
    return Row("UpSampling", f"{mode}_{scale}_{ratio}", build, shapes, 1e-6, 1e-6)


IMAGES = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))


@st.composite
def _upsampling(draw: st.DrawFn) -> Row:
    shape, scale = draw(IMAGES), draw(st.integers(1, 4))
    parameters = optional(draw, multi_input_mode=st.sampled_from(("concat", "sum")))
    if draw(st.integers(0, 3)) == 3:
        call = Call(
            "UpSampling", "x", "w", scale=scale, sample_type="bilinear", num_args=2, num_filter=shape[1], **parameters
        )
    else:
        names = "xy"[: draw(st.sampled_from((1, 1, 1, 2)))]
        call = Call("UpSampling", *names, scale=scale, sample_type="nearest", num_args=len(names), **parameters)
    inputs = {name: shape for name in call.inputs if name != "w"}
    return row(draw, call, inputs, draw(dtypes()), atol=1e-5)


@st.composite
def _bilinear_resize(draw: st.DrawFn) -> Row:
    modes = "size odd_scale like to_even_down to_even_up to_odd_down to_odd_up".split()
    mode = draw(st.sampled_from((None, None, "size", *modes)))
    parameters = optional(draw, align_corners=st.booleans())
    if mode is not None:
        parameters["mode"] = mode
    scales = st.sampled_from((0.5, 1.0, 1.7, 2.0, 2.3, 3.0))
    if mode == "odd_scale" or (mode != "like" and draw(st.booleans())):
        parameters |= {"scale_height": draw(scales), "scale_width": draw(scales)}
    elif mode in (None, "size"):
        parameters |= {"height": draw(st.integers(1, 12)), "width": draw(st.integers(1, 12))}
    names = ("x", "y") if mode == "like" else ("x",)
    call = Call("_contrib_BilinearResize2D", *names, **parameters)
    inputs = {name: draw(IMAGES) for name in names}
    # Where a weight is 0, the infinity or NaN beside it counts or does not.
    return row(draw, call, inputs, draw(dtypes()), atol=1e-5, special=SMALL)


@st.composite
def _block(draw: st.DrawFn, operator: str) -> Row:
    size = draw(st.integers(1, 3))
    batch, channels, height, width = draw(tuples(st.integers(1, 3), 4))
    to_space = operator == "depth_to_space"
    shape = (batch, channels * size**2, height, width) if to_space else (batch, channels, height * size, width * size)
    return row(draw, Call(operator, "x", block_size=size), {"x": shape}, draw(dtypes()), rtol=0, atol=0)


STRATEGIES: dict[str, SearchStrategy[Row]] = {
    "UpSampling": _upsampling() | _random_upsampling(),
    "_contrib_BilinearResize2D": _bilinear_resize() | _random_resize(),
    "depth_to_space": _block("depth_to_space"),
    "space_to_depth": _block("space_to_depth"),
}
