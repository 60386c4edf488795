"""Which groups know their shapes: MXNet may infer shape and dtype of a node without inputs from who reads it.

`zeros(shape=(0, 4))` takes its first size from its reader, as the begin states of recurrent cells do. A group becomes
a graph of its own, so what such a node's shape follows from must be inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mxnet_trt_property import infer
from mxnet_trt_property.graph import Entry
from mxnet_trt_property.partition import Partition

REASON = "shape or dtype: found one that follows from nodes outside of its subgraph, required one that does from inside"


def open_nodes(decisions: Partition, tensors: infer.Tensors) -> set[int]:
    """Returns the ids of the nodes without inputs whose shapes or dtypes their groups do not know.

    Args:
        decisions: The groups.
        tensors: What is known of the edges of the whole graph.
    """
    found: set[int] = set()
    for nodes in decisions.members.values():
        group = [node.id for node in nodes]
        sources = {i for i in group if not decisions.graph.nodes[i].inputs}
        unknown = _unknown_nodes(decisions, tensors, group) if sources else set()
        if unknown:
            found |= sources & unknown or sources
    return found


def _unknown_nodes(decisions: Partition, tensors: infer.Tensors, group: Sequence[int]) -> set[int]:
    """Returns the ids of the nodes of a group of which MXNet does not infer shape and dtype from the group's inputs."""
    from mxnet.base import MXNetError

    graph = decisions.graph
    inside = set(group)
    read = dict.fromkeys(e for i in group for e in graph.nodes[i].inputs if e.node not in inside)
    position = {entry: k for k, entry in enumerate(read)}
    number = {node_id: len(position) + k for k, node_id in enumerate(group)}

    def edge(entry: Entry) -> list[int]:
        return [number[entry.node], entry.index, 0] if entry.node in inside else [position[entry], 0, 0]

    nodes: list[dict[str, Any]] = [{"op": "null", "name": f"in{k}", "inputs": []} for k in position.values()]
    nodes += [
        {"op": node.op, "name": f"node{node.id}", "attrs": dict(node.attrs), "inputs": [edge(e) for e in node.inputs]}
        for node in (graph.nodes[i] for i in group)
    ]
    heads = [[number[i], 0, 0] for i in group]
    symbol = infer.load_symbol({"nodes": nodes, "arg_nodes": list(position.values()), "heads": heads})
    known = {f"in{k}": tensors[e] for e, k in position.items() if e in tensors}
    shapes = {name: tensor.shape for name, tensor in known.items() if tensor.shape is not None}
    dtypes = {name: tensor.dtype for name, tensor in known.items() if tensor.dtype is not None}
    try:
        inferred = infer.infer_tensors(symbol, shapes, dtypes)
    except MXNetError:
        # Some operators fail on an unknown dtype instead of leaving it open.
        return inside
    names = [node.name for node in infer.read_symbol(symbol.get_internals()).nodes]
    unknown = {names[entry.node] for entry, tensor in inferred.items() if tensor.shape is None or tensor.dtype is None}
    return {i for i in group if f"node{i}" in unknown}
