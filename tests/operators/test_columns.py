"""im2col and col2im."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Row, mx
from tests.operators.rows import test_accepted as test_accepted

S = mx.sym
X = S.var("x")


def _im2col(**parameters):
    return lambda: S.im2col(X, name="op", **parameters)


def _col2im(**parameters):
    return lambda: S.col2im(X, name="op", **parameters)


IMAGE = {"x": (2, 3, 6, 7)}

ACCEPTED = [
    Row("im2col", name, _im2col(**parameters), shapes, 0.0, 0.0)
    for name, parameters, shapes in [
        ("plain", {"kernel": (3, 2)}, IMAGE),
        ("stride_pad", {"kernel": (3, 3), "stride": (2, 1), "pad": (1, 2)}, IMAGE),
        ("dilated", {"kernel": (2, 3), "dilate": (3, 2), "stride": (1, 2)}, IMAGE),
        ("one_pixel", {"kernel": (1, 1)}, {"x": (1, 1, 1, 1)}),
    ]
]
ACCEPTED += [
    Row("im2col", "float16", _im2col(kernel=(2, 2), pad=(1, 0)), IMAGE, 0.0, 0.0, {"x": "float16"}),
    Row(
        "im2col",
        "infinite",
        _im2col(kernel=(2, 2), pad=(1, 1)),
        IMAGE,
        0.0,
        0.0,
        fills={"x": lambda rng, shape: rng.choice([np.inf, -np.inf, np.nan, 1.0], shape)},
    ),
]


ACCEPTED += [
    Row("col2im", name, _col2im(**parameters), shapes, 1e-5, 1e-6)
    for name, parameters, shapes in [
        ("plain", {"output_size": (6, 7), "kernel": (3, 2)}, {"x": (2, 18, 24)}),
        (
            "stride_pad",
            {"output_size": (6, 7), "kernel": (3, 3), "stride": (2, 1), "pad": (1, 2)},
            {"x": (2, 9, 27)},
        ),
        # The stride leaves pixels that no window covers.
        ("gaps", {"output_size": (7, 8), "kernel": (2, 1), "stride": (3, 3)}, {"x": (1, 4, 6)}),
        ("dilated", {"output_size": (6, 7), "kernel": (2, 3), "dilate": (3, 2)}, {"x": (1, 6, 9)}),
        ("one_pixel", {"output_size": (1, 1), "kernel": (1, 1)}, {"x": (1, 1, 1)}),
    ]
]
ACCEPTED += [
    Row(
        "col2im",
        "infinite",
        _col2im(output_size=(4, 4), kernel=(2, 2)),
        {"x": (1, 4, 9)},
        1e-5,
        1e-6,
        fills={"x": lambda rng, shape: np.where(rng.uniform(size=shape) < 0.1, np.inf, 1.0)},
    ),
    Row(
        "col2im",
        "float16",
        _col2im(output_size=(4, 4), kernel=(2, 2)),
        {"x": (1, 4, 9)},
        1e-2,
        1e-2,
        {"x": "float16"},
    ),
]


@st.composite
def _random(draw: DrawFn, operator: str) -> Row:
    def pair(low: int, high: int) -> SearchStrategy[tuple[int, ...]]:
        return st.tuples(st.integers(low, high), st.integers(low, high))

    kernel, stride, dilate, pad = draw(pair(1, 3)), draw(pair(1, 3)), draw(pair(1, 2)), draw(pair(0, 2))
    parameters = {"kernel": kernel, "stride": stride, "dilate": dilate, "pad": pad}
    # The size that the kernel reaches over, and a few pixels more.
    sizes = [max(d * (k - 1) + 1 - 2 * p, 1) + draw(st.integers(0, 5)) for k, d, p in zip(kernel, dilate, pad)]
    batch, channels = draw(pair(1, 3))
    if operator == "im2col":
        shapes = {"x": (batch, channels, *sizes)}
        return Row(operator, f"{parameters}", _im2col(**parameters), shapes, 0.0, 0.0)
    windows = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, d, p in zip(sizes, kernel, stride, dilate, pad)
    ]
    shapes = {"x": (batch, channels * prod(kernel), prod(windows))}
    return Row(operator, f"{parameters}", _col2im(output_size=tuple(sizes), **parameters), shapes, 1e-5, 1e-5)


STRATEGIES: dict[str, SearchStrategy[Row]] = {name: _random(name) for name in ("im2col", "col2im")}
