"""Broadcasting to a shape, comparisons and choices."""

from __future__ import annotations

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

S = mx.sym
X, Y = S.var("x"), S.var("y")

SHAPE = {"x": (2, 3, 1)}
SAME = {"x": (2, 3, 4), "y": (2, 3, 4)}
KINDS = "equal not_equal greater greater_equal lesser lesser_equal".split()


def _small(rng, shape):
    """Returns whole numbers, so that some are equal and some are 0."""
    return rng.randint(-1, 2, shape)


ACCEPTED = [
    Row("broadcast_to", "zero_keeps", lambda: S.broadcast_to(X, shape=(0, 3, 5)), SHAPE, 0.0, 0.0),
    Row("broadcast_axis", "one", lambda: S.broadcast_axis(X, axis=2, size=4), SHAPE, 0.0, 0.0),
    Row("broadcast_axis", "two", lambda: S.broadcast_axis(X, axis=(0, 2), size=(3, 4)), {"x": (1, 3, 1)}, 0.0, 0.0),
    Row("broadcast_like", "plain", lambda: S.broadcast_like(X, Y), {**SHAPE, "y": (2, 3, 6)}, 0.0, 0.0),
    Row(
        "broadcast_like",
        "axes",
        lambda: S.broadcast_like(X, Y, lhs_axes=(2,), rhs_axes=(0,)),
        {**SHAPE, "y": (6, 3)},
        0.0,
        0.0,
    ),
    Row("zeros_like", "plain", lambda: S.zeros_like(X) + X, SHAPE, 0.0, 0.0),
    Row("ones_like", "plain", lambda: S.ones_like(X) + X, SHAPE, 0.0, 0.0),
]
ACCEPTED += [
    Row(
        f"broadcast_{kind}",
        "axes",
        lambda k=kind: getattr(S, f"broadcast_{k}")(X, Y),
        {**SHAPE, "y": (2, 1, 4)},
        0.0,
        0.0,
        fills={"x": _small, "y": _small},
    )
    for kind in KINDS
]
ACCEPTED += [
    Row(
        f"_{kind}",
        "same",
        lambda k=kind: getattr(S._internal, f"_{k}")(X, Y),
        SAME,
        0.0,
        0.0,
        fills={"x": _small, "y": _small},
    )
    for kind in KINDS
]
ACCEPTED += [
    Row(
        f"_{kind}_scalar",
        "one",
        lambda k=kind: getattr(S._internal, f"_{k}_scalar")(X, scalar=1),
        SHAPE,
        0.0,
        0.0,
        fills={"x": _small},
    )
    for kind in KINDS
]
ACCEPTED += [
    Row("where", dtype, lambda: S.where(X, Y, Y * 2), SAME, 0.0, 0.0, {"x": dtype, "y": "float32"}, {"x": _small})
    for dtype in ("float32", "int32")
]

REFUSED = [
    Refusal(
        "where",
        "rows",
        lambda: S.where(X, Y, Y * 2),
        {"x": (2,), "y": (2, 3)},
        "shape of the condition: found (2,), required",
    ),
    Refusal("where", "unknown_shape", lambda: S.where(X, Y, Y * 2), {}, "condition: found an unknown shape"),
]
