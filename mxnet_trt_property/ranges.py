"""Which axes of which arguments vary, and what shapes a whole graph then has: from the options to `sizes`.

`profiles` names the axes: those whose smallest and largest size differ. Axes of two inputs with one range are one size
(a batch that both have); those of one input are apart (height and width) unless MXNet's inference wants them equal.

`max_batch_size` leaves it to the graph: the batch is the axis N of the first input's layout, or its first axis. What
the other inputs have to do with it is what MXNet infers; where it infers nothing, their axis N or first axis counts, if
it has the size of the batch now.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from mxnet_trt_property import convert, infer, sizes
from mxnet_trt_property.generalize import NotGeneralError
from mxnet_trt_property.graph import Graph
from mxnet_trt_property.settings import Settings
from mxnet_trt_property.sizes import Formula, Point, Range

Shape = tuple[int, ...]
Axes = dict[str, tuple[Formula, ...]]


@dataclass(frozen=True)
class Flexible:
    """A graph at several values of its sizes.

    Attributes:
        ranges: The range of each size.
        points: The values, the largest first.
        tensors: For each of them what is known of the graph's edges.
        at: Returns the same for any other values.
    """

    ranges: tuple[Range, ...]
    points: tuple[Point, ...]
    tensors: tuple[infer.Tensors, ...]
    at: Callable[[Point], infer.Tensors] = field(repr=False)


def wanted(config: Settings) -> bool:
    """Whether the options ask for engines that serve a range of sizes."""
    return bool(config.profiles or config.max_batch_size)


def find(
    symbol: Any,
    shapes: Mapping[str, Shape],
    dtypes: Mapping[str, Any],
    config: Settings,
    given: Optional[Collection[str]] = None,
) -> Optional[Flexible]:
    """Returns a graph's shapes over the range that the options ask for; None where they name no input of it.

    Args:
        symbol: An `mx.sym.Symbol`.
        shapes: The shape of each argument that is known now.
        dtypes: The dtype of each argument.
        config: The settings.
        given: The arguments that are data; by default all that are read in other places than weights are.
            What follows from them by inference (a label, a first state) varies with them all the same.

    Raises:
        NotGeneralError: The graph cannot have other sizes, in MXNet's words.
    """
    return _Finder(symbol, shapes, dtypes, given).find(config)


class _Finder:
    def __init__(
        self, symbol: Any, shapes: Mapping[str, Shape], dtypes: Mapping[str, Any], given: Optional[Collection[str]]
    ) -> None:
        self._symbol = symbol
        self._dtypes = dtypes
        graph = infer.read_symbol(symbol)
        roles = convert.variable_roles(graph, lambda node: True)
        data = [n.name for n in graph.nodes if n.is_variable and roles.get(n.id) != "weight"]
        self._arguments = symbol.list_arguments()
        self._data = [name for name in data if name in self._arguments]
        # What is read in other places than weights are may still be a parameter, of which no axis is the batch.
        self._given = set(self._data if given is None else given)
        self._read_data = [n for n in self._data if _is_read(graph, roles, n) and n in shapes and n in self._given]
        self._shapes = {k: v for k, v in shapes.items() if k in self._arguments}
        self._fixed = {k: v for k, v in self._shapes.items() if k not in self._data}

    def find(self, config: Settings) -> Optional[Flexible]:
        if config.profiles:
            ranges, named = self._by_profiles(config.profiles)
        else:
            ranges, named = self._by_batch(config.max_batch_size)
        if not named:
            return None
        points = sizes.samples(ranges)
        named = self._complete(named, points)
        tensors = [self._at(named, point) for point in points]
        return Flexible(tuple(ranges), tuple(points), tuple(tensors), lambda point: self._at(named, point))

    def _by_profiles(self, profiles: Sequence[tuple[str, tuple[Shape, Shape, Shape]]]) -> tuple[list[Range], Axes]:
        rows = [(name, [Range(*axis) for axis in zip(*shapes)]) for name, shapes in profiles if name in self._arguments]
        for name, axes in rows:
            if name in self._shapes and len(self._shapes[name]) != len(axes):
                raise NotGeneralError(
                    f"the profile of input {name} has {len(axes)} axes, and its shape is {self._shapes[name]}"
                )
        found = self._name_sizes(rows, apart=True)
        if len({f.sizes for axes in found[1].values() for f in axes if f.sizes}) > sizes.MOST_SIZES:
            raise NotGeneralError(f"the profiles have more than {sizes.MOST_SIZES} sizes that vary on their own")
        if found[0] and not self._is_possible(*found):
            found = self._name_sizes(rows, apart=False)
        return found if found[0] else ([], {})

    def _name_sizes(self, rows: Sequence[tuple[str, list[Range]]], apart: bool) -> tuple[list[Range], Axes]:
        """Numbers the sizes: equal ranges are one, but for those of one input where they are `apart`."""
        ranges: list[Range] = []
        number: dict[tuple[Range, int], int] = {}
        named: Axes = {}
        for name, axes in rows:
            seen: dict[Range, int] = {}
            formulas = []
            for axis in axes:
                if axis.smallest == axis.largest:
                    formulas.append(sizes.constant(axis.smallest))
                    continue
                key = (axis, seen.get(axis, 0) if apart else 0)
                seen[axis] = key[1] + 1
                if key not in number:
                    number[key] = len(ranges)
                    ranges.append(axis)
                formulas.append(sizes.size(number[key]))
            named[name] = tuple(formulas)
        return ranges, named

    def _by_batch(self, largest: int) -> tuple[list[Range], Axes]:
        if not self._read_data:
            return [], {}
        name = self._read_data[0]
        axis = self._batch_axis(name)
        shape = self._shapes[name]
        if axis is None or largest == 1:
            return [], {}
        formulas = tuple(sizes.size(0) if i == axis else sizes.constant(n) for i, n in enumerate(shape))
        return [Range(1, largest, largest)], {name: formulas}

    def _batch_axis(self, name: str) -> Optional[int]:
        layout = (self._symbol.attr_dict().get(name) or {}).get("__layout__", "")
        if not self._shapes[name]:
            return None
        return layout.index("N") if "N" in layout and len(layout) == len(self._shapes[name]) else 0

    def _complete(self, named: Axes, points: Sequence[Point]) -> Axes:
        """Adds what is to be said of data of which MXNet infers nothing."""
        now = self._now(named)
        inferred = [self._argument_shapes(named, point) for point in points]
        rest = {n for n in self._data if n not in named and n in self._shapes and not all(n in i for i in inferred)}
        fixed = {name: tuple(sizes.constant(n) for n in self._shapes[name]) for name in rest}
        sized: Axes = {}
        for name in rest & self._given:
            axis = self._batch_axis(name)
            if axis is not None and self._shapes[name][axis] == now:
                sized[name] = (*fixed[name][:axis], sizes.size(0), *fixed[name][axis + 1 :])
        # Together first: with some shapes unknown MXNet's inference may fail.
        if self._is_possible_at({**named, **fixed, **sized}, points):
            return {**named, **fixed, **sized}
        found = dict(named)
        for name in (n for n in self._data if n in rest):
            if all(name in self._argument_shapes(found, point) for point in points):
                continue
            trial = {**found, name: sized.get(name, fixed[name])}
            found[name] = (trial if self._is_possible_at(trial, points) else fixed)[name]
        return found

    def _now(self, named: Axes) -> Optional[int]:
        """Returns the value that the first size has in the shapes that are bound now."""
        for name, formulas in named.items():
            for formula, number in zip(formulas, self._shapes.get(name, ())):
                if formula == sizes.size(0):
                    return number
        return None

    def _is_possible(self, ranges: Sequence[Range], named: Axes) -> bool:
        """Whether MXNet's inference takes the sizes each on its own."""
        largest = tuple(r.largest for r in ranges)
        # Not the smallest: an axis of size 1 broadcasts where another size is refused.
        others = [(*largest[:k], largest[k] - 1, *largest[k + 1 :]) for k in range(len(ranges))]
        return self._is_possible_at(named, [largest, *others])

    def _is_possible_at(self, named: Axes, points: Sequence[Point]) -> bool:
        from mxnet.base import MXNetError

        try:
            for point in points:
                self._infer(named, point)
        except MXNetError:
            return False
        return True

    def _known(self, named: Axes, point: Point) -> dict[str, Shape]:
        return {**self._fixed, **{name: tuple(f.at(point) for f in axes) for name, axes in named.items()}}

    def _argument_shapes(self, named: Axes, point: Point) -> dict[str, Shape]:
        """Returns the shape of each argument that MXNet infers at a point."""
        from mxnet.base import MXNetError

        try:
            found = self._infer(named, point)
        except MXNetError:
            return {}  # some operators fail where a shape is not known yet
        known = zip(self._arguments, (infer.known_shape(s) for s in found))
        return {name: shape for name, shape in known if shape is not None}

    def _infer(self, named: Axes, point: Point) -> Sequence[Any]:
        found, _, _ = self._symbol.infer_shape_partial(**self._known(named, point))
        return found or ()

    def _at(self, named: Axes, point: Point) -> infer.Tensors:
        from mxnet.base import MXNetError

        try:
            found = infer.infer_tensors(self._symbol, self._known(named, point), self._dtypes)
        except MXNetError as error:
            raise self._refusal(named, point, error) from error
        return found

    def _refusal(self, named: Axes, point: Point, error: Exception) -> NotGeneralError:
        shown = ", ".join(f"{k} {tuple(f.at(point) for f in axes)}" for k, axes in itertools.islice(named.items(), 3))
        words = str(error).strip().splitlines()
        return NotGeneralError(f"MXNet's inference refuses {shown}: {words[-1] if words else error}")


def _is_read(graph: Graph, roles: Mapping[int, convert.Role], name: str) -> bool:
    return any(node.name == name and roles.get(node.id) == "input" for node in graph.nodes if node.is_variable)
