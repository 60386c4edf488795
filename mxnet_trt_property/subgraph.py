"""One TensorRT node's subgraph as MXNet hands it over: its structure, its shapes, and the role of each input.

MXNet names the variables inside a subgraph as it likes, so everything here goes by position: input i of the node
is the i-th variable of the subgraph's JSON text.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mxnet_trt_property import convert, infer, native
from mxnet_trt_property.errors import ConversionError, message
from mxnet_trt_property.graph import Graph, Node, load

# mshadow's type flags (mshadow/base.h: enum TypeFlag); bfloat16 (12) has no NumPy dtype and is refused.
DTYPES: dict[int, np.dtype[Any]] = {
    0: np.dtype("float32"),
    1: np.dtype("float64"),
    2: np.dtype("float16"),
    3: np.dtype("uint8"),
    4: np.dtype("int32"),
    5: np.dtype("int8"),
    6: np.dtype("int64"),
    7: np.dtype("bool"),
}

# Gluon without static_alloc makes a new state at every forward: the conversion must not be repeated.
_CACHE_SIZE = 64


@dataclass(frozen=True)
class Subgraph:
    """A converted subgraph for one set of shapes. Its variables are the node's inputs and the frozen weights.

    Attributes:
        model: The ONNX model without weights.
        structure: A hash of the graph, shapes and dtypes: equal for subgraphs that differ in weights only.
        roles: native.UNUSED, INPUT, WEIGHT or AUXILIARY for each variable.
        input_positions: For each input of the model the position among the variables.
        weight_positions: For each weight of the model, by variable id, the position among the variables.
        input_names: For each input of the model the name of the program's argument that it is; empty where MXNet
            computes it.
    """

    model: convert.ConvertedModel
    structure: str
    roles: tuple[int, ...]
    input_positions: tuple[int, ...]
    weight_positions: Mapping[int, int]
    input_names: tuple[str, ...]

    @cached_property
    def weight_bytes(self) -> Mapping[int, int]:
        """The size of each weight, by variable id. Computed once: Gluon may make and end a state at each forward."""
        return {w.node: math.prod(w.shape) * w.dtype.itemsize for w in self.model.weights}


_cache: OrderedDict[tuple[Any, ...], Subgraph] = OrderedDict()
_cache_lock = threading.Lock()


def read(text: str, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[int], label: str) -> Subgraph:
    """Returns the converted subgraph of a TensorRT node.

    Args:
        text: The subgraph's JSON text.
        shapes: The shape of each variable.
        dtypes: mshadow's type flag of each variable.
        label: What messages call the subgraph.

    Raises:
        ConversionError: The text cannot be read, or a node of it cannot be converted.
    """
    key = (text, tuple(shapes), tuple(dtypes), label)
    with _cache_lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    made = _read(text, shapes, dtypes, label)
    with _cache_lock:
        _cache[key] = made
        while len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    return made


def _read(text: str, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[int], label: str) -> Subgraph:
    graph = Graph.from_json(text)
    variables = [node for node in graph.nodes if node.is_variable]
    if len(variables) != len(shapes):
        raise ConversionError(
            message(
                f"{label} has another number of inputs than its subgraph has variables",
                found=str(len(shapes)),
                required=str(len(variables)),
            )
        )
    unknown = sorted({d for d in dtypes if d not in DTYPES})
    if unknown:
        raise ConversionError(
            message(f"{label} has inputs of a dtype without NumPy counterpart", found=f"MXNet type flag {unknown}")
        )
    roles = convert.variable_roles(graph, is_argument)
    model = convert.convert(graph, _infer(text, variables, shapes, dtypes), roles, label)
    position = {node.id: i for i, node in enumerate(variables)}
    weight_positions = {port.node: position[port.node] for port in model.weights}
    input_positions = tuple(position[port.node] for port in model.inputs)
    native_roles = [native.UNUSED] * len(variables)
    for index in input_positions:
        native_roles[index] = native.INPUT
    for node_id, index in weight_positions.items():
        is_aux = graph.nodes[node_id].attrs.get("isAux") == "True"
        native_roles[index] = native.AUXILIARY if is_aux else native.WEIGHT
    return Subgraph(
        model=model,
        structure=_structure_hash(graph, shapes, dtypes),
        roles=tuple(native_roles),
        input_positions=input_positions,
        weight_positions=weight_positions,
        input_names=tuple(
            graph.nodes[port.node].attrs.get("argName", "") if is_argument(graph.nodes[port.node]) else ""
            for port in model.inputs
        ),
    )


def is_argument(node: Node) -> bool:
    """Whether a variable of the subgraph is an argument of the whole symbol.

    MXNet writes isArg on each. One that is not is computed by MXNet at each forward: it must never be frozen.
    """
    return node.attrs.get("isArg") == "True"


def _infer(
    text: str, variables: Sequence[Node], shapes: Sequence[tuple[int, ...]], dtypes: Sequence[int]
) -> infer.Tensors:
    """Infers with variables renamed by position, since inference goes by name and names may repeat."""
    data = load(text)
    names = [f"in{i}" for i in range(len(variables))]
    for name, node in zip(names, variables):
        data["nodes"][node.id]["name"] = name
        # Shape and dtype hints of the original variable would contradict another shape that is bound now.
        data["nodes"][node.id].pop("attrs", None)
    symbol = infer.load_symbol(data)
    known_shapes = dict(zip(names, shapes))
    known_dtypes = {name: DTYPES[flag] for name, flag in zip(names, dtypes)}
    return infer.infer_tensors(symbol, known_shapes, known_dtypes)


def structure_hash(text: str, shapes: Sequence[object], dtypes: Sequence[int]) -> str:
    """Hashes a subgraph's JSON text and its shapes, in any form; see `Subgraph.structure`."""
    return _structure_hash(Graph.from_json(text), shapes, dtypes)


def _structure_hash(graph: Graph, shapes: Sequence[object], dtypes: Sequence[int]) -> str:
    """Hashes what the ONNX structure depends on; names and MXNet's own annotations are left out."""
    nodes = [
        (n.op, sorted((k, v) for k, v in n.attrs.items() if not n.is_variable and not k.startswith("__")), n.inputs)
        for n in graph.nodes
    ]
    arguments = [is_argument(n) for n in graph.nodes if n.is_variable]
    text = repr((nodes, graph.heads, tuple(shapes), tuple(dtypes), arguments))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
