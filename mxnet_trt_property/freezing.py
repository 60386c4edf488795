"""Moves weights from the program's arrays into a symbol's TensorRT nodes, and such symbols to files and back.

A partitioned symbol still takes every weight as an argument. Freezing cuts those out of its JSON text: the node loses
the input, and inside its subgraph an operator that makes zeros stands where the variable was, since MXNet infers shapes
and dtypes through the subgraph. It never runs it. The values are in a `frozen_store.Store`, which the node names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from mxnet_trt_property import convert, frozen_store, subgraph
from mxnet_trt_property.frozen_store import Store
from mxnet_trt_property.graph import Graph, dump, load

WEIGHTS_ATTRIBUTE = "__tensorrt_weights__"
"""On a TensorRT node: the token of its store, or the whole store as a text."""
_NUMBER_ATTRIBUTE = "__tensorrt_frozen__"
_STANDS_FOR_A_WEIGHT = "_zeros"
# What MXNet writes on the variables of a subgraph; hidden while an operator that knows no such parameters has them.
_VARIABLE_ATTRIBUTES = ("argName", "isArg", "isAux")
_TOKEN = re.compile(rf'("{WEIGHTS_ATTRIBUTE}": *")([0-9a-f]+)(")')
_EMBEDDED = re.compile(rf'("{WEIGHTS_ATTRIBUTE}": *")({frozen_store.EMBEDDED}[^"]*)(")')


_FLAGS = {dtype: flag for flag, dtype in subgraph.DTYPES.items()}


class Restored(NamedTuple):
    """A node's subgraph with a variable for each weight again.

    Attributes:
        text: The subgraph's JSON text.
        shapes: The shape of each variable.
        dtypes: mshadow's type flag of each variable.
        positions: For each input of the node the number of its variable.
        numbers: For each variable that is frozen its number in the store.
        store: The weights; None where none is frozen.
    """

    text: str
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[int, ...]
    positions: tuple[int, ...]
    numbers: Mapping[int, int]
    store: Optional[Store]


def freeze(text: str, values: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
    """Freezes the weights of every TensorRT node that only such nodes read.

    Args:
        text: The JSON text of a partitioned symbol.
        values: NDArrays or NumPy arrays by name of argument or auxiliary state; names without a use are left alone.

    Returns:
        The new text, and the names of the variables that it no longer has.

    Raises:
        FrozenWeightsError: The weights cannot be written to a temporary file.
    """
    data = load(text)
    nodes = data["nodes"]
    names = {i: n["name"] for i, n in enumerate(nodes) if n["op"] == "null"}
    slots = {i: _weight_slots(n) for i, n in enumerate(nodes) if n.get("subgraphs")}
    needed = {head[0] for head in data["heads"]}
    needed |= {e[0] for i, n in enumerate(nodes) for s, e in enumerate(n["inputs"]) if s not in slots.get(i, ())}
    # What makes zeros in place of a weight takes an empty shape, or a 0 in one, for unknown.
    given = {name for name, value in values.items() if value.shape and 0 not in value.shape}
    free = {i for i, name in names.items() if name in given and i not in needed}
    frozen = set()
    for i, weights in slots.items():
        chosen = [s for s in weights if nodes[i]["inputs"][s][0] in free]
        if chosen:
            frozen |= {nodes[i]["inputs"][s][0] for s in chosen}
            arrays = [values[names[nodes[i]["inputs"][s][0]]] for s in chosen]
            _freeze_node(nodes[i], chosen, arrays, data["attrs"])
    _drop_variables(data, frozen)
    return dump(data), frozenset(names[i] for i in frozen)


def _weight_slots(node: Mapping[str, Any]) -> list[int]:
    """Returns the inputs of a TensorRT node that are weights of its subgraph and not frozen yet."""
    graph = Graph.from_json(dump(node["subgraphs"][0]))
    roles = convert.variable_roles(graph, subgraph.is_argument)
    variables = [n.id for n in graph.nodes if n.is_variable]
    return [slot for slot, variable in enumerate(variables) if roles[variable] == "weight"]


def _freeze_node(node: dict[str, Any], slots: Sequence[int], values: Sequence[Any], version: Any) -> None:
    inner = node["subgraphs"][0]
    attrs = node.setdefault("attrs", {})
    arrays: list[Any] = [_numpy(value) for value in values]
    first = 0
    if WEIGHTS_ATTRIBUTE in attrs:  # frozen a second time, with weights that were not given the first time
        old = frozen_store.find(attrs[WEIGHTS_ATTRIBUTE], node["name"])
        first = len(old)
        arrays = [*(old.array(i) for i in range(first)), *arrays]
    variables = [n for n in inner["nodes"] if n["op"] == "null"]
    for number, (slot, array) in enumerate(zip(slots, arrays[first:]), first):
        variable = variables[slot]
        kept = {f"__{k}__": v for k, v in variable.get("attrs", {}).items() if k in _VARIABLE_ATTRIBUTES}
        shape = {"shape": str(tuple(array.shape)), "dtype": array.dtype.name}
        variable.update(op=_STANDS_FOR_A_WEIGHT, attrs={**kept, **shape, _NUMBER_ATTRIBUTE: str(number)})
    inner["arg_nodes"] = [i for i, n in enumerate(inner["nodes"]) if n["op"] == "null"]
    inner["attrs"] = version  # without it MXNet takes the subgraph for one of version 0.8, and upgrades it
    node["inputs"] = [entry for slot, entry in enumerate(node["inputs"]) if slot not in set(slots)]
    attrs[WEIGHTS_ATTRIBUTE] = frozen_store.keep(arrays).token


def _numpy(value: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = value.asnumpy() if hasattr(value, "asnumpy") else np.asarray(value)
    return found


def _drop_variables(data: dict[str, Any], dropped: set[int]) -> None:
    """Takes variables that nobody reads out of a graph, and numbers the rest anew."""
    kept = [i for i in range(len(data["nodes"])) if i not in dropped]
    new = {old: position for position, old in enumerate(kept)}
    data["nodes"] = [data["nodes"][i] for i in kept]
    for node in data["nodes"]:
        node["inputs"] = [[new[e[0]], *e[1:]] for e in node["inputs"]]
    data["heads"] = [[new[e[0]], *e[1:]] for e in data["heads"]]
    data["arg_nodes"] = [i for i, n in enumerate(data["nodes"]) if n["op"] == "null"]
    rows = data["node_row_ptr"]
    counts = [rows[i + 1] - rows[i] for i in kept]
    data["node_row_ptr"] = [sum(counts[:i]) for i in range(len(counts) + 1)]


def restore(
    text: str, attrs: Mapping[str, str], shapes: Sequence[tuple[int, ...]], dtypes: Sequence[int], label: str
) -> Restored:
    """Undoes `freeze` for one node, as its state is made.

    Args:
        text: The JSON text of the node's subgraph.
        attrs: The node's attributes.
        shapes: The shape of each input of the node.
        dtypes: mshadow's type flag of each input.
        label: What messages call the node.

    Raises:
        FrozenWeightsError: The frozen weights are not in this process, or damaged.
    """
    if WEIGHTS_ATTRIBUTE not in attrs:
        return Restored(text, tuple(shapes), tuple(dtypes), tuple(range(len(shapes))), {}, None)
    store = frozen_store.find(attrs[WEIGHTS_ATTRIBUTE], label)
    data = load(text)
    given = iter(zip(shapes, dtypes))
    all_shapes: list[tuple[int, ...]] = []
    all_dtypes: list[int] = []
    positions: list[int] = []
    numbers: dict[int, int] = {}
    for node in data["nodes"]:
        number = node.get("attrs", {}).get(_NUMBER_ATTRIBUTE)
        if number is None and node["op"] != "null":
            continue
        if number is None:
            shape, dtype = next(given)
            positions.append(len(all_shapes))
        else:
            array = store.array(int(number))
            shape, dtype = array.shape, _FLAGS[array.dtype]
            numbers[len(all_shapes)] = int(number)
            attributes = {k: node["attrs"][f"__{k}__"] for k in _VARIABLE_ATTRIBUTES if f"__{k}__" in node["attrs"]}
            node.update(op="null", attrs=attributes)
        all_shapes.append(shape)
        all_dtypes.append(dtype)
    data["arg_nodes"] = [i for i, n in enumerate(data["nodes"]) if n["op"] == "null"]
    return Restored(dump(data), tuple(all_shapes), tuple(all_dtypes), tuple(positions), numbers, store)


def values(text: str) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the frozen weights of a symbol's JSON text by the names that they had as arguments."""
    found = {}
    for node in load(text)["nodes"]:
        token = node.get("attrs", {}).get(WEIGHTS_ATTRIBUTE)
        if token is None:
            continue
        store = frozen_store.find(token, node["name"])
        for inner in node["subgraphs"][0]["nodes"]:
            attrs = inner.get("attrs", {})
            if _NUMBER_ATTRIBUTE in attrs:
                found[attrs["__argName__"]] = store.array(int(attrs[_NUMBER_ATTRIBUTE]))
    return found


def embed(text: str) -> str:
    """Returns a symbol's JSON text with the weights themselves where it names them."""
    return _TOKEN.sub(lambda m: m.group(1) + frozen_store.find(m.group(2), "a symbol").embedded() + m.group(3), text)


def extract(text: str) -> str:
    """Returns a symbol's JSON text with names where it holds weights, which are in this process then."""
    return _EMBEDDED.sub(lambda m: m.group(1) + frozen_store.find(m.group(2), "a symbol").token + m.group(3), text)
