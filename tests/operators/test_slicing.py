"""Cutting, splitting, padding and repeating."""

from __future__ import annotations

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

S = mx.sym
X, Y = S.var("x"), S.var("y")

SHAPE = {"x": (4, 6, 5)}


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

REFUSED = [
    Refusal("slice_like", "unknown_shape", lambda: S.slice_like(X, Y), {}, "shape_like: found an unknown shape"),
    Refusal(
        "_split_v2",
        "unknown_shape",
        lambda: S.split_v2(X, 2),
        {},
        "size of each part, which must not be 0,: found an unknown",
    ),
    Refusal("Pad", "negative", _pad("constant", -1, 0, 0, 0), {}, "pad_width: found"),
]
