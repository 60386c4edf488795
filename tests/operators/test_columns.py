"""im2col."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Row, mx
from tests.operators.rows import test_accepted as test_accepted

S = mx.sym
X = S.var("x")


def _im2col(**parameters):
    return lambda: S.im2col(X, name="op", **parameters)


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


@st.composite
def _random(draw: DrawFn) -> Row:
    def pair(low: int, high: int) -> SearchStrategy[tuple[int, ...]]:
        return st.tuples(st.integers(low, high), st.integers(low, high))

    parameters = {
        "kernel": draw(pair(1, 3)),
        "stride": draw(st.just(()) | pair(1, 3)),
        "dilate": draw(st.just(()) | pair(1, 2)),
        "pad": draw(st.just(()) | pair(0, 2)),
    }
    shape = draw(st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(3, 8)] * 2))
    return Row("im2col", f"{parameters}", _im2col(**parameters), {"x": shape}, 0.0, 0.0)


STRATEGIES: dict[str, SearchStrategy[Row]] = {"im2col": _random()}
