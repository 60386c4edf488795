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

SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 1e-8, 60000.0, float("inf"), float("-inf"), float("nan"))
"""Numbers at which functions change their course; float16 holds each of them."""


class Call:
    """Builds a symbol of one operator; prints as the code that makes it, so that a failing row can be pasted."""

    def __init__(self, operator: str, *inputs: Union[str, Call], **parameters: Any) -> None:
        """Takes MXNet's canonical name, and the names of variables or calls whose first output is an input."""
        self.operator, self.inputs, self.parameters = operator, inputs, parameters

    def __call__(self) -> Any:
        """Returns the symbol."""
        inputs = [i() if isinstance(i, Call) else mx.sym.var(i) for i in self.inputs]
        if self.operator.startswith("_np"):
            inputs = [i.as_np_ndarray() for i in inputs]
        return _function(self.operator)(*inputs, **self.parameters)

    def __repr__(self) -> str:
        """Returns the constructor's call."""
        given = [repr(i) for i in self.inputs] + [f"{k}={v!r}" for k, v in self.parameters.items()]
        return f"Call({', '.join([repr(self.operator), *given])})"


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
        special: How many elements, at most, are one of SPECIAL.
    """

    seed: int
    low: Optional[float] = None
    high: float = 1.0
    whole: bool = False
    special: int = 0

    def __call__(self, rng: Any, shape: tuple[int, ...]) -> Any:
        """Returns the array; the harness' generator is not used, since the seed is part of the row."""
        rng = np.random.RandomState(self.seed)
        if self.low is None:
            array = rng.standard_normal(shape)
        elif self.whole:
            array = rng.randint(int(self.low), int(self.high), shape).astype(np.float64)
        else:
            array = rng.uniform(self.low, self.high, shape)
        if array.size:
            where = rng.randint(0, array.size, self.special)
            array.reshape(-1)[where] = rng.choice(SPECIAL, self.special)
        return array


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
    special: bool = True,
) -> Values:
    """Draws the contents of one input.

    Args:
        draw: Of hypothesis.
        dtype: The input's; an integer gets whole numbers, between -4 and 4 where no bounds are given.
        low: The smallest number; without it floats are normal.
        high: The first number that is too large.
        whole: Whether floats are whole numbers too.
        special: Whether floats may hold zeros of both signs, infinities, NaN, and large and tiny numbers.
    """
    if not dtype.startswith("float"):
        low, high = (low, high) if low is not None else (-4, 5)
        return Values(draw(seeds()), max(low, 0) if dtype == "uint8" else low, high, whole=True)
    count = draw(st.sampled_from((0, 0, 3, 12))) if special else 0
    return Values(draw(seeds()), low, high, whole, count)


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
    call: Call,
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, str],
    fills: Mapping[str, Values],
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> Row:
    """Returns the row of a call; the tolerances are those of its least exact input."""
    name = "float16" if "float16" in dtypes.values() else "float32"
    return Row(call.operator, "random", call, shapes, *tolerances(name, rtol, atol), dtypes, fills)
