"""ONNX nodes, small constants and weights without values: the one file that imports onnx.helper.

Operator entries write through OnnxWriter. Every ONNX node is named `<MXNet node's name>/<operator>`, with a
number where that is taken, and the writer remembers which MXNet node wrote it: a parser or an engine names
ONNX nodes in its messages, a user knows only the names of MXNet's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import onnx
from blake3 import blake3
from onnx import helper, numpy_helper

from mxnet_trt_property.errors import ConversionError, message

# Opset 17 is the first with LayerNormalization, and every onnx >= 1.12, onnxruntime >= 1.13 and
# TensorRT >= 8.6 reads it. Later opsets move attributes to inputs and bring nothing that is needed here.
OPSET = 17

# IR version 8 is the one that came with opset 17; a higher one would be refused by older runtimes.
IR_VERSION = 8

# The mark, as doc_string, of initializers that are no weights: their values never change.
CONSTANT = "constant"

# One protobuf message must be smaller than this, and the model with its weights is one message.
MAX_MODEL_BYTES = 2**31 - 1


# What is computed here where all inputs are small constants. No engine gains by such nodes, and TensorRT-RTX 1.5 fails
# to build some. NumPy rounds each of these as ONNX says.
_FOLDED: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "Equal": np.equal,
    "Floor": np.floor,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Reciprocal": lambda x: np.divide(x.dtype.type(1), x),
    "Sign": np.sign,
    "Sub": np.subtract,
    "Where": np.where,
    "Xor": np.logical_xor,
}
_LARGEST_FOLDED = 64


class Value(NamedTuple):
    """A named tensor of the graph: an input, an output or a weight."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class OnnxWriter:
    """Collects the nodes of one model. `scope` says which MXNet node is being written."""

    def __init__(self) -> None:
        """Starts an empty model."""
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self._small: dict[str, np.ndarray[Any, Any]] = {}
        self._names: set[str] = set()
        self._scope = self._operator = ""
        self._owners: dict[str, str] = {}
        self._stand_ins: dict[str, str] = {}

    @property
    def owners(self) -> Mapping[str, str]:
        """For each ONNX node's name the name of the MXNet node that wrote it."""
        return self._owners

    @contextmanager
    def scope(self, name: str, operator: str) -> Iterator[None]:
        """Names everything written inside after the MXNet node `name`; its doc_string is "operator name"."""
        outer = (self._scope, self._operator)
        self._scope, self._operator = name, operator
        try:
            yield
        finally:
            self._scope, self._operator = outer

    def reserve(self, name: str) -> str:
        """Takes a name for a graph input, output or weight, so that no node's value can have it.

        Raises:
            ValueError: The name is taken.
        """
        if name in self._names:
            raise ValueError(f"the ONNX name {name!r} is taken")
        self._names.add(name)
        return name

    def node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Writes one ONNX node with one output and returns the output's name, or that of the constant that it gives."""
        if op_type in _FOLDED and all(name in self._small for name in inputs):
            with np.errstate(all="ignore"):
                return self.constant(_FOLDED[op_type](*(self._small[name] for name in inputs)))
        if op_type in ("And", "Or", "Xor"):
            for known, other in (inputs, inputs[::-1]):
                if known in self._small and self._small[known].ndim == 0:
                    return self._with_known_side(op_type, bool(self._small[known]), other)
        return self.nodes(op_type, inputs, 1, **attributes)[0]

    def nodes(self, op_type: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Writes one ONNX node and returns the names of its outputs; attributes that are None are left out."""
        name = self._unique(op_type)
        names = [name] if outputs == 1 else [self._unique(f"{op_type}:{i}") for i in range(outputs)]
        given = {k: v for k, v in attributes.items() if v is not None}
        doc = f"{self._operator} {self._scope}"
        self._nodes.append(helper.make_node(op_type, list(inputs), names, name=name, doc_string=doc, **given))
        self._owners[name] = self._scope
        return names

    def _with_known_side(self, op_type: str, known: bool, other: str) -> str:
        """Writes And, Or or Xor without the constant side: TensorRT-RTX 1.5 fails to build one of booleans."""
        if op_type == "Xor":
            return self.node("Not", [other]) if known else other
        if known == (op_type == "And"):
            return other
        return self.nodes(op_type, [other, self.node("Not", [other])], 1)[0]

    def constant(self, value: np.ndarray[Any, Any]) -> str:
        """Adds a small constant and returns its name; equal constants are kept once."""
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            tensor = self._constants[key] = numpy_helper.from_array(array, self._unique("constant"))
            tensor.doc_string = CONSTANT
            if array.size <= _LARGEST_FOLDED:
                self._small[tensor.name] = array
        return str(self._constants[key].name)

    def scalar(self, value: float, dtype: np.dtype[Any]) -> str:
        """Adds a constant of shape () in the dtype of the tensor that it meets; too large a value is infinite there."""
        with np.errstate(over="ignore"):
            return self.constant(np.array(value, dtype=dtype))

    def ints(self, values: Sequence[int]) -> str:
        """Adds a constant of int64: axes, shapes, pads and the like."""
        return self.constant(np.array(list(values), dtype=np.int64))

    def loop(self, count: int, state: str, shape: Sequence[int], body: Callable[[str, str], str]) -> str:
        """Writes a loop of `count` steps over one float32 tensor and returns the tensor after the last one.

        Args:
            count: The number of steps.
            state: The tensor before the first step.
            shape: Its shape, which every step keeps.
            body: `body(step, state)` writes one step: it gets the names of the step's number, an int64 scalar, and of
                the tensor, and returns the name of the new tensor. Besides these it may read constants, and values
                that the same entry wrote.
        """
        number, carried, ongoing = (self._unique(f"Loop:{part}") for part in ("step", "state", "ongoing"))
        outer, self._nodes = self._nodes, []
        try:
            result = body(number, carried)
            onward = self.node("Identity", [ongoing])
            graph = helper.make_graph(
                self._nodes,
                self._unique("Loop:body"),
                [
                    helper.make_tensor_value_info(number, onnx.TensorProto.INT64, ()),
                    helper.make_tensor_value_info(ongoing, onnx.TensorProto.BOOL, ()),
                    helper.make_tensor_value_info(carried, onnx.TensorProto.FLOAT, tuple(shape)),
                ],
                [
                    helper.make_tensor_value_info(onward, onnx.TensorProto.BOOL, ()),
                    helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, tuple(shape)),
                ],
            )
        finally:
            self._nodes = outer
        steps, condition = self.constant(np.array(count, np.int64)), self.constant(np.array(True))
        return self.node("Loop", [steps, condition, state], body=graph)

    def fill(self, value: float, shape: Sequence[int], dtype: np.dtype[Any]) -> str:
        """Writes a tensor of one value; unlike a constant it takes no room in the model."""
        scalar = self.scalar(value, dtype)
        return self.node("Expand", [scalar, self.ints(shape)]) if shape else self.node("Identity", [scalar])

    def cast(self, name: str, dtype: np.dtype[Any]) -> str:
        """Converts to another dtype."""
        if name in self._small:
            with np.errstate(all="ignore"):
                return self.constant(self._small[name].astype(dtype))
        return self.node("Cast", [name], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Reshapes; 0 copies the input's dimension at that place and -1 is what remains."""
        return self.node("Reshape", [name, self.ints(shape)])

    def transpose(self, name: str, axes: Sequence[int]) -> str:
        """Permutes the axes."""
        return self.node("Transpose", [name], perm=list(axes))

    def unsqueeze(self, name: str, axes: Sequence[int]) -> str:
        """Inserts axes of size 1 at the places they have in the output."""
        return self.node("Unsqueeze", [name, self.ints(axes)])

    def squeeze(self, name: str, axes: Sequence[int]) -> str:
        """Removes axes of size 1."""
        return self.node("Squeeze", [name, self.ints(axes)])

    def slice(
        self, name: str, axes: Sequence[int], starts: Sequence[int], ends: Sequence[int], steps: Sequence[int]
    ) -> str:
        """Cuts a range out of each of `axes`."""
        return self.node("Slice", [name, self.ints(starts), self.ints(ends), self.ints(axes), self.ints(steps)])

    def reduce(self, op_type: str, name: str, axes: Sequence[int], *, keepdims: bool) -> str:
        """Reduces over `axes`. In opset 17 only ReduceSum takes its axes as an input."""
        if op_type == "ReduceSum":
            return self.node(op_type, [name, self.ints(axes)], keepdims=int(keepdims))
        return self.node(op_type, [name], axes=list(axes), keepdims=int(keepdims))

    def pad(
        self, name: str, begins: Sequence[int], ends: Sequence[int], value: str = "", mode: str = "constant"
    ) -> str:
        """Pads each axis; `value` names a constant and is 0 where it is left out."""
        pads = self.ints([*begins, *ends])
        return self.node("Pad", [name, pads, value] if value else [name, pads], mode=mode)

    def stand_in(self, name: str, value: str) -> None:
        """Notes that readers who compute in float32 may read `value` in place of the integers called `name`."""
        self._stand_ins[name] = value

    def stood_in(self, name: str) -> str:
        """Returns the float32 value that stands for the integers called `name`, or "" where there is none."""
        return self._stand_ins.get(name, "")

    def rename(self, old: str, new: str) -> None:
        """Gives a node's value another name wherever it is written or read."""
        for node in self._nodes:
            for field in (node.input, node.output):
                for i, name in enumerate(field):
                    if name == old:
                        field[i] = new

    def is_written(self, name: str) -> bool:
        """Whether a node, and not a graph input, a weight or a constant, is the source of a value."""
        return any(name in node.output for node in self._nodes)

    def read_names(self) -> set[str]:
        """Returns the names that at least one node reads."""
        return {name for node in self._nodes for name in node.input}

    def parts(self) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Returns nodes and constants, to be put into another model; the writer must not be used after it."""
        return self._nodes, list(self._constants.values())

    def model(self, inputs: Sequence[Value], outputs: Sequence[Value], weights: Sequence[Value]) -> Model:
        """Returns the finished structure; the writer must not be used after it."""
        self._drop_unread({v.name for v in outputs})
        read = _read_by(self._nodes) | {value.name for value in outputs}
        graph = helper.make_graph(
            self._nodes,
            "subgraph",
            [helper.make_tensor_value_info(v.name, _onnx_type(v.dtype), v.shape) for v in inputs],
            [helper.make_tensor_value_info(v.name, _onnx_type(v.dtype), v.shape) for v in outputs],
            initializer=[tensor for tensor in self._constants.values() if tensor.name in read],
        )
        proto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="mxnet-trt-property",
        )
        return Model(proto, tuple(weights))

    def _drop_unread(self, outputs: set[str]) -> None:
        """Takes out integers that nobody reads, since all who do read what stands for them."""
        read = outputs | self.read_names()
        unread = {name for name in self._stand_ins if name not in read}
        self._nodes = [node for node in self._nodes if unread.isdisjoint(node.output)]

    def _unique(self, suffix: str) -> str:
        base = f"{self._scope}/{suffix}" if self._scope else suffix
        name, number = base, 1
        while name in self._names:
            name, number = f"{base}_{number}", number + 1
        self._names.add(name)
        return name


class Model:
    """A model whose weights are named but have no values yet."""

    def __init__(self, proto: onnx.ModelProto, weights: tuple[Value, ...]) -> None:
        """Keeps the structure as bytes: a copy of those is cheaper than a copy of a message."""
        self._structure: bytes = proto.SerializeToString()
        self._weights = weights

    @cached_property
    def structure_digest(self) -> bytes:
        """A digest of all that `serialize` writes but the weights' values: their names, shapes and dtypes are in it."""
        rows = [(w.name, w.shape, w.dtype.str) for w in self._weights]
        return blake3(repr(rows).encode() + b"\0" + self._structure).digest()

    @property
    def structure(self) -> onnx.ModelProto:
        """A copy of the model without its weights."""
        proto = onnx.ModelProto()
        proto.ParseFromString(self._structure)
        return proto

    def with_structure(self, proto: onnx.ModelProto) -> Model:
        """Returns another model with weights of the same names and shapes."""
        return Model(proto, self._weights)

    def without_values(self) -> bytes:
        """Returns the bytes of the model with its weights as inputs, to ask what an engine thinks of it."""
        proto = self.structure
        for weight in self._weights:
            proto.graph.input.append(helper.make_tensor_value_info(weight.name, _onnx_type(weight.dtype), weight.shape))
        result: bytes = proto.SerializeToString()
        return result

    def serialize(self, values: Mapping[str, np.ndarray[Any, Any]], label: str) -> bytes:
        """Returns the bytes of the model with `values`, by ONNX name, as its initializers.

        Raises:
            ConversionError: A value is missing or is not as declared, or the model exceeds protobuf's limit.
        """
        total = len(self._structure) + sum(int(np.prod(w.shape)) * w.dtype.itemsize for w in self._weights)
        if total > MAX_MODEL_BYTES:
            raise ConversionError(
                message(
                    f"The model of {label} is too large for one ONNX file",
                    found=f"{total} bytes with its weights",
                    required=f"at most {MAX_MODEL_BYTES} bytes (protobuf's limit of 2 GiB)",
                    next_step="exclude the nodes with the largest weights with MXNET_TENSORRT_EXCLUDE_NODES",
                )
            )
        proto = self.structure
        for weight in self._weights:
            value = values.get(weight.name)
            if value is None or value.shape != weight.shape or value.dtype != weight.dtype:
                found = "nothing" if value is None else f"{value.dtype} {value.shape}"
                raise ConversionError(
                    message(
                        f"Weight '{weight.name}' of {label} is not as the model declares it",
                        found=found,
                        required=f"{weight.dtype} {weight.shape}",
                    )
                )
            tensor = proto.graph.initializer.add()
            tensor.name = weight.name
            tensor.data_type = _onnx_type(weight.dtype)
            tensor.dims.extend(weight.shape)
            tensor.raw_data = np.ascontiguousarray(value).tobytes()
        result: bytes = proto.SerializeToString()
        return result


def _read_by(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Returns the names that nodes read, those in the bodies of loops too."""
    found: set[str] = set()
    for node in nodes:
        found.update(node.input)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                found |= _read_by(attribute.g.node) | {value.name for value in attribute.g.output}
    return found


def _onnx_type(dtype: np.dtype[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
