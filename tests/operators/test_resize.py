"""Resampling of images."""

from __future__ import annotations

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

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

REFUSED = [
    Refusal(
        "UpSampling",
        "bilinear",
        lambda: S.UpSampling(X, S.var("w"), scale=2, sample_type="bilinear", num_args=2, num_filter=3),
        IMAGE,
        "found bilinear with 2 inputs",
    ),
]
