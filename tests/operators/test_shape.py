"""Shapes, axes, identities and casts."""

from __future__ import annotations

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused

S = mx.sym
X, Y = S.var("x"), S.var("y")

SHAPE = {"x": (2, 3, 4, 5)}
PAIR = {"x": (2, 3, 4), "y": (2, 5, 4)}


def _reshape(*shape, **parameters):
    return lambda: S.Reshape(X, shape=shape, **parameters)


ACCEPTED = [
    Row("Reshape", name, build, SHAPE, 0.0, 0.0)
    for name, build in [
        ("sizes", _reshape(6, 20)),
        ("keep_and_rest", _reshape(0, -1)),
        ("rest_first", _reshape(-1, 20)),
        ("rest_first_keep", _reshape(-1, 0, 10)),
        ("copy_all", _reshape(-2)),
        ("copy_remaining", _reshape(0, 0, -2)),
        ("copy_and_one", _reshape(-2, 1, 1)),
        ("merge", _reshape(-3, -3)),
        ("merge_remaining", _reshape(0, -3, -2)),
        ("split", _reshape(0, 0, -4, 2, -1, 0)),
        ("split_first", _reshape(-4, 1, 2, -2)),
        ("reverse", _reshape(-1, 0, 0, reverse=True)),
        ("reverse_size", _reshape(-1, 5, reverse=True)),
        ("target_shape", lambda: S.Reshape(X, target_shape=(2, 0))),
        ("keep_highest", lambda: S.Reshape(X, target_shape=(9, 0), keep_highest=True)),
    ]
]
ACCEPTED += [
    Row("Flatten", "4d", lambda: S.Flatten(X), SHAPE, 0.0, 0.0),
    Row("Flatten", "2d", lambda: S.Flatten(X), {"x": (3, 4)}, 0.0, 0.0),
    Row("Concat", "default", lambda: S.concat(X, Y), PAIR, 0.0, 0.0),
    Row("Concat", "first_axis", lambda: S.concat(X, X, dim=0), PAIR, 0.0, 0.0),
    Row("Concat", "negative", lambda: S.concat(X, Y, X, dim=-2), PAIR, 0.0, 0.0),
    Row("stack", "default", lambda: S.stack(X, X), PAIR, 0.0, 0.0),
    Row("stack", "negative", lambda: S.stack(X, X * 2, axis=-1), PAIR, 0.0, 0.0),
    Row(
        "reshape_like",
        "range",
        lambda: S.reshape_like(X, Y, lhs_begin=1, lhs_end=2, rhs_begin=0, rhs_end=2),
        {"x": (2, 12), "y": (3, 4)},
        0.0,
        0.0,
    ),
    Row("reshape_like", "plain", lambda: S.reshape_like(X, Y), {"x": (2, 6), "y": (3, 4)}, 0.0, 0.0),
    Row("transpose", "default", lambda: S.transpose(X), SHAPE, 0.0, 0.0),
    Row("transpose", "axes", lambda: S.transpose(X, axes=(0, 2, 3, 1)), SHAPE, 0.0, 0.0),
    Row("SwapAxis", "plain", lambda: S.SwapAxis(X, dim1=1, dim2=3), SHAPE, 0.0, 0.0),
    Row("expand_dims", "front", lambda: S.expand_dims(X, axis=0), SHAPE, 0.0, 0.0),
    Row("expand_dims", "back", lambda: S.expand_dims(X, axis=-1), {"x": (2, 3)}, 0.0, 0.0),
    Row("squeeze", "default", lambda: S.squeeze(X), {"x": (1, 3, 1, 4)}, 0.0, 0.0),
    Row("squeeze", "axis", lambda: S.squeeze(X, axis=-2), {"x": (1, 3, 1, 4)}, 0.0, 0.0),
    Row("squeeze", "everything", lambda: S.squeeze(X), {"x": (1, 1)}, 0.0, 0.0),
    Row("squeeze", "nothing", lambda: S.squeeze(X) * 1, {"x": (2, 3)}, 0.0, 0.0),
    Row("Cast", "float16", lambda: S.Cast(X, dtype="float16"), SHAPE, 0.0, 0.0),
    Row("Cast", "truncates", lambda: S.Cast(X * 5, dtype="int32"), SHAPE, 0.0, 0.0),
    Row("Cast", "from_int", lambda: S.Cast(X, dtype="float32"), SHAPE, 0.0, 0.0, {"x": "int32"}),
    Row("amp_cast", "float16", lambda: S.amp_cast(X, dtype="float16"), SHAPE, 0.0, 0.0),
    Row("Dropout", "training", lambda: S.Dropout(X, p=0.9), SHAPE, 0.0, 0.0),
    Row("_copy", "plain", lambda: S.identity(X), SHAPE, 0.0, 0.0),
    Row("BlockGrad", "plain", lambda: S.BlockGrad(X), SHAPE, 0.0, 0.0),
    Row("make_loss", "plain", lambda: S.make_loss(X), SHAPE, 0.0, 0.0),
    Row("MakeLoss", "plain", lambda: S.MakeLoss(X, grad_scale=3.0), SHAPE, 0.0, 0.0),
    Row(
        "_identity_with_attr_like_rhs",
        "plain",
        lambda: S._internal._identity_with_attr_like_rhs(X, Y),
        {"x": (2, 3), "y": (2, 3)},
        0.0,
        0.0,
    ),
]

REFUSED = [
    Refusal("Reshape", "fewer", _reshape(2, 3), SHAPE, "number of elements: found (2, 3) from (2, 3, 4, 5)"),
    Refusal("Dropout", "always", lambda: S.Dropout(X, mode="always"), SHAPE, "mode: found always, required training"),
    Refusal("Cast", "float64", lambda: S.Cast(X, dtype="float64"), SHAPE, "dtype: found float64, required float32"),
    Refusal("amp_cast", "int8", lambda: S.amp_cast(X, dtype="int8"), SHAPE, "dtype: found int8, required float32"),
]
