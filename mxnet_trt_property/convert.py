"""Writes a subgraph as ONNX by asking each node's registry entry; holds no operator name.

The result is structure without values: weights come in at `serialize`, so that one conversion serves every
set of weights that is written into the arrays later.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Optional

import numpy as np
import onnx

from mxnet_trt_property import operators
from mxnet_trt_property.errors import ConversionError, message
from mxnet_trt_property.graph import Entry, Graph, Node, Tensor
from mxnet_trt_property.onnx_writer import Model, OnnxWriter, Value
from mxnet_trt_property.operators.registry import NodeInfo, Operator

Role = Literal["weight", "input", "unused"]

_UNKNOWN = Tensor(shape=None, dtype=None)


class Port(NamedTuple):
    """A variable that the ONNX model reads: the variable's node id, and its ONNX name, shape and dtype."""

    node: int
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class ConvertedModel:
    """An ONNX model whose weights have no values yet.

    Attributes:
        inputs: The variables that are fed at each run, in the order of the ONNX inputs. A variable that
            the model does not read (a label, a gamma that counts as 1) is in neither list.
        weights: The variables whose values become initializers.
        outputs: The number of outputs; they are named output0, output1, ... in the order of the heads.
        node_names: For each ONNX node's name the name of the MXNet node that it comes from.
        value_keys: For ONNX values that are an output of an MXNet node or a variable the name that MXNet gives it.
        label: What messages call this model.
    """

    inputs: tuple[Port, ...]
    weights: tuple[Port, ...]
    outputs: int
    node_names: Mapping[str, str]
    value_keys: Mapping[str, str]
    label: str
    _model: Model = dataclasses.field(repr=False)

    def serialize(self, values: Mapping[int, np.ndarray[Any, Any]]) -> bytes:
        """Returns the bytes of the ONNX model.

        Args:
            values: An array for each variable in `weights`, by the variable's node id; others are ignored.

        Raises:
            ConversionError: A value is missing or of the wrong shape or dtype, or the model exceeds 2 GiB.
        """
        named = {w.name: values[w.node] for w in self.weights if w.node in values}
        return self._model.serialize(named, self.label)

    @property
    def structure_digest(self) -> bytes:
        """A digest of all of the ONNX model but the weights' values."""
        return self._model.structure_digest

    def structure(self) -> onnx.ModelProto:
        """Returns a copy of the model without its weights."""
        return self._model.structure

    def with_structure(self, proto: onnx.ModelProto) -> ConvertedModel:
        """Returns the same ports and weights with another graph between them."""
        return dataclasses.replace(self, _model=self._model.with_structure(proto))

    def without_values(self) -> bytes:
        """Returns the bytes of the model with its weights as inputs."""
        return self._model.without_values()


def variable_roles(graph: Graph, may_be_weight: Callable[[Node], bool]) -> dict[int, Role]:
    """Returns what each variable is to the engine.

    A weight is a variable that `may_be_weight` allows and that is read in weight slots only, there itself or
    through operators that are folded. A variable that no head depends on (a label) is unused. All others are inputs.
    """
    live = _live(graph)
    heads = {head.node for head in graph.heads}
    roles: dict[int, Role] = {}
    folded: set[int] = set()
    # Who reads a node comes after it.
    for node in reversed(graph.nodes):
        if node.id not in live:
            if node.is_variable:
                roles[node.id] = "unused"
            continue
        uses = [(graph.nodes[c], slot) for c, slot in graph.consumers[node.id] if c in live]
        only_weight = node.id not in heads and all(
            slot in _slots(use, "weights") or use.id in folded
            for use, slot in uses
            if slot not in _slots(use, "ignored")
        )
        if node.is_variable:
            roles[node.id] = "weight" if only_weight and may_be_weight(node) else "input"
        elif only_weight and (entry := operators.find(node.op)) is not None and entry.folds:
            folded.add(node.id)
    return roles


def node_info(graph: Graph, tensors: Mapping[Entry, Tensor], roles: Mapping[int, Role], node: Node) -> NodeInfo:
    """Returns what an operator's entry sees of a node; tensors that are not listed are unknown."""
    inputs = []
    for entry in node.inputs:
        is_weight = graph.nodes[entry.node].is_variable and roles.get(entry.node) == "weight"
        inputs.append(dataclasses.replace(tensors.get(entry, _UNKNOWN), is_weight=is_weight))
    outputs: list[Tensor] = []
    while (entry := Entry(node.id, len(outputs))) in tensors:
        outputs.append(tensors[entry])
    return NodeInfo(node.name, node.op, tuple(inputs), tuple(outputs))


def convert(
    graph: Graph, tensors: Mapping[Entry, Tensor], roles: Mapping[int, Role], label: str = "the subgraph"
) -> ConvertedModel:
    """Writes a graph, all of whose shapes and dtypes are known, as ONNX.

    Args:
        graph: The subgraph.
        tensors: The shape and dtype of every visible output of every node that a head depends on.
        roles: What `variable_roles` said of each variable.
        label: What messages call the subgraph.

    Raises:
        ConversionError: A node has no entry, is refused by it, or its entry failed; the text names the
            node, its operator and the label.
    """
    writer = OnnxWriter()
    live = _live(graph)
    names: dict[Entry, str] = {}
    inputs: list[Port] = []
    weights: list[Port] = []
    # Names of inputs and outputs are taken before any node is written, so that no node can have them.
    outputs = [
        Value(writer.reserve(f"output{i}"), *_known(tensors, head, graph, label)) for i, head in enumerate(graph.heads)
    ]
    for node in graph.nodes:
        if node.is_variable and node.id in live:
            is_weight = roles[node.id] == "weight"
            name = f"w{node.id}_{_readable(node.name)}" if is_weight else f"input{len(inputs)}"
            entry = Entry(node.id, 0)
            port = Port(node.id, writer.reserve(name), *_known(tensors, entry, graph, label))
            (weights if is_weight else inputs).append(port)
            names[entry] = port.name
    for node in graph.operators:
        if node.id in live:
            written = _emit(writer, node, node_info(graph, tensors, roles, node), names, label)
            names.update({Entry(node.id, i): name for i, name in enumerate(written)})
    keys: dict[str, str] = {}
    for entry, name in names.items():
        keys.setdefault(name, _key(graph, entry, tensors))  # of several names that of whoever wrote the value
    for old, new in _write_heads(writer, graph, names, outputs).items():
        keys[new] = keys.pop(old)
    read = writer.read_names()
    used_inputs = tuple(port for port in inputs if port.name in read)
    used_weights = tuple(port for port in weights if port.name in read)
    model = writer.model([Value(*p[1:]) for p in used_inputs], outputs, [Value(*p[1:]) for p in used_weights])
    return ConvertedModel(used_inputs, used_weights, len(outputs), dict(writer.owners), keys, label, model)


def _emit(writer: OnnxWriter, node: Node, info: NodeInfo, names: Mapping[Entry, str], label: str) -> list[str]:
    where = f"Node '{node.name}' ({node.op}) of {label}"
    entry = operators.find(node.op)
    if entry is None:
        raise ConversionError(message(f"{where} has no converter", next_step="leave the node to MXNet"))
    try:
        params = entry.parameters.parse(node.attrs)
        refusal = entry.refusal(params, info)
    except Exception as error:
        raise ConversionError(message(f"{where} could not be checked", found=_text(error))) from error
    if refusal is not None:
        raise ConversionError(message(f"{where} cannot be converted", found=refusal))
    inputs = ["" if slot in entry.ignored else names[e] for slot, e in enumerate(node.inputs)]
    try:
        with writer.scope(node.name, node.op):
            written = list(entry.emit(params, info, inputs, writer))
    except Exception as error:
        raise ConversionError(message(f"{where} could not be written as ONNX", found=_text(error))) from error
    if len(written) != len(info.outputs):
        raise ConversionError(
            message(
                f"Internal error: the entry of operator {node.op} miscounted the values of node '{node.name}'",
                found=f"{len(written)}",
                required=f"{len(info.outputs)}, one for each visible output",
            )
        )
    return written


def _key(graph: Graph, entry: Entry, tensors: Mapping[Entry, Tensor]) -> str:
    """Returns MXNet's name of a node's output, or of a variable.

    A variable inside of a TensorRT node has the name of the argument that it is, or that of the output that it is with
    a number behind.
    """
    node = graph.nodes[entry.node]
    if node.is_variable:
        return node.attrs.get("argName") or re.sub(r"(_output\d*)\d$", r"\1", node.name)
    is_alone = Entry(node.id, 1) not in tensors
    return f"{node.name}_output" if is_alone else f"{node.name}_output{entry.index}"


def _write_heads(
    writer: OnnxWriter, graph: Graph, names: Mapping[Entry, str], outputs: list[Value]
) -> Mapping[str, str]:
    """Gives each head its output's name; an Identity where the value is an input or has an output's name already.

    Returns:
        The new names of values by the old ones.
    """
    given: dict[str, str] = {}
    for head, output in zip(graph.heads, outputs):
        name = names[head]
        if name not in given and writer.is_written(name):
            writer.rename(name, output.name)
            given[name] = output.name
        else:
            owner = graph.nodes[head.node]
            with writer.scope(owner.name, owner.op):
                writer.rename(writer.node("Identity", [given.get(name, name)]), output.name)
    return given


def _live(graph: Graph) -> set[int]:
    """Returns the ids of the nodes that a head depends on through inputs that inference reads."""
    live = {head.node for head in graph.heads}
    for node in reversed(graph.nodes):
        if node.id in live:
            ignored = _slots(node, "ignored")
            live.update(e.node for slot, e in enumerate(node.inputs) if slot not in ignored)
    return live


def _slots(node: Node, kind: Literal["weights", "ignored"]) -> tuple[int, ...]:
    entry: Optional[Operator] = operators.find(node.op)
    if entry is None:
        return ()
    return entry.weights if kind == "weights" else entry.ignored


def _known(
    tensors: Mapping[Entry, Tensor], entry: Entry, graph: Graph, label: str
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    tensor = tensors.get(entry, _UNKNOWN)
    if tensor.shape is None or tensor.dtype is None:
        name = graph.nodes[entry.node].name
        raise ConversionError(
            message(
                f"Output {entry.index} of node '{name}' of {label} cannot be declared in ONNX",
                found=f"shape {tensor.shape}, dtype {tensor.dtype}",
                required="a known shape and dtype",
            )
        )
    return tensor.shape, np.dtype(tensor.dtype)


def _readable(name: str) -> str:
    """Returns what can be read of a name that may hold any character; uniqueness comes from the node id."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name)[:80]


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
