"""Shapes, axes, identities and casts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st

from mxnet_trt_property.infer import read_symbol
from tests.harness import Refusal, Row, all_arrays, assert_taken, compare, converted_model, mx, run_onnx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import SPECIAL, Call, axes, axis_lists, dtypes, optional, row, shapes, values

S = mx.sym
X, Y = S.var("x"), S.var("y")

SHAPE = {"x": (2, 3, 4, 5)}
PAIR = {"x": (2, 3, 4), "y": (2, 5, 4)}


# MXNet's CPU has no bool for these.
NO_BOOL = ("Concat", "transpose", "SwapAxis")


def _reshape(*shape, **parameters):
    return lambda: S.Reshape(X, shape=shape, **parameters)


def _not_finite(rng, shape):
    return [np.nan, np.inf, -np.inf, -0.0, 1e6]


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
ACCEPTED += [
    Row(
        call.operator,
        dtype,
        call,
        dict.fromkeys("xy"[: len(call.inputs)], (2, 3, 4)),
        0.0,
        0.0,
        {"x": dtype, "y": dtype},
    )
    for dtype in ("int32", "int64", "bool")
    for call in (
        Call("Reshape", "x", shape=(0, -1)),
        Call("Flatten", "x"),
        Call("Concat", "x", "y", dim=-1),
        Call("stack", "x", "y", axis=1),
        Call("reshape_like", "x", "y"),
        Call("transpose", "x", axes=(2, 0, 1)),
        Call("SwapAxis", "x", dim1=0, dim2=2),
        Call("expand_dims", "x", axis=1),
        Call("squeeze", "x"),
        Call("_copy", "x"),
        Call("BlockGrad", "x"),
        Call("make_loss", "x"),
        Call("_identity_with_attr_like_rhs", "x", "y"),
    )
    if dtype != "bool" or call.operator not in NO_BOOL
]
ACCEPTED += [
    Row(
        "Cast",
        f"{source}_to_{target}",
        Call("Cast", "x", dtype=target),
        {"x": (3, 7)},
        0.0,
        0.0,
        {"x": source},
        {"x": lambda rng, shape, s=source: rng.randint(0 if s == "uint8" else -3, 4, shape) * 0.75},
    )
    for source in ("float32", "float16", "int32", "int64", "bool", "uint8")
    for target in ("float32", "float16", "int32", "int64", "bool")
]
ACCEPTED += [
    Row("Cast", "not_finite_to_bool", Call("Cast", "x", dtype="bool"), {"x": (5,)}, 0.0, 0.0, fills={"x": _not_finite}),
    Row(
        "Cast",
        "not_finite_to_float16",
        Call("Cast", "x", dtype="float16"),
        {"x": (5,)},
        0.0,
        0.0,
        fills={"x": _not_finite},
    ),
]
ACCEPTED += [
    Row("amp_multicast", name, Call("amp_multicast", *names, num_outputs=len(names), **parameters), shapes, 0.0, 0.0)
    for name, names, parameters in [("two", "xy", {}), ("narrow", "xyz", {"cast_narrow": True}), ("one", "x", {})]
    for shapes in [dict.fromkeys(names, (2, 3))]
]

REFUSED = [
    Refusal("Reshape", "fewer", _reshape(2, 3), SHAPE, "number of elements: found (2, 3) from (2, 3, 4, 5)"),
    Refusal("Dropout", "always", lambda: S.Dropout(X, mode="always"), SHAPE, "mode: found always, required training"),
    Refusal("Cast", "float64", lambda: S.Cast(X, dtype="float64"), SHAPE, "dtype: found float64, required float32"),
    Refusal(
        "Cast", "from_int8", Call("Cast", "x", dtype="float32"), SHAPE, "dtype of input 0: found int8", {"x": "int8"}
    ),
    Refusal(
        "amp_multicast",
        "int32",
        Call("amp_multicast", "x", "y", num_outputs=2),
        {"x": (2,), "y": (2,)},
        "dtype of input 1: found int32, required float32 or float16",
        {"y": "int32"},
    ),
    Refusal("amp_cast", "int8", lambda: S.amp_cast(X, dtype="int8"), SHAPE, "dtype: found int8, required float32"),
]


@pytest.mark.parametrize(("narrow", "expected"), [(False, "float32"), (True, "float16")])
def test_multicast_of_two_dtypes(narrow: bool, expected: str) -> None:
    """MXNet has this on the GPU only, so NumPy is the reference."""
    symbol = S.amp_multicast(X, Y, num_outputs=2, cast_narrow=narrow)
    arrays = all_arrays(symbol, {"x": (2, 3), "y": (4,)}, {"x": "float32", "y": "float16"})
    converted, report = converted_model(symbol, arrays, arrays)
    assert_taken(report)
    assert converted is not None
    outputs = run_onnx(converted, read_symbol(symbol), arrays)
    compare(outputs, [arrays[name].astype(expected) for name in "xy"], rtol=0.0, atol=0.0)


def _keeps_elements(row: Row) -> bool:
    """Whether the result has as many elements as x: others pass MXNet's inference and destroy memory."""
    try:
        _, outputs, _ = row.build().infer_shape(**row.shapes)
    except mx.MXNetError:
        return True
    return outputs is None or np.prod(outputs[0]) == np.prod(row.shapes["x"])


@st.composite
def _codes(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Draws a target of Reshape: mostly what fits, now and then what does not."""
    codes: list[int] = []
    axis = 0
    while axis < len(shape):
        kind = draw(st.sampled_from((0, 0, shape[axis], -1, -2, -3, -4, 1)))
        if kind == -1 and -1 in codes:
            kind = 0
        if kind == -2:
            codes.append(-2)
            break
        if kind == -3 and axis + 1 < len(shape):
            codes.append(-3)
            axis += 1
        elif kind == -4:
            first = draw(st.sampled_from([n for n in range(1, shape[axis] + 1) if shape[axis] % n == 0]))
            codes += [-4, *draw(st.sampled_from([(first, -1), (-1, first), (first, shape[axis] // first)]))]
        else:
            codes.append(0 if kind == -3 else kind)
        axis += 1
    return (*codes, *draw(st.sampled_from([(), (), (1,), (-1,)])))


@st.composite
def _reshape_row(draw: st.DrawFn) -> Row:
    shape = draw(shapes(max_side=6))
    parameters = {"shape": draw(_codes(shape)), **optional(draw, reverse=st.booleans())}
    if draw(st.integers(0, 7)) == 7:
        parameters = {"target_shape": (shape[0], 0), **optional(draw, keep_highest=st.booleans())}
    return row(draw, Call("Reshape", "x", **parameters), {"x": shape}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _reshape_like_row(draw: st.DrawFn) -> Row:
    shape = draw(shapes())
    other = draw(st.permutations(shape)).copy()
    parameters = {}
    if draw(st.booleans()):
        other = [*shape[:1], *shape[1:], 3]
        end = len(shape) if draw(st.booleans()) else -len(other) + len(shape)
        parameters = {"lhs_begin": 0, "lhs_end": None, "rhs_begin": 0, "rhs_end": end}
    call = Call("reshape_like", "x", "y", **parameters)
    both = {"x": shape, "y": tuple(other)}
    return row(draw, call, both, draw(dtypes()), rtol=0, atol=0, dtypes={"y": draw(dtypes())})


@st.composite
def _join(draw: st.DrawFn, operator: str) -> Row:
    shape, names = draw(shapes()), "xyz"[: draw(st.integers(1, 3))]
    inputs = dict.fromkeys(names, shape)
    if operator == "stack":
        parameters = optional(draw, axis=st.integers(-len(shape) - 1, len(shape)))
    else:
        parameters = optional(draw, dim=axes(len(shape)))
        axis = parameters.get("dim", 1) % len(shape)
        inputs = {n: (*shape[:axis], draw(st.integers(1, 4)), *shape[axis + 1 :]) for n in names}
    # One input twice is no rare case: a recurrent network stacks the same state.
    order = draw(st.lists(st.sampled_from(names), min_size=len(names), max_size=4).filter(lambda o: {*o} == {*names}))
    return row(draw, Call(operator, *order, **parameters), inputs, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _axes_row(draw: st.DrawFn, operator: str) -> Row:
    shape = draw(shapes())
    ndim = len(shape)
    parameters = {
        "transpose": lambda: optional(draw, axes=axis_lists(ndim, min_size=ndim)),
        "SwapAxis": lambda: optional(draw, dim1=axes(ndim), dim2=axes(ndim)),
        "expand_dims": lambda: {"axis": draw(st.integers(-ndim - 1, ndim))},
        "squeeze": lambda: optional(draw, axis=st.one_of(axis_lists(ndim, min_size=1), axes(ndim), st.none())),
        "Flatten": dict,
    }[operator]()
    return row(draw, Call(operator, "x", **parameters), {"x": shape}, draw(dtypes()), rtol=0, atol=0)


TYPES = "float32 float16 float64 int32 int64 int8 uint8 bool".split()


@st.composite
def _cast_row(draw: st.DrawFn, operator: str) -> Row:
    dtype = draw(st.sampled_from(TYPES[:-1]))
    target = draw(st.sampled_from(TYPES[:3] if operator == "amp_cast" else TYPES))
    # What becomes of a float that an integer does not hold is not defined, and negative ones go to no uint8.
    special = SPECIAL if target.startswith("float") else (0.0, -0.0, 0.5, 2.5, -2.5, 100.7)
    fills = {"x": draw(values(dtype, 0, 100, special=special[:4]))} if target == "uint8" else {}
    call = Call(operator, "x", dtype=target)
    return row(draw, call, {"x": draw(shapes())}, dtype, rtol=0, atol=0, fills=fills, special=special)


@st.composite
def _identity_row(draw: st.DrawFn, operator: str) -> Row:
    shape = draw(shapes())
    parameters = {}
    if operator == "Dropout":
        parameters = optional(draw, p=st.sampled_from((0.0, 0.5, 0.9)), axes=axis_lists(len(shape)))
    elif operator == "MakeLoss":
        parameters = optional(draw, grad_scale=st.just(2.0), valid_thresh=st.just(0.5))
    inputs = {"x": shape, "y": shape} if operator == "_identity_with_attr_like_rhs" else {"x": shape}
    return row(draw, Call(operator, *inputs, **parameters), inputs, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _multicasts(draw: st.DrawFn) -> Row:
    names, shape = "xyz"[: draw(st.integers(1, 3))], draw(shapes())
    call = Call("amp_multicast", *names, num_outputs=len(names), **optional(draw, cast_narrow=st.booleans()))
    fills = {name: draw(values()) for name in names}
    # Other dtypes fail on the CPU, or crash.
    return Row("amp_multicast", "random", call, dict.fromkeys(names, shape), 0.0, 0.0, fills=fills)


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    "Reshape": _reshape_row().filter(_keeps_elements),
    "reshape_like": _reshape_like_row().filter(_keeps_elements),
    **{name: _join(name) for name in ("Concat", "stack")},
    **{name: _axes_row(name) for name in ("transpose", "SwapAxis", "expand_dims", "squeeze", "Flatten")},
    **{name: _cast_row(name) for name in ("Cast", "amp_cast")},
    **{
        name: _identity_row(name)
        for name in ("Dropout", "_copy", "BlockGrad", "make_loss", "MakeLoss", "_identity_with_attr_like_rhs")
    },
    "amp_multicast": _multicasts(),
}
