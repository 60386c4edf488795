"""Asks the engine itself about the groups of a partition before they are claimed: what it refuses stays with MXNet.

The registry knows what TensorRT and ONNX Runtime have in general; a version of them may still refuse a node. It would
show when the engine is built, at the first forward, where nothing but the whole graph could go back to MXNet.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from mxnet_trt_property import closed, convert, forks, partition
from mxnet_trt_property.engines.registry import Engine
from mxnet_trt_property.graph import Entry, Graph, Node, Tensor
from mxnet_trt_property.settings import Settings

_log = logging.getLogger("mxnet_trt_property")

_CACHE_SIZE = 256
_cache: OrderedDict[tuple[str, str, bytes], Mapping[str, str]] = OrderedDict()
_lock = threading.Lock()


@forks.in_child
def _leave_behind() -> None:
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have held it


def decide(
    graph: Graph, tensors: Mapping[Entry, Tensor], settings: Settings, engine: Optional[Engine]
) -> partition.Partition:
    """Returns the decision for each operator node: the registry's, and then the engine's.

    Args:
        graph: The whole graph of a symbol.
        tensors: What is known of its edges. A group of which not all is known is not asked about.
        settings: The settings.
        engine: The engine that will be tried first; None asks nobody.
    """
    ask = getattr(engine, "refused_nodes", None)
    refused: dict[int, str] = {}
    while True:
        found = partition.decide(graph, tensors, settings, refused)
        new = dict.fromkeys(closed.open_nodes(found, tensors), closed.REASON)
        if not new and engine is not None and ask is not None:
            new = _refused_by(engine, ask, graph, tensors, found)
        if not new:
            return found
        refused.update(new)


def _refused_by(
    engine: Engine, ask: Any, graph: Graph, tensors: Mapping[Entry, Tensor], found: partition.Partition
) -> dict[int, str]:
    """Returns the nodes that the engine refuses, by id, with its reasons."""
    roles = convert.variable_roles(graph, lambda node: True)
    refused = {}
    for group in found.members.values():
        inner, inner_tensors, inner_roles = cut(graph, tensors, roles, group)
        known = (inner_tensors[e] for node in inner.nodes for e in (*node.inputs, Entry(node.id, 0)))
        if any(t.shape is None or t.dtype is None for t in known):
            continue
        model = convert.convert(inner, inner_tensors, inner_roles)
        reasons = _ask(engine, ask, model.without_values())
        if reasons:
            # Some nodes want their weights as constants; only then are values made up.
            zeros = {w.node: np.zeros(w.shape, w.dtype) for w in model.weights}
            reasons = _ask(engine, ask, model.serialize(zeros))
        for node in group:
            words = [reasons[n] for n, owner in model.node_names.items() if owner == node.name and n in reasons]
            if words:
                refused[node.id] = f"{engine.name} {engine.version()} refuses it: {words[0]}"
    return refused


def _ask(engine: Engine, ask: Any, model: bytes) -> Mapping[str, str]:
    try:
        key = (engine.name, engine.version(), hashlib.blake2b(model, digest_size=16).digest())
        with _lock:
            if key in _cache:
                _cache.move_to_end(key)
                return _cache[key]
        reasons: Mapping[str, str] = ask(model)
    except Exception:  # an engine that cannot be asked is built, and then says what is wrong
        _log.debug("engine %s cannot be asked what it supports", engine.name, exc_info=True)
        return {}
    with _lock:
        _cache[key] = reasons
        while len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
    return reasons


def cut(
    graph: Graph, tensors: Mapping[Entry, Tensor], roles: Mapping[int, convert.Role], group: list[Node]
) -> tuple[Graph, dict[Entry, Tensor], dict[int, convert.Role]]:
    """Returns a group as a graph of its own: what it reads from outside are variables, what others read are heads."""
    inside = {node.id for node in group}
    needed = sorted(inside | {e.node for node in group for e in node.inputs})
    nodes: list[Node] = []
    place: dict[Entry, Entry] = {}
    new_tensors: dict[Entry, Tensor] = {}
    new_roles: dict[int, convert.Role] = {}
    for old in needed:
        node = graph.nodes[old]
        outputs = sorted(e for e in tensors if e.node == old) or [Entry(old, 0)]
        if old in inside:
            new = Node(len(nodes), node.op, node.name, tuple(place[e] for e in node.inputs), node.attrs)
            nodes.append(new)
            for entry in outputs:
                place[entry] = Entry(new.id, entry.index)
        else:
            for entry in outputs:
                new = Node(len(nodes), "null", f"{node.name}_{entry.index}", ())
                nodes.append(new)
                place[entry] = Entry(new.id, 0)
                new_roles[new.id] = roles[old] if node.is_variable else "input"
        for entry in outputs:
            new_tensors[place[entry]] = tensors.get(entry, Tensor(None, None))
    read_outside = {e for n in graph.nodes if n.id not in inside for e in n.inputs} | set(graph.heads)
    heads = tuple(place[e] for e in sorted(read_outside) if e.node in inside)
    return Graph(tuple(nodes), heads), new_tensors, new_roles
