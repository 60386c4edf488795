"""Deformable convolution, plain and modulated."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

S = mx.sym
X, Y, Z = S.var("x"), S.var("y"), S.var("z")
PLAIN, MODULATED = "_contrib_DeformableConvolution", "_contrib_ModulatedDeformableConvolution"


def _build(operator: str, **parameters):
    given = {"kernel": (3, 3), "num_filter": 4, **parameters}
    inputs = (X, Y) if operator == PLAIN else (X, Y, Z)
    return lambda: getattr(S.contrib, operator[len("_contrib_") :])(*inputs, name="op", **given)


def _shapes(operator: str, data: tuple[int, ...], **parameters) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of data, offsets and, where it is modulated, factors."""
    kernel = parameters.get("kernel", (3, 3))
    stride, dilate, pad = (parameters.get(n) or (v, v) for n, v in (("stride", 1), ("dilate", 1), ("pad", 0)))
    counts = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, d, p in zip(data[2:], kernel, stride, dilate, pad)
    ]
    taps = parameters.get("num_deformable_group", 1) * prod(kernel)
    found = {"x": data, "y": (data[0], 2 * taps, *counts)}
    return found if operator == PLAIN else {**found, "z": (data[0], taps, *counts)}


def _offsets(scale: float, step: float = 0.0) -> Callable[..., np.ndarray]:
    def fill(rng: np.random.RandomState, shape: tuple[int, ...]) -> np.ndarray:
        value = rng.standard_normal(shape) * scale
        return np.round(value / step) * step if step else value

    return fill


CASES = [
    ("plain", {}, (2, 3, 7, 8), _offsets(1.0)),
    ("no_bias", {"no_bias": True}, (1, 2, 5, 6), _offsets(1.0)),
    ("stride_pad", {"stride": (2, 1), "pad": (1, 2)}, (2, 3, 7, 8), _offsets(1.0)),
    ("dilated", {"dilate": (2, 3), "pad": (2, 3)}, (1, 3, 7, 8), _offsets(1.0)),
    ("groups", {"num_group": 2}, (2, 4, 6, 5), _offsets(1.0)),
    ("deformable_groups", {"num_deformable_group": 2, "kernel": (2, 3)}, (2, 4, 6, 5), _offsets(1.0)),
    ("both_groups", {"num_deformable_group": 4, "num_group": 2, "pad": (1, 1)}, (1, 4, 5, 5), _offsets(2.0)),
    # Whole and half pixels meet every border case.
    ("whole_pixels", {"pad": (1, 1)}, (1, 2, 5, 6), _offsets(1.5, 0.5)),
    ("far_outside", {"pad": (1, 1)}, (1, 2, 5, 6), _offsets(30.0)),
    ("one_pixel", {"kernel": (1, 1)}, (1, 1, 1, 1), _offsets(0.5, 0.25)),
]
ACCEPTED = [
    Row(
        operator,
        name,
        _build(operator, **parameters),
        _shapes(operator, data, **parameters),
        1e-5,
        # A sum of up to 36 products of samples.
        2e-5,
        fills={"y": offsets},
    )
    for operator in (PLAIN, MODULATED)
    for name, parameters, data, offsets in CASES
]
ACCEPTED += [
    Row(
        operator,
        "not_a_number",
        _build(operator),
        _shapes(operator, (1, 2, 5, 6)),
        1e-5,
        2e-5,
        fills={"y": lambda rng, shape: np.where(rng.uniform(size=shape) < 0.2, np.nan, 0.25)},
    )
    for operator in (PLAIN, MODULATED)
]
ACCEPTED += [
    Row(
        MODULATED,
        "steps",
        _build(MODULATED, im2col_step=2),
        _shapes(MODULATED, (4, 2, 5, 6)),
        1e-5,
        2e-5,
        fills={"y": _offsets(1.0)},
    ),
]

REFUSED = [
    Refusal(
        PLAIN,
        "computed_weight",
        lambda: S.contrib.DeformableConvolution(X, Y, Z, kernel=(3, 3), num_filter=4, no_bias=True, name="op"),
        {},
        "weight: found a value that changes",
    ),
    Refusal(
        MODULATED,
        "computed_bias",
        lambda: S.contrib.ModulatedDeformableConvolution(X, Y, Z, bias=X, kernel=(3, 3), num_filter=4, name="op"),
        {},
        "bias: found a value that changes",
    ),
    Refusal(
        PLAIN,
        "float16",
        _build(PLAIN),
        _shapes(PLAIN, (1, 2, 5, 6)),
        "dtype of input 0: found float16, required float32",
        {"x": "float16", "y": "float16"},
    ),
]


@st.composite
def _random(draw: DrawFn, operator: str) -> Row:
    def pair(low: int, high: int) -> SearchStrategy[tuple[int, ...]]:
        return st.tuples(st.integers(low, high), st.integers(low, high))

    group, offsets = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 2]))
    parameters = {
        "kernel": draw(pair(1, 3)),
        "stride": draw(pair(1, 2)),
        "dilate": draw(pair(1, 2)),
        "pad": draw(pair(0, 2)),
        "num_group": group,
        "num_deformable_group": offsets,
        # MXNet wants a multiple of both.
        "num_filter": 2 * draw(st.integers(1, 2)),
        "no_bias": draw(st.booleans()),
    }
    data = (draw(st.integers(1, 2)), 2 * draw(st.integers(1, 2)), *draw(pair(5, 7)))
    fills = {"y": _offsets(draw(st.sampled_from([0.3, 1.0, 5.0])), draw(st.sampled_from([0.0, 0.5])))}
    shapes = _shapes(operator, data, **parameters)
    return Row(operator, f"{parameters}", _build(operator, **parameters), shapes, 1e-5, 3e-5, fills=fills)


STRATEGIES: dict[str, SearchStrategy[Row]] = {name: _random(name) for name in (PLAIN, MODULATED)}
