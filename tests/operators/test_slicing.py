"""Cutting, splitting, padding and repeating."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, axes, axis_lists, dtypes, optional, row, shapes, tuples

S = mx.sym
X, Y = S.var("x"), S.var("y")

SHAPE = {"x": (4, 6, 5)}
SIZES = {**SHAPE, "y": (2, 6, 3)}


def _slice(begin, end, step=()):
    return lambda: S.slice(X, begin=begin, end=end, step=step)


def _pad(mode, *widths, **parameters):
    return lambda: S.Pad(X, mode=mode, pad_width=(0, 0, 0, 0, *widths), **parameters)


ACCEPTED = [
    Row("slice", name, build, SHAPE, 0.0, 0.0)
    for name, build in [
        ("first_axes", _slice((1, 2), (3, 6))),
        ("none", _slice((None, 2), (2, None))),
        ("negative", _slice((-3, -4), (-1, -1))),
        ("step", _slice((0, 1, 0), (4, 6, 5), (1, 2, 3))),
        ("backwards", _slice((None, 4), (None, 1), (-1, -2))),
        ("backwards_to_first", _slice((3,), (None,), (-2,))),
        ("beyond", _slice((0,), (99,))),
    ]
]
ACCEPTED += [
    Row("slice_axis", "plain", lambda: S.slice_axis(X, axis=1, begin=1, end=4), SHAPE, 0.0, 0.0),
    Row("slice_axis", "to_end", lambda: S.slice_axis(X, axis=-1, begin=-3, end=None), SHAPE, 0.0, 0.0),
    Row("slice_axis", "negative_end", lambda: S.slice_axis(X, axis=0, begin=0, end=-1), SHAPE, 0.0, 0.0),
    Row("slice_like", "all", lambda: S.slice_like(X, Y), {**SHAPE, "y": (2, 6, 3)}, 0.0, 0.0),
    Row("slice_like", "axes", lambda: S.slice_like(X, Y, axes=(0, -1)), {**SHAPE, "y": (2, 3, 3)}, 0.0, 0.0),
    Row("slice_like", "computed", lambda: S.slice_like(X, S.exp(Y)), {**SHAPE, "y": (2, 6, 3)}, 0.0, 0.0),
    Row("SliceChannel", "default", lambda: S.SliceChannel(X, num_outputs=3), SHAPE, 0.0, 0.0),
    Row("SliceChannel", "axis", lambda: S.SliceChannel(X, num_outputs=2, axis=-3), SHAPE, 0.0, 0.0),
    Row(
        "SliceChannel", "squeeze", lambda: S.SliceChannel(X, num_outputs=5, axis=2, squeeze_axis=True), SHAPE, 0.0, 0.0
    ),
    Row("SliceChannel", "one", lambda: S.SliceChannel(X, num_outputs=1), SHAPE, 0.0, 0.0),
    Row("SliceChannel", "one_is_used", lambda: S.SliceChannel(X, num_outputs=3)[1] * 2, SHAPE, 0.0, 0.0),
    Row("_split_v2", "indices", lambda: S.split_v2(X, (2, 3), axis=1), SHAPE, 0.0, 0.0),
    Row("_split_v2", "sections", lambda: S.split_v2(X, 2, axis=0), SHAPE, 0.0, 0.0),
    Row("_split_v2", "squeeze", lambda: S.split_v2(X, 5, axis=-1, squeeze_axis=True), SHAPE, 0.0, 0.0),
    Row(
        "Crop",
        "like",
        lambda: S.Crop(X, Y, num_args=2, offset=(1, 2)),
        {"x": (1, 2, 6, 7), "y": (1, 1, 4, 3)},
        0.0,
        0.0,
    ),
    Row("Crop", "center", lambda: S.Crop(X, num_args=1, h_w=(3, 4), center_crop=True), {"x": (1, 2, 6, 7)}, 0.0, 0.0),
    Row("reverse", "one", lambda: S.reverse(X, axis=1), SHAPE, 0.0, 0.0),
    Row("reverse", "two", lambda: S.reverse(X, axis=(0, 2)), SHAPE, 0.0, 0.0),
    Row("repeat", "flat", lambda: S.repeat(X, repeats=2), SHAPE, 0.0, 0.0),
    Row("repeat", "axis", lambda: S.repeat(X, repeats=3, axis=1), SHAPE, 0.0, 0.0),
    Row("repeat", "last_axis", lambda: S.repeat(X, repeats=2, axis=-1), SHAPE, 0.0, 0.0),
    Row("Pad", "constant", _pad("constant", 1, 2, 3, 0, constant_value=1.5), {"x": (1, 2, 4, 5)}, 0.0, 0.0),
    Row("Pad", "edge", _pad("edge", 1, 2, 3, 0), {"x": (1, 2, 4, 5)}, 0.0, 0.0),
    Row("Pad", "reflect", _pad("reflect", 1, 2, 3, 0), {"x": (1, 2, 4, 5)}, 0.0, 0.0),
    Row("Pad", "5d", _pad("constant", 0, 1, 1, 2, 2, 0), {"x": (1, 2, 3, 4, 5)}, 0.0, 0.0),
    Row("tile", "same_length", lambda: S.tile(X, reps=(1, 2, 3)), SHAPE, 0.0, 0.0),
    Row("tile", "longer", lambda: S.tile(X, reps=(2, 1, 1, 2)), SHAPE, 0.0, 0.0),
    Row("tile", "shorter", lambda: S.tile(X, reps=(2,)), SHAPE, 0.0, 0.0),
]
ACCEPTED += [
    Row(
        call.operator,
        dtype,
        call,
        {**SHAPE, "y": (2, 6, 3)} if "y" in call.inputs else SHAPE,
        0.0,
        0.0,
        {"x": dtype, "y": dtype},
    )
    for dtype in ("int32", "int64", "bool")
    for call in (
        Call("slice", "x", begin=(1, None), end=(3, None), step=(1, -2)),
        Call("slice_axis", "x", axis=1, begin=1, end=4),
        Call("slice_like", "x", "y"),
        Call("SliceChannel", "x", num_outputs=3),
        Call("_split_v2", "x", indices=(0, 2, 3), axis=1),
        Call("reverse", "x", axis=(0, 2)),
        Call("repeat", "x", repeats=2, axis=1),
        Call("tile", "x", reps=(1, 2, 3)),
    )
    # Of these MXNet's CPU has bool.
    if dtype != "bool" or call.operator in ("slice", "repeat", "tile")
]

REFUSED = [
    Refusal("slice_like", "unknown_shape", lambda: S.slice_like(X, Y), {}, "shape_like: found an unknown shape"),
    Refusal(
        "_split_v2",
        "unknown_shape",
        lambda: S.split_v2(X, 2),
        {},
        "size of each part, which must not be 0,: found an unknown",
    ),
    Refusal(
        "Pad",
        "reflect_all",
        _pad("reflect", 0, 0, 0, 0, 0, 1),
        {"x": (1, 2, 3, 4, 1)},
        "mode reflect: found (0, 0, 0, 0, 0, 0, 0, 0, 0, 1), required less than the sizes, (1, 2, 3, 4, 1)",
    ),
    Refusal("Pad", "reflect_unknown", _pad("reflect", 0, 1, 0, 0), {}, "mode reflect: found an unknown shape"),
    Refusal("Pad", "negative", _pad("constant", -1, 0, 0, 0), {}, "pad_width: found"),
]


BOUNDS = st.one_of(st.none(), st.integers(-6, 6))


@st.composite
def _slice_row(draw: st.DrawFn) -> Row:
    shape = draw(shapes(max_side=6))
    length = draw(st.integers(1, len(shape)))
    parameters = {"begin": draw(tuples(BOUNDS, length)), "end": draw(tuples(BOUNDS, length))}
    parameters |= optional(draw, step=tuples(st.sampled_from((1, 1, 2, 3, -1, -2, None)), length))
    return row(draw, Call("slice", "x", **parameters), {"x": shape}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _slice_axis_row(draw: st.DrawFn) -> Row:
    shape = draw(shapes(max_side=6))
    call = Call("slice_axis", "x", axis=draw(axes(len(shape))), begin=draw(st.integers(-6, 5)), end=draw(BOUNDS))
    return row(draw, call, {"x": shape}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _slice_like_row(draw: st.DrawFn) -> Row:
    shape = draw(shapes(max_side=6))
    like = tuple(draw(st.integers(1, size)) for size in shape)
    call = Call("slice_like", "x", "y", **optional(draw, axes=axis_lists(len(shape))))
    return row(draw, call, {"x": shape, "y": like}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _split_row(draw: st.DrawFn, operator: str) -> Row:
    shape = draw(shapes())
    axis = draw(axes(len(shape)))
    parts = draw(st.integers(1, 3))
    squeeze = draw(st.booleans())
    size = parts * (1 if squeeze else draw(st.integers(1, 3)))
    at = axis % len(shape)
    shape = (*shape[:at], size, *shape[at + 1 :])
    parameters = {"axis": axis, "squeeze_axis": squeeze}
    if operator == "SliceChannel":
        parameters["num_outputs"] = parts
    elif draw(st.booleans()):
        parameters |= {"sections": parts, "indices": ()}
    else:
        cuts = draw(st.lists(st.integers(1, max(size - 1, 1)), max_size=2, unique=True))
        parameters |= {"sections": 0, "indices": (0, *sorted(cuts))}
    return row(draw, Call(operator, "x", **parameters), {"x": shape}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _crop_row(draw: st.DrawFn) -> Row:
    shape = draw(tuples(st.integers(1, 7), 4))
    size = tuple(draw(st.integers(1, n)) for n in shape[2:])
    parameters = optional(draw, center_crop=st.booleans(), offset=tuples(st.integers(0, 2), 2))
    if draw(st.booleans()):
        inputs = {"x": shape, "y": (1, 1, *size)}
        call = Call("Crop", *inputs, num_args=2, **parameters)
    else:
        inputs = {"x": shape}
        call = Call("Crop", *inputs, num_args=1, h_w=size, **parameters)
    return row(draw, call, inputs, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _reverse_row(draw: st.DrawFn) -> Row:
    shape = draw(shapes())
    call = Call("reverse", "x", axis=draw(st.one_of(axis_lists(len(shape), min_size=1), axes(len(shape)))))
    return row(draw, call, {"x": shape}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _pad_row(draw: st.DrawFn) -> Row:
    shape = draw(shapes(min_dims=4, max_dims=5))
    mode = draw(st.sampled_from("constant edge reflect".split()))
    # Where a mirrored part is longer than the axis, MXNet reads outside its memory.
    widths = [draw(st.integers(0, min(3, size - (mode == "reflect")))) for size in shape[2:] for _ in range(2)]
    parameters = optional(draw, constant_value=st.sampled_from((0.0, 1.5, -2.0, 1e30)))
    call = Call("Pad", "x", mode=mode, pad_width=(0, 0, 0, 0, *widths), **parameters)
    return row(draw, call, {"x": shape}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _tile_row(draw: st.DrawFn) -> Row:
    # MXNet leaves the result unwritten where it repeats along many axes.
    reps = draw(st.lists(st.integers(1, 3), max_size=4).filter(lambda r: sum(n > 1 for n in r) <= 2))
    return row(draw, Call("tile", "x", reps=tuple(reps)), {"x": draw(shapes())}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _repeat_row(draw: st.DrawFn) -> Row:
    shape = draw(shapes())
    parameters = optional(draw, axis=st.one_of(axes(len(shape)), st.none()))
    call = Call("repeat", "x", repeats=draw(st.integers(1, 3)), **parameters)
    return row(draw, call, {"x": shape}, draw(dtypes()), rtol=0, atol=0)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    "slice": _slice_row(),
    "slice_axis": _slice_axis_row(),
    "slice_like": _slice_like_row(),
    "SliceChannel": _split_row("SliceChannel"),
    "_split_v2": _split_row("_split_v2"),
    "Crop": _crop_row(),
    "reverse": _reverse_row(),
    "Pad": _pad_row(),
    "tile": _tile_row(),
    "repeat": _repeat_row(),
}
