"""One ONNX model for a range of sizes, out of the models that a network is converted to at several of them.

Converters write shapes as constants, so a model has its batch size all over it. Where the models of several sizes
differ in nothing but constants, and each of those follows from the sizes (`sizes.Formula`), the constants are replaced:

    Reshape(x, (8, -1, ...))       the one number that varies becomes -1
    Expand(x, (8, 5)), Slice, ...  a tensor that is computed from Shape(input) when the model runs
    an array with 8 rows           the first or last rows of the array at the largest size, if it is those at the others

A formula that fits the samples could still be wrong between them. So the model is used at no size at which the network
was not converted and compared with it (`misfit`): the two must be node for node the same, constant for constant.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Union

import numpy as np
import onnx
from onnx import numpy_helper

from mxnet_trt_property import sizes
from mxnet_trt_property.convert import ConvertedModel
from mxnet_trt_property.errors import ConversionError, message
from mxnet_trt_property.onnx_writer import OnnxWriter
from mxnet_trt_property.sizes import Formula, Point, Range

Array = np.ndarray[Any, Any]
Ref = tuple[Any, ...]

# Longer constants are data, not shapes; computing them number by number would cost more than it is worth.
_LONGEST_COMPUTED = 64

# Larger whole numbers are not exact in float32.
_EXACT_FLOAT = 2**24


class NotGeneralError(ConversionError):
    """No one model serves all sizes; the text says which node stands in the way."""


@dataclass(frozen=True)
class _Step:
    """One node of a trace, or the end of a node's inner graph.

    `refs` says where each input comes from: a constant, a value of another step, an input, a weight, or nothing.
    """

    what: tuple[Any, ...]
    refs: tuple[Ref, ...]
    doc: str


class _Same(NamedTuple):
    """A constant that does not vary."""

    array: Array

    def at(self, point: Point) -> Array:
        return self.array


class _Numbers(NamedTuple):
    """A constant of fixed shape whose numbers vary."""

    formulas: tuple[Formula, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def at(self, point: Point) -> Array:
        return np.array([f.at(point) for f in self.formulas], np.int64).astype(self.dtype).reshape(self.shape)


class _Cut(NamedTuple):
    """A constant whose shape varies, cut out of the one at the largest sizes: its first elements, or its last."""

    array: Array
    shape: tuple[Formula, ...]
    is_end: bool

    def at(self, point: Point) -> Array:
        counts = [f.at(point) for f in self.shape]
        pairs = zip(self.array.shape, counts)
        return self.array[tuple(slice(n - count, n) if self.is_end else slice(count) for n, count in pairs)]


_Rule = Union[_Same, _Numbers, _Cut]


@dataclass(frozen=True)
class Template:
    """An ONNX model that serves a range of sizes.

    Attributes:
        model: The model; shapes of its ports are those at the largest sizes.
        ranges: The range of each size.
        inputs: For each input of the model a formula for each axis.
        outputs: For each output the same.
    """

    model: ConvertedModel
    ranges: tuple[Range, ...]
    inputs: tuple[tuple[Formula, ...], ...]
    outputs: tuple[tuple[Formula, ...], ...]
    _steps: tuple[_Step, ...] = dataclasses.field(repr=False)
    _rules: Mapping[tuple[int, int], _Rule] = dataclasses.field(repr=False)

    @property
    def profile(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """For each input its smallest shape, the one to tune for, and its largest."""
        points = list(zip(*self.ranges))
        return tuple(tuple(tuple(f.at(p) for f in shape) for p in points) for shape in self.inputs)

    def point(self, shapes: Sequence[Sequence[int]]) -> tuple[Optional[Point], str]:
        """Returns the sizes that the shapes of the inputs say, or None and why the model does not take them."""
        found: dict[int, int] = {}
        fits = all(sizes.solve(shape, formulas, found) for shape, formulas in zip(shapes, self.inputs))
        point = tuple(found.get(i, r.smallest) for i, r in enumerate(self.ranges))
        given = ", ".join(str(tuple(s)) for s in shapes)
        if not fits or any(tuple(f.at(point) for f in fs) != tuple(s) for s, fs in zip(shapes, self.inputs)):
            return None, f"inputs of shape {given} where the range is for {self.describe()}"
        for value, r in zip(point, self.ranges):
            if not r.smallest <= value <= r.largest:
                return None, f"inputs of shape {given}, outside of {self.describe()}"
        return point, ""

    def describe(self) -> str:
        """Returns the shapes that it takes, in words."""
        low, _, high = ([shapes[k] for shapes in self.profile] for k in range(3))
        return ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in zip(low, high))

    def misfit(self, model: ConvertedModel, point: Point) -> Optional[str]:
        """Compares with the network converted at one point; returns where they differ, or None if nowhere."""
        steps = _trace(model)
        different = _first_difference(self._steps, steps)
        if different is not None:
            return different
        for number, step in enumerate(steps):
            for slot, ref in enumerate(step.refs):
                if ref[0] == "constant" and not _is_equal(self._rules[number, slot].at(point), ref[1]):
                    return f"{_owner(step)} has another constant at sizes {point} than its formula gives"
        outputs = [tuple(f.at(point) for f in shape) for shape in self.outputs]
        if outputs != _output_shapes(model):
            return f"outputs have shapes {_output_shapes(model)} at sizes {point}, and {outputs} by their formulas"
        return None


def generalize(models: Sequence[ConvertedModel], points: Sequence[Point], ranges: Sequence[Range]) -> Template:
    """Returns one model for a range of sizes.

    Args:
        models: The network converted at each point.
        points: The points, the largest first.
        ranges: The range of each size.

    Raises:
        NotGeneralError: The models differ in more than constants, or a constant does not follow from the sizes.
    """
    base = models[0]
    traces = [_trace(model) for model in models]
    for trace in traces[1:]:
        different = _first_difference(traces[0], trace)
        if different is not None:
            raise NotGeneralError(different)
    if len({tuple((w.node, w.shape, w.dtype.str) for w in model.weights) for model in models}) != 1:
        raise NotGeneralError("a weight has another shape at other sizes")
    inputs = tuple(
        _formulas([m.inputs[i].shape for m in models], points, f"input {port.name}")
        for i, port in enumerate(base.inputs)
    )
    shapes = zip(*(_output_shapes(model) for model in models))
    outputs = tuple(_formulas(list(same), points, f"output {i}") for i, same in enumerate(shapes))
    rules: dict[tuple[int, int], _Rule] = {}
    for number, steps in enumerate(zip(*traces)):
        for slot, ref in enumerate(steps[0].refs):
            if ref[0] == "constant":
                rules[number, slot] = _rule([step.refs[slot][1] for step in steps], points, steps[0])
    model = base.with_structure(_rewrite(base, inputs, outputs, rules))
    found = Template(model, tuple(ranges), inputs, outputs, tuple(traces[0]), rules)
    for other, point in zip(models, points):
        different = found.misfit(other, point)
        if different is not None:
            raise NotGeneralError(different)
    return found


def _formulas(shapes: Sequence[Sequence[int]], points: Sequence[Point], what: str) -> tuple[Formula, ...]:
    found = sizes.explain_shape(shapes, points)
    if found is None:
        raise NotGeneralError(f"{what} has shapes {list(shapes)} at sizes {list(points)}, which no formula gives")
    return found


def _output_shapes(model: ConvertedModel) -> list[tuple[int, ...]]:
    outputs = model.structure().graph.output
    return [tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in outputs]


def _rule(arrays: Sequence[Array], points: Sequence[Point], step: _Step) -> _Rule:
    base = arrays[0]
    if all(_is_equal(array, base) for array in arrays):
        return _Same(base)
    same_shape = len({(a.shape, a.dtype) for a in arrays}) == 1
    if same_shape and base.size <= _LONGEST_COMPUTED and all(_is_whole(a) for a in arrays):
        formulas = [sizes.explain([int(v) for v in vs], points) for vs in zip(*(a.ravel() for a in arrays))]
        if all(f is not None for f in formulas):
            return _Numbers(tuple(f for f in formulas if f is not None), base.shape, base.dtype)
    shape = sizes.explain_shape([a.shape for a in arrays], points)
    if not same_shape and shape is not None and len({a.dtype for a in arrays}) == 1:
        for is_end in (False, True):
            found = _Cut(base, shape, is_end)
            if all(_is_equal(found.at(point), array) for array, point in zip(arrays, points)):
                return found
    shown = ", ".join(f"{_shown(array)} at {point}" for array, point in list(zip(arrays, points))[:3])
    raise NotGeneralError(f"{_owner(step)} needs a constant that no formula gives: {shown}")


def _shown(array: Array) -> str:
    return str(array.tolist()) if array.size <= 8 else f"an array {array.shape}"


def _is_whole(array: Array) -> bool:
    if array.dtype.kind in "iu":
        return True
    return array.dtype.kind == "f" and bool(np.all(np.abs(array) < _EXACT_FLOAT) and np.all(array == np.round(array)))


def _is_equal(left: Array, right: Array) -> bool:
    """Whether two constants are the same to the bit."""
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


# ---- reading a model ----


def _trace(model: ConvertedModel) -> list[_Step]:
    """Returns the nodes of a model in order, with inputs told by where they come from instead of by names."""
    graph = model.structure().graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    places: dict[str, Ref] = {name: ("constant", array) for name, array in constants.items()}
    places.update({port.name: ("input", i) for i, port in enumerate(model.inputs)})
    places.update({port.name: ("weight", i) for i, port in enumerate(model.weights)})
    steps: list[_Step] = []
    _walk(graph, places, steps)
    return steps


def _walk(graph: onnx.GraphProto, places: dict[str, Ref], steps: list[_Step]) -> None:
    for node in graph.node:
        number = len(steps)
        attributes = sorted(node.attribute, key=lambda a: a.name)
        plain = tuple(a.SerializeToString() for a in attributes if a.type != onnx.AttributeProto.GRAPH)
        inner = tuple(a.name for a in attributes if a.type == onnx.AttributeProto.GRAPH)
        what = (node.op_type, node.domain, plain, inner, len(node.output))
        steps.append(_Step(what, tuple(places[n] if n else ("none",) for n in node.input), node.doc_string))
        for attribute in attributes:
            if attribute.type == onnx.AttributeProto.GRAPH:
                places.update({v.name: ("inner", number, i) for i, v in enumerate(attribute.g.input)})
                _walk(attribute.g, places, steps)
                refs = tuple(places[v.name] for v in attribute.g.output)
                steps.append(_Step(("end",), refs, node.doc_string))
        places.update({name: ("value", number, i) for i, name in enumerate(node.output)})


def _first_difference(left: Sequence[_Step], right: Sequence[_Step]) -> Optional[str]:
    """Returns the first place where two traces are not the same but for their constants, or None."""
    for a, b in zip(left, right):
        if a.what != b.what:
            how = "with other attributes" if a.what[:1] == b.what[:1] else f"as {b.what[0]} instead of {a.what[0]}"
            return f"{_owner(a)} is written {how} at other sizes"
        kinds = [[r if r[0] != "constant" else r[:1] for r in step.refs] for step in (a, b)]
        if kinds[0] != kinds[1]:
            return f"{_owner(a)} reads other values at other sizes"
    if len(left) != len(right):
        longer = max(left, right, key=len)
        return f"{_owner(longer[min(len(left), len(right))])} is written with more nodes at some sizes"
    return None


def _owner(step: _Step) -> str:
    operator, _, name = step.doc.partition(" ")
    return f"node '{name}' ({operator})"


# ---- writing the general model ----


def _rewrite(
    base: ConvertedModel,
    inputs: Sequence[Sequence[Formula]],
    outputs: Sequence[Sequence[Formula]],
    rules: Mapping[tuple[int, int], _Rule],
) -> onnx.ModelProto:
    proto = base.structure()
    graph = proto.graph
    for value, formulas in (*zip(graph.input, inputs), *zip(graph.output, outputs)):
        for dim, formula in zip(value.type.tensor_type.shape.dim, formulas):
            if not formula.is_constant:
                dim.dim_param = formula.name
    computed = _Computed(graph, base, inputs)
    _replace(graph, itertools.count().__next__, rules, computed)
    nodes, constants = computed.writer.parts()
    old = list(graph.node)
    read = _names_read(graph)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend([*nodes, *old])
    graph.initializer.extend([*kept, *constants])
    return proto


def _replace(
    graph: onnx.GraphProto,
    next_number: Callable[[], int],
    rules: Mapping[tuple[int, int], _Rule],
    computed: _Computed,
) -> None:
    """Rewires the constants that vary, counting nodes as `_walk` does."""
    for node in graph.node:
        number = next_number()
        for slot in range(len(node.input)):
            rule = rules.get((number, slot))
            if rule is not None and not isinstance(rule, _Same):
                node.input[slot] = computed.tensor(rule, is_target=node.op_type == "Reshape" and slot == 1)
        for attribute in sorted(node.attribute, key=lambda a: a.name):
            if attribute.type == onnx.AttributeProto.GRAPH:
                for value in (*attribute.g.input, *attribute.g.output):
                    for dim in value.type.tensor_type.shape.dim:
                        dim.Clear()  # the state of a loop may vary in any axis
                _replace(attribute.g, next_number, rules, computed)
                next_number()


def _names_read(graph: onnx.GraphProto) -> set[str]:
    found = {name for node in graph.node for name in node.input}
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found |= _names_read(attribute.g) | {value.name for value in attribute.g.output}
    return found


class _Computed:
    """Tensors that are computed from the shapes of inputs when the model runs."""

    def __init__(self, graph: onnx.GraphProto, base: ConvertedModel, inputs: Sequence[Sequence[Formula]]) -> None:
        self.writer = OnnxWriter()
        for name in _all_names(graph) | {port.name for port in base.weights}:
            self.writer.reserve(name)
        self._base = base
        self._inputs = inputs
        self._known: dict[Any, str] = {}

    def tensor(self, rule: Union[_Numbers, _Cut], is_target: bool) -> str:
        """Returns the name of a tensor in place of a constant; in a Reshape's target -1 says as much as a number."""
        key = (is_target, id(rule)) if isinstance(rule, _Cut) else (is_target, rule)
        if key not in self._known:
            with self.writer.scope("sizes", "sizes"):
                self._known[key] = self._cut(rule) if isinstance(rule, _Cut) else self._numbers(rule, is_target)
        return self._known[key]

    def _numbers(self, rule: _Numbers, is_target: bool) -> str:
        varying = [i for i, f in enumerate(rule.formulas) if not f.is_constant]
        if is_target and len(varying) == 1 and all(f.offset != -1 for f in rule.formulas if f.is_constant):
            return self.writer.ints([f.offset if f.is_constant else -1 for f in rule.formulas])
        joined = self._joined(rule.formulas)
        if rule.shape != (len(rule.formulas),):
            joined = self.writer.reshape(joined, rule.shape)
        return joined if rule.dtype == np.int64 else self.writer.cast(joined, rule.dtype)

    def _cut(self, rule: _Cut) -> str:
        axes = [axis for axis, f in enumerate(rule.shape) if not f.is_constant]
        counts = [rule.shape[axis] for axis in axes]
        if rule.is_end:
            starts = self._joined([Formula(-f.factor, f.sizes, -f.offset) for f in counts])
            ends = self.writer.ints([rule.array.shape[axis] for axis in axes])
        else:
            starts, ends = self.writer.ints([0] * len(axes)), self._joined(counts)
        return self.writer.node("Slice", [self.writer.constant(rule.array), starts, ends, self.writer.ints(axes)])

    def _joined(self, formulas: Sequence[Formula]) -> str:
        parts = [self._number(f) for f in formulas]
        return parts[0] if len(parts) == 1 else self.writer.node("Concat", parts, axis=0)

    def _number(self, formula: Formula) -> str:
        """Returns the name of a tensor of shape (1,)."""
        if formula not in self._known:
            self._known[formula] = self._compute(formula)
        return self._known[formula]

    def _compute(self, formula: Formula) -> str:
        w = self.writer
        if formula.is_constant:
            return w.ints([formula.offset])
        if formula == sizes.size(formula.sizes[0]):
            return self._read(formula)
        name = self._number(sizes.size(formula.sizes[0]))
        for number in formula.sizes[1:]:
            name = w.node("Mul", [name, self._number(sizes.size(number))])
        if formula.factor != 1:
            name = w.node("Mul", [name, w.ints([formula.factor])])
        return w.node("Add", [name, w.ints([formula.offset])]) if formula.offset else name

    def _read(self, formula: Formula) -> str:
        """Reads a size off the shape of the first input that has it."""
        for port, formulas in zip(self._base.inputs, self._inputs):
            if formula in formulas:
                shape = self.writer.node("Shape", [port.name])
                return self.writer.node("Gather", [shape, self.writer.ints([formulas.index(formula)])], axis=0)
        raise NotGeneralError(
            message(
                "a size cannot be read off any input of the TensorRT node",
                found="only sizes that were computed from it",
                required="an input with an axis of that size",
            )
        )


def _all_names(graph: onnx.GraphProto) -> set[str]:
    found = {t.name for t in graph.initializer} | {v.name for v in (*graph.input, *graph.output)}
    for node in graph.node:
        found |= {node.name, *node.input, *node.output}
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found |= _all_names(attribute.g) | {attribute.g.name}
    return found - {""}
