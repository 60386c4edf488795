"""Sizes that vary within a range: what a number of a converted model has to do with them, found from samples.

A network is converted at several values of its sizes (a batch size, a sequence length). A number that differs between
these conversions is *explained* if one formula gives it at all of them:

    number = factor * product of some sizes + offset      (integers)

An explanation is a guess until it is compared with the conversion at the size in question; see `generalize`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, Optional

Point = tuple[int, ...]
"""A value for each size."""

# Formulas with more sizes in one product were never needed, and each adds to the number of samples.
MOST_SIZES = 3


class Range(NamedTuple):
    """The values of one size: the smallest, the one that an engine is tuned for, and the largest."""

    smallest: int
    tuned: int
    largest: int


class Formula(NamedTuple):
    """factor * product of the sizes with these numbers + offset; a constant has no sizes."""

    factor: int
    sizes: tuple[int, ...]
    offset: int

    def at(self, point: Sequence[int]) -> int:
        """Returns the number at a value for each size."""
        return self.factor * math.prod(point[i] for i in self.sizes) + self.offset if self.sizes else self.offset

    @property
    def is_constant(self) -> bool:
        """Whether it is the same number at all sizes."""
        return not self.sizes

    @property
    def name(self) -> str:
        """A name for it, of letters, digits and underscores: equal formulas have equal names."""
        product = "_".join(f"size{i}" for i in self.sizes)
        if self.factor == 1 and self.offset == 0 and product:
            return product
        return f"{self.factor}_{product}_{self.offset}".replace("-", "minus")


def size(number: int) -> Formula:
    """Returns the formula of a size itself."""
    return Formula(1, (number,), 0)


def constant(number: int) -> Formula:
    """Returns the formula of a number that does not vary."""
    return Formula(0, (), number)


def samples(ranges: Sequence[Range]) -> list[Point]:
    """Returns the points at which a network is converted, the largest first.

    For one size these are its ends, the neighbour of the smallest and the middle: of a formula with a bend (a rounded
    division, the smaller of two numbers) at least one of them is off the line through the others.
    """
    largest = tuple(r.largest for r in ranges)
    smallest = tuple(r.smallest for r in ranges)
    found = [largest, smallest, tuple(min(r.smallest + 1 + i, r.largest) for i, r in enumerate(ranges))]
    for number, r in enumerate(ranges):
        middle = (r.smallest + r.largest) // 2
        found.append((*largest[:number], middle, *largest[number + 1 :]))
        if len(ranges) > 1:
            found.append((*smallest[:number], middle, *smallest[number + 1 :]))
    return list(dict.fromkeys(found))


def spread(ranges: Sequence[Range], most: int) -> list[Point]:
    """Returns all points of the ranges, or `most` of them that are spread evenly over all."""
    values = [range(r.smallest, r.largest + 1) for r in ranges]
    total = math.prod(len(v) for v in values)
    if total <= most:
        return list(itertools.product(*values))
    found = []
    for k in range(most):
        index = k * (total - 1) // (most - 1)
        point = []
        for v in reversed(values):
            index, place = divmod(index, len(v))
            point.append(v[place])
        found.append(tuple(reversed(point)))
    return found


def explain(numbers: Sequence[int], points: Sequence[Point]) -> Optional[Formula]:
    """Returns the formula with the fewest sizes that gives each number at its point, or None."""
    if len(set(numbers)) == 1:
        return constant(int(numbers[0]))
    count = len(points[0])
    for length in range(1, count + 1):
        for chosen in itertools.combinations(range(count), length):
            products = [math.prod(p[i] for i in chosen) for p in points]
            found = _line(products, numbers, chosen)
            if found is not None:
                return found
    return None


def explain_shape(shapes: Sequence[Sequence[int]], points: Sequence[Point]) -> Optional[tuple[Formula, ...]]:
    """Returns a formula for each axis of a shape that differs between points, or None where an axis has none."""
    if len({len(shape) for shape in shapes}) != 1:
        return None
    found = [explain(axis, points) for axis in zip(*shapes)]
    return None if any(f is None for f in found) else tuple(f for f in found if f is not None)


def solve(shape: Sequence[int], formulas: Sequence[Formula], point: dict[int, int]) -> bool:
    """Reads sizes off a shape, into `point`; returns whether the shape can be one of these formulas."""
    if len(shape) != len(formulas):
        return False
    for number, formula in zip(shape, formulas):
        if formula == size(formula.sizes[0] if formula.sizes else 0):
            if point.setdefault(formula.sizes[0], number) != number:
                return False
        elif formula.is_constant and formula.offset != number:
            return False
    return True


def _line(products: Sequence[int], numbers: Sequence[int], chosen: tuple[int, ...]) -> Optional[Formula]:
    first = next((k for k in range(1, len(products)) if products[k] != products[0]), None)
    if first is None:
        return None
    factor, rest = divmod(numbers[first] - numbers[0], products[first] - products[0])
    offset = numbers[0] - factor * products[0]
    if rest or any(factor * p + offset != n for p, n in zip(products, numbers)):
        return None
    return Formula(int(factor), chosen, int(offset))
