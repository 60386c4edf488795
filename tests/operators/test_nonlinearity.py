"""Nonlinearities with parameters."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.harness import Refusal, Row, mx
from tests.operators.rows import test_accepted as test_accepted
from tests.operators.rows import test_refused as test_refused
from tests.operators.strategies import NUMBERS, SPECIAL, Call, Values, dtypes, optional, row, shapes, values

S = mx.sym
X = S.var("x")

SHAPE = {"x": (2, 3, 4, 5)}


def _leaky(**parameters):
    return lambda: S.LeakyReLU(X, name="op", **parameters)


ACCEPTED = [
    Row("Activation", kind, lambda k=kind: S.Activation(X, act_type=k), SHAPE, 1e-5, 1e-6)
    for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign")
]
ACCEPTED += [
    Row("LeakyReLU", "leaky", _leaky(), SHAPE, 1e-6, 1e-6),
    Row("LeakyReLU", "slope", _leaky(act_type="leaky", slope=0.1), SHAPE, 1e-6, 1e-6),
    Row(
        "LeakyReLU",
        "slope_0",
        _leaky(slope=0),
        SHAPE,
        0.0,
        0.0,
        fills={"x": Values(0, special=NUMBERS)},
    ),
    Row("LeakyReLU", "prelu", _leaky(act_type="prelu"), SHAPE, 1e-6, 1e-6),
    Row(
        "LeakyReLU", "prelu_shared", lambda: S.LeakyReLU(X, S.var("g", shape=(1,)), act_type="prelu"), SHAPE, 1e-6, 1e-6
    ),
    Row("LeakyReLU", "prelu_2d", _leaky(act_type="prelu"), {"x": (4, 5)}, 1e-6, 1e-6),
    Row("LeakyReLU", "gelu_float16", _leaky(act_type="gelu"), SHAPE, 1e-2, 1e-3, {"x": "float16"}),
    Row("LeakyReLU", "elu", _leaky(act_type="elu", slope=0.7), SHAPE, 1e-5, 1e-6),
    Row("LeakyReLU", "selu", _leaky(act_type="selu"), SHAPE, 1e-5, 1e-6),
    Row("LeakyReLU", "gelu", _leaky(act_type="gelu"), SHAPE, 1e-5, 1e-6),
    Row("clip", "both", lambda: S.clip(X, a_min=-0.5, a_max=0.7), SHAPE, 0.0, 0.0),
    Row("clip", "float16", lambda: S.clip(X, a_min=0, a_max=6), SHAPE, 0.0, 0.0, {"x": "float16"}),
    Row("clip", "int32", lambda: S.clip(X, a_min=-1, a_max=2), SHAPE, 0.0, 0.0, {"x": "int32"}),
    Row("clip", "int64", lambda: S.clip(X, a_min=0.5, a_max=2.5), SHAPE, 0.0, 0.0, {"x": "int64"}),
    Row("hard_sigmoid", "default", lambda: S.hard_sigmoid(X), SHAPE, 1e-6, 1e-6),
    Row("hard_sigmoid", "other", lambda: S.hard_sigmoid(X, alpha=0.6, beta=0.1), SHAPE, 1e-6, 1e-6),
]

REFUSED = [
    Refusal(
        "clip",
        "range",
        lambda: S.clip(X, a_min=0, a_max=3e9),
        SHAPE,
        "a_max: found 3000000000.0, required a number in the range of int32",
        {"x": "int32"},
    ),
    Refusal(
        "clip",
        "infinite",
        lambda: S.clip(X, a_min=float("-inf"), a_max=3),
        SHAPE,
        "a_min: found -inf, required a number in the range of int32",
        {"x": "int32"},
    ),
    Refusal("LeakyReLU", "rrelu", _leaky(act_type="rrelu"), SHAPE, "act_type: found rrelu, required leaky or"),
    Refusal(
        "clip", "swapped", lambda: S.clip(X, a_min=2, a_max=1), SHAPE, "a_min: found 2.0, required at most a_max, 1.0"
    ),
]


SLOPES = (0.25, 0.0, 0.1, 1.0, -0.5, 3.0)


@st.composite
def _activation(draw: st.DrawFn) -> Row:
    kind = draw(st.sampled_from("relu sigmoid tanh softrelu softsign".split()))
    # The ReLU of NaN is 0 with oneDNN and NaN on a GPU.
    special = NUMBERS if kind == "relu" else SPECIAL
    return row(draw, Call("Activation", "x", act_type=kind), {"x": draw(shapes())}, draw(dtypes()), special=special)


@st.composite
def _leaky_relu(draw: st.DrawFn) -> Row:
    shape = draw(shapes())
    parameters = optional(draw, act_type=st.sampled_from("leaky prelu elu selu gelu rrelu".split()))
    parameters |= optional(draw, slope=st.sampled_from(SLOPES))
    kind = parameters.get("act_type")
    inputs, fills = {"x": shape}, {}
    if kind == "rrelu":
        parameters |= {"lower_bound": 0.1, "upper_bound": 0.5}
    elif kind == "prelu":
        channels = shape[min(1, len(shape) - 1)]
        fills["gamma"] = draw(values(special=()))
        inputs["gamma"] = draw(st.sampled_from([(channels,), (1,), (1, channels), shape[:2]]))
    special = NUMBERS if parameters.get("slope") == 0 else SPECIAL  # as with Activation
    # The second output of rrelu is never written at inference.
    return row(draw, Call("LeakyReLU", *inputs, **parameters)[0], inputs, draw(dtypes()), fills=fills, special=special)


@st.composite
def _clip(draw: st.DrawFn) -> Row:
    bounds = st.sampled_from((0.0, -0.5, 0.7, 6.0, -2.0, 1e9, float("-inf"), float("inf")))
    call = Call("clip", "x", a_min=draw(bounds), a_max=draw(bounds))
    return row(draw, call, {"x": draw(shapes())}, draw(dtypes()), rtol=0, atol=0)


@st.composite
def _hard_sigmoid(draw: st.DrawFn) -> Row:
    numbers = st.sampled_from((0.2, 0.5, 0.0, 1.0, -0.3, 2.0))
    call = Call("hard_sigmoid", "x", **optional(draw, alpha=numbers, beta=numbers))
    return row(draw, call, {"x": draw(shapes())}, draw(dtypes()))


STRATEGIES: dict[str, st.SearchStrategy[Row]] = {
    "Activation": _activation(),
    "LeakyReLU": _leaky_relu(),
    "clip": _clip(),
    "hard_sigmoid": _hard_sigmoid(),
}
