"""TensorRT nodes that serve a range of sizes: what their attribute says, and the model that a session takes from it.

The shapes of a whole graph at several sizes are known when it is partitioned (`ranges`). Each TensorRT node gets those
of its inputs as an attribute, so that a session, which sees one set of shapes only, converts its subgraph at the same
sizes and finds the model that serves all of them (`generalize`).
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from mxnet_trt_property import forks, subgraph
from mxnet_trt_property.engines.registry import Shapes
from mxnet_trt_property.errors import TensorRTPropertyError
from mxnet_trt_property.generalize import NotGeneralError, Template, generalize
from mxnet_trt_property.graph import Entry, Graph
from mxnet_trt_property.logs import warn_once
from mxnet_trt_property.ranges import Flexible
from mxnet_trt_property.sizes import Range

ATTRIBUTE = "__tensorrt_sizes__"
"""On a TensorRT node: its ranges, the sizes at which it was inferred, and the shapes that its inputs have there."""


Shape = tuple[int, ...]

# Gluon without static_alloc makes a new state at every forward: neither must be repeated.
_CACHE_SIZE = 64
_templates: OrderedDict[tuple[Any, ...], Union[Template, str]] = OrderedDict()
_misfits: OrderedDict[tuple[Any, ...], str] = OrderedDict()
_lock = threading.Lock()
_refusals: dict[tuple[object, ...], str] = {}


@dataclass(frozen=True)
class Fitted:
    """A model that serves a session's shapes and others.

    Attributes:
        template: The model.
        shapes: The session's shapes.
        structure: Equal for the sessions of one structure, whatever their sizes are.
    """

    template: Template
    shapes: Shapes
    structure: str


def describe(inner: Mapping[str, Any], graph: Graph, flexible: Flexible) -> Optional[str]:
    """Returns the attribute of a TensorRT node; None where no shape of its inputs varies.

    Args:
        inner: The node's subgraph as MXNet's JSON has it.
        graph: The whole graph before the partition.
        flexible: Its shapes at several sizes.

    Raises:
        NotGeneralError: A shape is not known, or two nodes of one name cannot be told apart.
    """
    read = _entries_read(inner, graph)
    shapes: dict[int, list[Shape]] = {}
    for number, entry in read.items():
        found = [tensors[entry].shape for tensors in flexible.tensors]
        known = [shape for shape in found if shape is not None]
        if len(known) != len(found):
            raise NotGeneralError(f"MXNet infers no shape for node '{graph.nodes[entry.node].name}' at other sizes")
        if len(set(known)) > 1:
            shapes[number] = known
    if not shapes:
        return None
    return json.dumps({"ranges": flexible.ranges, "points": flexible.points, "shapes": shapes})


def _entries_read(inner: Mapping[str, Any], graph: Graph) -> dict[int, Entry]:
    """Returns for each variable of a subgraph, by its number, the edge of the whole graph that it stands for."""
    nodes = inner["nodes"]
    # Of several nodes with one name the last is taken for the last; where that is wrong, the shapes do not fit later.
    named: dict[str, list[int]] = {}
    for node in graph.operators:
        named.setdefault(node.name, []).append(node.id)
    number = {i: k for k, i in enumerate(i for i, node in enumerate(nodes) if node["op"] == "null")}
    # Names need not be unique, but who reads a node comes after it: what is known of the reader tells the node.
    same: dict[int, int] = {}
    found: dict[int, Entry] = {}
    for i in reversed(range(len(nodes))):
        if i in number:
            continue
        if i not in same:
            left = [node for node in named[nodes[i]["name"]] if node not in same.values()]
            same[i] = left[-1] if left else named[nodes[i]["name"]][-1]
        if graph.nodes[same[i]].op != nodes[i]["op"]:
            raise NotGeneralError(f"nodes with the name '{nodes[i]['name']}' cannot be told apart")
        for edge, entry in zip(nodes[i]["inputs"], graph.nodes[same[i]].inputs):
            if edge[0] in number:
                found[number[edge[0]]] = entry
            else:
                same[edge[0]] = entry.node
    return found


def find(
    attribute: Optional[str],
    text: str,
    shapes: Sequence[Shape],
    dtypes: Sequence[int],
    graph: subgraph.Subgraph,
    label: str,
) -> Optional[Fitted]:
    """Returns the model that serves a TensorRT node at these shapes and others, or None; says once why there is none.

    Args:
        attribute: The value of `ATTRIBUTE`, or None where no range was asked for.
        text: The JSON text of the node's subgraph.
        shapes: The shape of each of its variables now.
        dtypes: mshadow's type flag of each.
        graph: The subgraph converted at these shapes.
        label: What messages call the node.
    """
    if attribute is None:
        return None
    data = json.loads(attribute)
    varying = {int(k): [tuple(shape) for shape in v] for k, v in data["shapes"].items()}
    fixed = tuple(() if i in varying else shape for i, shape in enumerate(shapes))
    key = (attribute, text, fixed, tuple(dtypes), label)
    template = _cached(_templates, key)
    if template is None:
        template = _make(data, varying, text, shapes, dtypes, label)
        _cache(_templates, key, template)
    if isinstance(template, str):
        tell(label, template)
        return None
    here = [shapes[position] for position in graph.input_positions]
    point, reason = template.point(here)
    if point is not None:
        reason = _checked(key, template, graph, point)
    if point is None or reason:
        what = f"{label}: an engine for these shapes alone, because it was bound to {reason}"
        warn_once(what, next_step="name a range that includes them with profiles=")
        return None
    structure = subgraph.structure_hash(text, [str(varying.get(i, s)) for i, s in enumerate(shapes)], dtypes)
    outputs = tuple(tuple(f.at(point) for f in formulas) for formulas in template.outputs)
    return Fitted(template, Shapes(tuple(here), outputs), f"{structure} {data['ranges']}")


def refusal(place: tuple[object, ...]) -> Optional[str]:
    """Returns why an engine could not be built for a range when it was tried last, or None."""
    return _refusals.get(place)


def note_refusal(place: tuple[object, ...], reason: str) -> None:
    """Keeps other sessions from trying what was tried: structure, engine and options."""
    _refusals[place] = reason


def tell(label: str, reason: str) -> None:
    """Warns once that a TensorRT node has one engine for each set of shapes."""
    step = (
        "docs/dynamic-shapes.md tells what serves a range; unset MXNET_TENSORRT_MAX_BATCH_SIZE and profiles to be quiet"
    )
    warn_once(f"{label}: one engine per shape, because {reason}", next_step=step)


def _make(
    data: Mapping[str, Any],
    varying: Mapping[int, Sequence[Shape]],
    text: str,
    shapes: Sequence[Shape],
    dtypes: Sequence[int],
    label: str,
) -> Union[Template, str]:
    points = [tuple(point) for point in data["points"]]
    try:
        models = []
        for k in range(len(points)):
            there = [varying[i][k] if i in varying else shape for i, shape in enumerate(shapes)]
            models.append(subgraph.read(text, there, dtypes, label).model)
        return generalize(models, points, [Range(*r) for r in data["ranges"]])
    except TensorRTPropertyError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here, the node has a model for its own shapes
        return f"{type(error).__name__}: {error}"


def _checked(key: tuple[Any, ...], template: Template, graph: subgraph.Subgraph, point: tuple[int, ...]) -> str:
    """Returns where the model differs from the subgraph converted at these shapes, or ""."""
    place = (*key, point)
    reason = _cached(_misfits, place)
    if reason is None:
        different = template.misfit(graph.model, point)
        reason = f"sizes {point}, where {different}" if different else ""
        _cache(_misfits, place, reason)
    return str(reason)


def _cached(table: OrderedDict[tuple[Any, ...], Any], key: tuple[Any, ...]) -> Any:
    with _lock:
        if key in table:
            table.move_to_end(key)
        return table.get(key)


def _cache(table: OrderedDict[tuple[Any, ...], Any], key: tuple[Any, ...], value: Any) -> None:
    with _lock:
        table[key] = value
        while len(table) > _CACHE_SIZE * (8 if table is _misfits else 1):
            table.popitem(last=False)


@forks.in_child
def _leave_behind() -> None:
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have held it
