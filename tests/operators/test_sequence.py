"""SequenceMask, SequenceLast and SequenceReverse, with and without lengths."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import Call, dtypes, optional, shapes, values

S = mx.sym
X, Y = S.var("x"), S.var("y")

SHAPE = {"x": (5, 4, 2, 3)}
OPERATORS = ("SequenceMask", "SequenceLast", "SequenceReverse")


def _call(operator, **parameters):
    return lambda: getattr(S, operator)(X, **parameters)


def _with_lengths(operator, **parameters):
    return lambda: getattr(S, operator)(X, Y, use_sequence_length=True, **parameters)


def _lengths(least, most):
    def fill(rng, shape):
        # The shortest and the longest are always among them, where there are two.
        lengths = rng.randint(least, most + 1, shape)
        lengths[:2] = (least, most)[: shape[0]]
        return lengths

    return fill


def _row(operator, name, build, shapes, least=1, dtypes=None, axis=0):
    fills = {"y": _lengths(least, shapes["x"][axis])} if "y" in shapes else {}
    return Row(operator, name, build, shapes, 0.0, 0.0, dtypes or {}, fills)


ACCEPTED = [_row(operator, "whole", _call(operator), SHAPE) for operator in OPERATORS]
ACCEPTED += [
    _row(operator, name, _with_lengths(operator), {"x": shape, "y": (shape[1],)}, least, dtypes)
    for operator, least in (("SequenceMask", 0), ("SequenceLast", 1), ("SequenceReverse", 1))
    for name, shape, dtypes in [
        ("float32", (5, 4, 2, 3), {}),
        ("float16", (5, 4, 3), {"x": "float16", "y": "float32"}),
        ("int32_lengths", (5, 4, 3), {"x": "float32", "y": "int32"}),
        ("int64_lengths", (5, 4), {"x": "float32", "y": "int64"}),
        ("int32", (5, 4, 3), {"x": "int32", "y": "int32"}),
        ("one_step", (1, 3, 2), {}),
        ("batch_1", (6, 1, 2), {}),
    ]
]
ACCEPTED += [
    _row(
        "SequenceMask",
        "batch_first",
        _with_lengths("SequenceMask", axis=1, value=-1.5),
        {"x": (3, 4, 2), "y": (3,)},
        axis=1,
    ),
    _row("SequenceMask", "infinite", _with_lengths("SequenceMask", value=float("-inf")), {"x": (3, 4), "y": (4,)}, 0),
    _row("SequenceMask", "whole_batch_first", _call("SequenceMask", axis=1), SHAPE),
    _row("SequenceLast", "batch_first", _with_lengths("SequenceLast", axis=1), {"x": (3, 4, 2), "y": (3,)}, axis=1),
    _row("SequenceLast", "whole_batch_first", _call("SequenceLast", axis=1), SHAPE),
    Row(
        "SequenceMask",
        "fractions",
        _with_lengths("SequenceMask"),
        {"x": (4, 3), "y": (3,)},
        0.0,
        0.0,
        fills={"y": lambda rng, shape: [0.7, 2.3, 3.9]},
    ),
]

REFUSED = [
    Refusal(operator, "unknown_shape", _call(operator), {}, "number of steps: found an unknown shape")
    for operator in OPERATORS
]
REFUSED += [
    Refusal(
        "SequenceMask",
        "long_float",
        _with_lengths("SequenceMask"),
        {"x": (2**24 + 1, 1), "y": (1,)},
        "number of rows: found 16777217",
    ),
    Refusal(
        "SequenceMask",
        "value",
        _with_lengths("SequenceMask", value=float("inf")),
        {"x": (3, 2), "y": (2,)},
        "value: found inf, required a number in the range of int32",
        {"x": "int32"},
    ),
]


@st.composite
def _rows(draw: st.DrawFn, operator: str) -> Row:
    dtype, length_dtype, shape = draw(dtypes()), draw(dtypes()), draw(shapes(2))
    parameters = optional(draw, axis=st.integers(0, 1))
    if operator == "SequenceMask":
        parameters.update(optional(draw, value=st.sampled_from([0.0, -1.5, 2.0, float("inf"), float("nan")])))
    fills = {"x": draw(values(dtype))}
    if not draw(st.booleans()):
        return Row(operator, "random", Call(operator, "x", **parameters), {"x": shape}, 0.0, 0.0, {"x": dtype}, fills)
    axis = parameters.get("axis", 0)
    # What a length out of range does is not defined.
    lengths = values(length_dtype, 0 if operator == "SequenceMask" else 1, shape[axis] + 1, whole=True, special=())
    call = Call(operator, "x", "y", use_sequence_length=True, **parameters)
    both = {"x": shape, "y": (shape[1 - axis],)}
    return Row(operator, "random", call, both, 0.0, 0.0, {"x": dtype, "y": length_dtype}, {**fills, "y": draw(lengths)})


STRATEGIES: dict[str, SearchStrategy[Row]] = {operator: _rows(operator) for operator in OPERATORS}
