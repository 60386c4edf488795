"""What the random rows of all families draw: shapes, axes, dtypes, values, and calls that print as code.

A family's module ends with `STRATEGIES`, which maps each of its operators to a strategy of rows. The parameters go over
all that MXNet takes, also where the entry refuses; what MXNet itself rejects is skipped by test_random.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
from hypothesis import strategies as st

from tests.harness import Row, mx

Strategy = st.SearchStrategy[Any]

FLOATS = ("float32", "float16")
INTS = ("int32", "int64", "int8", "uint8")

FINITE = (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-8, 60000.0)
"""Numbers at which functions change their course; float16 holds each of them."""

SMALL = FINITE[:-1]
"""Those beside which other numbers do not vanish in a sum."""

NUMBERS = (*FINITE, float("inf"), float("-inf"))

SPECIAL = (*NUMBERS, float("nan"))

OPERANDS = st.sampled_from(
    (0, 1, -1, 2, 3, -2.5, 0.5, 7, -7, 1e-30, 1e5, -1e20, float("inf"), float("-inf"), float("nan"))
)
"""Draws a parameter that is a number beside those of a tensor; float16 does not hold each of them."""


class Call:
    """Builds a symbol of one operator; prints as the code that makes it, so that a failing row can be pasted."""

    def __init__(self, operator: str, *inputs: Union[str, Call], **parameters: Any) -> None:
        """Takes MXNet's canonical name, and the names of variables or calls that are the inputs."""
        self.operator, self.inputs, self.parameters = operator, inputs, parameters
        self.output: Optional[int] = None

    def __getitem__(self, output: int) -> Call:
        """Returns the call with one of its outputs only."""
        one = Call(self.operator, *self.inputs, **self.parameters)
        one.output = output
        return one

    def __call__(self) -> Any:
        """Returns the symbol."""
        return self._build({})

    def _build(self, variables: dict[str, Any]) -> Any:
        inputs = []
        for given in self.inputs:
            if isinstance(given, Call):
                inputs.append(given._build(variables))
            else:
                # Two variables of one name cannot be bound.
                inputs.append(variables.setdefault(given, mx.sym.var(given)))
        if self.operator.startswith("_np"):
            inputs = [i.as_np_ndarray() for i in inputs]
        symbol = _function(self.operator)(*inputs, **self.parameters)
        return symbol if self.output is None else symbol[self.output]

    def __repr__(self) -> str:
        """Returns the constructor's call."""
        given = [repr(i) for i in self.inputs] + [f"{k}={v!r}" for k, v in self.parameters.items()]
        one = "" if self.output is None else f"[{self.output}]"
        return f"Call({', '.join([repr(self.operator), *given])}){one}"


# Where MXNet's Python package keeps the functions of operators whose names begin so, without that beginning.
_GROUPS = {
    "_contrib_": mx.sym.contrib,
    "_image_": mx.sym.image,
    "_linalg_": mx.sym.linalg,
    "_npi_": mx.sym.numpy._internal,
    "_np_": mx.sym.numpy._op,
    "_npx_": mx.sym.numpy_extension._op,
}


def _function(operator: str) -> Callable[..., Any]:
    for prefix, group in _GROUPS.items():
        if operator.startswith(prefix):
            return getattr(group, operator[len(prefix) :])
    return getattr(mx.sym._internal if operator.startswith("_") else mx.sym, operator)


@dataclass(frozen=True)
class Values:
    """Fills an array, a `Fill` of the harness that prints as code.

    Attributes:
        seed: Of the random numbers.
        low: The smallest number, or None for a standard normal distribution.
        high: The first number that is too large; used with `low`.
        whole: Whether the numbers are whole ones.
        special: Numbers that take the places of some of the others.
    """

    seed: int
    low: Optional[float] = None
    high: float = 1.0
    whole: bool = False
    special: tuple[float, ...] = ()

    def __call__(self, rng: Any, shape: tuple[int, ...]) -> Any:
        """Returns the array; the harness' generator is not used, since the seed is part of the row."""
        rng = np.random.RandomState(self.seed)
        if self.low is None:
            array = np.array(rng.standard_normal(shape))
        elif self.whole:
            array = np.array(rng.randint(int(self.low), int(self.high), shape), np.float64)
        else:
            array = np.array(rng.uniform(self.low, self.high, shape))
        for number in self.special:
            array.reshape(-1)[rng.randint(0, array.size)] = number
        return array

    def __repr__(self) -> str:
        """Returns the constructor's call."""
        default = Values(self.seed)
        given = {name: value for name, value in vars(self).items() if value != getattr(default, name)}
        return f"Values({', '.join([str(self.seed)] + [f'{k}={v}' for k, v in given.items()])})"


def seeds() -> Strategy:
    """Draws a seed; 0 is the simplest."""
    return st.integers(0, 2**16)


@st.composite
def values(
    draw: st.DrawFn,
    dtype: str = "float32",
    low: Optional[float] = None,
    high: float = 1.0,
    *,
    whole: bool = False,
    special: Sequence[float] = SPECIAL,
) -> Values:
    """Draws the contents of one input.

    Args:
        draw: Of hypothesis.
        dtype: The input's; an integer gets whole numbers, between -4 and 4 where no bounds are given.
        low: The smallest number; without it floats are normal.
        high: The first number that is too large.
        whole: Whether floats are whole numbers too.
        special: Numbers that some of the floats may be, whatever the bounds: SPECIAL, NUMBERS, FINITE or others.
    """
    if not dtype.startswith("float"):
        low, high = (low, high) if low is not None else (-4, 5)
        return Values(draw(seeds()), max(low, 0) if dtype == "uint8" else low, high, whole=True)
    chosen = draw(st.lists(st.sampled_from(special), max_size=6)) if special else []
    return Values(draw(seeds()), low, high, whole, tuple(chosen))


def dtypes(*names: str) -> Strategy:
    """Draws a dtype, float32 more often than the others: of `names`, or of all that tensors of data have."""
    return st.sampled_from(("float32",) * 4 + (names or (*FLOATS, "float16", "float64", *INTS)))


def shapes(min_dims: int = 1, max_dims: int = 4, max_side: int = 4) -> Strategy:
    """Draws a shape; axes of size 1 are frequent, of size 0 there are none (MXNet reads 0 as unknown)."""
    return st.lists(st.integers(1, max_side), min_size=min_dims, max_size=max_dims).map(tuple)


def broadcastable(shape: Sequence[int]) -> Strategy:
    """Draws a shape of as many axes, some of which have size 1."""
    return st.tuples(*(st.sampled_from((size, 1)) for size in shape))


def axes(ndim: int) -> Strategy:
    """Draws one axis, counted from either end."""
    return st.integers(-ndim, ndim - 1)


@st.composite
def axis_lists(draw: st.DrawFn, ndim: int, min_size: int = 0, max_size: Optional[int] = None) -> tuple[int, ...]:
    """Draws different axes, in any order, each counted from either end."""
    chosen = draw(st.lists(st.integers(0, ndim - 1), min_size=min_size, max_size=max_size or ndim, unique=True))
    return tuple(a - ndim if draw(st.booleans()) else a for a in chosen)


def tuples(elements: Strategy, length: int) -> Strategy:
    """Draws a tuple of a given length."""
    return st.tuples(*[elements] * length)


def optional(draw: st.DrawFn, **parameters: Strategy) -> dict[str, Any]:
    """Draws some of the parameters and leaves the others to MXNet's defaults."""
    return {name: draw(choice) for name, choice in parameters.items() if draw(st.booleans())}


def tolerances(dtype: str, rtol: float = 1e-5, atol: float = 1e-6) -> tuple[float, float]:
    """Returns rtol and atol: the given ones for float32, 4 units in the last place for float16, 0 for integers."""
    if dtype == "float16":
        return (4e-3, 4e-3) if rtol else (0.0, 0.0)
    return (rtol, atol) if dtype.startswith("float") else (0.0, 0.0)


def row(
    draw: st.DrawFn,
    call: Call,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str = "float32",
    *,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    dtypes: Optional[Mapping[str, str]] = None,
    fills: Optional[Mapping[str, Values]] = None,
    special: Sequence[float] = SPECIAL,
) -> Row:
    """Draws what is left to say of a call.

    Args:
        draw: Of hypothesis.
        call: The call.
        shapes: The shapes of its inputs, as in Row.
        dtype: The dtype of every input that `dtypes` does not name; the tolerances are for this one.
        rtol: Relative tolerance in float32.
        atol: Absolute tolerance in float32.
        dtypes: Other dtypes of inputs.
        fills: The contents of inputs that `values` with the input's dtype will not do for.
        special: As in `values`.
    """
    all_dtypes = {name: (dtypes or {}).get(name, dtype) for name in shapes}
    drawn = {name: draw(values(all_dtypes[name], special=special)) for name in shapes if name not in (fills or {})}
    return Row(
        call.operator, "random", call, shapes, *tolerances(dtype, rtol, atol), all_dtypes, {**drawn, **(fills or {})}
    )
