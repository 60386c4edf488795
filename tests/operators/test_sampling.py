"""Sampling of images on a grid, and correlation of two."""

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


def _affine(height: int, width: int):
    return lambda: S.GridGenerator(X, transform_type="affine", target_shape=(height, width), name="op")


def _warp():
    return S.GridGenerator(X, transform_type="warp", name="op")


def _sampler():
    return S.BilinearSampler(X, Y, name="op")


def _transformer(height: int, width: int):
    given = {"transform_type": "affine", "sampler_type": "bilinear", "target_shape": (height, width)}
    return lambda: S.SpatialTransformer(X, Y, name="op", **given)


def _correlation(**parameters):
    return lambda: S.Correlation(X, Y, name="op", **parameters)


def _uniform(limit: float) -> Callable[..., np.ndarray]:
    return lambda rng, shape: rng.uniform(-limit, limit, shape)


def _corners(rng: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
    """Returns places on, just inside and outside of the middles of the first and the last pixel."""
    return rng.choice([-1.5, -1.01, -1.0, -0.99, 0.0, 0.99, 1.0, 1.01, 1.5], shape)


DATA = (2, 3, 5, 7)
PAIR = {"x": (2, 3, 9, 10), "y": (2, 3, 9, 10)}

ACCEPTED = [
    Row("GridGenerator", "affine", _affine(4, 5), {"x": (2, 6)}, 1e-5, 1e-6),
    Row("GridGenerator", "affine_2x2", _affine(2, 2), {"x": (1, 6)}, 1e-5, 1e-6),
    Row("GridGenerator", "warp", _warp, {"x": (2, 2, 4, 5)}, 1e-5, 1e-6),
    Row("GridGenerator", "warp_2x3", _warp, {"x": (1, 2, 2, 3)}, 1e-5, 1e-6),
    # Weights come from differences of coordinates of up to 7 pixels.
    Row("BilinearSampler", "inside", _sampler, {"x": DATA, "y": (2, 2, 4, 6)}, 1e-5, 1e-5, fills={"y": _uniform(1)}),
    Row("BilinearSampler", "outside", _sampler, {"x": DATA, "y": (2, 2, 3, 3)}, 1e-5, 1e-5, fills={"y": _uniform(3)}),
    Row("BilinearSampler", "corners", _sampler, {"x": DATA, "y": (2, 2, 9, 9)}, 1e-5, 1e-5, fills={"y": _corners}),
    Row(
        "BilinearSampler",
        "one_point",
        _sampler,
        {"x": (1, 1, 2, 2), "y": (1, 2, 1, 1)},
        1e-5,
        1e-5,
        fills={"y": _uniform(1)},
    ),
    Row("SpatialTransformer", "plain", _transformer(4, 6), {"x": DATA, "y": (2, 6)}, 1e-5, 1e-5),
    Row(
        "SpatialTransformer",
        "identity",
        _transformer(5, 7),
        {"x": DATA, "y": (2, 6)},
        1e-5,
        1e-5,
        fills={"y": lambda rng, shape: np.tile([1.0, 0, 0, 0, 1, 0], (2, 1))},
    ),
    Row(
        "SpatialTransformer",
        "small_moves",
        _transformer(3, 2),
        {"x": (1, 2, 6, 4), "y": (1, 6)},
        1e-5,
        1e-5,
        fills={"y": _uniform(0.7)},
    ),
]
ACCEPTED += [
    Row("Correlation", name, _correlation(**parameters), shapes, 1e-5, 1e-5)
    for name, parameters, shapes in [
        ("default", {}, PAIR),
        ("none", {"max_displacement": 0}, PAIR),
        ("kernel", {"kernel_size": 3, "max_displacement": 2, "pad_size": 2}, PAIR),
        ("strides", {"stride1": 2, "stride2": 2, "max_displacement": 4, "pad_size": 4}, PAIR),
        ("uneven_strides", {"kernel_size": 3, "stride1": 3, "stride2": 2, "max_displacement": 3, "pad_size": 3}, PAIR),
        ("difference", {"is_multiply": False, "max_displacement": 2, "pad_size": 1}, PAIR),
        (
            "difference_kernel",
            {"is_multiply": False, "kernel_size": 5, "pad_size": 4, "stride1": 2},
            {"x": (1, 1, 5, 7), "y": (1, 1, 5, 7)},
        ),
    ]
]

REFUSED = [
    Refusal("GridGenerator", "one_row", _affine(1, 4), {"x": (2, 6)}, "size of the grid: found (1, 4), required 2"),
    Refusal("GridGenerator", "flow_of_one_column", _warp, {"x": (2, 2, 4, 1)}, "size of the grid: found (4, 1)"),
    Refusal("GridGenerator", "flow_of_unknown", _warp, {}, "size of the grid: found an unknown shape"),
    Refusal("SpatialTransformer", "one_column", _transformer(4, 1), {}, "size of the grid: found (4, 1)"),
    Refusal(
        "BilinearSampler",
        "float16",
        _sampler,
        {"x": DATA, "y": (2, 2, 4, 6)},
        "dtype of input 0: found float16, required float32",
        {"x": "float16", "y": "float16"},
    ),
]

SIZES = st.integers(1, 6)


@st.composite
def _random_generator(draw: DrawFn) -> Row:
    batch, height, width = draw(SIZES), draw(SIZES), draw(SIZES)
    if draw(st.booleans()):
        return Row("GridGenerator", f"{height}x{width}", _affine(height, width), {"x": (batch, 6)}, 1e-5, 1e-5)
    return Row("GridGenerator", "warp", _warp, {"x": (batch, 2, height, width)}, 1e-5, 1e-5)


@st.composite
def _random_sampler(draw: DrawFn) -> Row:
    shape = draw(st.tuples(SIZES, SIZES, SIZES, SIZES))
    fills = {"y": draw(st.sampled_from([_uniform(1), _uniform(2), _corners]))}
    shapes = {"x": shape, "y": (shape[0], 2, draw(SIZES), draw(SIZES))}
    return Row("BilinearSampler", "random", _sampler, shapes, 1e-5, 1e-5, fills=fills)


@st.composite
def _random_transformer(draw: DrawFn) -> Row:
    shape, height, width = draw(st.tuples(SIZES, SIZES, SIZES, SIZES)), draw(SIZES), draw(SIZES)
    shapes = {"x": shape, "y": (shape[0], 6)}
    fills = {"y": _uniform(draw(st.sampled_from([0.5, 1.0, 2.0])))}
    build = _transformer(height, width)
    return Row("SpatialTransformer", f"{height}x{width}", build, shapes, 1e-5, 2e-5, fills=fills)


@st.composite
def _random_correlation(draw: DrawFn) -> Row:
    parameters = {
        "kernel_size": draw(st.sampled_from([1, 1, 3])),
        "max_displacement": draw(st.integers(0, 3)),
        "stride1": draw(st.integers(1, 3)),
        "stride2": draw(st.integers(1, 3)),
        "pad_size": draw(st.integers(0, 3)),
        "is_multiply": draw(st.booleans()),
    }
    shape = draw(st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(5, 10)] * 2))
    return Row("Correlation", f"{parameters}", _correlation(**parameters), {"x": shape, "y": shape}, 1e-5, 1e-5)


STRATEGIES: dict[str, SearchStrategy[Row]] = {
    "GridGenerator": _random_generator(),
    "BilinearSampler": _random_sampler(),
    "SpatialTransformer": _random_transformer(),
    "Correlation": _random_correlation(),
}
