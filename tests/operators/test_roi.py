"""Pooling of regions of interest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

S = mx.sym
X, Y = S.var("x"), S.var("y")


def _align(**parameters):
    given = {"pooled_size": (3, 2), "spatial_scale": 0.5, "sample_ratio": 2, **parameters}
    return lambda: S.contrib.ROIAlign(X, Y, name="op", **given)


def _pool(**parameters):
    return lambda: S.ROIPooling(X, Y, name="op", **{"pooled_size": (3, 2), "spatial_scale": 0.5, **parameters})


def _rois(images: int, extent: float, *, ordered: bool = True, step: float = 0.0) -> Callable[..., np.ndarray]:
    """Fills regions with images 0, 1, ..., and corners up to `extent`, in multiples of `step` where that is given."""

    def fill(rng: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
        corners = rng.uniform(-0.2 * extent, extent, (shape[0], 2, 2))
        if ordered:
            corners.sort(axis=1)
        if step:
            corners = np.round(corners / step) * step
        return np.concatenate([np.arange(shape[0])[:, None] % images, corners.reshape(-1, 4)], axis=1)

    return fill


def _given(*rois: tuple[float, ...]) -> Callable[..., np.ndarray]:
    return lambda rng, shape: np.array(rois)


SHAPES = {"x": (2, 4, 9, 11), "y": (7, 5)}
PLAIN = {"y": _rois(2, 22)}
ONE = {"x": (1, 2, 5, 6), "y": (1, 5)}

ACCEPTED = [
    Row("_contrib_ROIAlign", name, _align(**parameters), shapes, 1e-5, 1e-5, fills=fills)
    for name, parameters, shapes, fills in [
        ("plain", {}, SHAPES, PLAIN),
        ("aligned", {"aligned": True}, SHAPES, PLAIN),
        ("one_sample", {"sample_ratio": 1, "pooled_size": (1, 1)}, SHAPES, PLAIN),
        ("many_samples", {"sample_ratio": 4, "pooled_size": (2, 3), "spatial_scale": 1.0}, SHAPES, PLAIN),
        ("malformed", {}, SHAPES, {"y": _rois(2, 22, ordered=False)}),
        ("outside", {"spatial_scale": 1.0}, SHAPES, {"y": _rois(2, 60)}),
        ("on_the_border", {"spatial_scale": 1.0}, ONE, {"y": _given((0, -2.5, -2.5, 6.0, 5.0))}),
        ("position_sensitive", {"position_sensitive": True}, {"x": (2, 12, 9, 11), "y": (5, 5)}, PLAIN),
        (
            "position_sensitive_aligned",
            {"position_sensitive": True, "aligned": True, "pooled_size": (2, 2), "sample_ratio": 3},
            {"x": (1, 8, 7, 5), "y": (3, 5)},
            {"y": _rois(1, 14)},
        ),
        ("one_pixel", {"spatial_scale": 1.0}, {"x": (1, 1, 1, 1), "y": (2, 5)}, {"y": _rois(1, 1)}),
    ]
]
ACCEPTED += [
    Row("ROIPooling", name, _pool(**parameters), shapes, 0.0, 0.0, fills=fills)
    for name, parameters, shapes, fills in [
        ("plain", {}, SHAPES, PLAIN),
        ("full_scale", {"spatial_scale": 1.0, "pooled_size": (7, 7)}, SHAPES, PLAIN),
        ("one_bin", {"pooled_size": (1, 1)}, SHAPES, PLAIN),
        ("malformed", {}, SHAPES, {"y": _rois(2, 22, ordered=False)}),
        ("outside", {}, SHAPES, {"y": _rois(2, 60)}),
        # Corners at half a pixel show how they are rounded.
        ("halves", {"spatial_scale": 1.0}, SHAPES, {"y": _rois(2, 11, step=0.5)}),
        ("just_below_half", {"spatial_scale": 1.0}, ONE, {"y": _given((0, 0.49999997, 1.4999999, 3.5, 2.4999998))}),
        ("missing_image", {}, {**SHAPES, "y": (6, 5)}, {"y": _rois(4, 22)}),
        ("negative_image", {}, ONE, {"y": _given((-1, 0, 0, 3, 3))}),
        ("fraction_of_an_image", {}, ONE, {"y": _given((-0.5, 0, 0, 3, 3))}),
        (
            "large_image",
            {"pooled_size": (2, 2), "spatial_scale": 0.3},
            {"x": (1, 1, 33, 40), "y": (9, 5)},
            {"y": _rois(1, 120)},
        ),
        ("one_pixel", {"spatial_scale": 1.0}, {"x": (1, 1, 1, 1), "y": (2, 5)}, {"y": _rois(1, 1)}),
        (
            "not_a_number",
            {"pooled_size": (2, 2)},
            {"x": (1, 1, 4, 4), "y": (1, 5)},
            {
                "x": lambda rng, shape: np.where(np.arange(16) % 3, np.nan, -np.arange(16.0)).reshape(shape),
                "y": _given((0, 0, 0, 7, 7)),
            },
        ),
    ]
]

REFUSED = [
    Refusal(
        "_contrib_ROIAlign",
        "adaptive",
        _align(sample_ratio=-1),
        SHAPES,
        "sample_ratio: found -1, required a positive number",
    ),
    Refusal(
        "_contrib_ROIAlign",
        "float16",
        _align(),
        SHAPES,
        "dtype of input 0: found float16, required float32",
        {"x": "float16", "y": "float16"},
    ),
    Refusal(
        "ROIPooling", "unknown_shape", _pool(), {}, "size of the table of maxima: found an unknown shape, required"
    ),
    Refusal(
        "ROIPooling",
        "huge",
        _pool(),
        {"x": (8, 512, 128, 128), "y": (1, 5)},
        "size of the table of maxima: found 4294967296, required at most",
    ),
]


@st.composite
def _random(draw: DrawFn, operator: str) -> Row:
    bins = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    parameters = {"pooled_size": bins, "spatial_scale": draw(st.sampled_from([0.1, 0.25, 0.5, 0.7, 1.0]))}
    batch, channels, height, width, count = draw(st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 12)] * 3))
    extent = 1.3 * max(height, width) / parameters["spatial_scale"]
    ordered = draw(st.booleans())
    if operator == "_contrib_ROIAlign":
        parameters["sample_ratio"] = draw(st.sampled_from([-1, 0, 1, 2, 2, 3, 4]))
        parameters["position_sensitive"] = draw(st.booleans())
        # With both, MXNet ends the process at a malformed region.
        parameters["aligned"] = ordered and draw(st.booleans())
        channels *= bins[0] * bins[1] if parameters["position_sensitive"] else 1
    build = _align(**parameters) if operator == "_contrib_ROIAlign" else _pool(**parameters)
    step = draw(st.sampled_from([0.0, 0.5, 1.0])) if operator == "ROIPooling" else 0.0
    fills = {"y": _rois(batch, extent, ordered=ordered, step=step)}
    shapes = {"x": (batch, channels, height, width), "y": (count, 5)}
    return Row(operator, f"{parameters}", build, shapes, 1e-5, 1e-5, fills=fills)


STRATEGIES: dict[str, SearchStrategy[Row]] = {name: _random(name) for name in ("_contrib_ROIAlign", "ROIPooling")}
